-- Move jobs that are due from the scheduled registry to their queue.
-- KEYS   1 RQ's prefix   2 our prefix
-- ARGV   1 now, ISO   2 limit for each queue   then queue names
-- RETURN {now, moved, next due time of what is left or '', ids left to RQ's own code (rate limits) with their queues}
-- O(moved x log). Atomic: any number of workers and RQ's scheduler may do it side by side.
local P, OWN = KEYS[1], KEYS[2]
local iso, limit = ARGV[1], tonumber(ARGV[2])
local t = redis.call('TIME')
local now = tonumber(t[1]) + tonumber(t[2]) / 1000000
local stamp = string.format('%.6f', now)
local moved, next_due, special = 0, nil, {}
for n = 3, #ARGV do
  local queue = ARGV[n]
  local zkey, lkey = P .. ':scheduled:' .. queue, P .. ':queue:' .. queue
  local due = redis.pcall('ZRANGEBYSCORE', zkey, '-inf', stamp, 'LIMIT', 0, limit)
  if due.err then due = {} end
  local kind = #due > 0 and redis.call('TYPE', lkey).ok or 'none'
  if kind == 'none' or kind == 'list' then
    if #due > 0 then redis.call('DEL', OWN .. 'scratch') end  -- so that a server out of memory takes the rest (see lib)
    local tail, out = {}, {}
    for _, id in ipairs(due) do
      local key = P .. ':job:' .. id
      local f = redis.pcall('HMGET', key, 'status', 'enqueue_at_front', 'rate_limit_key')
      if not f.err and f[3] and f[3] ~= '' then
        special[#special + 1] = queue
        special[#special + 1] = id
      else
        out[#out + 1] = id
        if f.err or f[1] == 'scheduled' or not f[1] then
          -- a broken or missing hash goes the same way: reserve sets it aside with a reason
          if f[1] then redis.pcall('HSET', key, 'status', 'queued', 'enqueued_at', iso) end
          if f[2] == '1' then redis.call('LPUSH', lkey, id) else tail[#tail + 1] = id end
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
