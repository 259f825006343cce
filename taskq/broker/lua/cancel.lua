-- include: lib
-- Cancel a job: taken out where it waits; asked to stop where it runs.
-- KEYS   1 RQ's prefix   2 our prefix
-- ARGV   1 job id   2 now, ISO (optional)
-- RETURN 1 it waited and will not run   2 it runs and was asked to stop   0 it had ended   -1 no such job
-- O(place in the queue) where it waits.
local id, iso = ARGV[1], ARGV[2] or ''
local key = jobkey(id)
local f = redis.pcall('HMGET', key, 'status', 'origin', 'tq_unique', 'failure_ttl')
if f.err or not f[1] then return -1 end
local status, queue = f[1], f[2] or ''
if status == 'finished' or status == 'failed' or status == 'canceled' or status == 'stopped' then return 0 end
if status == 'started' then
  redis.pcall('HSET', key, 'tq_cancel', '1')
  redis.pcall('PUBLISH', OWN .. 'cancel', id)
  return 2
end
redis.pcall('LREM', listkey(queue), 1, id)  -- a second entry is dropped by reserve
for _, kind in ipairs({ 'scheduled', 'deferred', 'ready' }) do redis.pcall('ZREM', registry(kind, queue), id) end
redis.pcall('HSET', key, 'status', 'canceled')
if iso ~= '' then redis.pcall('HSET', key, 'ended_at', iso) end
redis.pcall('EXPIRE', key, 86400)
redis.pcall('ZADD', registry('canceled', queue), whole(NOW), id)
unlock(id, f[3])
count(queue, 'canceled', 1)
return 1
