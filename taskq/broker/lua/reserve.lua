-- include: stats lib
-- Hand up to N waiting jobs to a worker: pop, mark started, lease. One atomic step, no id is ever nowhere.
-- KEYS   1 RQ's prefix   2 our prefix
-- ARGV   1 worker uid   2 worker name   3 sequence number of this call, or lane and number (w0n17)
--        4 limit, after it 'e' to take one of each queue in turn until it is reached   5 lease s   6 now, ISO ('' : by the server's clock)
--        7 zlib + base64 of the text for lost payloads   then queue names, in the order to serve
-- RETURN {now, state, jobs, paused queue positions (0-based)}; state: 'ok' | 'suspended' | 'fenced'
--        each job: {queue position (0-based), id, fields of its hash as RQ and we wrote them in turn}
--        or, when it has only what every job of ours has: {position, id, {data, enqueued_at, result_ttl or ''}}
--        or, when it has only what every job of stock RQ has: {position, id, {data, enqueued_at, result_ttl or '', timeout, created_at, description, ''}}
--        execution id of all of them: 'tq' .. uid .. sequence number
-- A call with a lane was sent behind a BLMOVE, long before it runs: it takes nothing unless that has claimed an id.
-- O(N x fields). N at most 100.
local uid, worker, seq, lease, iso, lost = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[5]), ARGV[6], ARGV[7]
local in_turn = string.sub(ARGV[4], -1) == 'e'
local limit = tonumber(in_turn and string.sub(ARGV[4], 1, -2) or ARGV[4])
local exec = 'tq' .. uid .. seq
local jobs, paused, taken = {}, {}, {}
local NO_STATUS = '["taskq.errors.PayloadError","The job\'s record in Redis is broken: its status is none of RQ\'s.",1]'
local EXPIRED = '["taskq.errors.JobNotFound","It waited longer than its ttl, and was dropped without having run.",0]'

-- A request that its worker has given up on, or of a worker that was found dead, may still arrive.
-- Each lane counts for itself: its calls arrive in their order, but not in that of other lanes.
local lane, number = string.match(seq, '^(%w-)(%d+)$')
local fence = redis.pcall('HMGET', OWN .. 'fence', uid, uid .. lane)
if fence[1] == 'dead' or (tonumber(fence[2]) or 0) >= tonumber(number) then
  return { micros(NOW), 'fenced', {}, {} }
end
if lane ~= '' then
  local any = false
  for n = 8, #ARGV do any = any or redis.call('EXISTS', OWN .. 'claim:' .. uid .. ':' .. ARGV[n]) == 1 end
  if not any then return { micros(NOW), 'ok', {}, {} } end
end

if iso == '' then iso = iso_time(T[1], T[2]) end

