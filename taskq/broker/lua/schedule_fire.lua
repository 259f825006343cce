-- include: stats lib
-- Occurrences of schedules that are due: enqueue their jobs and move each schedule on to its next time, in one
-- step. Each schedule is fired only if nobody else did and nobody changed it, so any number of schedulers may
-- try, and sending it again is harmless.
-- KEYS   1 RQ's prefix   2 our prefix
-- ARGV   1 now in ms, or '' for the server's time (else for tests only)   2 now, ISO
--        then for each schedule: name, 'due' or 'held', version, due time it was read with, next due time or '',
--        when that fires or 'inf', how many were dropped, n jobs, then for each job: due ms, id, queue,
--        place ('b' back, 'f' front), unique key or '', ttl s or '', n, then n field names and values
-- RETURN for each schedule: ids of the jobs enqueued, or -1: changed or fired meanwhile; -2: not due yet;
--        error reply when the key of the schedules is no sorted set
-- O(log N + fields) a job.
local iso = ARGV[2]
local KEY, HELD = OWN .. 'schedules', OWN .. 'schedules:held'
local now = tonumber(ARGV[1]) or tonumber(T[1]) * 1000 + math.floor(tonumber(T[2]) / 1000)
local over = { finished = true, failed = true, canceled = true, stopped = true }
local last = #ARGV

local kind = redis.call('TYPE', KEY).ok
if kind ~= 'zset' and kind ~= 'none' then
  return redis.error_reply('WRONGKEY ' .. KEY .. ' is a ' .. kind .. ', not a zset')
end

local function unfinished(id)
  if not id or id == '' then return false end
  local status = redis.pcall('HGET', jobkey(id), 'status')
  return type(status) == 'string' and not over[status]
end

-- The job of one occurrence into its queue; false where its unique key is held by an unfinished one.
local function put(at)
  local id, queue, place, unique, ttl = unpack(ARGV, at + 1, at + 5)
  local key = jobkey(id)
  -- Redis came back with an older state of the schedule than of its jobs: this occurrence has been enqueued
  if redis.pcall('EXISTS', key) == 1 then return true end
  if unique ~= '' then
    local lock = OWN .. 'unique:' .. unique
    local holder = redis.pcall('GET', lock)
    if type(holder) == 'string' and holder ~= id and unfinished(holder) then return false end
    redis.pcall('SET', lock, id)
  end
  redis.pcall('HSET', key, 'status', 'queued', 'created_at', iso, 'enqueued_at', iso, 'origin', queue,
    unpack(ARGV, at + 7, at + 6 + ARGV[at + 6]))
  if ttl ~= '' then
    redis.pcall('EXPIRE', key, ttl)
    redis.pcall('ZADD', OWN .. 'expiring', whole(NOW + ttl), id)
    local callback = redis.pcall('HGET', key, 'tq_on_failure')
    if type(callback) == 'string' then redis.pcall('SET', OWN .. 'tell:' .. id, callback, 'EX', ttl + 604800) end
  end
  redis.pcall('SADD', P .. ':queues', listkey(queue))
  count(queue, 'enqueued', 1)
  requeue(place == 'f' and 'LPUSH' or 'RPUSH', queue, id, iso)
  return true, id
end

-- Its jobs begin at `first`; `h` is its state.
local function fire(name, op, first, jobs, h, next_due, score, dropped)
  local key = OWN .. 'schedule:' .. name
  local overlap, job, held = h.overlap, h.last_job, h.held
  local runs, skipped, most = tonumber(h.runs or 0), 0, tonumber(h.max_runs or 1 / 0)
  local last_due, ids, at = h.last, {}, first
  for _ = 1, jobs do
    local due, id = ARGV[at], ARGV[at + 1]
    if runs + (held and op == 'due' and 1 or 0) >= most then break end
    if op == 'due' and overlap == 'queue_one' and (held or unfinished(job)) then
      if held then skipped = skipped + 1 else held = due end
    elseif op == 'due' and overlap == 'skip' and unfinished(job) then
      skipped = skipped + 1
    else
      local ok, new = put(at)
      if ok then
        job, last_due, runs = id, due, runs + 1
        ids[#ids + 1] = new
      else
        skipped = skipped + 1
      end
    end
    at = at + 7 + ARGV[at + 6]
  end
  if last_due then redis.call('HSET', key, 'last', last_due, 'last_job', job, 'runs', string.format('%.0f', runs)) end
  if skipped > 0 then redis.call('HINCRBY', key, 'skipped', skipped) end
  if op == 'held' then
    redis.call('HDEL', key, 'held')
    redis.pcall('SREM', HELD, name)
    return ids
  end
  if held and held ~= h.held then
    redis.call('HSET', key, 'held', held)
    redis.pcall('SADD', HELD, name)
  end
  if dropped ~= '0' then redis.call('HINCRBY', key, 'dropped', dropped) end
  if next_due == '' or runs + (held and 1 or 0) >= most then
    redis.call('HDEL', key, 'next')
    redis.call('HSET', key, 'ended', '1')
    redis.call('ZADD', KEY, '+inf', name)
  else
    redis.call('HSET', key, 'next', next_due)
    redis.call('ZADD', KEY, score, name)
  end
  return ids
end

local FIELDS = { 'v', 'next', 'held', 'overlap', 'last', 'last_job', 'runs', 'max_runs', 'paused' }
local function state(name)
  local found = redis.pcall('HMGET', OWN .. 'schedule:' .. name, unpack(FIELDS))
  if found.err then return nil end
  local h = {}
  for n, field in ipairs(FIELDS) do h[field] = found[n] end
  return h
end

local out, i, begun = {}, 3, false
while i <= last do
  local name, op, version, read, next_due, score, dropped = unpack(ARGV, i, i + 6)
  local jobs, first = tonumber(ARGV[i + 7]), i + 8
  local stop = first
  for _ = 1, jobs do stop = stop + 7 + ARGV[stop + 6] end
  local h, answer = state(name), -1
  if h and h.v == version then
    if op == 'held' then
      if h.held == read and not unfinished(h.last_job) then answer = 0 end
    elseif h.next == read and h.paused ~= '1' then
      local fires = tonumber(redis.call('ZSCORE', KEY, name) or 1 / 0)
      answer = fires <= now and 0 or -2
    end
  end
  if answer == 0 then
    if not begun then begin_writing() end
    begun = true
    answer = fire(name, op, first, jobs, h, next_due, score, dropped)
  end
  out[#out + 1] = answer
  i = stop
end
return out
