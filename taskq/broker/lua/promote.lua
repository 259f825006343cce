-- Move jobs that are due from the scheduled registry to their queue.
-- KEYS   1 RQ's prefix   2 our prefix
-- ARGV   1 now, ISO   2 limit for each queue   then queue names
-- RETURN {now, moved, next due time of what is left or '', ids left to RQ's own code (rate limits) with their queues}
-- O(moved x log). Atomic: any number of workers may do it side by side. Where a stock RQ scheduler holds a queue's lock
-- it moves that queue's jobs, for it reads and moves in two steps: what both moved would run twice. Ours only take the
-- lock from one that is late, and wait until it has noticed.
local P, OWN = KEYS[1], KEYS[2]
local iso, limit = ARGV[1], tonumber(ARGV[2])
local t = redis.call('TIME')
local now = tonumber(t[1]) + tonumber(t[2]) / 1000000
local stamp = string.format('%.6f', now)
local moved, next_due, special = 0, nil, {}
local LATE, LOCK, NOTICE = 2, 61, 3  -- seconds: a stock scheduler looks once a second, and its locks last 61 s

-- Whether a stock RQ scheduler (`rq worker --with-scheduler`) is to move what is due in this queue.
-- Its lock holds its name; once a second it looks whether that still stands there, and writes its heartbeat.
local function is_theirs(queue, first_due)
  local key = P .. ':scheduler-lock:' .. queue
  local holder = redis.pcall('GET', key)
  if type(holder) ~= 'string' then return false end
  if holder == 'taskq' then
    if redis.call('TTL', key) < LOCK / 2 then redis.call('EXPIRE', key, LOCK) end
    return false
  end
  local name, beat = string.match(holder, '^taskq (%S+) (.*)$')
  if name then
    local waits = redis.call('TTL', key) > LOCK - NOTICE
    if waits and redis.pcall('HGET', P .. ':scheduler:' .. name, 'last_heartbeat') == beat then return true end
    redis.call('SET', key, 'taskq', 'EX', LOCK)
    return false
  end
  if now - first_due > LATE then
    beat = redis.pcall('HGET', P .. ':scheduler:' .. holder, 'last_heartbeat')
    redis.call('SET', key, 'taskq ' .. holder .. ' ' .. (type(beat) == 'string' and beat or ''), 'EX', LOCK)
  end
  return true
end

for n = 3, #ARGV do
  local queue = ARGV[n]
  local zkey, lkey = P .. ':scheduled:' .. queue, P .. ':queue:' .. queue
  local due = redis.pcall('ZRANGEBYSCORE', zkey, '-inf', stamp, 'LIMIT', 0, limit)
  if due.err then due = {} end
  if #due > 0 and is_theirs(queue, tonumber(redis.call('ZSCORE', zkey, due[1]))) then
    due = {}
    next_due = math.min(next_due or now + 0.5, now + 0.5)
  end
  local kind = #due > 0 and redis.call('TYPE', lkey).ok or 'none'
  if kind == 'none' or kind == 'list' then
    if #due > 0 then redis.call('DEL', OWN .. 'scratch') end  -- so that a server out of memory takes the rest (see lib)
    local tail, out = {}, {}
    for _, id in ipairs(due) do
      local key = P .. ':job:' .. id
      local f = redis.pcall('HMGET', key, 'status', 'enqueue_at_front', 'rate_limit_key', 'enqueue_at_front_on_retry',
        'ended_at')
      if not f.err and f[3] and f[3] ~= '' then
        special[#special + 1] = queue
        special[#special + 1] = id
      else
        out[#out + 1] = id
        local s = f.err or f[1]
        if s ~= 'started' and s ~= 'finished' and s ~= 'failed' and s ~= 'canceled' and s ~= 'stopped' then
          -- a broken or missing hash goes the same way: reserve sets it aside with a reason; one that says
          -- `queued` may be nowhere else, and reserve drops what is twice in a queue
          if f[1] then redis.pcall('HSET', key, 'status', 'queued', 'enqueued_at', iso) end
          local front = f[2] == '1' or (f[4] == '1' and f[5] and f[5] ~= '')  -- as RQ: it is a retry
          if front then redis.call('LPUSH', lkey, id) else tail[#tail + 1] = id end
        end
      end
    end
    if #tail > 0 then redis.call('RPUSH', lkey, unpack(tail)) end
    if #out > 0 then redis.call('ZREM', zkey, unpack(out)) end
    moved = moved + #out
    if #due == limit then next_due = now end
  end
  local head = redis.pcall('ZRANGEBYSCORE', zkey, '(' .. stamp, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  if not head.err and head[2] then
    local score = tonumber(head[2])
    if not next_due or score < next_due then next_due = score end
  end
end
return { stamp, moved, next_due and string.format('%.6f', next_due) or '', special }
