-- include: stats lib
-- A durable job was ended, or put back, by RQ's own code: its records follow. Part of RQ's transaction.
-- KEYS   1 RQ's prefix   2 our prefix
-- ARGV   1 job id   2 'again', or for how many seconds the job is kept (0: not at all, negative: for ever)
-- O(steps that failed last).
local id, ttl = ARGV[1], tonumber(ARGV[2])
local key = OWN .. 'steps:' .. id
if not ttl then reopen(id)
elseif ttl == 0 then redis.call('DEL', key)
elseif ttl > 0 then redis.call('EXPIRE', key, ttl)
else redis.call('PERSIST', key) end
return 1
