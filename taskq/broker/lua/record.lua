-- include: stats lib
-- Record what became of steps of durable jobs. Fenced and idempotent: an execution that lost its lease records nothing,
-- and what is final is never written again.
-- KEYS   1 RQ's prefix   2 our prefix
-- ARGV   1 bytes that the records of a job may have   2 how many there may be   3 ttl s of a job's records while it goes on
--        then groups: queue, job id, execution id, place ('7', or '7.0' of several at once), kind, seconds that the job may wait now,
--        head (JSON, for people), body (for the worker)
--        kind: v value, x error, t timer (these three are final)   a an attempt failed, it is tried again   b begun
-- RETURN for each group: 1 recorded, 0 its lease was lost, 2 over a limit, 3 the key is no hash: nothing was written
-- Key taskq:steps:ID: PLACE = body, PLACEh = kind and head, b = bytes, n = final ones, x = places of errors that nothing final follows,
-- xe = the job's enqueued_at at that time.
-- O(1) a group.
local most_bytes, most, keep = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local FINAL = { v = true, x = true, t = true }

-- Progress ends a row of crashes: they go on to count as executions.
local function forgive(id)
  local crashes = tonumber(redis.pcall('HGET', jobkey(id), 'tq_crashes') or 0)
  if crashes and crashes > 0 then
    redis.pcall('HINCRBY', jobkey(id), 'tq_attempts', whole(crashes))
    redis.pcall('HDEL', jobkey(id), 'tq_crashes')
  end
end

local function final(key, id, place, kind)
  redis.pcall('HINCRBY', key, 'n', 1)
  redis.pcall('HINCRBY', jobkey(id), 'tq_steps', 1)
  local position = string.match(place, '^%d+')
  local open = redis.pcall('HGET', key, 'x')
  local same = type(open) == 'string' and string.match(open, '^%d+') == position
  if kind == 'x' then
    local since = redis.pcall('HGET', jobkey(id), 'enqueued_at')
    redis.pcall('HSET', key, 'x', same and open .. ',' .. place or place, 'xe', since or '')
  elseif open and not same then
    redis.pcall('HDEL', key, 'x', 'xe')
  end
  forgive(id)
end

begin_writing()
local out = {}
for i = 4, #ARGV, 8 do
  local queue, id, exec, place, kind, wait, head, body = unpack(ARGV, i, i + 7)
  local answer = 0
  if type(redis.pcall('ZSCORE', registry('wip', queue), id .. ':' .. exec)) == 'string' then
    local key = OWN .. 'steps:' .. id
    local old = redis.pcall('HMGET', key, place .. 'h', 'b', 'n')
    if old.err then
      answer = 3
    elseif old[1] and FINAL[string.sub(old[1], 1, 1)] then
      answer = 1
    else
      local before = old[1] and #old[1] + redis.pcall('HSTRLEN', key, place) or 0
      local more = 1 + #head + #body - before
      if (tonumber(old[2]) or 0) + more > most_bytes or (tonumber(old[3]) or 0) >= most then
        answer = 2
      else
        answer = 1
        redis.pcall('HSET', key, place, body, place .. 'h', kind .. head)
        redis.pcall('HINCRBY', key, 'b', whole(more))
        if FINAL[kind] then final(key, id, place, kind) end
        redis.pcall('EXPIRE', key, whole(keep + tonumber(wait)))
      end
    end
  end
  out[#out + 1] = answer
end
return out
