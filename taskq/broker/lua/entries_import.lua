-- include: stats lib entry
-- Move an entry of rq-scheduler's set to our schedules, in one step: it is never in both, nor in none.
-- KEYS   1 RQ's prefix   2 our prefix
-- ARGV   1 uid of the caller, which holds rq-scheduler's lock with this   2 id of its job   3 due time as it was seen
--        4 its meta as it was seen   5 name of the schedule   6 version that it gets   7 when it fires next, ms
--        8.. names and values of its fields
-- RETURN 'moved', also when it is sent again; 'taken': there is a schedule of that name; 'changed' meanwhile;
--        or {'held', ms} while a stock rqscheduler has the lock
-- O(log N + fields). The record of the job stays for a week, for who asks for its last result.
local uid, id, seen, meta, name, version, fires = unpack(ARGV, 1, 7)
local key, all = OWN .. 'schedule:' .. name, OWN .. 'schedules'
local wrong = check_entries()
if wrong then return wrong end
local kind = redis.call('TYPE', all).ok
if kind ~= 'zset' and kind ~= 'none' then
  return redis.error_reply('WRONGKEY ' .. all .. ' is a ' .. kind .. ', not a zset')
end
local held = hold(uid)
if held then return { 'held', held } end
if redis.pcall('HGET', key, 'v') == version then return 'moved' end
if redis.call('EXISTS', key) == 1 then return 'taken' end
local due = redis.call('ZSCORE', ENTRIES, id)
if not due or tonumber(due) ~= tonumber(seen) then return 'changed' end
if (redis.call('HGET', jobkey(id), 'meta') or '') ~= meta then return 'changed' end
redis.call('HSET', key, 'v', version, unpack(ARGV, 8))
redis.call('ZADD', all, fires, name)
redis.call('ZREM', ENTRIES, id)
local status = redis.call('HGET', jobkey(id), 'status')
if status ~= 'queued' and status ~= 'started' then redis.call('EXPIRE', jobkey(id), 604800) end
if redis.call('ZRANGE', all, 0, 0)[1] == name then redis.pcall('PUBLISH', OWN .. 'wake', '') end
return 'moved'
