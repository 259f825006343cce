-- include: stats lib
-- Append what generator tasks yielded to their streams. Idempotent: a value's id is its execution's generation and
-- its number, and Redis refuses an id that is not higher than the last.
-- KEYS   1 RQ's prefix   2 our prefix
-- ARGV   groups: queue, job id, execution id, generation ('' = not known yet), number of the first value,
--        lowest number to keep ('' = all), ttl s ('' = as it is), number of values n, then the n values
-- RETURN for each group: the generation of this execution, or '' where its lease was lost and nothing was written
-- A new execution begins its stream anew. O(values).
local RUNNING = 604800   -- a stream whose job was deleted while it ran goes after a week

-- A generation is the time of its begin in ms: higher than those of earlier executions, also of an earlier job of this id.
local function generation(id, exec, key)
  local known = redis.pcall('HGET', jobkey(id), 'tq_stream')
  local number, of = string.match(type(known) == 'string' and known or '', '^(%d+):(.*)$')
  if of == exec then return number end
  local new = whole(math.max(math.floor(NOW * 1000), (tonumber(number) or 0) + 1))
  redis.pcall('HSET', jobkey(id), 'tq_stream', new .. ':' .. exec)
  redis.pcall('DEL', key)
  return new
end

begin_writing()
local out, i = {}, 1
while i <= #ARGV do
  local queue, id, exec, gen, first, keep, ttl, n = unpack(ARGV, i, i + 7)
  local answer = ''
  if type(redis.pcall('ZSCORE', registry('wip', queue), id .. ':' .. exec)) == 'string' then
    local key = OWN .. 'stream:' .. id
    local is_new = gen == ''
    if is_new then gen = generation(id, exec, key) end
    answer = gen
    for k = 0, n - 1 do
      local added = redis.pcall('XADD', key, gen .. '-' .. whole(first + k), 'v', ARGV[i + 8 + k])
      if type(added) == 'table' and added.err and not string.find(added.err, 'equal or smaller', 1, true) then
        return added
      end
    end
    if keep ~= '' then redis.pcall('XTRIM', key, 'MINID', '~', gen .. '-' .. keep) end
    if is_new and ttl == '' then ttl = whole(RUNNING) end
    if ttl == '-1' then redis.pcall('PERSIST', key)
    elseif ttl ~= '' then
      redis.pcall('EXPIRE', key, ttl)
      redis.pcall('EXPIRE', OWN .. 'sent:' .. id, ttl)
    end
  end
  out[#out + 1] = answer
  i = i + 8 + n
end
return out
