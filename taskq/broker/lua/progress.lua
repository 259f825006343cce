-- Latest progress of running jobs.
-- KEYS   1 RQ's prefix   2 our prefix
-- ARGV   job id, progress (JSON), in turn
-- RETURN number written: a job that has ended or is gone is left alone. O(1) a job.
local written = 0
for n = 1, #ARGV, 2 do
  local key = KEYS[1] .. ':job:' .. ARGV[n]
  if redis.pcall('HGET', key, 'status') == 'started' then
    redis.pcall('HSET', key, 'tq_progress', ARGV[n + 1])
    written = written + 1
  end
end
return written
