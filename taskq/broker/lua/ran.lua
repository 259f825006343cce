-- include: stats runs
-- Record how an execution ended whose job RQ's own code puts back into its queue: part of RQ's transaction.
-- KEYS   1 RQ's prefix   2 our prefix
-- ARGV   1 id   2 the execution as `add_run` takes it   3 worker name
-- O(1).
add_run(P .. ':job:' .. ARGV[1], ARGV[2], ARGV[3])
