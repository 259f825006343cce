-- What RQ does for the dependents of a job that has ended: who waits for nothing else goes into its queue.
-- Placed after `lib`. Only what is as RQ's enqueue leaves it; all else is left to RQ's own code.
local MOST_DEPENDENTS, MOST_DEPENDENCIES = 100, 1000  -- more would hold up everybody else's commands,
local looks = 2000                                    -- and so would more looks at others in one call
local blocked = {}  -- dependent -> one that it waited for at the last look of this call

local function waits_for(id) return P .. ':job::' .. id .. ':dependencies' end

-- Whether one that a dependent waits for has ended well enough. For one that is gone RQ does not ask any more.
local function ended_well(id, failures_too)
  looks = looks - 1
  local status = redis.pcall('HGET', jobkey(id), 'status')
  return not status or status == 'finished' or (failures_too and status == 'failed')
end

-- Whether all that a dependent waits for, but for `parent`, has ended well enough; nil: too many to look at.
local function met(id, parent, failures_too)
  local known = blocked[id]
  if known and known ~= parent and not ended_well(known, failures_too) then return false end
  local size = redis.pcall('SCARD', waits_for(id))
  if type(size) ~= 'number' or size > MOST_DEPENDENCIES then return nil end
  for _, other in ipairs(redis.pcall('SMEMBERS', waits_for(id))) do
    if other ~= parent and not ended_well(other, failures_too) then
      blocked[id] = other
      return false
    end
    if looks < 0 then return nil end
  end
  return true
end

-- Dependents that may run when the job ends, each as {id, queue, at the front, has a timeout}, and how many there are
-- in all; nil where only RQ's own code can tell. Of a canceled one none may. Writes nothing. O(dependents x their dependencies).
local function freed(id, failed, canceled)
  local ids, ready = redis.pcall('SMEMBERS', jobkey(id) .. ':dependents'), {}
  if ids.err or #ids > MOST_DEPENDENTS then return nil end
  if canceled then return ready, #ids end
  if redis.pcall('HGET', jobkey(id), 'status') ~= 'started' then return nil end
  for _, dependent in ipairs(ids) do
    local f = redis.pcall('HMGET', jobkey(dependent), 'status', 'origin', 'allow_dependency_failures',
      'enqueue_at_front', 'timeout', 'rate_limit_key', 'ttl')
    if f.err then return nil end
    if f[1] and f[1] ~= 'canceled' then
      if f[1] ~= 'deferred' or not f[2] or f[2] == '' or (f[6] and f[6] ~= '') or f[7] then return nil end
      local failures_too = f[3] and f[3] ~= '' and f[3] ~= '0'
      local free = met(dependent, id, failures_too)
      if free == nil then return nil end
      if free and (failures_too or not failed) then
        ready[#ready + 1] = { dependent, f[2], f[4] and f[4] ~= '' and f[4] ~= '0', f[5] and f[5] ~= '' }
      end
    end
  end
  return ready, #ids
end

-- Enqueue them. ttl: for how long the job itself is kept, and with it what says that others still wait for it.
local function enqueue_freed(id, ready, all, ttl, iso)
  local key = jobkey(id) .. ':dependents'
  for _, d in ipairs(ready) do
    local dependent, queue, front, timed = unpack(d)
    redis.pcall('ZREM', registry('deferred', queue), dependent)
    redis.pcall('HSET', jobkey(dependent), 'status', 'queued', 'enqueued_at', iso)
    if not timed then redis.pcall('HSET', jobkey(dependent), 'timeout', 180) end  -- RQ's own default
    redis.pcall('SADD', P .. ':queues', listkey(queue))
    requeue(front and 'LPUSH' or 'RPUSH', queue, dependent, iso)
    if #ready < all then redis.pcall('SREM', key, dependent) end
  end
  if #ready == all then redis.pcall('DEL', key) elseif ttl > 0 then redis.pcall('EXPIRE', key, ttl) end
end
