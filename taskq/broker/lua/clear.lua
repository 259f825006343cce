-- include: stats lib
-- Cancel or delete many jobs of one queue, in bounded steps. Never one that runs; nothing of a deleted one is left.
-- KEYS   1 RQ's prefix   2 our prefix
-- ARGV   1 'cancel' | 'purge'   2 now, ISO   3 queue; '' : each job where it says that it is
--        4 how far from the tail of the queue to begin   5 entries of the queue to look at, at most
--        6 how many of the ids, the first, were looked for from the tail on
--        then ids, in the order from the tail (at most 100)
-- RETURN {where to go on, or -1: the head was reached; then for each id:}
--        1 done   2 it runs: asked to stop (cancel), or left alone (purge)   0 not in a state for it, or just being taken
--        3 left alone: other jobs wait for it (purge)   -1 no such job   -2 not found so far: send it again, before others
-- O(entries + ids x log). Without a queue O(length of a queue) an id.
-- Ids are looked for from the tail, because workers take from the head: what comes meanwhile moves them further on only.
local what, iso, chosen, offset, most = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local sure = tonumber(ARGV[6])
local purge = what == 'purge'
local TOMB = '\0taskq-cleared'
local GONE = '["taskq.errors.JobNotFound","It was deleted (taskq purge) before it had ended.",0]'
local over = { finished = true, failed = true, canceled = true, stopped = true }
local WAITS = { queued = true, scheduled = true, deferred = true, created = true }

-- First look, write nothing.
local jobs, wanted, waiting = {}, {}, 0
for n = 7, #ARGV do
  local id = ARGV[n]
  local f = redis.pcall('HMGET', jobkey(id), 'status', 'origin', 'tq_unique', 'group_id')
  local job = { id = id, at = n - 5 }
  if not f.err then job.status, job.queue, job.unique, job.group = f[1], f[2], f[3], f[4] end
  if chosen ~= '' then job.queue = chosen end
  if f.err or (not job.status and chosen == '') or not job.queue then
    job.code = -1
  elseif job.status == 'started' then
    job.code = 2
  elseif over[job.status] and not purge then
    job.code = 0
  elseif job.status and not over[job.status] and not WAITS[job.status] then
    job.code = 0
  elseif purge and redis.call('EXISTS', jobkey(id) .. ':dependents') == 1 then
    for _, other in ipairs(redis.pcall('SMEMBERS', jobkey(id) .. ':dependents')) do
      if redis.pcall('HGET', jobkey(other), 'status') == 'deferred' then job.code = 3 end
    end
  end
  -- also where its record is gone, or says 'created': what counts is the list
  if not job.code and not over[job.status] and job.status ~= 'scheduled' and job.status ~= 'deferred' then
    wanted[id] = job
    waiting = waiting + 1
  end
  jobs[#jobs + 1] = job
end

begin_writing()

-- Those in the queue: first a tombstone in their place, then all tombstones in one pass.
local found, reached, deepest = 0, false, 0
local function look(list)
  local seen = 0
  while waiting > 0 and seen < most do
    local page = redis.pcall('LRANGE', list, -(offset + seen + 200), -(offset + seen + 1))
    if page.err then page = {} end
    for n = #page, 1, -1 do
      local job = wanted[page[n]]
      if job then
        redis.pcall('LSET', list, -(offset + seen + #page - n + 1), TOMB)
        if not job.found then
          job.found = true
          waiting = waiting - 1
        end
        found, deepest = found + 1, seen + #page - n + 1
      end
    end
    seen = seen + #page
    if #page < 200 then
      reached = true
      break
    end
  end
  if found > 0 then redis.pcall('LREM', list, -found, TOMB) end
  -- ids that are yet to be sent may stand behind the last one that was found
  offset = offset + (waiting == 0 and deepest or seen) - found
end
if chosen ~= '' then
  if waiting > 0 then look(listkey(chosen)) end
else
  reached = true
  for id, job in pairs(wanted) do
    if redis.pcall('LREM', listkey(job.queue), 0, id) ~= 0 then job.found = true end
  end
end

local function forget(job)
  local id, key = job.id, jobkey(job.id)
  -- RQ's notes of what it waits for, who waits for it, and its group
  for _, other in ipairs(redis.pcall('SMEMBERS', P .. ':job::' .. id .. ':dependencies')) do
    redis.pcall('SREM', jobkey(other) .. ':dependents', id)
  end
  if job.group then redis.pcall('SREM', P .. ':group:' .. job.group, id) end
  redis.pcall('DEL', key, key .. ':dependents', P .. ':job::' .. id .. ':dependencies', P .. ':results:' .. id,
    P .. ':executions:' .. id, OWN .. 'stream:' .. id, OWN .. 'sent:' .. id, OWN .. 'tell:' .. id,
    OWN .. 'steps:' .. id)
  redis.pcall('ZREM', OWN .. 'expiring', id)
  unlock(id, job.unique)
  -- for who waits for it, and so that the same call, sent again, does not bring it back
  if not over[job.status] then mark_done(id, GONE) end
end

local function cancel(job)
  local key = jobkey(job.id)
  redis.pcall('HSET', key, 'status', 'canceled', 'ended_at', iso, 'origin', job.queue)
  redis.pcall('EXPIRE', key, 86400)
  forget_steps(job.id)
  redis.pcall('ZADD', registry('canceled', job.queue), whole(NOW), job.id)
  unlock(job.id, job.unique)
end

local counts, out = {}, { 0 }
for _, job in ipairs(jobs) do
  local code, id = job.code, job.id
  if code == 2 and not purge then
    redis.pcall('HSET', jobkey(id), 'tq_cancel', '1')
    redis.pcall('PUBLISH', OWN .. 'cancel', id)
  elseif not code then
    local here = job.found
    if wanted[id] and not here and not (reached and job.at - 1 <= sure) then
      code = -2
    else
      for _, kind in ipairs({ 'scheduled', 'deferred', 'failed', 'finished', 'canceled' }) do
        if redis.pcall('ZREM', registry(kind, job.queue), id) == 1 then here = true end
      end
      -- one that is nowhere is just being taken; a canceled one is then dropped by whoever takes it
      if here or over[job.status] or (not purge and job.status) then
        code = 1
        if not job.status and not purge then code = -1 elseif purge then forget(job) else cancel(job) end
        if code == 1 and not over[job.status] then counts[job.queue] = (counts[job.queue] or 0) + 1 end
      else
        code = job.status and 0 or -1
      end
    end
  end
  out[job.at] = code
end
for queue, n in pairs(counts) do count(queue, purge and 'purged' or 'canceled', n) end
out[1] = reached and -1 or offset
return out
