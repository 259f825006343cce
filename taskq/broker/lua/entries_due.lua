-- include: stats lib entry
-- Fire the due one-shot entries of rq-scheduler's set, and hand out the periodic ones: their next time is not Lua's to compute.
-- KEYS   1 RQ's prefix   2 our prefix
-- ARGV   1 uid of this scheduler   2 limit
-- RETURN {now, 'ok', fired, next due time of what is left or '', {id, due, meta, first due or '' ...} for entries_fire,
--        {id, reason ...} set aside, ids that were canceled or had been enqueued by somebody else}
--        or {now, 'held', ms} while a stock rqscheduler has the lock
-- O(limit x log). Atomic: any number of our schedulers may do it side by side; none does while a stock one is at it.
local uid, limit = ARGV[1], tonumber(ARGV[2])
local wrong = check_entries()
if wrong then return wrong end
local held = hold(uid)
if held then return { micros(NOW), 'held', held } end

local fired, periodic, aside, dropped, tails = 0, {}, {}, {}, {}
local due = redis.call('ZRANGEBYSCORE', ENTRIES, '-inf', micros(NOW), 'WITHSCORES', 'LIMIT', 0, limit)
for n = 1, #due, 2 do
  local id, score = due[n], due[n + 1]
  local f, problem = look(id)
  local meta = f[3] or ''
  if problem then
    aside[#aside + 1] = id
    aside[#aside + 1] = problem
    set_aside(id, score, problem)
  elseif f[1] == 'canceled' then
    dropped[#dropped + 1] = id
    redis.call('ZREM', ENTRIES, id)
  elseif string.find(meta, 'interval', 1, true) or string.find(meta, 'cron_string', 1, true) then
    for _, value in ipairs({ id, score, meta, f[8] or '' }) do periodic[#periodic + 1] = value end
  else
    redis.call('ZREM', ENTRIES, id)
    if not UNSTARTED[f[1]] then       -- a stock scheduler was killed between its two steps, or somebody was quicker
      dropped[#dropped + 1] = id
    else
      fired = fired + 1
      start(id, f, tails)
      if f[5] and tonumber(f[5]) and tonumber(f[5]) > 0 then
        redis.pcall('EXPIRE', jobkey(id), f[5])
        redis.pcall('ZADD', OWN .. 'expiring', whole(NOW + f[5]), id)
      end
    end
  end
end
for queue, ids in pairs(tails) do
  count(queue, 'enqueued', #ids)
  if type(redis.pcall('RPUSH', listkey(queue), unpack(ids))) ~= 'number' then
    for _, id in ipairs(ids) do requeue('RPUSH', queue, id, ISO) end
  end
end
local next_due = ''
if #due == 2 * limit then
  next_due = micros(NOW)
else
  local head = redis.call('ZRANGEBYSCORE', ENTRIES, '(' .. micros(NOW), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  next_due = head[2] or ''
end
return { micros(NOW), 'ok', fired, next_due, periodic, aside, dropped }
