-- include: stats lib runs reclaim
-- What a living worker holds as Redis sees it: list it, or take back what the worker knows nothing of.
-- KEYS   1 RQ's prefix   2 our prefix
-- ARGV   1 worker uid   2 now, ISO   3 crashes after which a job is failed   4 traceback text for that (zlib + base64)
--        5 number of queues Q, then Q names
--        then the members to take back, each behind the position of its queue (1-based); none: list all
-- RETURN {now, requeued, failed, positions and members in turn}
-- To be taken back, a member must still be there: what was settled meanwhile is left alone. It is no crash.
-- O(running executions of the queues) to list, O(1) for each member to take back.
local uid, iso, limit_crashes, story = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local last = 5 + ARGV[5]
local requeued, failed, found = 0, 0, {}
if #ARGV == last then
  for position = 1, ARGV[5] do
    local members = redis.pcall('ZRANGE', registry('wip', ARGV[5 + position]), 0, -1)
    if members.err then members = {} end
    for _, member in ipairs(members) do
      if owner(member) == uid then
        found[#found + 1] = position
        found[#found + 1] = member
      end
    end
  end
else
  begin_writing()
  for n = #ARGV - 1, last + 1, -2 do       -- the last first: each goes to the head, so order is kept
    local queue, member = ARGV[5 + ARGV[n]], ARGV[n + 1]
    if type(redis.pcall('ZSCORE', registry('wip', queue), member)) == 'string' then
      local id = string.sub(member, 1, #member - string.find(string.reverse(member), ':', 1, true))
      redis.pcall('HDEL', jobkey(id), 'tq_begun')
      local what = reclaim(queue, member, iso, limit_crashes, story, false)
      if what == 'back' then requeued = requeued + 1 elseif what == 'failed' then failed = failed + 1 end
    end
  end
end
return { micros(NOW), requeued, failed, found }
