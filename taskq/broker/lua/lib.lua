-- Shared by the scripts that end jobs; placed after `stats` and before their text when they are loaded.
-- Everything on a key of one job goes through redis.pcall: a Lua error after the first write
-- would leave the ids of the batch nowhere.
-- RQ's own sweep, which any `rq info` runs, fails what has expired: ours are scored a day later, so that
-- it takes them only where no worker of ours has run for that long.
local MARGIN = 86400
local YEAR = 31536000
local NO_TEXT = 'eJwDAAAAAAE='   -- an empty traceback as RQ stores it
local NO_LIST = '["taskq.errors.TaskQError","It was to run again, but the key of its queue in Redis is not a list.",1]'
-- A server out of memory refuses most writes of a script, but only up to its first write that frees memory
-- (or may): after that, all go through. So scripts that must not stop half-way begin with this. A server that
-- takes no write at all (a replica, a master without its replicas, a full disk) ends them here, with its error.
local function begin_writing() redis.call('DEL', OWN .. 'scratch') end

local function jobkey(id) return P .. ':job:' .. id end
local function listkey(queue) return P .. ':queue:' .. queue end
local function registry(kind, queue) return P .. ':' .. kind .. ':' .. queue end

-- The uid (8 characters) of the taskq worker in `job:tqUUUUUUUUn`, or nil for stock RQ's.
local function owner(member) return string.match(member, ':tq(%w%w%w%w%w%w%w%w)%w*$') end

-- Whether an id still has something to wait for: one that was canceled while a worker claimed it has not.
local function waits(id)
  local s = redis.pcall('HGET', jobkey(id), 'status')
  return s ~= 'canceled' and s ~= 'finished' and s ~= 'failed' and s ~= 'stopped'
end

-- A key of a type that it must not have is in the way of everybody: kept under another name, for a person.
local function aside(key, want)
  local kind = redis.pcall('TYPE', key).ok
  if kind == want or kind == 'none' then return false end
  local name = OWN .. 'quarantine:' .. key
  if redis.pcall('EXISTS', name) == 1 then name = name .. ':' .. string.format('%.0f', NOW * 1000) end
  redis.pcall('RENAME', key, name)
  return true
end

local function micros(x) return string.format('%.6f', x) end
-- Scores of registries are whole seconds, as RQ's are: a small sorted set keeps others as text and
-- parses one after the other at each insert (a fifth of the whole cost of a job, measured).
local function whole(x) return string.format('%.0f', x) end

-- For how long a key is kept: ttl s, for ever below 0, as before where it is nil. As text, made once: Redis writes out each of Lua's numbers by
-- printf with 17 digits, twice for each job.
local kept, kept_text
local function keep_for(key, ttl)
  if not ttl then return end
  if ttl < 0 then return redis.pcall('PERSIST', key) end
  if ttl ~= kept then kept, kept_text = ttl, whole(math.ceil(ttl)) end
  return redis.pcall('EXPIRE', key, kept_text)
end

-- A result entry as RQ writes it. XADD preallocates 4 kB for a new stream; a copy has the size of its
-- content (864 bytes), and costs less than DUMP and RESTORE (both were counted in instructions).
local function result(id, ttl, ...)
  local key, scratch = P .. ':results:' .. id, OWN .. 'scratch'
  redis.pcall('XADD', scratch, '*', ...)
  local copied = redis.pcall('COPY', scratch, key)
  redis.pcall('DEL', scratch)
  if copied ~= 1 then      -- results of earlier executions, which RQ keeps; or something of another type
    local added = redis.pcall('XADD', key, 'MAXLEN', '10', '*', ...)
    if type(added) == 'table' and added.err then
      redis.pcall('DEL', key)
      redis.pcall('XADD', key, '*', ...)
    end
  end
  keep_for(key, ttl)
end

local function unlock(id, unique)
  if unique and unique ~= '' then
    local key = OWN .. 'unique:' .. unique
    if redis.pcall('GET', key) == id then redis.pcall('DEL', key) end
  end
end

