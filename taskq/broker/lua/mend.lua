-- include: stats lib runs reclaim
-- One repair of `taskq doctor`. Looks again first: what has changed since it was found is left alone.
-- KEYS   1 RQ's prefix   2 our prefix
-- ARGV   1 what   2 now, ISO   3 name: job id, member, or key   4 queue   5 status as it was found   6 number or text (below)
--        orphan      a job that is nowhere: to the head of its queue   (6: traceback text, zlib + base64)
--        lost        an id without a record: out of a registry (6: its kind)
--        once        a job in several places: out of this one (6: kind; `queue`: all entries but the last)
--        status      a waiting job whose status does not fit: its status becomes `queued`
--        lease       a member of the started registry whose worker is silent (6: traceback text)
--        claim       a claim list (3: key) of a worker that is silent: back to the head of its queue (6: worker uid)
--        lock        a unique lock (3: key) whose holder (5) has ended
--        unlock      a lock of RQ's (3: key) without TTL
--        expire      an ended job without TTL: (6) seconds
--        aside       a key (3) that is no (6): renamed
--        register    a queue that is missing in RQ's set
-- RETURN what was done: 'queued' | 'failed' | 'removed' | 'set' | '' nothing
-- O(length of the queue) for orphan and once, else O(1).
local what, iso, name, queue, found, more = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local SILENT = 45
local REASON = '["taskq.errors.JobFailed","It was found in no queue and no registry, after it had begun, and the task says redeliver=False.",1]'
local OLD_LEASE = 3

local function status() local s = redis.pcall('HGET', jobkey(name), 'status'); return type(s) == 'string' and s or '' end

local function silent(uid)
  local beat = redis.pcall('ZSCORE', OWN .. 'alive', uid)
  return type(beat) ~= 'string' or NOW - tonumber(beat) > SILENT
end

local function somewhere(id)
  if redis.pcall('LPOS', listkey(queue), id) then return true end
  for _, kind in ipairs({ 'scheduled', 'deferred', 'finished', 'failed', 'canceled', 'ready' }) do
    if type(redis.pcall('ZSCORE', registry(kind, queue), id)) == 'string' then return true end
  end
  local members = redis.pcall('ZRANGE', registry('wip', queue), 0, -1)
  if not members.err then
    for _, m in ipairs(members) do
      if string.sub(m, 1, #id + 1) == id .. ':' then return true end
    end
  end
  return false
end

local function some(reply) return type(reply) == 'number' and reply > 0 end

begin_writing()
if what == 'orphan' then
  if queue == '' or status() ~= found or found == '' or somewhere(name) then return '' end
  redis.pcall('SADD', P .. ':queues', listkey(queue))
  if found == 'started' and redis.pcall('HGET', jobkey(name), 'tq_redeliver') == '0' then
    tell(name, 'failure', iso, more, REASON)
    fail(queue, name, YEAR, more, REASON, iso)
    return 'failed'
  end
  redis.pcall('HSET', jobkey(name), 'status', 'queued')
  return requeue('LPUSH', queue, name, iso) and 'queued' or 'failed'
elseif what == 'lost' then
  if redis.call('EXISTS', jobkey(name)) == 1 then return '' end
  return some(redis.pcall('ZREM', registry(more, queue), name)) and 'removed' or ''
elseif what == 'once' then
  if status() ~= found then return '' end
  if more == 'queue' then return some(redis.pcall('LREM', listkey(queue), found == 'queued' and 1 or 0, name)) and 'removed' or '' end
  return some(redis.pcall('ZREM', registry(more, queue), name)) and 'removed' or ''
elseif what == 'status' then
  if status() ~= found then return '' end
  redis.pcall('HSET', jobkey(name), 'status', 'queued')
  return 'set'
elseif what == 'lease' then
  local uid = owner(name)
  if not uid or not silent(uid) or type(redis.pcall('ZSCORE', registry('wip', queue), name)) ~= 'string' then return '' end
  local r = reclaim(queue, name, iso, OLD_LEASE, more, false)
  return r == 'back' and 'queued' or r == 'failed' and 'failed' or 'removed'
elseif what == 'claim' then
  if not silent(more) then return '' end
  local ids = redis.pcall('LRANGE', name, 0, -1)
  if ids.err or #ids == 0 then return '' end
  for n = #ids, 1, -1 do
    if waits(ids[n]) and type(redis.pcall('LPUSH', listkey(queue), ids[n])) ~= 'number' then return '' end
  end
  redis.call('DEL', name)
  redis.pcall('SADD', P .. ':queues', listkey(queue))
  return 'queued'
elseif what == 'lock' then
  if redis.pcall('GET', name) ~= found then return '' end
  local s = redis.pcall('HGET', jobkey(found), 'status')
  if type(s) == 'string' and s ~= 'finished' and s ~= 'failed' and s ~= 'canceled' and s ~= 'stopped' then return '' end
  redis.call('DEL', name)
  return 'removed'
elseif what == 'unlock' then
  if redis.pcall('TTL', name) ~= -1 then return '' end
  redis.call('DEL', name)
  return 'removed'
elseif what == 'expire' then
  if status() ~= found or redis.pcall('TTL', jobkey(name)) ~= -1 then return '' end
  redis.pcall('EXPIRE', jobkey(name), more)
  return 'set'
elseif what == 'aside' then
  return aside(name, more) and 'removed' or ''
elseif what == 'register' then
  return redis.pcall('SADD', P .. ':queues', listkey(queue)) == 1 and 'set' or ''
end
return ''
