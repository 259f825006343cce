-- include: stats lib
-- Cancel a job: taken out where it waits; asked to stop where it runs.
-- KEYS   1 RQ's prefix   2 our prefix
-- ARGV   1 job id   2 now, ISO (optional)
-- RETURN 1 it waited and will not run   2 it runs and was asked to stop   0 it had ended
--        -1 no such job, or one that says not where it is from and is found nowhere: nothing was changed
-- O(place in the queue) where it waits; without `origin` O(length of all queues).
local id, iso = ARGV[1], ARGV[2] or ''
local key = jobkey(id)
local f = redis.pcall('HMGET', key, 'status', 'origin', 'tq_unique', 'failure_ttl')
if f.err or not f[1] then return -1 end
local status, queue = f[1], f[2]
if status == 'finished' or status == 'failed' or status == 'canceled' or status == 'stopped' then return 0 end
begin_writing()
if status == 'started' then
  redis.pcall('HSET', key, 'tq_cancel', '1')
  redis.pcall('PUBLISH', OWN .. 'cancel', id)
  return 2
end

-- Take it out of one queue and its registries; whether it was there.
local function taken_out(name)
  local found = redis.pcall('LREM', listkey(name), 1, id) == 1  -- a second entry is dropped by reserve
  for _, kind in ipairs({ 'scheduled', 'deferred', 'ready' }) do
    if redis.pcall('ZREM', registry(kind, name), id) == 1 then found = true end
  end
  return found
end

if queue and queue ~= '' then
  taken_out(queue)
else
  local head, keys = P .. ':queue:', redis.pcall('SMEMBERS', P .. ':queues')
  queue = nil
  for _, qkey in ipairs(keys.err and {} or keys) do
    local name = string.sub(qkey, #head + 1)
    if taken_out(name) then queue = name end
  end
  if not queue then return -1 end
  redis.pcall('HSET', key, 'origin', queue)  -- so that it can be run again
end
redis.pcall('HSET', key, 'status', 'canceled')
if iso ~= '' then redis.pcall('HSET', key, 'ended_at', iso) end
redis.pcall('EXPIRE', key, 86400)
forget_steps(id)
redis.pcall('ZADD', registry('canceled', queue), whole(NOW), id)
unlock(id, f[3])
count(queue, 'canceled', 1)
return 1
