-- include: stats
-- Accept jobs: hash, place in the queue (or schedule), counters. Idempotent: sending it again is harmless.
-- KEYS   1 RQ's prefix   2 our prefix
-- ARGV   1 '1' when this request may have been executed before   2 now, ISO
--        then for each job: id, queue, token ('' = the id is random and is its own token),
--        place ('b' back, 'f' front, '+S' in S seconds, '@E' at epoch E), unique key or '', ttl s or '',
--        n, then n field names and values (data among them)
-- RETURN for each job: its id, or the id of the unfinished job that holds its unique key;
--        or one string 'duplicate:ID' and nothing was enqueued; error reply when a queue key is no list
-- O(fields) a job. At most 1,000 jobs and 4 MB a call.
local resend, iso = ARGV[1] == '1', ARGV[2]
local over = { finished = true, failed = true, canceled = true, stopped = true }
local last = #ARGV

local function settled(token)
  local bucket = math.floor(NOW / 10)
  for b = bucket, bucket - 6, -1 do
    if redis.pcall('SISMEMBER', OWN .. 'done:' .. b, token) == 1 then return true end
  end
  return false
end

-- First look, write nothing: wrong types and duplicate ids refuse the whole batch.
local queues, replace, skip = {}, {}, {}
local i = 3
while i <= last do
  local id, queue, token, place = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local mark = string.sub(place, 1, 1)
  local key = (mark == '+' or mark == '@') and P .. ':scheduled:' .. queue or P .. ':queue:' .. queue
  if not queues[key] then
    queues[key] = true
    local want = (mark == '+' or mark == '@') and 'zset' or 'list'
    local kind = redis.call('TYPE', key).ok
    if kind ~= want and kind ~= 'none' then
      return redis.error_reply('WRONGKEY ' .. key .. ' is a ' .. kind .. ', not a ' .. want)
    end
  end
  if token ~= '' or resend then
    local known = redis.pcall('HMGET', P .. ':job:' .. id, 'status', 'tq_token')
    if known.err then return redis.error_reply('WRONGKEY ' .. P .. ':job:' .. id .. ' is not a hash') end
    if known[1] or known[2] then
      if token == '' or known[2] == token then skip[i] = true
      elseif over[known[1]] then replace[i] = known[1]
      else return 'duplicate:' .. id end
    elseif resend and settled(token == '' and id or token) then skip[i] = true end
  end
  i = i + 7 + ARGV[i + 6]
end

local out, tails, counts = {}, {}, {}
i = 3
while i <= last do
  local id, queue, token, place, unique, ttl = unpack(ARGV, i, i + 5)
  local first, stop = i + 7, i + 6 + ARGV[i + 6]
  local answer, free = id, not skip[i]
  if free and unique ~= '' then
    local lock = OWN .. 'unique:' .. unique
    local holder = redis.pcall('GET', lock)
    if type(holder) == 'string' and holder ~= id then
      local status = redis.pcall('HGET', P .. ':job:' .. holder, 'status')
      if type(status) == 'string' and not over[status] then answer, free = holder, false end
    end
    if free then redis.call('SET', lock, id) end
  end
  if free then
    local key = P .. ':job:' .. id
    if replace[i] then
      redis.call('DEL', key, P .. ':results:' .. id, OWN .. 'stream:' .. id, OWN .. 'sent:' .. id, OWN .. 'steps:' .. id)
      redis.pcall('ZREM', P .. ':finished:' .. queue, id)
      redis.pcall('ZREM', P .. ':failed:' .. queue, id)
      redis.pcall('ZREM', P .. ':canceled:' .. queue, id)
    end
    local mark = string.sub(place, 1, 1)
    if mark == '+' or mark == '@' then
      local due = tonumber(string.sub(place, 2))
      if mark == '+' then due = NOW + due end
      redis.call('HSET', key, 'status', 'scheduled', 'created_at', iso, 'origin', queue, unpack(ARGV, first, stop))
      local zkey = P .. ':scheduled:' .. queue
      redis.call('ZADD', zkey, string.format('%.6f', due), id)
      if redis.call('ZRANGE', zkey, 0, 0)[1] == id then redis.pcall('PUBLISH', OWN .. 'wake', queue) end
      redis.pcall('SADD', P .. ':queues', P .. ':queue:' .. queue)
    else
      redis.call('HSET', key, 'status', 'queued', 'created_at', iso, 'enqueued_at', iso, 'origin', queue,
        unpack(ARGV, first, stop))
      if mark == 'f' then
        redis.call('LPUSH', P .. ':queue:' .. queue, id)
      else
        local tail = tails[queue]
        if tail then tail[#tail + 1] = id else tails[queue] = { id } end
      end
    end
    if token ~= '' then redis.call('HSET', key, 'tq_token', token) end
    if ttl ~= '' then
      redis.call('EXPIRE', key, ttl)
      redis.pcall('ZADD', OWN .. 'expiring', string.format('%.0f', NOW + ttl), id)
      local callback
      for f = first, stop, 2 do
        if ARGV[f] == 'tq_on_failure' then callback = ARGV[f + 1] end
      end
      if callback then      -- the record will be gone when the job is found to have expired
        redis.pcall('SET', OWN .. 'tell:' .. id, callback, 'EX', ttl + 604800)
      elseif token ~= '' then
        redis.pcall('DEL', OWN .. 'tell:' .. id)
      end
    end
    counts[queue] = (counts[queue] or 0) + 1
  end
  out[#out + 1] = answer
  i = stop + 1
end

for queue, ids in pairs(tails) do
  redis.call('RPUSH', P .. ':queue:' .. queue, unpack(ids))
end
for queue, n in pairs(counts) do
  redis.pcall('SADD', P .. ':queues', P .. ':queue:' .. queue)
  -- the first of a minute: how deep the queue is, also where no worker looks
  if count(queue, 'enqueued', n) then sample_depth(queue, redis.pcall('LLEN', P .. ':queue:' .. queue)) end
end
return out
