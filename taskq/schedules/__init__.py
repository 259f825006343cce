"""Schedules: what they are in Redis, how they are changed, and when they fire.

A schedule is a hash with its definition, a job prepared for all its occurrences, and
its state; `taskq:schedules` has all names by when they fire next. Firing one is a
single script (`lua/schedule_fire.lua`): it enqueues the occurrence's job and moves the
schedule on to its next time, or does nothing if somebody else did.
"""

from __future__ import annotations

from taskq.schedules.record import Record, ScheduleKeys
from taskq.schedules.terms import ScheduleOptions, Terms

__all__ = ["Record", "ScheduleKeys", "ScheduleOptions", "Terms"]
