-- include: lib
-- Run ended jobs once more (failed, canceled, stopped): back into their queue with a clean slate.
-- KEYS   1 RQ's prefix   2 our prefix
-- ARGV   1 now, ISO   2 '1' to the front   then job ids (at most 1,000)
-- RETURN for each id: 1 queued, 0 not in a state to be run again, -1 no such job
-- O(1) a job.
local iso, front = ARGV[1], ARGV[2] == '1'
local out = {}
for n = 3, #ARGV do
  local id = ARGV[n]
  local key = jobkey(id)
  local f = redis.pcall('HMGET', key, 'status', 'origin', 'data')
  if f.err or not f[1] then
    out[#out + 1] = -1
  elseif (f[1] == 'failed' or f[1] == 'canceled' or f[1] == 'stopped') and f[2] and f[3] and f[3] ~= '["(payload lost)",null,[],{}]' then
    local queue = f[2]
    local kind = redis.call('TYPE', listkey(queue)).ok
    if kind ~= 'list' and kind ~= 'none' then return redis.error_reply('WRONGKEY ' .. listkey(queue) .. ' is a ' .. kind .. ', not a list') end
    for _, kind in ipairs({ 'failed', 'canceled', 'finished' }) do redis.pcall('ZREM', registry(kind, queue), id) end
    redis.pcall('DEL', P .. ':results:' .. id)
    redis.pcall('HDEL', key, 'ended_at', 'started_at', 'exc_info', 'worker_name', 'tq_attempts', 'tq_crashes', 'tq_unknown', 'tq_begun', 'tq_cancel')
    redis.pcall('HSET', key, 'status', 'queued', 'enqueued_at', iso)
    redis.pcall('PERSIST', key)
    redis.call(front and 'LPUSH' or 'RPUSH', listkey(queue), id)
    redis.pcall('SADD', P .. ':queues', listkey(queue))
    count(queue, 'enqueued', 1)
    out[#out + 1] = 1
  else
    out[#out + 1] = 0
  end
end
return out
