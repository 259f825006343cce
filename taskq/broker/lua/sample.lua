-- Shared by recover; placed after lib: what no script that handles jobs would notice. Part of each sweep.
-- sweep's fields: minute, the last one that was sampled; stock, when stock RQ's workers were looked at last.

-- Ends of jobs that stock RQ's workers ran, from the counters that they keep: they know no queue, so a worker
-- that serves several counts for all together. What is counted stands in its hash, tq_seen, and goes with it.
local function count_stock(key)
  local f = redis.pcall('HMGET', key, 'tq_kind', 'queues', 'successful_job_count', 'failed_job_count',
    'total_working_time', 'tq_seen')
  if f.err or f[1] or not f[2] then return end
  local ok, bad, us = tonumber(f[3] or 0) or 0, tonumber(f[4] or 0) or 0, math.floor((tonumber(f[5] or 0) or 0) * 1000000)
  local seen = string.format('%.0f %.0f %.0f', ok, bad, us)
  if f[6] == seen then return end
  redis.pcall('HSET', key, 'tq_seen', seen)
  if not f[6] then return end      -- it may have run for days: from now on
  local ok_before, bad_before, us_before = string.match(f[6], '^(%d+) (%d+) (%d+)$')
  if not ok_before then return end
  local queue = string.find(f[2], ',', 1, true) and '' or f[2]
  for field, n in pairs({ finished = ok - ok_before, failed = bad - bad_before, run_us = us - us_before }) do
    if n > 0 then
      count(queue, field, n)
      if queue == '' then redis.pcall('HINCRBY', OWN .. 'hours::' .. math.floor(MINUTE / 60), field, n) end
    end
  end
end

-- O(queues + workers): depths once a minute, minutes that are over into their hours, stock workers every 10 s.
local function sample(queues)
  local mark = OWN .. 'sweep'
  local seen = redis.pcall('HMGET', mark, 'minute', 'stock')
  if seen.err then return end
  if tonumber(seen[1] or 0) ~= MINUTE then
    redis.pcall('HSET', mark, 'minute', MINUTE)
    local head, total = P .. ':queue:', 0
    for _, key in ipairs(queues) do
      local depth = redis.pcall('LLEN', key)
      if type(depth) == 'number' then
        total = total + depth
        sample_depth(string.sub(key, #head + 1), depth)
      end
    end
    sample_depth('', total)
    local open = redis.pcall('HGETALL', OWN .. 'rolling')
    for i = 1, open.err and 0 or #open, 2 do
      if tonumber(open[i + 1]) ~= MINUTE then
        roll_up(open[i])
        redis.pcall('HDEL', OWN .. 'rolling', open[i])
      end
    end
  end
  if NOW - (tonumber(seen[2] or 0) or 0) >= 10 then
    redis.pcall('HSET', mark, 'stock', string.format('%.0f', NOW))
    local workers = redis.pcall('SMEMBERS', P .. ':workers')
    for _, key in ipairs(workers.err and {} or workers) do count_stock(key) end
  end
end
