-- include: stats lib runs dependents limits
-- Record what became of reserved jobs, as one batch. Fenced: an execution that no longer owns its lease changes nothing.
-- KEYS   1 RQ's prefix   2 our prefix
-- ARGV   1 worker name   2 now, ISO   3 finished count   4 failed count   5 working time s
--        6 number of queues Q, then Q names
--        then number of statistics S, then S times: queue position (1-based), field, increment
--        then groups: kind, queue position (1-based), execution id, unique key or '', option, number of jobs, the jobs:
--          (before the option letters: q: their dependents only RQ's own code may enqueue,
--          o: jobs of RQ's, whose end counts although RQ's `job.cancel()` has taken their lease,
--          p: they waited for others as RQ's dependents do, d: they are durable, n: they have callbacks, see notify.py,
--          w: RQ's webhooks are to be sent, see worker/rq_hooks.py;
--          behind it, after a blank, the key of RQ's rate limit that they have, see limits)
--          f finished      option: ttl s, with 'm' before it to leave a done-marker   job: id, started, ended, return value (base64) or ''
--          e finished, to be repeated as by RQ's Repeat   option: ttl s, not 0
--                          job: as f, then delay s ('' = at once), repeats left, their intervals (JSON, or '' = as they are), return value (raw)
--          y returned RQ's Retry   option: ttl s of its result entry, or '' for none
--                          job: as f, then delay s ('' = at once), '1' to the front, number of retries so far, return value (raw)
--          x failed        option: ttl s (0: deleted, with a done-marker)   job: id, started, ended, traceback (zlib + base64), error (JSON)
--          r retry         job: id, delay s ('' = at once), '1' to the front, retries left ('' = as it is), the execution (see runs)
--          g give back     job: id, the execution, or '' if it had not begun; the last given is the first to run: to the head of its queue
--          d died          job: id, the execution; as g, after the process died that ran it: counted in tq_crashes
--          u unknown task  job: id, delay s: scheduled, and counted in tq_unknown
--          c canceled      job: id
--          s sleeps        job: id, due (epoch), place of the timer among its steps
-- RETURN for each job, in turn: 1 done, 0 its lease was lost, 2 left untouched with its lease for RQ's own code (it has dependents
--        that are not as RQ's enqueue leaves them, or is not kept itself: see dependents.lua; or it is to run again and was deleted)
-- O(1) a job, O(dependents) where it has any. At most 100 jobs a call.
local worker, iso = ARGV[1], ARGV[2]
local width = { f = 4, e = 8, y = 8, x = 5, r = 5, g = 2, d = 2, u = 2, c = 1, s = 3 }
local HSET, EXPIRE, EXISTS = 'HSET', 'EXPIRE', 'EXISTS'
local call = redis.pcall

local at = 6
local queues = {}
for n = 1, ARGV[at] do queues[n] = ARGV[at + n] end
at = at + ARGV[at] + 1
local stats = at
at = at + ARGV[at] * 3 + 1

-- When jobs that end now leave their registry. A large sorted set takes a member in half the time (1.2 instead of
-- 2.1 us, with 300,000 in it) where it goes to the end, and is not sorted in among all others of its second.
local function expiry(kind, queue, ttl)
  local size = call('ZCARD', registry(kind, queue))
  local exact = type(size) == 'number' and size > 128  -- beyond what Redis keeps as text: see `whole`
  return (exact and micros or whole)(NOW + ttl)
end

-- About twice as many leave as come: ids whose time is over, and with them their keys. Redis deletes by itself only
-- when a tenth of all that have a TTL are over it, and then so many at once that jobs wait (1.8 s of them, measured
-- at half the drain rate). To look at a key that is over its time deletes it, and leaves one that was renewed.
local function clear_away(queue, scored)
  local key = registry('finished', queue)
  local over = call('ZRANGEBYSCORE', key, '0', micros(NOW - 1), 'LIMIT', '0', scored)
  if over.err or #over == 0 then return end
  local first = call('ZCOUNT', key, '-inf', '(0')
  call('ZREMRANGEBYRANK', key, first, first + #over - 1)
  local keys = {}
  for n, id in ipairs(over) do keys[2 * n - 1], keys[2 * n] = jobkey(id), P .. ':results:' .. id end
  call(EXISTS, unpack(keys))
end

-- An option: its letters, each once, its number and the rate limit's key.
local function read(option)
  local letters, number, limit = string.match(option, '^(%a*)(%-?[%d.]*) ?(.*)$')
  local has = {}
  for letter in string.gmatch(letters, '.') do has[letter] = true end
  return has, tonumber(number), limit
end

-- The result entry of a job that returned; kind: RQ's type of it.
local function returned(kind, exec, ttl, id, a)
  if ARGV[a + 3] == '' then
    result(id, ttl, 'type', kind, 'worker_name', worker, 'execution_id', exec,
      'execution_started_at', ARGV[a + 1], 'execution_ended_at', ARGV[a + 2])
  else
    result(id, ttl, 'type', kind, 'worker_name', worker, 'return_value', ARGV[a + 3],
      'execution_id', exec, 'execution_started_at', ARGV[a + 1], 'execution_ended_at', ARGV[a + 2])
  end
end

local function finish(queue, exec, unique, ttl, marker, durable, id, a, scored, due)
  if durable then
    local steps = OWN .. 'steps:' .. id
    if ttl == 0 then call('DEL', steps) else keep_for(steps, ttl) end
  end
  if ttl == 0 then
    call('DEL', jobkey(id), P .. ':results:' .. id)
    if marker then mark_done(id) end
  else
    local key = jobkey(id)
    call(HSET, key, 'status', 'finished', 'ended_at', iso)
    returned('1', exec, ttl, id, a)
    keep_for(key, ttl)
    scored[#scored + 1] = due
    scored[#scored + 1] = id
  end
  unlock(id, unique)
end

-- Whether a job that still is this worker's was canceled by RQ's `job.cancel()`, which takes its lease where it has a
-- record of the execution; and not by ours.
local function canceled_by_rq(id)
  local f = call('HMGET', jobkey(id), 'status', 'worker_name', 'tq_cancel')
  return not f.err and f[1] == 'canceled' and f[2] == worker and f[3] ~= '1'
end

-- It runs again, after a delay ('' = at once). Returns whether it is in its queue: then it keeps its slot of a rate limit.
local function runs_again(queue, id, delay, front)
  local key = jobkey(id)
  if delay ~= '' then
    call(HSET, key, 'status', 'scheduled')
    if type(call('ZADD', registry('scheduled', queue), micros(NOW + tonumber(delay)), id)) == 'number' then
      call('PUBLISH', OWN .. 'wake', queue)
      return false
    end
    front = ''
  end
  call(HSET, key, 'status', 'queued', 'enqueued_at', iso)
  return requeue(front == '1' and 'LPUSH' or 'RPUSH', queue, id, iso)
end

local function again(queue, kind, id, a)
  local key = jobkey(id)
  local front, left = '', ''
  if kind == 'r' then
    front, left = ARGV[a + 2], ARGV[a + 3]
    reopen(id)
    add_run(key, ARGV[a + 4], worker)
  end
  call('HINCRBY', key, kind == 'r' and 'tq_attempts' or 'tq_unknown', 1)
  if kind == 'r' then call(HSET, key, 'ended_at', iso) end  -- by this RQ knows that it has run
  if left ~= '' then
    call('HSETNX', key, 'tq_retries', tonumber(left) + 1)  -- how many there were: requeue gives them back
    call(HSET, key, 'retries_left', left)
  end
  return runs_again(queue, id, ARGV[a + 1], front)
end

-- As RQ's Repeat and a returned Retry have it, which save the whole record once more.
local function again_by_rq(queue, kind, exec, ttl, id, a)
  local key, delay, raw, front = jobkey(id), ARGV[a + 4], ARGV[a + 7], ''
  returned(kind == 'e' and '1' or '4', exec, ttl, id, a)
  if kind == 'e' then
    call(HSET, key, 'ended_at', iso, 'repeats_left', ARGV[a + 5])
    if ARGV[a + 6] ~= '' then call(HSET, key, 'repeat_intervals', ARGV[a + 6]) end
  else
    front = ARGV[a + 5]
    call(HSET, key, 'ended_at', iso, 'number_of_retries', ARGV[a + 6])
    if front == '1' then call(HSET, key, 'enqueue_at_front_on_retry', '1') end
  end
  if raw ~= '' then call(HSET, key, 'result', raw) end
  if delay == '' then call('HSETNX', key, 'timeout', 180) end  -- RQ's own default
  return runs_again(queue, id, delay, front)
end

local function cancel(queue, unique, id)
  local key = jobkey(id)
  call(HSET, key, 'status', 'canceled', 'ended_at', iso)
  call('ZADD', registry('canceled', queue), whole(NOW), id)
  call(EXPIRE, key, 86400)
  forget_steps(id)
  unlock(id, unique)
  count(queue, 'canceled', 1)
end

-- Its timer is recorded: the job comes back when it is due, and holds nothing until then.
local function put_away(queue, unique, id, a)
  local key = jobkey(id)
  if call('HGET', key, 'tq_cancel') == '1' then return cancel(queue, unique, id) end
  call(HSET, key, 'status', 'scheduled', 'tq_timer', ARGV[a + 2])
  if type(call('ZADD', registry('scheduled', queue), micros(tonumber(ARGV[a + 1])), id)) == 'number' then
    call('PUBLISH', OWN .. 'wake', queue)
  else
    call(HSET, key, 'status', 'queued')
    requeue('RPUSH', queue, id, iso)
  end
end

begin_writing()
local out, some = {}, false
while at <= #ARGV do
  local kind, q, exec, unique, option, n = unpack(ARGV, at, at + 5)
  local queue, step = queues[tonumber(q)], width[kind]
  local first, last = at + 6, at + 5 + step * n
  local members, dependents = {}, {}
  for a = first, last, step do members[#members + 1] = ARGV[a] .. ':' .. exec end
  local owned = call('ZMSCORE', registry('wip', queue), unpack(members))
  local comes_back = kind == 'e' or kind == 'r' or kind == 'y'
  local ends, any = kind == 'f' or kind == 'x' or kind == 'e', false
  if ends then
    for a = first, last, step do dependents[#dependents + 1] = jobkey(ARGV[a]) .. ':dependents' end
    any = call(EXISTS, unpack(dependents)) ~= 0
  end
  local has, ttl, limit = read(option)
  local over, theirs, waited, tells, hooks = has.o, has.q, has.p, has.n, has.w
  local due = ends and ttl > 0 and expiry('finished', queue, ttl) or '+inf'
  local gone, scored, i = {}, {}, 0
  for a = first, last, step do
    i = i + 1
    local id, ready, all = ARGV[a], nil, 0
    local parent = any and call(EXISTS, dependents[i]) == 1
    local canceled = over and not owned.err and (parent or not owned[i]) and canceled_by_rq(id)
    if parent and not theirs and ttl ~= 0 and kind ~= 'e' then ready, all = freed(id, kind == 'x', canceled) end
    if owned.err or not (owned[i] or canceled) then
      out[#out + 1] = 0
    elseif (parent and not ready) or (comes_back and call(EXISTS, jobkey(id)) == 0) then
      out[#out + 1] = 2
    else
      out[#out + 1], some = 1, true
      gone[#gone + 1] = members[i]
      local keeps = false
      if tells then
        if kind ~= 'x' then tell(id, 'success', iso, '', '', ARGV[a + 3])
        else tell(id, 'failure', iso, ARGV[a + 3], ARGV[a + 4]) end
      end
      if kind == 'f' then
        finish(queue, exec, unique, ttl, has.m, has.d, id, a, scored, due)
      elseif kind == 'e' or kind == 'y' then
        keeps = again_by_rq(queue, kind, exec, ttl, id, a)
        if kind == 'e' then
          scored[#scored + 1] = due
          scored[#scored + 1] = id
        end
      elseif kind == 'x' then
        fail(queue, id, ttl, ARGV[a + 3], ARGV[a + 4], iso, worker, exec, ARGV[a + 1], ARGV[a + 2])
        unlock(id, unique)
      elseif kind == 'g' or kind == 'd' then
        if kind == 'd' then
          local told = call('HGET', jobkey(id), 'tq_story')
          told = (type(told) == 'string' and told ~= '' and told .. ', ' or '') .. worker .. ' at ' .. iso
          call('HINCRBY', jobkey(id), 'tq_crashes', 1)
          call(HSET, jobkey(id), 'tq_story', string.sub(told, -1000))
        end
        add_run(jobkey(id), ARGV[a + 1], worker)
        call(HSET, jobkey(id), 'status', 'queued')
        keeps = requeue('LPUSH', queue, id, iso)
      elseif kind == 'c' then
        cancel(queue, unique, id)
      elseif kind == 's' then
        put_away(queue, unique, id, a)
      else
        keeps = again(queue, kind, id, a)
      end
      if hooks then call('ZADD', OWN .. 'hooks', whole(NOW), members[i] .. (kind == 'x' and ':failed' or ':finished')) end
      if limit ~= '' and not keeps then free_slot(limit, id, iso) end
      if waited and ttl > 0 then call(EXPIRE, waits_for(id), ttl) end
      if ready then enqueue_freed(id, ready, all, ttl, iso) end
    end
  end
  if #gone > 0 then call('ZREM', registry('wip', queue), unpack(gone)) end
  if #scored > 0 then
    call('ZADD', registry('finished', queue), unpack(scored))
    clear_away(queue, #scored)
  end
  at = last + 1
end

if not some and #out > 0 then return out end  -- sent a second time: counted already
for n = 0, ARGV[stats] - 1 do
  local s = stats + 1 + n * 3
  tally(queues[tonumber(ARGV[s])], ARGV[s + 1], tonumber(ARGV[s + 2]))
end
local wkey = P .. ':worker:' .. worker
if ARGV[3] ~= '0' then call('HINCRBY', wkey, 'successful_job_count', ARGV[3]) end
if ARGV[4] ~= '0' then call('HINCRBY', wkey, 'failed_job_count', ARGV[4]) end
if ARGV[5] ~= '0' then call('HINCRBYFLOAT', wkey, 'total_working_time', ARGV[5]) end
return out
