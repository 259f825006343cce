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

from taskq.inspector.around import Around, Execution, StreamValue, around, begun
from taskq.inspector.concerns import Concern, concerns
from taskq.inspector.counts import ALL, Counts, Percentiles
from taskq.inspector.glimpse import Glimpse, glimpse
from taskq.inspector.jobs import Criteria, JobList, find
from taskq.inspector.overview import Overview, QueueInfo, WorkerInfo, overview, queue_info
from taskq.inspector.paging import JobPage, page
from taskq.inspector.query import Inspector, Query
from taskq.inspector.rates import Rates, rates
from taskq.inspector.results import ResultEntry
from taskq.inspector.rows import JobRow, listed
from taskq.inspector.runs import Run
from taskq.inspector.schedules import ScheduleList, ScheduleRow, schedule, schedules
from taskq.inspector.server import ServerInfo
from taskq.inspector.statistics import FailureGroup, Point, Series, failure_groups, series
from taskq.inspector.steps import StepRow
from taskq.inspector.story import JobStory, story
from taskq.progress import Progress
from taskq.serializers.peek import Peeked

__all__ = [
    "ALL",
    "Around",
    "Concern",
    "Counts",
    "Criteria",
    "Execution",
    "FailureGroup",
    "Glimpse",
    "Inspector",
    "JobList",
    "JobPage",
    "JobRow",
    "JobStory",
    "Overview",
    "Peeked",
    "Percentiles",
    "Point",
    "Progress",
    "Query",
    "QueueInfo",
    "Rates",
    "ResultEntry",
    "Run",
    "ScheduleList",
    "ScheduleRow",
    "Series",
    "ServerInfo",
    "StepRow",
    "StreamValue",
    "WorkerInfo",
    "around",
    "begun",
    "concerns",
    "failure_groups",
    "find",
    "glimpse",
    "listed",
    "overview",
    "page",
    "queue_info",
    "rates",
    "schedule",
    "schedules",
    "series",
    "story",
]