-- Whether an execution of it has a lease. One that ended is removed: else a sweep would take it for this one's.
local function leased(queue, id)
  local want, wip, found = id .. ':', registry('wip', queue), false
  for _, m in ipairs(redis.pcall('ZRANGE', wip, 0, -1)) do
    if string.sub(m, 1, #want) == want then
      if tonumber(redis.pcall('ZSCORE', wip, m)) >= NOW then found = true else redis.pcall('ZREM', wip, m) end
    end
  end
  return found
end

local function listed(kind, queue, id)
  return type(redis.pcall('ZSCORE', registry(kind, queue), id)) == 'string'
end

-- Whether a job found in the queue is to run; what is not is dropped or set aside, and counted.
local function runnable(queue, id, h, status)
  if status == 'queued' then return true end
  if h.err or (status == nil and #h > 0) then
    fail(queue, id, YEAR, lost, '["taskq.errors.PayloadError","The job\'s record in Redis is broken: it is not a hash with a status.",1]', iso)
    count(queue, 'corrupt', 1)
    count_failure(queue, '\ntaskq.errors.PayloadError', id, 1)
    return false
  end
  if #h == 0 then
    if type(redis.pcall('ZSCORE', OWN .. 'expiring', id)) == 'string' then
      redis.pcall('ZREM', OWN .. 'expiring', id)
      count(queue, 'expired', 1)
      local callback = redis.pcall('GET', OWN .. 'tell:' .. id)
      if type(callback) == 'string' then
        redis.pcall('DEL', OWN .. 'tell:' .. id)
        call_back(callback, iso, 'tq_of_status', 'expired', 'tq_of_error', EXPIRED)
      end
    else
      fail(queue, id, 86400, lost, '["taskq.errors.JobNotFound","The job\'s record was gone before it could run: deleted, evicted, or its ttl was over.",1]', iso)
      count(queue, 'missing', 1)
      count_failure(queue, '\ntaskq.errors.JobNotFound', id, 1)
    end
    return false
  end
  if status == 'started' then
    if not taken[id] and not leased(queue, id) then return true end
  elseif status == 'scheduled' or status == 'deferred' then
    if not listed(status, queue, id) then return true end
  elseif status == 'created' or status == 'ready_to_enqueue' or status == 'rate_limited' then
    return true
  elseif status ~= 'finished' and status ~= 'failed' and status ~= 'canceled' and status ~= 'stopped' then
    tell(id, 'failure', iso, lost, NO_STATUS)
    fail(queue, id, YEAR, lost, NO_STATUS, iso)
    count(queue, 'corrupt', 1)
    count_failure(queue, '\ntaskq.errors.PayloadError', id, 1)
    return false
  end
  count(queue, 'dropped', 1)
  return false
end

local function status_of(h)
  if h[1] == 'status' then return h[2] end
  for i = 1, #h, 2 do
    if h[i] == 'status' then return h[i + 1] end
  end
end

-- The values of a job with nothing but what RQ's `enqueue` writes for each, in that order (a listpack keeps it), or nil.
-- No callback, no group: 16 fields of which 6 say something. Half of what such a job costs here and in the worker.
local function as_rq_wrote(h)
  if h[29] ~= 'timeout' or (#h ~= 30 and (#h ~= 32 or h[31] ~= 'result_ttl')) then return nil end
  if h[5] ~= 'data' or h[7] ~= 'success_callback_name' or h[9] ~= 'failure_callback_name' or
    h[11] ~= 'stopped_callback_name' or h[21] ~= 'group_id' or h[25] ~= 'description' or h[27] ~= 'enqueued_at' then
    return nil
  end
  if h[8] ~= '' or h[10] ~= '' or h[12] ~= '' or h[22] ~= '' then return nil end
  return { h[6], h[28], h[32] or '', h[30], h[4], h[26], '' }
end

local function take(position, queue, ids)
  local leases = {}
  local score = whole(NOW + lease + MARGIN)
  for _, id in ipairs(ids) do
    local key = jobkey(id)
    local h = redis.pcall('HGETALL', key)
    if runnable(queue, id, h, status_of(h)) then
      redis.pcall('HSET', key, 'status', 'started', 'started_at', iso, 'worker_name', worker)
      -- as our enqueue script wrote it, in that order: it has no TTL, and little to be told
      if h[9] == 'data' and h[5] == 'enqueued_at' and (#h == 10 or (#h == 12 and h[11] == 'result_ttl')) then
        h = { h[10], h[6], h[12] or '' }
      else
        redis.pcall('PERSIST', key)
        h = as_rq_wrote(h) or h
      end
      taken[id] = true
      leases[#leases + 1] = score
      leases[#leases + 1] = id .. ':' .. exec
      jobs[#jobs + 1] = { position, id, h }
    end
  end
  if #leases > 0 then redis.pcall('ZADD', registry('wip', queue), unpack(leases)) end
end

-- Ids back to the head of their queue, in order.
local function back(queue, ids)
  for i = #ids, 1, -1 do
    if waits(ids[i]) and type(redis.pcall('LPUSH', listkey(queue), ids[i])) ~= 'number' then
      redis.call('RPUSH', OWN .. 'claim:' .. uid .. ':' .. queue, unpack(ids, 1, i))
      return
    end
  end
end

-- Take from one queue up to the limit, or one job only; false when there is no more.
local function pop(position, queue)
  local before = #jobs
  while #jobs < limit do
    local popped = redis.pcall('LPOP', listkey(queue), in_turn and 1 or limit - #jobs)
    if not popped or popped.err or #popped == 0 then return false end
    take(position, queue, popped)
    if in_turn and #jobs > before then return true end
  end
  return false
end

begin_writing()
local open = {}
local halt = redis.call('EXISTS', P .. ':suspended') == 1
for position = 0, #ARGV - 8 do
  local queue = ARGV[position + 8]
  local stop = halt
  if not stop then stop = redis.pcall('SISMEMBER', OWN .. 'paused', queue) == 1 end
  -- what a blocked BLMOVE of this worker has claimed meanwhile comes first: it was at the head
  local claim = OWN .. 'claim:' .. uid .. ':' .. queue
  local claimed = redis.pcall('LRANGE', claim, 0, -1)
  if claimed.err then
    redis.call('DEL', claim)
    claimed = {}
  end
  if #claimed > 0 then redis.call('DEL', claim) end
  local broken = redis.pcall('ZCARD', registry('wip', queue))
  if type(broken) == 'table' then stop = not aside(registry('wip', queue), 'zset') end
  if stop then
    back(queue, claimed)
    paused[#paused + 1] = position
  else
    local ids = {}
    for _, id in ipairs(claimed) do
      if #jobs + #ids < limit then ids[#ids + 1] = id end
    end
    if #ids < #claimed then
      local rest = {}
      for n = #ids + 1, #claimed do rest[#rest + 1] = claimed[n] end
      back(queue, rest)
    end
    if #ids > 0 then take(position, queue, ids) end
    if in_turn then open[#open + 1] = position else pop(position, queue) end
  end
end
while #open > 0 and #jobs < limit do
  local still = {}
  for _, position in ipairs(open) do
    if pop(position, ARGV[position + 8]) then still[#still + 1] = position end
  end
  open = still
end
-- Should the answer be lost, they go back in this order. The lease of one is enough for one.
if #jobs > 1 then
  local handed, key = { seq }, OWN .. 'handed:' .. uid .. lane
  for n = 1, #jobs do handed[n + 1] = jobs[n][2] end
  redis.pcall('DEL', key)
  redis.pcall('RPUSH', key, unpack(handed))
  redis.pcall('EXPIRE', key, 3600)
end
return { micros(NOW), halt and 'suspended' or 'ok', jobs, paused }