-- A time as RQ writes it. Days become a date as in a calendar of 400 years that begin in March.
local function iso_time(seconds, micro)
  local day = math.floor(seconds / 86400) + 719468
  local cycle = math.floor(day / 146097)
  local d = day - cycle * 146097
  local y = math.floor((d - math.floor(d / 1460) + math.floor(d / 36524) - math.floor(d / 146096)) / 365)
  d = d - (365 * y + math.floor(y / 4) - math.floor(y / 100))
  local m = math.floor((5 * d + 2) / 153)
  local month, second = m < 10 and m + 3 or m - 9, seconds % 86400
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%06dZ', y + cycle * 400 + (month <= 2 and 1 or 0), month,
    d - math.floor((153 * m + 2) / 5) + 1, math.floor(second / 3600), math.floor(second / 60) % 60, second % 60, micro)
end

-- For who waits for a job, or still sends it again, when its record is deleted at its end.
-- err: the error (our JSON) of one that failed, else nil.
local function mark_done(id, err)
  local bucket = math.floor(NOW / 10)
  local done = OWN .. 'done:' .. bucket
  local new = redis.pcall('SADD', done, id) == 1
  if new then redis.pcall('EXPIRE', done, 70) end
  if err then
    local failures = OWN .. 'failures:' .. bucket
    redis.pcall('HSET', failures, id, err)
    redis.pcall('EXPIRE', failures, 70)
  elseif not new then         -- a job that has just ended had the same id
    redis.pcall('HDEL', OWN .. 'failures:' .. bucket, id)
  end
end

-- Entries of a registry whose time has been over for `since` s, at most `most`: RQ's registries keep them until
-- somebody looks. Negative scores are kept for ever.
local function forget_expired(kind, queue, most, since)
  local key = registry(kind, queue)
  local over = redis.pcall('ZCOUNT', key, '0', micros(NOW - since))
  if type(over) ~= 'number' or over == 0 then return 0 end
  local first = redis.pcall('ZCOUNT', key, '-inf', '(0')
  return redis.pcall('ZREMRANGEBYRANK', key, first, first + math.min(over, most) - 1)
end

-- The end of a job without a result: failed registry, result entry, TTLs. With ttl 0 it is deleted, as RQ does.
-- exc is the zlib + base64 text that RQ expects, or '' ; error is our JSON.
local function fail(queue, id, ttl, exc, err, iso, worker, exec, started, ended)
  local key = jobkey(id)
  local steps = OWN .. 'steps:' .. id      -- of a durable job: they last as long as it does, for who runs it again
  if ttl == 0 then
    redis.pcall('DEL', key, P .. ':results:' .. id, key .. ':dependents', P .. ':job::' .. id .. ':dependencies', steps)
    mark_done(id, err)
    return
  end
  local ok = redis.pcall('HSET', key, 'status', 'failed', 'ended_at', iso)
  if type(ok) == 'table' and ok.err then          -- not a hash: keep it aside for a person
    redis.pcall('RENAME', key, OWN .. 'quarantine:' .. id)
    redis.pcall('EXPIRE', OWN .. 'quarantine:' .. id, 604800)
    redis.pcall('HSET', key, 'status', 'failed', 'ended_at', iso)
  end
  if redis.pcall('HEXISTS', key, 'data') == 0 then  -- RQ cannot fetch a hash without these
    redis.pcall('HSET', key, 'data', '["(payload lost)",null,[],{}]', 'created_at', iso)
  end
  if redis.pcall('HEXISTS', key, 'origin') == 0 then redis.pcall('HSET', key, 'origin', queue) end
  keep_for(key, ttl)
  keep_for(steps, ttl)
  redis.pcall('ZADD', registry('failed', queue), ttl > 0 and whole(NOW + ttl) or '-1', id)
  if exec and exec ~= '' then
    result(id, ttl, 'type', '2', 'worker_name', worker, 'exc_string', exc, 'tq_error', err,
      'execution_id', exec, 'execution_started_at', started, 'execution_ended_at', ended)
  else
    result(id, ttl, 'type', '2', 'worker_name', worker or '', 'exc_string', exc, 'tq_error', err)
  end
end

-- A durable job runs again after a failure: the steps that failed last run again, all others stay recorded (see record.lua).
local function reopen(id)
  local key = OWN .. 'steps:' .. id
  local open = redis.pcall('HGET', key, 'x')
  if type(open) ~= 'string' then return end
  for place in string.gmatch(open, '[^,]+') do
    local bytes = redis.pcall('HSTRLEN', key, place) + redis.pcall('HSTRLEN', key, place .. 'h')
    if redis.pcall('HDEL', key, place, place .. 'h') == 2 then
      redis.pcall('HINCRBY', key, 'b', -bytes)
      redis.pcall('HINCRBY', key, 'n', -1)
      redis.pcall('HINCRBY', jobkey(id), 'tq_steps', -1)
    end
  end
  redis.pcall('HDEL', key, 'x', 'xe')
