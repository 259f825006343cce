-- Statistics: counters by the minute, rolled up by the hour; placed first in the scripts that count.
-- KEYS[1] RQ's prefix, KEYS[2] our prefix. Hashes below it, for each queue; '' stands for all of them together:
--   stats:QUEUE:MINUTE   of one minute, kept for a day      hours:QUEUE:HOUR   of one hour, kept for 90 days
--   depth:QUEUE:HOUR     minute of the hour -> jobs that waited then, kept for a day
--   rolling              queue -> its minute that is not in the hours yet
--   failures-by:DAY      who failed with what (see count_failure), kept for 90 days
-- Fields: counters (enqueued, finished ...), rN and wN (histograms of run and wait time), run_us (sum of run times),
-- in hours also depth_sum, depth_n, depth_max. A minute is rolled up once, when the next one begins: in the steady
-- state a count is one HINCRBY. Everything goes through pcall: no statistic is worth a job.
local P, OWN = KEYS[1], KEYS[2]
local T = redis.call('TIME')
local NOW = tonumber(T[1]) + tonumber(T[2]) / 1000000
local MINUTE = math.floor(NOW / 60)
local KEPT, KEPT_LONG = 90000, 7862400
local MOST_GROUPS = 9000  -- fields of one day; whatever more there is goes together

-- Add the fields of a queue's last minute to its hour, and to those of all queues. O(fields), once a minute.
local function roll_up(queue)
  local open = redis.pcall('HGET', OWN .. 'rolling', queue)
  local minute = type(open) == 'string' and tonumber(open)
  if minute == MINUTE then return end
  if type(redis.pcall('HSET', OWN .. 'rolling', queue, MINUTE)) == 'table' then redis.pcall('DEL', OWN .. 'rolling') end
  redis.pcall('EXPIRE', OWN .. 'rolling', KEPT)
  if not minute or minute > MINUTE then return end     -- the server's clock was set back
  local fields = redis.pcall('HGETALL', OWN .. 'stats:' .. queue .. ':' .. open)
  if fields.err or #fields == 0 then return end
  local hour = math.floor(minute / 60)
  for key, ttl in pairs({
    [OWN .. 'hours:' .. queue .. ':' .. hour] = KEPT_LONG,
    [OWN .. 'hours::' .. hour] = KEPT_LONG,
    [OWN .. 'stats::' .. open] = KEPT,
  }) do
    for i = 1, #fields, 2 do redis.pcall('HINCRBY', key, fields[i], fields[i + 1]) end
    redis.pcall('EXPIRE', key, ttl)
  end
end

-- Returns whether it is the first of this minute.
local function count(queue, field, n)
  local key = OWN .. 'stats:' .. queue .. ':' .. MINUTE
  if redis.pcall('HINCRBY', key, field, n) ~= n then return false end
  redis.pcall('EXPIRE', key, KEPT)
  if queue ~= '' then roll_up(queue) end
  return true
end

-- Note how many jobs wait, once a minute.
local function sample_depth(queue, depth)
  if type(depth) ~= 'number' then return end
  local hour = math.floor(MINUTE / 60)
  local key, hours = OWN .. 'depth:' .. queue .. ':' .. hour, OWN .. 'hours:' .. queue .. ':' .. hour
  if redis.pcall('HSETNX', key, MINUTE % 60, depth) ~= 1 then return end
  redis.pcall('EXPIRE', key, KEPT)
  redis.pcall('HINCRBY', hours, 'depth_sum', depth)
  redis.pcall('HINCRBY', hours, 'depth_n', 1)
  if depth > (tonumber(redis.pcall('HGET', hours, 'depth_max') or 0) or 0) then
    redis.pcall('HSET', hours, 'depth_max', depth)
  end
  redis.pcall('EXPIRE', hours, KEPT_LONG)
end

-- n failures of one kind. what: task and type of the error, a line each.
-- Fields n, f, l and 'QUEUE TASK ERROR', a line each: how many, first at, last at with the id of that job.
local function count_failure(queue, what, id, n)
  local key = OWN .. 'failures-by:' .. math.floor(NOW / 86400)
  local group = queue .. '\n' .. what
  if redis.pcall('HEXISTS', key, 'n' .. group) == 0 then
    local size = redis.pcall('HLEN', key)
    if type(size) == 'number' and size >= MOST_GROUPS then group = queue .. '\n\n' end
    redis.pcall('HSETNX', key, 'f' .. group, string.format('%.3f', NOW))
  end
  redis.pcall('HINCRBY', key, 'n' .. group, n)
  redis.pcall('HSET', key, 'l' .. group, string.format('%.3f %s', NOW, id))
  redis.pcall('EXPIRE', key, KEPT_LONG)
end

-- A statistic as workers send it. field: one of those above, or '!' with lines: task, type of the error, job id.
local function tally(queue, field, n)
  local what, id = string.match(field, '^!(.*)\n([^\n]*)$')
  if what then count_failure(queue, what, id, n) else count(queue, field, n) end
end
