"""From rq-scheduler's entries to schedules of ours: what can be moved, and how.

An entry is moved only where a schedule means the same: its due time and the next ones
after it must be those of the schedule. Otherwise it stays, with a reason.
"""

from __future__ import annotations

import io
import json
import pickle
import re
import secrets
import zlib
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple
from zoneinfo import ZoneInfo

from taskq.errors import TaskQError
from taskq.ids import new_id
from taskq.retry import Retry
from taskq.schedules.record import Template, definition
from taskq.schedules.template import prepare
from taskq.schedules.terms import Terms, check_name
from taskq.timing import Cron, Every
from taskq.worker.crontab_times import CrontabTimes, host_zone
from taskq.worker.rq_plan import EntryError, read_meta, read_pickle

if TYPE_CHECKING:
    from taskq.app import TaskQ
    from taskq.broker import Broker

_PAGE = 200
_COMPARED = 60
"""So many times of the schedule must be those that rq-scheduler would have had."""
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_KEPT = (
    b"description", b"timeout", b"failure_ttl", b"success_callback_name", b"failure_callback_name",
    b"stopped_callback_name", b"success_callback_timeout", b"failure_callback_timeout",
    b"stopped_callback_timeout", b"retries_left", b"retry_intervals", b"enqueue_at_front_on_retry",
)  # fmt: skip
"""Fields of a job that each of the schedule's jobs has as well."""


class Candidate(NamedTuple):
    """An entry, and what becomes of it.

    Attributes:
        id: of its job.
        name: of the schedule that it becomes.
        function: that it calls.
        when: its cron expression, or its interval, for people.
        due_at: next due time, seconds since 1970.
        reason: why it stays; "" where it can be moved.
        request: for entries_import.lua, from the id on.
    """

    id: str
    name: str
    function: str
    when: str
    due_at: float
    reason: str
    request: tuple[Any, ...] = ()


class _Plain(pickle.Unpickler):
    """Reads arguments of plain types only: nothing is looked up, so nothing can run."""

    def find_class(self, module: str, name: str) -> Any:
        raise EntryError(
            f"an argument is a {module}.{name}: write the schedule anew in the app's code"
        )


