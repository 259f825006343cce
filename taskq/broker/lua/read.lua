-- Tell a generator task how far it was read, so that one that waits for its reader goes on.
-- KEYS   1 RQ's prefix   2 our prefix
-- ARGV   1 job id   2 id of the last value that a reader took
-- RETURN 1 noted, 0 the job does not run. O(1)
local key = KEYS[1] .. ':job:' .. ARGV[1]
local f = redis.pcall('HMGET', key, 'status', 'worker_name')
if f.err or f[1] ~= 'started' then return 0 end
redis.call('HSET', key, 'tq_read', ARGV[2])
if f[2] then redis.pcall('PUBLISH', KEYS[2] .. 'send:' .. f[2], ARGV[1] .. ' ' .. ARGV[2]) end
return 1
