"""What `taskq doctor --repair` mends: one script call for each thing, which looks again first.

A repair never runs a job that may be running, never deletes a record, and leaves alone what
has changed since it was found.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from taskq.inspector.suspects import Suspect
from taskq.inspector.values import raw, text

if TYPE_CHECKING:
    from taskq.broker.client import Broker
    from taskq.inspector.doctor import Diagnosis

DAY_S = 86_400
_STORY = base64.b64encode(zlib.compress(b"Mended by taskq doctor --repair."))
_DONE = {
    "queued": "back in its queue",
    "failed": "recorded as failed",
    "removed": "taken out",
    "set": "set",
    "": "left alone: it has changed meanwhile",
}
_WAITING = ("queue", "claim", "intermediate")


class Step(NamedTuple):
    """One call of the script.

    Attributes:
        what: as in `lua/mend.lua`.
        name: job id, member or key.
        queue: name of the queue.
        found: status as it was found.
        more: what else this repair needs.
        words: for people: what it is about to do.
    """

    what: str
    name: bytes
    queue: str
    found: str
    more: str | bytes
    words: str


class Mended(NamedTuple):
    """What one step did; `done` is "" where it changed nothing."""

    step: Step
    done: str
    words: str


def plan(diagnosis: Diagnosis) -> list[Step]:
    """The steps that would mend what can be mended safely."""
    return [
        step for finding in diagnosis.findings for one in finding.suspects for step in _steps(one)
    ]


def mend(broker: Broker, steps: Iterable[Step]) -> Iterator[Mended]:
    """Take the steps one after the other, and tell each. Idempotent: again does no harm.

    Raises:
        BrokerUnavailable: Redis did not answer; what came before is done.
        BrokerError: Redis refused it.
    """
    keys = [broker.keys.prefix, broker.keys.own]
    for step in steps:
        args = [step.what, broker.clock.iso(), step.name, raw(step.queue), step.found, step.more]
        done = text(broker.script("mend", keys, args))
        yield Mended(step, done, f"{step.words}: {_DONE.get(done, done)}")


def _steps(one: Suspect) -> Iterator[Step]:
    name, what = text(one.name), one.status
    kind, _, queue = one.place.partition(" ")[0].partition(":")
    if one.code == "lost":
        yield from _lost(one, name)
    elif one.code == "doubled":
        yield from _once(one, name)
    elif one.code == "orphan" and queue:
        yield Step("orphan", one.name, queue, what, _STORY, f"job {name} ({what}) is nowhere")
    elif one.code == "misplaced" and kind in ("queue", "claim"):
        words = f"job {name} waits in {queue!r} as {what}"
        yield Step("status", one.name, queue, what, "", words)
    elif one.code == "dead-claim":
        uid = name.rpartition("claim:")[2].partition(":")[0]
        yield Step("claim", one.name, queue, "", uid, f"{name} belongs to no worker")
    elif one.code == "stale-lock" and what == "no TTL":
        yield Step("unlock", one.name, "", "", "", f"lock {name} of RQ has no TTL")
    elif one.code == "stale-lock":
        words = f"lock {name} is held by {one.place or 'nobody'} ({what or 'gone'})"
        yield Step("lock", one.name, "", one.place, "", words)
    elif (simple := _SIMPLE.get(one.code)) is not None:
        action, more, words = simple
        shown = words.format(name=name, status=what, queue=queue)
        yield Step(action, one.name, queue, what, more or one.place, shown)


_SIMPLE: dict[str, tuple[str, str | bytes, str]] = {
    "dead-lease": ("lease", _STORY, "lease {name} has no worker"),
    "endless": ("expire", str(DAY_S), "job {name} ({status}) has no TTL"),
    "wrong-type": ("aside", "", "{name} is a {status}"),
    "unlisted-queue": ("register", "", "queue {queue!r} is not listed"),
}


def _lost(one: Suspect, name: str) -> Iterator[Step]:
    """Out of registries; what waits or runs is left to workers and sweeps."""
    for place in one.place.split(" "):
        kind, _, queue = place.partition(":")
        if kind not in (*_WAITING, "wip"):
            words = f"{kind} registry of {queue!r} has {name}, which has no record"
            yield Step("lost", one.name, queue, "", kind, words)


_BELONGS = {"queued": "queue", "started": "wip", "stopped": "failed"}


def _once(one: Suspect, name: str) -> Iterator[Step]:
    """Take a job out of all places but the one that its status names."""
    places = one.place.split(" ")
    right = _BELONGS.get(one.status, one.status)
    kinds = [place.partition(":")[0] for place in places]
    if right not in kinds:
        return  # nobody can say which of them is right
    kept = False
    for place, kind in zip(places, kinds):
        queue = place.partition(":")[2]
        if kind == right and not kept:
            kept = True
        elif kind not in ("claim", "intermediate", "wip"):
            words = f"job {name} ({one.status}) is also in the {kind} of {queue!r}"
            yield Step("once", one.name, queue, one.status, kind, words)
