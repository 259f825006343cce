-- include: stats lib entry
-- A scheduler of ours ends: give rq-scheduler's lock back, if no other one of ours is at work.
-- KEYS   1 RQ's prefix   2 our prefix
-- ARGV   1 its uid
-- RETURN 1 the lock is free, 0 it stays
-- O(log schedulers)
redis.call('ZREM', OWN .. 'entries', ARGV[1])
redis.call('ZREMRANGEBYSCORE', OWN .. 'entries', '-inf', micros(NOW - LOCK_S))
if redis.call('ZCARD', OWN .. 'entries') > 0 then return 0 end
local holder = redis.call('GET', ENTRY_LOCK)
if holder and string.sub(holder, 1, 6) == 'taskq:' then redis.call('DEL', ENTRY_LOCK) end
return 1
