-- Schedules that are due, with their fields, and those with an occurrence that waits. Changes nothing.
-- KEYS   1 RQ's prefix   2 our prefix
-- ARGV   1 now in ms, or '' for the server's time (else for tests only)   2 limit   3 offset among those due
-- RETURN {now ms, how many are due, due time of the next that is not, or '', due, held};
--        due and held: name, hash as HGETALL gives it (empty: not there, or no hash), name, hash ...
-- O(log N + fields of those returned), whatever the number of schedules. At most 4 MB, but always one.
local P, OWN = KEYS[1], KEYS[2]
local limit, offset = tonumber(ARGV[2]), tonumber(ARGV[3])
local now = tonumber(ARGV[1])
if not now then
  local t = redis.call('TIME')
  now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end
local key, stamp = OWN .. 'schedules', string.format('%.0f', now)
local bytes = 0

local function add(to, name)
  local h = redis.pcall('HGETALL', OWN .. 'schedule:' .. name)
  if h.err then h = {} end
  for i = 2, #h, 2 do bytes = bytes + #h[i] end
  to[#to + 1] = name
  to[#to + 1] = h
  return bytes < 4000000
end

local due, held = {}, {}
local count = redis.call('ZCOUNT', key, '-inf', stamp)
if count > offset then
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', key, '-inf', stamp, 'LIMIT', offset, limit)) do
    if not add(due, name) then break end
  end
end
local waiting = redis.pcall('SRANDMEMBER', OWN .. 'schedules:held', limit)
if not waiting.err then
  for _, name in ipairs(waiting) do
    if bytes >= 4000000 or not add(held, name) then break end
  end
end
local head = redis.call('ZRANGEBYSCORE', key, '(' .. stamp, '(+inf', 'WITHSCORES', 'LIMIT', 0, 1)
return { stamp, count, head[2] and string.format('%.0f', head[2]) or '', due, held }
