"""The command line: the only part that reaches outward, to the worker and the dashboard.

`taskq --help` imports click and nothing else: each command's module is imported when
that command runs, redis and rq (0.4 s) when it talks to Redis.
"""

from __future__ import annotations

from taskq.cli.group import Entry, Root

_EXAMPLES = """\b
Examples:
  taskq worker shop.queue:queue            run its tasks, on all cores
  taskq worker shop.py -q high -q default  two queues, "high" first
  taskq info --watch                       queues and workers, live
  taskq failed --since 1h                  what failed in the last hour
  taskq retry --task thumbnail             run these again

\b
Every option is also an environment variable and a key of [tool.taskq] in
pyproject.toml: --log-level is TASKQ_WORKER_LOG_LEVEL or log-level in
[tool.taskq.worker]. A flag wins over the environment, that over the file.

\b
Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
TASKQ_DEBUG=1 shows the traceback of an error.
"""

main = Root(
    name="taskq",
    help="A task queue on Redis: decorate a function, call it anywhere, get its result.",
    epilog=_EXAMPLES,
    entries=[
        Entry("demo", "taskq.cli.demo", "Run the main job on real input, from nothing.", "Run"),
        Entry(
            "dev", "taskq.cli.dev", "Redis, worker, scheduler and dashboard in one terminal.", "Run"
        ),
        Entry("dashboard", "taskq.cli.dashboard", "Serve the read-only page.", "Run"),
        Entry("worker", "taskq.cli.worker", "Run the jobs of an app.", "Run"),
        Entry("scheduler", "taskq.cli.scheduler", "Fire the schedules of an app.", "Run"),
        Entry("enqueue", "taskq.cli.enqueue", "Enqueue one job.", "Run"),
        Entry("info", "taskq.cli.info", "Show queues and workers.", "Look"),
        Entry("jobs", "taskq.cli.jobs", "List jobs, newest first.", "Look"),
        Entry("job", "taskq.cli.job", "Show everything about one job.", "Look"),
        Entry("failed", "taskq.cli.jobs", "List failed jobs, newest first.", "Look"),
        Entry("schedules", "taskq.cli.schedules", "List schedules; pause, run, preview.", "Look"),
        Entry("ping", "taskq.cli.ping", "Say where Redis is and whether it answers.", "Look"),
        Entry("doctor", "taskq.cli.doctor", "Check jobs and Redis, mend what is safe.", "Look"),
        Entry("retry", "taskq.cli.change", "Run failed jobs again.", "Change"),
        Entry("cancel", "taskq.cli.change", "Cancel jobs that have not ended.", "Change"),
        Entry("purge", "taskq.cli.change", "Delete jobs that do not run.", "Change"),
        Entry("pause", "taskq.cli.pause", "Have workers leave a queue alone.", "Change"),
        Entry("resume", "taskq.cli.pause", "Have workers serve a paused queue again.", "Change"),
        Entry("completion", "taskq.cli.completion", "Print a shell's completion script.", "Set up"),
    ],
)
