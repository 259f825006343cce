-- Heartbeat of a server's workers: they live, so their leases do.
-- KEYS   1 RQ's prefix   2 our prefix
-- ARGV   1 now, ISO   2 seconds to keep the worker's hash
--        then for each worker: uid, name, queues (a line each), state, n, then n ids of jobs whose code has begun
--        and their execution ids, in turn
-- RETURN now
-- A worker whose uid was fenced as dead stays dead: it must take a new uid. O(workers + ids).
local P, OWN = KEYS[1], KEYS[2]
local t = redis.call('TIME')
local now = string.format('%.6f', tonumber(t[1]) + tonumber(t[2]) / 1000000)
redis.call('DEL', OWN .. 'scratch')       -- so that a server out of memory takes the rest (see lib)

-- Our own keys: whatever else sits there is in the way.
local function own(command, key, ...)
  local done = redis.pcall(command, key, ...)
  if type(done) == 'table' and done.err and string.find(done.err, 'WRONGTYPE', 1, true) then
    redis.pcall('DEL', key)
    redis.pcall(command, key, ...)
  end
end

local i = 3
while i <= #ARGV do
  local uid, name, queues, state = unpack(ARGV, i, i + 3)
  local n = tonumber(ARGV[i + 4])
  if redis.pcall('HGET', OWN .. 'fence', uid) ~= 'dead' then
    own('ZADD', OWN .. 'alive', now, uid)
    own('HSET', OWN .. 'serves', uid, queues)
    local key = P .. ':worker:' .. name
    redis.pcall('HSET', key, 'last_heartbeat', ARGV[1])
    if state ~= '' then redis.pcall('HSET', key, 'state', state) end  -- a supervisor does not know it
    redis.pcall('EXPIRE', key, ARGV[2])
    for j = i + 5, i + 4 + 2 * n, 2 do
      local job = P .. ':job:' .. ARGV[j]
      if redis.pcall('HGET', job, 'status') == 'started' then
        redis.pcall('HSET', job, 'tq_begun', ARGV[j + 1], 'last_heartbeat', ARGV[1])
      end
    end
  end
  i = i + 5 + 2 * n
end
return now