class Importer:
    """Looks at all periodic entries of one Redis."""

    def __init__(self, broker: Broker, app: TaskQ | None, tz: str) -> None:
        """Nothing is asked yet.

        Args:
            broker: with its keys.
            app: whose tasks the functions are; None: they stay plain functions, for workers that
                run RQ's jobs.
            tz: of cron expressions that name none: a zone, or "local".
        """
        self._broker = broker
        self._app = app
        self._tz = tz
        self._uid = new_id()

    def candidates(self) -> Iterator[Candidate]:
        """All periodic entries, by due time. Blocks; two round trips for 200."""
        keys = self._broker.keys
        where = f"{keys.prefix}:scheduler:scheduled_jobs"
        at, known = 0, set[str]()
        while True:
            page = self._broker.call("ZRANGE", where, at, at + _PAGE - 1, "WITHSCORES")
            if not page:
                return
            at += _PAGE
            names = [raw.decode("utf-8", "replace") for raw in page[::2]]
            jobs = self._broker.pipe([("HGETALL", keys.job(name)) for name in names])
            for name, due, flat in zip(names, page[1::2], jobs):
                # one that is fired meanwhile comes once more, further behind
                found = None if name in known else self._look(name, due, flat)
                known.add(name)
                if found is not None:
                    yield found

    def move(self, chosen: Candidate) -> str:
        """Move one entry, atomically; returns "moved", or why not.

        Raises:
            BrokerUnavailable, BrokerError: no answer, or an error.
        """
        keys = self._broker.keys
        args = [self._uid, *chosen.request]
        answer = self._broker.script("entries_import", [keys.prefix, keys.own], args)
        if isinstance(answer, list):
            return f"a stock rqscheduler has {keys.prefix}:scheduler_lock: stop it first"
        return {
            b"moved": "moved",
            b"taken": f"there is a schedule {chosen.name!r} already",
            b"changed": "it was fired or changed meanwhile: run the import again",
        }[answer]

    def close(self) -> None:
        """Let go of rq-scheduler's lock."""
        keys = self._broker.keys
        self._broker.script("entries_leave", [keys.prefix, keys.own], [self._uid])

    # -- one entry -----------------------------------------------------------------------

    def _look(self, job_id: str, due: bytes, flat: Any) -> Candidate | None:
        """None for an entry that is not periodic."""
        when, function, name, at = "", "", job_id, float(due)
        try:
            job = _hash(flat)
            meta = read_meta(job.get(b"meta", b""))
            if not meta.get("interval") and not meta.get("cron_string"):
                return None
            when = str(meta.get("cron_string") or f"every {meta.get('interval')} s")
            function = _call_of(job, None)[0]
            name = check_name(f"{function}-{job_id[:8]}" if _UUID.fullmatch(job_id) else job_id)
            _refuse(job, meta)
            terms = self._terms(meta, at)
            template = self._template(name, function, job, meta)
        except (EntryError, TaskQError, ValueError, TypeError, LookupError) as err:
            return Candidate(job_id, name, function, when, at, str(err).rstrip("."))
        fires = round(at * 1000)
        fields = definition(terms, template)
        fields += ["anchor", fires, "next", fires, "created", fires]
        request = (job_id, due, job.get(b"meta", b""), name, secrets.token_hex(5), fires, *fields)
        return Candidate(job_id, name, function, when, at, "", request)

    def _terms(self, meta: Mapping[str, Any], due: float) -> Terms:
        repeat = meta.get("repeat")
        runs = None if repeat is None else max(int(repeat), 1)
        if meta.get("interval"):
            return Terms(Every(seconds=float(meta["interval"])), max_runs=runs)
        expression = str(meta["cron_string"])
        tz = str(meta.get("timezone") or ("local" if meta.get("use_local_timezone") else self._tz))
        if tz == "local":
            zone = host_zone()
            tz = zone.key if isinstance(zone, ZoneInfo) and zone.key else ""
            if not tz:
                raise EntryError("the zone of this machine has no name: say --tz")
        cron = Cron(expression, tz=tz)
        theirs, moment = CrontabTimes(expression, ZoneInfo(tz)), due - 60
        for number in range(_COMPARED):
            ours = cron.after(round(moment * 1000))
            following = theirs.after(moment)
            if ours is None or following is None or ours != following * 1000:
                raise EntryError(
                    "rq-scheduler reads the expression differently (day and weekday must both "
                    "match there): write the schedule anew in the app's code"
                )
            if number == 0 and following != due:
                raise EntryError(
                    f"its next time is none of {expression!r} in {tz}: rq-scheduler took the zone "
                    "of its machine; say it with --tz"
                )
            moment = following
        return Terms(cron, max_runs=runs)

    def _template(
        self, name: str, function: str, job: dict[bytes, bytes], meta: Mapping[str, Any]
    ) -> Template:
        own = {key: value for key, value in meta.items() if key not in _THEIR_META}
        queue = job.get(b"origin", b"default").decode()
        if self._app is not None:
            return self._task_template(name, function, job, own)
        if own:
            raise EntryError(f"its meta has {', '.join(map(str, own))}, which schedules lack")
        fields = [part for field in _KEPT if job.get(field) for part in (field, job[field])]
        ttl = job.get(b"result_ttl", b"-1")
        if ttl != b"-1":  # rq-scheduler's own default: each run had the same record
            fields += [b"result_ttl", ttl]
        waiting = int(job[b"ttl"]) if job.get(b"ttl") else None
        if waiting:
            fields += [b"ttl", str(waiting).encode()]
        return Template(
            function, queue, job[b"data"], tuple(fields),
            at_front=job.get(b"enqueue_at_front") == b"1", ttl_s=waiting,
        )  # fmt: skip

    def _task_template(
        self, name: str, function: str, job: dict[bytes, bytes], own: dict[str, Any]
    ) -> Template:
        assert self._app is not None
        task = self._app.tasks.get(function)
        if task is None:
            raise EntryError(f"no task {function!r} in the app: decorate the function")
        if any(value and field.endswith(b"_callback_name") for field, value in job.items()):
            raise EntryError("it has callbacks of RQ: use on_success and on_failure of the task")
        _name, args, kwargs = _call_of(job, _Plain)
        options: dict[str, Any] = {"queue": job.get(b"origin", b"default").decode()}
        for field in (b"timeout", b"failure_ttl", b"ttl"):
            if job.get(field):
                options[field.decode()] = _seconds(job[field])
        if job.get(b"result_ttl", b"-1") != b"-1":
            options["result_ttl"] = int(job[b"result_ttl"])
        if job.get(b"enqueue_at_front") == b"1":
            options["at_front"] = True
        retries = int(job.get(b"tq_retries") or job.get(b"retries_left") or 0)
        if retries:
            options["retry"] = _retry(retries, job.get(b"retry_intervals", b""))
        if own:
            options["meta"] = own
        call = task.options(**options).call(*args, **kwargs)
        return prepare(self._app, f"schedule({name!r})", name, call)


_THEIR_META = {"interval", "cron_string", "repeat", "use_local_timezone", "timezone"}


def _hash(flat: Any) -> dict[bytes, bytes]:
    if isinstance(flat, Exception):
        raise EntryError("the key of its job is no hash")
    job = flat if isinstance(flat, dict) else dict(zip(flat[::2], flat[1::2]))
    if not job.get(b"data"):
        raise EntryError("its job is gone")
    return job


def _refuse(job: Mapping[bytes, bytes], meta: Mapping[str, Any]) -> None:
    if job.get(b"status") == b"canceled":
        raise EntryError("its job is canceled")
    if job.get(b"dependency_ids") or job.get(b"dependency_id"):
        raise EntryError("its job waits for others")
    if meta.get("queue_class_name"):
        raise EntryError(f"it has a queue class of its own, {meta['queue_class_name']}")


def _call_of(
    job: Mapping[bytes, bytes], reader: type[pickle.Unpickler] | None
) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    """Function and arguments; without a reader only the function, whatever the arguments are."""
    data = job[b"data"]
    try:
        data = zlib.decompress(data)
    except zlib.error:
        pass  # it was stored as it is
    if data[:1] in b"[{":
        parts = json.loads(data)
    elif reader is None:
        parts = read_pickle(data)
    else:
        parts = reader(io.BytesIO(data)).load()
    name, instance, args, kwargs = parts
    if instance is not None:
        raise EntryError("it calls a method of an object")
    return str(name), tuple(args), dict(kwargs)


def _seconds(raw: bytes) -> int | None:
    value = int(raw)
    return None if value < 0 else value


def _retry(count: int, intervals: bytes) -> Retry | int:
    waits = json.loads(intervals or b"[]")
    waits = waits if isinstance(waits, list) else [waits]
    if not any(waits):
        return count
    if len(set(waits)) > 1:
        raise EntryError("its retries wait for different times: use the retry of the task")
    return Retry(count, base=timedelta(seconds=waits[0]))
