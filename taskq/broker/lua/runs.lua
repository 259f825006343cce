-- Shared by the scripts after which a job runs again; placed after `stats`. How its earlier executions ended stands in
-- its hash, in tq_runs: a line of JSON for each, the newest last (see worker/runs.py). Jobs that end at once have none.
local MOST_RUNS, MOST_RUNS_BYTES = 20, 8000

-- A worker's name in our JSON: what lies in Redis may be anything.
local function called(worker) return worker and (string.gsub(string.sub(worker, 1, 100), '[^%w%-_%.:]', '?')) or '?' end

-- run: [how, began, ended, error's type, its message], to which the worker is added, or ''. told: what stands there, if known.
-- O(bytes kept).
local function add_run(key, run, worker, told)
  if run == '' then return end
  told = told or redis.pcall('HGET', key, 'tq_runs')
  local text = string.sub(run, 1, -2) .. ',"' .. called(worker) .. '"]'
  if type(told) == 'string' and told ~= '' then text = string.sub(told, -MOST_RUNS_BYTES) .. '\n' .. text end
  local _, lines = string.gsub(text, '\n', '')
  local from = 1
  while lines >= MOST_RUNS or (lines > 0 and #text - from >= MOST_RUNS_BYTES) do
    from = string.find(text, '\n', from, true) + 1
    lines = lines - 1
  end
  redis.pcall('HSET', key, 'tq_runs', string.sub(text, from))
end
