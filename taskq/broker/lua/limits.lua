-- RQ's rate limits (rq.rate_limit); placed after `lib`. Of the jobs with one key so many at a time are in their queues or
-- run; the others wait in a sorted set, the oldest first.
local MOST_FREED = 1000  -- at once: where it is more, somebody has raised the limit, and RQ's upkeep does the rest

-- The slot of a job that neither runs nor is in its queue any more goes to those that wait. limit: the key. O(freed).
local function free_slot(limit, id, iso)
  local base = P .. ':rl:' .. limit
  local held, waiting = base .. ':allowed', base .. ':rate_limited'
  redis.pcall('ZREM', held, id)
  local most = tonumber(redis.pcall('HGET', base, 'concurrency')) or 0
  for _ = 1, MOST_FREED do
    local size = redis.pcall('ZCARD', held)
    if type(size) ~= 'number' or size >= most then return end
    local next_id = redis.pcall('ZPOPMIN', waiting)[1]
    if not next_id then return end
    local f = redis.pcall('HMGET', jobkey(next_id), 'origin', 'status', 'enqueue_at_front')
    if f[1] and f[2] == 'rate_limited' then
      redis.pcall('ZADD', held, whole(NOW), next_id)
      redis.pcall('HSET', jobkey(next_id), 'status', 'queued', 'enqueued_at', iso)
      requeue(f[3] == '1' and 'LPUSH' or 'RPUSH', f[1], next_id, iso)
    end
  end
end
