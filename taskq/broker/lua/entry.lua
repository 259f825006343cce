-- Shared by the scripts on rq-scheduler's entries (entries_due, entries_fire, entries_leave); placed after stats and lib.
-- ENTRIES  zset of rq-scheduler: job id by due time, s       ENTRY_LOCK  who may fire them
-- OWN..'aside'    hash of ours: id -> JSON [reason, its due time, when it was set aside]
-- OWN..'entries'  zset of ours: scheduler uid by its last step
local ENTRIES, ENTRY_LOCK = P .. ':scheduler:scheduled_jobs', P .. ':scheduler_lock'
local ISO = iso_time(T[1], T[2])
local LOCK_S = 30
local UNSTARTED = { scheduled = true, created = true }

local function check_entries()
  local kind = redis.call('TYPE', ENTRIES).ok
  if kind == 'zset' or kind == 'none' then return nil end
  return redis.error_reply('WRONGKEY ' .. ENTRIES .. ' is a ' .. kind .. ', not a zset')
end

-- Take or renew rq-scheduler's lock, for all schedulers of ours; else the ms for which another one has it (-1: for ever).
local function hold(uid)
  local holder = redis.call('GET', ENTRY_LOCK)
  if holder and string.sub(holder, 1, 6) ~= 'taskq:' then return redis.call('PTTL', ENTRY_LOCK) end
  begin_writing()
  redis.call('SET', ENTRY_LOCK, 'taskq:' .. uid, 'EX', LOCK_S)
  redis.pcall('ZADD', OWN .. 'entries', micros(NOW), uid)
  return nil
end

local function set_aside(id, due, reason)
  redis.pcall('HSET', OWN .. 'aside', id, cjson.encode({ reason, tonumber(due), NOW }))
  redis.call('ZREM', ENTRIES, id)
end

-- What the scripts want of a job: 1 status, 2 origin, 3 meta, 4 enqueue_at_front, 5 ttl, 6 dependency_ids,
-- 7 allow_dependency_failures, 8 tq_due, 9 tq_retries, 10 result_ttl, 11 failure_ttl. Second: what is wrong with it.
local function look(id)
  local f = redis.pcall('HMGET', jobkey(id), 'status', 'origin', 'meta', 'enqueue_at_front', 'ttl', 'dependency_ids',
    'allow_dependency_failures', 'tq_due', 'tq_retries', 'result_ttl', 'failure_ttl')
  if f.err then return f, "The key of its job is a " .. redis.call('TYPE', jobkey(id)).ok .. ", not a hash." end
  if not f[1] or not f[2] then
    if redis.call('EXISTS', jobkey(id)) == 0 then
      return f, 'Its job is gone: deleted, or its result_ttl or ttl was over before it was due.'
    end
    return f, "The record of its job is broken: it has no status or no origin."
  end
  return f, nil
end

-- The other jobs that this one waits for, as RQ sees them: finished ones (and failed ones, if it may) and those that
-- are gone keep nobody waiting.
local function awaited(f)
  if not f[6] then return {} end
  local ok, ids = pcall(cjson.decode, f[6])
  if not ok or type(ids) ~= 'table' then return {} end
  for _, one in ipairs(ids) do
    local status = redis.pcall('HGET', jobkey(one), 'status')
    local met = type(status) ~= 'string' or status == 'finished' or (status == 'failed' and f[7] == '1')
    if not met then return ids end
  end
  return {}
end

-- Enqueue a job as RQ does. tails: ids for the end of each queue, for the caller to push; nil: push it here.
local function start(id, f, tails)
  local key, queue = jobkey(id), f[2]
  redis.pcall('HSETNX', key, 'timeout', '180')     -- as RQ's queues do
  redis.pcall('SADD', P .. ':queues', listkey(queue))
  local others = awaited(f)
  if #others > 0 then
    redis.pcall('HSET', key, 'status', 'deferred')
    redis.pcall('ZADD', registry('deferred', queue), whole(NOW), id)
    for _, one in ipairs(others) do
      redis.pcall('SADD', jobkey(one) .. ':dependents', id)
      redis.pcall('SADD', P .. ':job::' .. id .. ':dependencies', one)
    end
    return
  end
  redis.pcall('HSET', key, 'status', 'queued', 'enqueued_at', ISO)
  if tails and f[4] ~= '1' then
    if not tails[queue] then tails[queue] = {} end
    table.insert(tails[queue], id)
    return
  end
  count(queue, 'enqueued', 1)
  requeue(f[4] == '1' and 'LPUSH' or 'RPUSH', queue, id, ISO)
end
