-- include: stats lib entry
-- Fire due entries of rq-scheduler's set: enqueue the job and put its next time in one step, if it is still due as it was seen.
-- KEYS   1 RQ's prefix   2 our prefix
-- ARGV   1 uid of this scheduler   then for each entry: id, due time as it was seen,
--        next due time ('' : this was the last; 'once': not periodic after all), its meta from now on ('' : as it is),
--        why it cannot be fired ('' : it can)
-- RETURN for each: 'fired'; 'waiting' (its last run is still in the queue: merged with that); 'running' (its last run
--        still runs: looked at again a second later); 'canceled', 'enqueued' (by somebody else; both removed), 'aside'; 'changed'
--        or {'held', ms} while a stock rqscheduler has the lock
-- O(log) an entry; one whose last run has not ended also searches its queue. Sent twice, the second changes nothing: the
-- due time is no longer the one that was seen. At most 500 entries.
local uid = ARGV[1]
local wrong = check_entries()
if wrong then return wrong end
local held = hold(uid)
if held then return { 'held', held } end

local function is_running(id, queue)
  local want = id .. ':'
  local members = redis.pcall('ZRANGEBYSCORE', registry('wip', queue), micros(NOW), '+inf')
  for _, m in ipairs(members.err and {} or members) do
    if string.sub(m, 1, #want) == want then return true end
  end
  return false
end

local function is_listed(key, id)
  local place = redis.pcall('LPOS', key, id)
  return type(place) == 'number'
end

-- In its queue, or just claimed from it by an idle worker. The status alone does not say it: a stock worker that dies
-- between popping an id and registering it leaves that nowhere.
local function is_waiting(id, queue)
  if is_listed(listkey(queue), id) then return true end
  for _, worker in ipairs(redis.call('ZRANGE', OWN .. 'alive', 0, -1)) do
    if is_listed(OWN .. 'claim:' .. worker .. ':' .. queue, id) then return true end
  end
  return false
end

-- Like a job that has never run. Its record must outlive each run: it is the schedule's memory.
local function renew(id, f)
  local key, queue = jobkey(id), f[2]
  for _, kind in ipairs({ 'failed', 'finished', 'scheduled' }) do redis.pcall('ZREM', registry(kind, queue), id) end
  redis.pcall('HDEL', key, 'ended_at', 'started_at', 'exc_info', 'worker_name', 'number_of_retries', 'tq_attempts',
    'tq_crashes', 'tq_unknown', 'tq_begun', 'tq_cancel', 'tq_progress', 'tq_due')
  if f[9] then redis.pcall('HSET', key, 'retries_left', f[9]) end
  if f[10] ~= '-1' then redis.pcall('HSET', key, 'result_ttl', '-1') end
  if f[11] == '0' then redis.pcall('HDEL', key, 'failure_ttl') end
  redis.pcall('PERSIST', key)
end

local function fire(id, seen, next_due, meta, reason)
  local due = redis.call('ZSCORE', ENTRIES, id)
  if not due or tonumber(due) ~= tonumber(seen) then return 'changed' end
  local f, problem = look(id)
  if not problem and reason ~= '' then problem = reason end
  if problem then
    set_aside(id, seen, problem)
    return 'aside'
  end
  local status, queue, outcome = f[1], f[2], 'fired'
  if status == 'canceled' then
    redis.call('ZREM', ENTRIES, id)
    return 'canceled'
  end
  if next_due == 'once' then
    redis.call('ZREM', ENTRIES, id)
    if not UNSTARTED[status] then return 'enqueued' end
    start(id, f)
    return 'fired'
  end
  if status == 'started' and is_running(id, queue) then
    redis.pcall('HSETNX', jobkey(id), 'tq_due', seen)
    redis.call('ZADD', ENTRIES, micros(NOW + 1), id)
    return 'running'
  end
  if status == 'queued' and is_waiting(id, queue) then
    outcome = 'waiting'
    redis.pcall('HDEL', jobkey(id), 'tq_due')
  elseif status == 'deferred' and type(redis.pcall('ZSCORE', registry('deferred', queue), id)) == 'string' then
    outcome = 'waiting'
  else
    renew(id, f)
    start(id, f)
  end
  if meta ~= '' then redis.pcall('HSET', jobkey(id), 'meta', meta) end
  if next_due == '' then
    redis.call('ZREM', ENTRIES, id)
  else
    redis.call('ZADD', ENTRIES, next_due, id)
  end
  return outcome
end

local out = {}
for n = 2, #ARGV, 5 do out[#out + 1] = fire(unpack(ARGV, n, n + 4)) end
return out
