-- include: stats
-- Take over webhooks that nobody has sent: those of workers that died (see worker/rq_hooks.py).
-- KEYS   1 RQ's prefix   2 our prefix
-- ARGV   1 for how many seconds not   2 how many at most
-- RETURN job:execution:status of each; they are the caller's for as long again.
-- O(returned).
local key = OWN .. 'hooks'
local left = redis.pcall('ZRANGEBYSCORE', key, '-inf', string.format('%.0f', NOW - tonumber(ARGV[1])), 'LIMIT', 0, ARGV[2])
if left.err then return {} end
for _, member in ipairs(left) do redis.call('ZADD', key, string.format('%.0f', NOW), member) end
return left
