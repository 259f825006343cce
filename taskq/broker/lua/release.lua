-- include: stats lib runs reclaim
-- Give back at once what one worker holds: after its death was seen, after a reserve whose answer was lost, at its end.
-- KEYS   1 RQ's prefix   2 our prefix
-- ARGV   1 worker uid   2 'dead' | 'bye' | the number of a reserve call: only what that one handed out
--        3 now, ISO   4 crashes after which a job is failed   5 traceback text for that (zlib + base64)
--        then ids of the jobs whose code had begun
-- RETURN {now, requeued, failed}
-- After 'dead' no late request of that worker is served; after a number, none up to that number in its lane.
-- O(running executions of the queues it serves).
local uid, what, iso, limit_crashes, story = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
begin_writing()
local exact = what ~= 'dead' and what ~= 'bye'
local turn = {}  -- of each job in the answer of that call, where this was its lane's last one
if exact then
  local lane, number = string.match(what, '^(%w-)(%d+)$')
  local fenced = redis.pcall('HGET', OWN .. 'fence', uid .. lane)
  if fenced ~= 'dead' and (tonumber(fenced) or -1) < tonumber(number) then
    redis.pcall('HSET', OWN .. 'fence', uid .. lane, number)
  end
  local handed = redis.pcall('LRANGE', OWN .. 'handed:' .. uid .. lane, 0, -1)
  if handed[1] == what then
    for n = 2, #handed do turn[handed[n]] = n end
  end
elseif what == 'dead' then
  redis.pcall('HSET', OWN .. 'fence', uid, what)
end
local begun = {}
for n = 6, #ARGV do begun[ARGV[n]] = true end
local tag = ':tq' .. uid .. (exact and what or '')
local requeued, failed = 0, 0
local names = redis.pcall('HGET', OWN .. 'serves', uid)
if type(names) == 'string' then
  for queue in string.gmatch(names, '[^\n]+') do
    local members = redis.pcall('ZRANGE', registry('wip', queue), 0, -1)
    if members.err then members = {} end
    local mine = {}
    for _, m in ipairs(members) do
      local s, e = string.find(m, tag, 1, true)
      if s and (not exact or e == #m) then mine[#mine + 1] = m end
    end
    local ids, place = {}, {}
    for n, m in ipairs(mine) do
      ids[m] = string.sub(m, 1, #m - string.find(string.reverse(m), ':', 1, true))
      place[m] = turn[ids[m]] or n
    end
    if next(turn) then table.sort(mine, function(a, b) return place[a] < place[b] end) end
    for n = #mine, 1, -1 do      -- the last first: each goes to the head, so order is kept
      local m = mine[n]
      local id = ids[m]
      local r = reclaim(queue, m, iso, limit_crashes, story, begun[id] or false)
      if r == 'back' then requeued = requeued + 1 elseif r == 'failed' then failed = failed + 1 end
    end
  end
end
if not exact then
  requeued = requeued + unclaim(uid)
  unhand(uid)
  -- A blocked BLMOVE of this worker may still be open in Redis: for some minutes its claim lists are swept.
  redis.pcall('ZADD', OWN .. 'alive', micros(NOW - 60), uid)
end
return { micros(NOW), requeued, failed }
