"""RQ's webhooks: sent once the end of their job is recorded, by RQ's own `Webhook.send`.

That record says in the same step what is to be sent (`taskq:hooks`, see settle.lua). It is taken
away when it has been sent, so what a worker has not come to when it dies is sent by another: at
least once. An HTTP request takes as long as twenty plain jobs. While those wait, requests get a
small part of the time, and keep no lease.
"""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import redis
from rq.exceptions import NoSuchJobError
from rq.job import Job
from rq.webhook import Webhook

from taskq.broker.scripts import script
from taskq.worker.outcome import describe
from taskq.worker.rq_classes import BoundedJob
from taskq.worker.rq_crew import Crew
from taskq.worker.rq_current import job_of
from taskq.worker.rq_share import HOOKS_SHARE, MOST_HOOKS, Share
from taskq.worker.traces import unpacked

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskq.app import TaskQ
    from taskq.broker import Broker
    from taskq.worker.claim import Claim

log = logging.getLogger("taskq.worker")

THREADS = 8
LEFT_S = 120.0
"""What nobody has sent, and nobody says that he is at it, for so long was a dead worker's."""
_RENEW_S = 30.0
_MOST_LEFT = 10
_PAGE = 1_000
_TIDY = 100


class Hooks:
    """Threads that send webhooks."""

    def __init__(
        self, pool: Any, broker: Broker, app: TaskQ, name: str, is_busy: Callable[[], bool]
    ) -> None:
        """Start nothing yet.

        Args:
            pool: connections for RQ's classes.
            broker: key names.
            app: its codec reads jobs.
            name: of the worker.
            is_busy: whether other jobs want all the time there is.
        """
        self._pool = pool
        self._broker = broker
        self._app = app
        self._name = name
        self._share = Share(is_busy, MOST_HOOKS, HOOKS_SHARE)
        self._crew = Crew("taskq-rq-hooks", THREADS, self._sender, _Sender.tidy)
        self._upkeep = Crew("taskq-rq-hooks-left", 1, self._sender, _Sender.tidy)
        self._ours: set[str] = set()
        self._unsaid: deque[str | bytes] = deque()  # sent, while Redis was away
        self._looking = False
        self._renewed = 0.0

    def _sender(self) -> _Sender:
        return _Sender(self._pool, self._broker, self._unsaid)

    def send(self, claim: Claim, sent: Callable[[], None], *, sure: bool) -> None:
        """Send what a job asks for whose end was recorded.

        Args:
            claim: with its outcome.
            sent: called then, in a thread.
            sure: whether it was recorded; else Redis is asked.
        """
        _value, error = claim.outcome
        status = "finished" if error is None else "failed"
        job = job_of(claim, self._app, self._name)
        job.ended_at = datetime.now(timezone.utc)
        hooks, member = claim.fields[b"webhooks"], f"{claim.id}:{claim.exec_id}:{status}"
        self._ours.add(member)

        def work(sender: _Sender) -> None:
            began, over = self._share.take_turn(self._crew.waiting), member
            try:
                if sure or sender.is_due(member):
                    text = "" if error is None else unpacked(describe(claim, error)[0])
                    sender.send(job, hooks, status, text)
            except (redis.RedisError, OSError) as err:
                over = ""  # it stays, and is looked at again like a dead worker's
                log.warning("Whether the webhooks of job %s are to be sent is not known now: %s",
                            claim.id, err)  # fmt: skip
            finally:
                self._ours.discard(member)
                sender.sent.append((over, sent))
                if len(sender.sent) >= _TIDY:
                    sender.tidy()
                self._share.used(began)

        self._crew.add(work)

    def look(self) -> None:
        """Say what is still ours to send, and send what dead workers have left."""
        if not self._looking:
            self._looking = True
            self._upkeep.add(self._look)

    def _look(self, sender: _Sender) -> None:
        try:
            sender.say(self._unsaid)
            while True:
                if time.monotonic() - self._renewed > _RENEW_S:
                    self._renewed = time.monotonic()
                    sender.renew(list(self._ours))
                if not sender.send_what_is_left():
                    return
        finally:
            self._looking = False

    def stop(self) -> None:
        """End the threads after what they have."""
        self._crew.stop()
        self._upkeep.stop()


class _Sender:
    """What one thread sends with."""

    def __init__(self, pool: Any, broker: Broker, unsaid: deque[str | bytes]) -> None:
        self._unsaid = unsaid
        self._connection = redis.Redis(connection_pool=pool)
        self._keys = broker.keys
        self._clock = broker.clock
        self._key = f"{broker.keys.own}hooks"
        self.sent: list[tuple[str | bytes, Callable[[], None]]] = []

    def send(self, job: Job, hooks: bytes, status: str, text: str) -> None:
        """All that a job asks for at this end; errors are logged, here and by RQ."""
        try:
            for told in json.loads(hooks):
                hook = Webhook.from_dict(told)
                if hook.job_status == status:
                    hook.send(job, exc_string=text)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as err:
            log.warning("A webhook of job %s cannot be sent: %r", job.id, err)

    def is_due(self, member: str) -> bool:
        """Whether it was recorded that this is to be sent."""
        return self._connection.zscore(self._key, member) is not None

    def tidy(self) -> None:
        """Take away what says that they are to be sent, and say that they were."""
        sent, self.sent = self.sent, []
        members = deque(member for member, _told in sent if member)
        try:
            self.say(members)
        except (redis.RedisError, OSError):  # the next look says it
            self._unsaid.extend(members)
        for _member, told in sent:
            told()

    def say(self, members: deque[str | bytes]) -> None:
        """Take away what says that these are to be sent; empties `members`.

        Raises:
            RedisError, OSError: not now; `members` is as it was.
        """
        known = list(members)
        if known:
            self._connection.zrem(self._key, *known)
            for _ in known:
                members.popleft()

    def renew(self, members: list[str]) -> None:
        """Say that these are not left: somebody is at it."""
        now = self._clock.time()
        for n in range(0, len(members), _PAGE):
            page = dict.fromkeys(members[n : n + _PAGE], int(now))
            self._connection.zadd(self._key, page, xx=True)

    def send_what_is_left(self) -> int:
        """Some of what was a dead worker's; returns how many."""
        args = (self._keys.prefix, self._keys.own, LEFT_S, _MOST_LEFT)
        left: Any = self._connection.eval(script("hooks").text, 2, *args)
        for member in left:
            self._send_again(member)
            self.sent.append((member, lambda: None))
            self.tidy()
        return len(left)

    def _send_again(self, member: bytes) -> None:
        text = member.decode("utf-8", "replace")
        job_id, _exec_id, status = ["?", "?", *text.rsplit(":", 2)][-3:]
        log.warning("The webhooks of job %s (%s) are sent again: its worker died before it "
                    "said that they were", job_id, status)  # fmt: skip
        try:
            job = BoundedJob.fetch(job_id, connection=self._connection)
            result = job.latest_result() if status == "failed" else None
        except (NoSuchJobError, ValueError, TypeError, KeyError) as err:
            log.warning("The webhooks of job %s cannot be sent: %r", job_id, err)
            return
        hooks = json.dumps([hook.to_dict() for hook in job.webhooks]).encode()
        told = result.exc_string if result else None
        self.send(job, hooks, status, told or "")
