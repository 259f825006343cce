-- include: stats lib
-- Enqueue the callback of a job whose end RQ's own code records, within its transaction.
-- KEYS   1 RQ's prefix   2 our prefix
-- ARGV   1 the callback as it was prepared (notify.py)   2 now, ISO   then names and values of fields that say how it ended
-- RETURN nothing. O(fields)
call_back(ARGV[1], ARGV[2], unpack(ARGV, 3))
