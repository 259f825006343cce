-- include: stats lib reclaim sample
-- Sweep: extend the leases of workers that live, take back what dead workers held, expire old entries.
-- KEYS   1 RQ's prefix   2 our prefix
-- ARGV   1 lease s   2 now, ISO   3 crashes after which a job is failed   4 traceback text for that (zlib + base64)
--        5 at most this many members of each registry
-- RETURN {now, state, requeued, failed, extended}; state: 'ok' | 'holding'
-- A server that was frozen or down for long makes every heartbeat look old. Whoever sweeps first after a
-- gap only sets a hold, so that the living can be heard before anything is taken from them.
-- O(members looked at). Reads RQ's registries without its sweeping them.
local lease, iso, limit_crashes, story, page = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
begin_writing()
local kind = redis.pcall('TYPE', OWN .. 'alive').ok
if kind ~= 'zset' and kind ~= 'none' then redis.pcall('DEL', OWN .. 'alive') end
local mark = OWN .. 'sweep'
local seen = redis.pcall('HMGET', mark, 'last', 'hold')
local last, hold = tonumber(seen[1] or 0) or 0, tonumber(seen[2] or 0) or 0
if NOW - last > 8 or NOW < last - 8 then hold = NOW + 10 end
if type(redis.pcall('HSET', mark, 'last', micros(NOW), 'hold', micros(hold))) == 'table' then redis.pcall('DEL', mark) end
local queues = redis.pcall('SMEMBERS', P .. ':queues')
if queues.err then queues = {} end
sample(queues)
if NOW < hold then return { micros(NOW), 'holding', 0, 0, 0 } end

local beats = {}
local function beat(uid)
  if beats[uid] == nil then
    local s = redis.pcall('ZSCORE', OWN .. 'alive', uid)
    if type(s) ~= 'string' then      -- its heartbeats were lost with the key: it gets time to be heard
      s = micros(NOW)
      redis.pcall('ZADD', OWN .. 'alive', s, uid)
    end
    beats[uid] = tonumber(s)
  end
  return beats[uid]
end

local requeued, failed, extended = 0, 0, 0
local head = P .. ':queue:'
for _, qkey in ipairs(queues) do
  local queue = string.sub(qkey, #head + 1)
  local wip = registry('wip', queue)
  local members = redis.pcall('ZRANGEBYSCORE', wip, '-inf', micros(NOW + MARGIN), 'LIMIT', 0, page)
  if members.err then members = {} end
  for _, member in ipairs(members) do
    local uid = owner(member)
    if uid then
      if NOW - beat(uid) < lease then
        -- from the heartbeat, not from now: else a worker that dies just before is only missed 35 s later
        redis.pcall('ZADD', wip, whole(math.min(beat(uid), NOW) + lease + MARGIN), member)
        extended = extended + 1
      else
        local what = reclaim(queue, member, iso, limit_crashes, story, false)
        if what == 'back' then requeued = requeued + 1 elseif what == 'failed' then failed = failed + 1 end
      end
    end
  end
  forget_expired('finished', queue, 5000)
  forget_expired('failed', queue, 5000)
end

-- Claim lists of dead workers: an id that woke a worker which never came to take it.
local dead = redis.pcall('ZRANGEBYSCORE', OWN .. 'alive', '-inf', micros(NOW - lease), 'LIMIT', 0, 200)
if dead.err then dead = {} end
for _, uid in ipairs(dead) do
  requeued = requeued + unclaim(uid)
  if NOW - beat(uid) > 300 then forget(uid) end  -- no BLMOVE of it can be open any more
end
redis.pcall('ZREMRANGEBYSCORE', OWN .. 'expiring', '-inf', micros(NOW - 86400))
return { micros(NOW), 'ok', requeued, failed, extended }
