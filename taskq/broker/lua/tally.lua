-- include: stats
-- Count what the settle script does not: ends that RQ's own code records.
-- KEYS   1 RQ's prefix   2 our prefix
-- ARGV   1 queue   then a field (see tally in stats) and an increment, in turn
-- O(fields).
for n = 2, #ARGV, 2 do tally(ARGV[1], ARGV[n], tonumber(ARGV[n + 1])) end
