-- include: lib
-- Record what became of reserved jobs, as one batch. Fenced: an execution that no longer owns its lease changes nothing.
-- KEYS   1 RQ's prefix   2 our prefix
-- ARGV   1 worker name   2 now, ISO   3 '1' where DUMP and RESTORE are allowed   4 finished count   5 failed count
--        6 working time s   7 number of queues Q, then Q names
--        then number of statistics S, then S times: queue position (1-based), field, increment
--        then for each item: kind, queue position (1-based), id, execution id, then by kind
--          f finished   started, ended, return value (base64) or '', ttl s, '1' to leave a done-marker, unique key or ''
--          x failed     started, ended, traceback (zlib + base64), error (JSON), ttl s, unique key or ''
--          r retry      delay s ('' = at once), '1' to the front, retries left ('' = as it is)
--          g give back  '1' when its code had begun (a warm shutdown): to the head of its queue
--          u unknown task   delay s: scheduled, and counted in tq_unknown
--          c canceled   unique key or ''
-- RETURN for each item: 1 done, 0 its lease was lost, 2 left untouched with its lease for RQ's own code (it has dependents)
-- O(1) an item. At most 100 items a call.
local worker, iso, compact = ARGV[1], ARGV[2], ARGV[3] == '1'
local sizes = { f = 6, x = 6, r = 3, g = 1, u = 1, c = 1 }

local queues = {}
local at = 7
for n = 1, ARGV[at] do queues[n] = ARGV[at + n] end
at = at + ARGV[at] + 1
local stats = at
at = at + ARGV[at] * 3 + 1

-- Fence: one ZMSCORE for each queue.
local items, members, where, deps = {}, {}, {}, {}
while at <= #ARGV do
  local kind, q, id = ARGV[at], tonumber(ARGV[at + 1]), ARGV[at + 2]
  local item = { at = at, kind = kind, q = q, id = id, member = id .. ':' .. ARGV[at + 3] }
  items[#items + 1] = item
  if not members[q] then members[q], where[q] = {}, {} end
  members[q][#members[q] + 1] = item.member
  where[q][#where[q] + 1] = item
  if kind == 'f' or kind == 'x' then deps[#deps + 1] = jobkey(id) .. ':dependents' end
  at = at + 4 + sizes[kind]
end
for q, list in pairs(members) do
  local scores = redis.pcall('ZMSCORE', registry('wip', queues[q]), unpack(list))
  for n, item in ipairs(where[q]) do item.own = not scores.err and scores[n] and true or false end
end
local any = #deps > 0 and redis.call('EXISTS', unpack(deps)) > 0

local out, gone, finished = {}, {}, {}
for n, item in ipairs(items) do
  local kind, id, a = item.kind, item.id, item.at + 4
  local queue = queues[item.q]
  local key = jobkey(id)
  if not item.own then
    out[n] = 0
  elseif any and (kind == 'f' or kind == 'x') and redis.call('EXISTS', key .. ':dependents') == 1 then
    out[n] = 2
  else
    out[n] = 1
    if not gone[item.q] then gone[item.q] = {} end
    local g = gone[item.q]
    g[#g + 1] = item.member
    if kind == 'f' then
      local started, ended, value, ttl, marker, unique = unpack(ARGV, a, a + 5)
      ttl = tonumber(ttl)
      if ttl == 0 then
        redis.pcall('DEL', key, P .. ':results:' .. id)
        if marker == '1' then
          local done = OWN .. 'done:' .. math.floor(NOW / 10)
          if redis.pcall('SADD', done, id) == 1 then redis.pcall('EXPIRE', done, 70) end
        end
      else
        redis.pcall('HSET', key, 'status', 'finished', 'ended_at', iso)
        if value == '' then
          result(id, ttl, compact, 'type', '1', 'worker_name', worker, 'execution_id', string.sub(item.member, #id + 2),
            'execution_started_at', started, 'execution_ended_at', ended)
        else
          result(id, ttl, compact, 'type', '1', 'worker_name', worker, 'return_value', value,
            'execution_id', string.sub(item.member, #id + 2), 'execution_started_at', started, 'execution_ended_at', ended)
        end
        if ttl > 0 then redis.pcall('EXPIRE', key, ttl) end
        local f = finished[item.q]
        if not f then f = {} finished[item.q] = f end
        f[#f + 1] = ttl > 0 and whole(NOW + ttl) or '+inf'
        f[#f + 1] = id
      end
      unlock(id, unique)
    elseif kind == 'x' then
      local started, ended, exc, err, ttl, unique = unpack(ARGV, a, a + 5)
      fail(queue, id, tonumber(ttl), exc, err, iso, compact, worker, string.sub(item.member, #id + 2), started, ended)
      unlock(id, unique)
    elseif kind == 'r' or kind == 'u' then
      local delay, front, left = ARGV[a], ARGV[a + 1], ARGV[a + 2]
      redis.pcall('HINCRBY', key, kind == 'r' and 'tq_attempts' or 'tq_unknown', 1)
      if kind == 'u' then front, left = '', '' end
      if left ~= '' then redis.pcall('HSET', key, 'retries_left', left) end
      if delay == '' then
        redis.pcall('HSET', key, 'status', 'queued', 'enqueued_at', iso)
        redis.pcall(front == '1' and 'LPUSH' or 'RPUSH', listkey(queue), id)
      else
        redis.pcall('HSET', key, 'status', 'scheduled')
        redis.pcall('ZADD', registry('scheduled', queue), micros(NOW + tonumber(delay)), id)
        redis.pcall('PUBLISH', OWN .. 'wake', queue)
      end
    elseif kind == 'g' then
      redis.pcall('HSET', key, 'status', 'queued')
      redis.pcall('LPUSH', listkey(queue), id)
    else
      redis.pcall('HSET', key, 'status', 'canceled', 'ended_at', iso)
      redis.pcall('ZADD', registry('canceled', queue), whole(NOW), id)
      redis.pcall('EXPIRE', key, 86400)
      unlock(id, ARGV[a])
      count(queue, 'canceled', 1)
    end
  end
end
for q, list in pairs(gone) do redis.call('ZREM', registry('wip', queues[q]), unpack(list)) end
for q, list in pairs(finished) do redis.pcall('ZADD', registry('finished', queues[q]), unpack(list)) end

for n = 0, ARGV[stats] - 1 do
  local s = stats + 1 + n * 3
  count(queues[tonumber(ARGV[s])], ARGV[s + 1], tonumber(ARGV[s + 2]))
end
local wkey = P .. ':worker:' .. worker
if ARGV[4] ~= '0' then redis.pcall('HINCRBY', wkey, 'successful_job_count', ARGV[4]) end
if ARGV[5] ~= '0' then redis.pcall('HINCRBY', wkey, 'failed_job_count', ARGV[5]) end
if ARGV[6] ~= '0' then redis.pcall('HINCRBYFLOAT', wkey, 'total_working_time', ARGV[6]) end
return out
