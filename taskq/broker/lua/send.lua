-- include: stats lib
-- Send a value, or an exception to be raised, to a generator task.
-- KEYS   1 RQ's prefix   2 our prefix
-- ARGV   1 '1' when this request may have been executed before   2 token of the message   3 job id
--        4 'v' a value, 't' an exception   5 the value, or JSON [type, message]
-- RETURN 1 it is in the job's box   0 the job has ended   -1 no such job
-- O(1). All executions of the job read its box from the start; it holds the last 10,000.
local resend, token, id, kind, body = ARGV[1] == '1', ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local f = redis.pcall('HMGET', jobkey(id), 'status', 'worker_name')
if f.err or not f[1] then return -1 end
if f[1] == 'finished' or f[1] == 'failed' or f[1] == 'canceled' or f[1] == 'stopped' then return 0 end
local box = OWN .. 'sent:' .. id
if resend then
  for _, entry in ipairs(redis.call('XREVRANGE', box, '+', '-', 'COUNT', 1000)) do
    if entry[2][4] == token then return 1 end
  end
end
redis.call('XADD', box, 'MAXLEN', '~', 10000, '*', kind, body, 'token', token)
redis.call('EXPIRE', box, 604800)
if f[1] == 'started' and f[2] then redis.pcall('PUBLISH', OWN .. 'send:' .. f[2], id) end
return 1
