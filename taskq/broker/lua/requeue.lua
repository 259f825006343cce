-- include: stats lib
-- Run ended jobs once more (failed, canceled, stopped): back into their queue with a clean slate and all their retries.
-- KEYS   1 RQ's prefix   2 our prefix
-- ARGV   1 now, ISO   2 '1' to the front   then job ids (at most 1,000)
-- A durable job goes on after its recorded steps; those that failed last run again.
-- RETURN for each id: 1 queued, 0 not in a state to be run again, -1 no such job;
--        error reply when the key of a queue is no list: nothing was changed
-- O(1) a job.
local iso, push = ARGV[1], ARGV[2] == '1' and 'LPUSH' or 'RPUSH'
local LOST = '["(payload lost)",null,[],{}]'
local ended = { failed = true, canceled = true, stopped = true }

-- First look, write nothing.
local out, chosen, is_list = {}, {}, {}
for n = 3, #ARGV do
  local id = ARGV[n]
  local f = redis.pcall('HMGET', jobkey(id), 'status', 'origin', 'data', 'tq_retries')
  if f.err or not f[1] then
    out[#out + 1] = -1
  elseif chosen[id] or not (ended[f[1]] and f[2] and f[3]) or f[3] == LOST then
    out[#out + 1] = 0
  else
    local queue = listkey(f[2])
    if not is_list[queue] then
      local kind = redis.call('TYPE', queue).ok
      if kind ~= 'list' and kind ~= 'none' then
        return redis.error_reply('WRONGKEY ' .. queue .. ' is a ' .. kind .. ', not a list')
      end
      is_list[queue] = true
    end
    chosen[id] = f
    out[#out + 1] = 1
  end
end

begin_writing()
for n = 3, #ARGV do
  local id = ARGV[n]
  if out[n - 2] == 1 then
    local key, queue, retries = jobkey(id), chosen[id][2], chosen[id][4]
    for _, kind in ipairs({ 'failed', 'canceled', 'finished' }) do redis.pcall('ZREM', registry(kind, queue), id) end
    redis.pcall('DEL', P .. ':results:' .. id)
    redis.pcall('HDEL', key, 'ended_at', 'started_at', 'exc_info', 'worker_name', 'number_of_retries', 'tq_attempts',
      'tq_crashes', 'tq_story', 'tq_unknown', 'tq_begun', 'tq_cancel', 'tq_progress')
    redis.pcall('HSET', key, 'status', 'queued', 'enqueued_at', iso)
    if retries then redis.pcall('HSET', key, 'retries_left', retries) end
    redis.pcall('PERSIST', key)
    reopen(id)
    redis.pcall('EXPIRE', OWN .. 'steps:' .. id, 7776000)  -- 90 days, as while it goes on
    redis.pcall(push, listkey(queue), id)
    redis.pcall('SADD', P .. ':queues', listkey(queue))
    count(queue, 'enqueued', 1)
  end
end
return out
