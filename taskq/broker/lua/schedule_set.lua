-- Changes to schedules: made, changed, paused, resumed, removed. Each one only if it is as it was read.
-- KEYS   1 RQ's prefix   2 our prefix
-- ARGV   for each change: name, 'set' or 'remove', version it was read with ('' not there, '*' any that is
--        there), next due time it was read with or '*'; for 'set' also: its score (ms, 'inf', or '' as it is),
--        n fields to delete, their names, n, then n names and values
-- RETURN for each: 1 done, 0 it has changed meanwhile, -1 it is not there;
--        error reply when the key of the schedules is no sorted set
-- O(log N + fields). Sending it again is harmless: the version is another one then, and the answer 0.
local P, OWN = KEYS[1], KEYS[2]
local KEY, HELD = OWN .. 'schedules', OWN .. 'schedules:held'
local last = #ARGV
local t = redis.call('TIME')
local now = string.format('%.0f', tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000))

local kind = redis.call('TYPE', KEY).ok
if kind ~= 'zset' and kind ~= 'none' then
  return redis.error_reply('WRONGKEY ' .. KEY .. ' is a ' .. kind .. ', not a zset')
end

-- Whether it is as it was read; a hash that is none counts as not there.
local function verdict(name, version, due)
  local h = redis.pcall('HMGET', OWN .. 'schedule:' .. name, 'v', 'next', 'app')
  if h.err then
    h = { false, false, false }
    if version ~= '' then return 0 end
  end
  if not h[1] and version ~= '' then return -1 end
  if h[1] and version ~= '*' and h[1] ~= version then return 0 end
  if due ~= '*' and (h[2] or '') ~= due then return 0 end
  return 1, h[3] or ''
end

local function belongs(name, before, after)
  if before == after then return end
  if before ~= '' then redis.pcall('SREM', OWN .. 'schedules:code:' .. before, name) end
  if after ~= '' then redis.pcall('SADD', OWN .. 'schedules:code:' .. after, name) end
end

local out, i = {}, 1
while i <= last do
  local name, op, version, due = unpack(ARGV, i, i + 3)
  local key = OWN .. 'schedule:' .. name
  local answer, app = verdict(name, version, due)
  i = i + 4
  if op == 'remove' then
    if answer == 1 then
      redis.call('ZREM', KEY, name)
      redis.call('DEL', key)
      redis.pcall('SREM', HELD, name)
      belongs(name, app, '')
    end
  else
    local score, gone = ARGV[i], tonumber(ARGV[i + 1])
    local first = i + 2 + gone
    local stop = first + ARGV[first]
    if answer == 1 then
      if redis.call('TYPE', key).ok ~= 'hash' then redis.call('DEL', key) end
      if gone > 0 then redis.call('HDEL', key, unpack(ARGV, i + 2, first - 1)) end
      redis.call('HSET', key, unpack(ARGV, first + 1, stop))
      belongs(name, app, redis.call('HGET', key, 'app') or '')
      if redis.call('HEXISTS', key, 'held') == 0 then redis.pcall('SREM', HELD, name) end
      if score ~= '' then
        redis.call('ZADD', KEY, score == 'inf' and '+inf' or score, name)
        -- schedulers sleep until the next that is not due yet: nothing stands between now and this one
        if score ~= 'inf' and redis.call('ZCOUNT', KEY, '(' .. now, '(' .. score) == 0 then
          redis.pcall('PUBLISH', OWN .. 'wake', '')
        end
      end
    end
    i = stop + 1
  end
  out[#out + 1] = answer
end
return out
