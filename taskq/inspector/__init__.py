"""Read-only questions to Redis, for the command line and the dashboard.

Nothing here unpickles, imports what data names, or writes: reading through RQ's own
classes does all three (its `count` sweeps the started registry and fails what has
expired). Every question takes a bounded number of commands, pipelined, however many
jobs there are. Whatever lies in Redis, wrong types and garbage included, is shown as
far as it can be.

Keys read: RQ's queues, registries, job, worker and result keys; ours of paused queues and of
schedules.
"""

from __future__ import annotations

from taskq.inspector.counts import ALL, Counts, Percentiles
from taskq.inspector.glimpse import Glimpse, glimpse
from taskq.inspector.jobs import Criteria, JobList, find
from taskq.inspector.overview import Overview, QueueInfo, WorkerInfo, overview
from taskq.inspector.query import Inspector, Query
from taskq.inspector.rates import Rates, rates
from taskq.inspector.results import ResultEntry
from taskq.inspector.rows import JobRow, listed
from taskq.inspector.schedules import ScheduleList, ScheduleRow, schedule, schedules
from taskq.inspector.server import ServerInfo
from taskq.inspector.statistics import FailureGroup, Point, Series, failure_groups, series
from taskq.inspector.steps import StepRow
from taskq.inspector.story import JobStory, story

__all__ = [
    "ALL",
    "Counts",
    "Criteria",
    "FailureGroup",
    "Glimpse",
    "Inspector",
    "JobList",
    "JobRow",
    "JobStory",
    "Overview",
    "Percentiles",
    "Point",
    "Query",
    "QueueInfo",
    "Rates",
    "ResultEntry",
    "ScheduleList",
    "ScheduleRow",
    "Series",
    "ServerInfo",
    "StepRow",
    "WorkerInfo",
    "failure_groups",
    "find",
    "glimpse",
    "listed",
    "overview",
    "rates",
    "schedule",
    "schedules",
    "series",
    "story",
]
