-- include: stats lib runs reclaim sample
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
aside(OWN .. 'alive', 'zset')
aside(OWN .. 'serves', 'hash')
local mark = OWN .. 'sweep'
local seen = redis.pcall('HMGET', mark, 'last', 'hold')
local last, hold = tonumber(seen[1] or 0) or 0, tonumber(seen[2] or 0) or 0
if NOW - last > 8 or NOW < last - 8 then hold = NOW + 10 end
if type(redis.pcall('HSET', mark, 'last', micros(NOW), 'hold', micros(hold))) == 'table' then redis.pcall('DEL', mark) end
local head, listed = P .. ':queue:', P .. ':queues'
aside(listed, 'set')
local queues = redis.pcall('SMEMBERS', listed)
if queues.err then queues = {} end
sample(queues)
-- whatever stands there, it does not hold for longer than we would set
if hold > NOW + 10 then
  hold = NOW + 10
  redis.pcall('HSET', mark, 'hold', micros(hold))
end
-- RQ's set of queues, and what workers say that they serve: neither alone can be lost with its jobs.
local names, seen_names = {}, {}
local function add(queue)
  if queue ~= '' and not seen_names[queue] then
    seen_names[queue] = true
    names[#names + 1] = queue
  end
end
for _, qkey in ipairs(queues) do add(string.sub(qkey, #head + 1)) end
local known, serves = #names, redis.pcall('HVALS', OWN .. 'serves')
for _, text in ipairs(serves.err and {} or serves) do
  for queue in string.gmatch(text, '[^\n]+') do add(queue) end
end
for n = known + 1, #names do
  if redis.pcall('EXISTS', listkey(names[n]), registry('wip', names[n])) ~= 0 then redis.pcall('SADD', listed, listkey(names[n])) end
end

for _, queue in ipairs(names) do
  aside(listkey(queue), 'list')
  for _, kind in ipairs({ 'wip', 'finished', 'failed', 'scheduled', 'canceled' }) do aside(registry(kind, queue), 'zset') end
end
if NOW < hold then return { micros(NOW), 'holding', 0, 0, 0 } end

local beats = {}
local function beat(uid)
  if beats[uid] == nil then
    local s = redis.pcall('ZSCORE', OWN .. 'alive', uid)
    if type(s) ~= 'string' or tonumber(s) > NOW + 60 then
      -- its heartbeats were lost with the key, or somebody set the clock back: it gets time to be heard
      s = micros(NOW)
      redis.pcall('ZADD', OWN .. 'alive', s, uid)
    end
    beats[uid] = tonumber(s)
  end
  return beats[uid]
end

local requeued, failed, extended = 0, 0, 0
for _, queue in ipairs(names) do
  local wip = registry('wip', queue)
  -- What is not ours stays where it is, however much of it there is: each sweep looks one page further.
  local skip = redis.pcall('HGET', mark, 'skip:' .. queue)
  skip = type(skip) == 'string' and tonumber(skip) or 0
  if not (skip > 0 and skip < 1e12) then skip = 0 end
  local members = redis.pcall('ZRANGEBYSCORE', wip, '-inf', micros(NOW + MARGIN), 'LIMIT', whole(skip), page)
  if members.err then members = {} end
  local strange = 0
  for _, member in ipairs(members) do
    local uid = owner(member)
    if uid then
      if NOW - beat(uid) < lease then
        -- from the heartbeat, not from now: else a worker that dies just before is only missed 35 s later
        redis.pcall('ZADD', wip, whole(math.min(beat(uid), NOW) + lease + MARGIN), member)
        extended = extended + 1
      else
        local what = reclaim(queue, member, iso, limit_crashes, story, nil)
        if what == 'back' then requeued = requeued + 1 elseif what == 'failed' then failed = failed + 1 end
      end
    else
      strange = strange + 1
    end
  end
  if #members == page then redis.pcall('HSET', mark, 'skip:' .. queue, whole(skip + strange))
  else redis.pcall('HDEL', mark, 'skip:' .. queue) end
  forget_expired('finished', queue, 5000, 10)  -- where jobs end, settle does it before, and their keys go with them
  forget_expired('failed', queue, 5000, 0)
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