end

local function forget_steps(id)
  if redis.pcall('DEL', OWN .. 'steps:' .. id) == 1 then redis.pcall('HDEL', jobkey(id), 'tq_steps', 'tq_timer') end
end

local tell  -- below

-- Back into its queue; where that is no list, the job is failed with that reason rather than lost.
local function requeue(how, queue, id, iso)
  if type(redis.pcall(how, listkey(queue), id)) == 'number' then return true end
  tell(id, 'failure', iso, NO_TEXT, NO_LIST)
  fail(queue, id, YEAR, NO_TEXT, NO_LIST, iso)
  return false
end

-- A callback (see notify.py): a job prepared as netstrings, completed with how the other one ended, and enqueued.
-- text: id, queue, place, ttl s or '', names and values of fields; the rest: further names and values.
local function call_back(text, iso, ...)
  local parts, at = {}, 1
  while at <= #text do
    local colon = string.find(text, ':', at, true)
    local n = colon and tonumber(string.sub(text, at, colon - 1))
    if not n then return end
    parts[#parts + 1] = string.sub(text, colon + 1, colon + n)
    at = colon + n + 1
  end
  if #parts < 6 or #parts % 2 ~= 0 then return end
  local base, queue, place, ttl = unpack(parts, 1, 4)
  local id, key = base, jobkey(base)
  local status = redis.pcall('HGET', key, 'status')
  if type(status) == 'string' then      -- of an earlier end: the job was run again, or another had its id
    if status == 'finished' or status == 'failed' or status == 'canceled' or status == 'stopped' then
      for _, kind in ipairs({ 'finished', 'failed', 'canceled' }) do redis.pcall('ZREM', registry(kind, queue), id) end
    else
      id = string.format('%s-%.0f', base, NOW * 1000000)
      key = jobkey(id)
    end
  end
  redis.pcall('DEL', key, P .. ':results:' .. id)
  local mark = string.sub(place, 1, 1)
  local later = mark == '+' or mark == '@'
  redis.pcall('HSET', key, 'status', later and 'scheduled' or 'queued', 'created_at', iso, 'enqueued_at', iso, 'origin', queue, unpack(parts, 5))
  redis.pcall('HSET', key, 'tq_of_at', iso, ...)
  if id ~= base then redis.pcall('HSET', key, 'tq_signed_as', base) end
  redis.pcall('SADD', P .. ':queues', listkey(queue))
  count(queue, 'enqueued', 1)
  if ttl ~= '' then
    redis.pcall('EXPIRE', key, ttl)
    redis.pcall('ZADD', OWN .. 'expiring', whole(NOW + ttl), id)
  end
  if later then
    local due = tonumber(string.sub(place, 2)) + (mark == '+' and NOW or 0)
    if type(redis.pcall('ZADD', registry('scheduled', queue), micros(due), id)) == 'number' then
      redis.pcall('PUBLISH', OWN .. 'wake', queue)
      return
    end
    redis.pcall('HSET', key, 'status', 'queued')
  end
  requeue(mark == 'f' and 'LPUSH' or 'RPUSH', queue, id, iso)
end

-- Enqueue the callback that a job has for its end, if it has one: in the step that records this end, and before it.
-- kind: 'success' with value as in the result entry, or 'failure' with exc and err as for `fail`
function tell(id, kind, iso, exc, err, value)
  local f = redis.pcall('HMGET', jobkey(id), 'tq_on_' .. kind, 'tq_attempts', 'tq_crashes', 'meta', 'ttl')
  if f.err then return end
  if f[5] then redis.pcall('DEL', OWN .. 'tell:' .. id) end
  if not f[1] then return end
  if kind == 'success' then
    local tries = 1 + (tonumber(f[2] or 0) or 0) + (tonumber(f[3] or 0) or 0)
    call_back(f[1], iso, 'tq_of_status', 'finished', 'tq_of_tries', tries, 'tq_of_result', value, 'tq_of_meta', f[4] or '')
  else
    call_back(f[1], iso, 'tq_of_status', 'failed', 'tq_of_error', err, 'tq_of_trace', exc, 'tq_of_meta', f[4] or '')
  end
end
