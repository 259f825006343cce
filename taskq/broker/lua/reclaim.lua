-- Shared by recover and release; placed after lib.

-- One execution of a worker that is gone (or gave it up): its job runs again, or is failed with the reason.
-- begun: whether its code has run, nil if that is not known; a crash counts where it has.
local function reclaim(queue, member, iso, limit_crashes, story, begun)
  local cut = #member - string.find(string.reverse(member), ':', 1, true)
  local id, exec = string.sub(member, 1, cut), string.sub(member, cut + 2)
  local key = jobkey(id)
  redis.pcall('ZREM', registry('wip', queue), member)
  redis.pcall('DEL', P .. ':execution:' .. member)
  redis.pcall('ZREM', P .. ':executions:' .. id, exec)
  local f = redis.pcall('HMGET', key, 'status', 'tq_redeliver', 'tq_crashes', 'tq_begun', 'failure_ttl', 'tq_unique', 'worker_name',
    'tq_on_failure', 'tq_story', 'tq_runs', 'started_at')
  if f.err then
    fail(queue, id, YEAR, story, '["taskq.errors.PayloadError","Its worker is gone, and its record in Redis is broken: it is not a hash.",1]', iso)
    count(queue, 'corrupt', 1)
    count_failure(queue, '\ntaskq.errors.PayloadError', id, 1)
    return 'failed'
  end
  if f[1] ~= 'started' then return 'gone' end
  if f[4] == exec then begun = true end
  local ttl = tonumber(f[5] or YEAR) or YEAR
  local function give_up(err)
    if f[8] then tell(id, 'failure', iso, story, err) end
    fail(queue, id, ttl, story, err, iso)
    unlock(id, f[6])
    count(queue, 'failed', 1)
    count_failure(queue, '\ntaskq.errors.JobFailed', id, 1)
    return 'failed'
  end
  if f[2] == '0' then
    return give_up('["taskq.errors.JobFailed","Its worker (' .. called(f[7])
      .. ') died or was cut off while it held this job, and the task says redeliver=False, so it was not run again.",1]')
  end
  local crashes = tonumber(f[3] or 0) or 0
  if begun then
    crashes = crashes + 1
    local told = string.gsub(f[9] or '', '[^%w%-_%.:, ]', '?')
    told = string.sub((told ~= '' and told .. ', ' or '') .. called(f[7]) .. ' at ' .. called(iso), -1000)
    redis.pcall('HSET', key, 'tq_crashes', crashes, 'tq_story', told)
    count(queue, 'crashed', 1)
    if crashes >= limit_crashes then
      return give_up('["taskq.errors.JobFailed","Crash loop: ' .. crashes
        .. ' worker processes died while running this job: ' .. told .. '.",' .. crashes .. ']')
    end
  end
  if begun ~= false then
    local run = string.format('["%s","%s",%s,"",""]', begun and 'crashed' or 'lost', called(f[11]), micros(NOW))
    add_run(key, run, f[7], f[10])
  end
  redis.pcall('HSET', key, 'status', 'queued')
  return requeue('LPUSH', queue, id, iso) and 'back' or 'failed'
end

-- Ids in a worker's claim lists go back to the head of their queues, in order.
local function unclaim(uid)
  local moved = 0
  local names = redis.pcall('HGET', OWN .. 'serves', uid)
  if type(names) ~= 'string' then return 0 end
  for queue in string.gmatch(names, '[^\n]+') do
    local claim = OWN .. 'claim:' .. uid .. ':' .. queue
    local ids = redis.pcall('LRANGE', claim, 0, -1)
    if not ids.err and #ids > 0 then
      local ok
      for n = #ids, 1, -1 do
        if waits(ids[n]) then
          ok = redis.pcall('LPUSH', listkey(queue), ids[n])
          if type(ok) ~= 'number' then break end
          moved = moved + 1
        end
      end
      if ok == nil or type(ok) == 'number' then redis.call('DEL', claim) end
    end
  end
  return moved
end

-- A worker's uid and those of its lanes, one for each queue that it serves (see reserve.lua).
local function lanes(uid)
  local found, names = { uid }, redis.pcall('HGET', OWN .. 'serves', uid)
  if type(names) == 'string' then
    for _ in string.gmatch(names, '[^\n]+') do found[#found + 1] = uid .. 'w' .. (#found - 1) .. 'n' end
  end
  return found
end

-- What its last calls were handed: nobody asks for those again.
local function unhand(uid)
  for _, lane in ipairs(lanes(uid)) do redis.pcall('DEL', OWN .. 'handed:' .. lane) end
end

local function forget(uid)
  unhand(uid)
  redis.pcall('ZREM', OWN .. 'alive', uid)
  redis.pcall('HDEL', OWN .. 'fence', unpack(lanes(uid)))
  redis.pcall('HDEL', OWN .. 'serves', uid)
end
