"""What a durable task yields: names, hashes, options, and its journal. No server."""

from __future__ import annotations

import asyncio
import functools
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from typing import Any

import pytest

from taskq import (
    ConfigError,
    InvalidArguments,
    NotSerializable,
    PayloadTooLarge,
    Retry,
    StepFailed,
    StepMismatch,
    sleep,
    sleep_until,
    step,
    task,
)
from taskq.commands import adrain, drain
from taskq.fingerprint import fingerprint
from taskq.serializers import Codec
from taskq.steps import Step
from taskq.worker.claim import Claim
from taskq.worker.journal import ERROR, TIMER, TRYING, VALUE, Journal
from tests.support import ROOT

HERE = __name__


def add(a: int, b: int = 1) -> int:
    return a + b


async def aadd(a: int) -> int:
    return a + 1


@task(mode="process", retry=3, timeout=5, redeliver=False)
def heavy(n: int) -> int:
    return n


@task
def light(n: int) -> int:
    return n


@task(durable=True)
def flow(n: int):
    one = yield step(add, n)
    two, three = yield [step(aadd, one), step(light, 5)]
    yield "a value is streamed elsewhere"
    yield sleep(0.001)
    four = yield from step(add, two, b=three)
    return [one, two, three, four]


def test_what_a_step_is_known_by():
    assert step(add, 1).name == f"{HERE}.add"
    assert step(functools.partial(add, 1), 2).name == f"{HERE}.add"
    assert step("".join, ["a"]).name == "builtins.str.join"
    assert step(heavy, 1).name == f"{HERE}.heavy"
    assert step(add, 1).options(name="sum").name == "sum"
    assert repr(step(add, 1)) == f"step({HERE}.add)"


def test_how_a_step_runs():
    def seen(one: Step[Any]) -> tuple[Any, ...]:
        return one.mode, one.timeout, one.retry, one.redeliver

    assert seen(step(add, 1)) == ("thread", None, None, True)
    assert seen(step(aadd, 1)) == ("asyncio", None, None, True)
    assert seen(step(heavy, 1)) == ("process", 5, Retry.of(3), False)
    assert seen(step(light, 1)) == ("thread", None, None, True)
    changed = step(heavy.options(timeout=9), 1).options(retry=Retry(2), redeliver=True)
    assert seen(changed) == ("process", 9, Retry(2), True)
    assert seen(step(add, 1).options(timeout=timedelta(minutes=1)))[1] == 60


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: step(flow, 1), ConfigError, "it yields, and a step is one call"),
        (lambda: step(5), ConfigError, "a function or a task is called"),
        (lambda: step(light, 1, m=2), InvalidArguments, "unexpected argument 'm'"),
        (lambda: step(add).options(queue="x"), ConfigError, "no option 'queue'. Options: name, ti"),
        (lambda: step(add).options(timeout=-1), ConfigError, "must be more than 0 seconds"),
        (lambda: step(add).options(name=""), ConfigError, "must be a text"),
        (lambda: sleep(-1), ConfigError, "must be 0 or more seconds"),
        (lambda: sleep("1"), ConfigError, "must be seconds"),
        (lambda: sleep_until(datetime.now()), ConfigError, "without a time zone"),  # noqa: DTZ005 (that is refused)
        (lambda: sleep_until(None), ConfigError, "must be an aware datetime"),
        (lambda: task(durable=True)(add), ConfigError, "add: durable=True is for functions"),
        (lambda: light.options(durable=True), ConfigError, "this has no yield"),
    ],
)
def test_what_is_refused(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_durable_is_an_option_of_each_call():
    assert flow.opts.fields == ["tq_durable", "1"]
    assert flow.options(durable=False).opts.fields == ["tq_durable", "0"]


@dataclass
class Point:
    x: int


def test_a_hash_is_of_the_values():
    assert fingerprint((1, "a"), {"x": 1, "y": 2}) == fingerprint((1, "a"), {"y": 2, "x": 1})
    assert fingerprint(([1],), {}) != fingerprint(((1,),), {})
    assert fingerprint((Point(1),), {}) != fingerprint((Point(2),), {})
    assert fingerprint((date(2026, 1, 1),), {}) != fingerprint((date(2026, 1, 2),), {})
    assert fingerprint((object(),), {}) == fingerprint((object(),), {}), "only the class counts"
    assert fingerprint((object(),), {}) != fingerprint((sys,), {})


def test_a_hash_is_the_same_in_every_process():
    code = (
        "from taskq.fingerprint import fingerprint; "
        "print(fingerprint(({'ab', 'cd', 'ef', (1, 'x')},), {'k': frozenset('xyz')}))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, text=True, check=True, capture_output=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2", "3")
    }  # fmt: skip
    assert len(found) == 1


def test_steps_where_nothing_is_recorded():
    """What stock RQ gets: see spec.call_of_rq."""
    assert drain(flow(1)) == [2, 3, 5, 8]

    tries: list[int] = []

    def fails() -> None:
        tries.append(1)
        raise KeyError("no")

    def generator():
        try:
            yield step(fails).options(retry=2)
        except StepFailed as err:
            return err

    err = drain(generator())
    assert (len(tries), err.attempts, err.was(LookupError), err.was("builtins.OSError")) == (
        3, 3, True, False,
    )  # fmt: skip

    got: list[Any] = []

    async def atask():
        got.append((yield step(add, 1)))
        got.append(await step(aadd, 5))
        yield sleep(0.001)
        got.extend((yield [step(add, 2), step(aadd, 3)]))

    asyncio.run(adrain(atask()))
    assert got == [2, 6, 3, 4]


# -- the journal ----------------------------------------------------------------------------


def journal(stored: dict[str, bytes] | None = None, timer: str = "") -> Journal:
    fields = [b"data", b"x", b"tq_timer", timer.encode(), b"tq_durable", b"1", b"a", b"b"]
    claim = Claim(1, "default", "job", "exec", fields, 0.0)
    claim.name = "shop.order"
    made = Journal(claim, Codec())
    raw = {k.encode(): v for k, v in (stored or {}).items()}
    made.fill({**raw, **{k + b"h": v[:0] + b"v[]" for k, v in raw.items()}})
    return made


def recorded(*entries: tuple[Any, str, Any]) -> dict[str, bytes]:
    """Bodies of records: (command or list of them, kind, content), one position each."""
    writer, stored = journal(), {}
    for item, kind, content in entries:
        for part in writer.next(item, 0.0).parts:
            if content is not None:
                stored[part.place] = writer.pack(part, kind, content)
    return stored


def test_what_is_recorded_is_answered():
    both = [step(add, 2), step(add, 3)]
    stored = recorded(
        (step(add, 1), VALUE, 2), (both, VALUE, 7), (sleep(5), TIMER, 5.0),
        (step(aadd, 1), ERROR, [["builtins.KeyError", "builtins.LookupError"], "no", 3]),
    )  # fmt: skip
    again = journal(stored)
    assert again.next(step(add, 1), 0.0).result() == (2, None)
    assert again.next(both, 0.0).result() == ([7, 7], None)
    assert again.next(sleep(99), 0.0).result() == (None, None)
    assert again.check_end() is not None
    _, error = again.next(step(aadd, 1), 0.0).result()
    assert isinstance(error, StepFailed)
    assert (error.exc_type, error.message, error.attempts) == ("builtins.KeyError", "no", 3)
    assert again.check_end() is None
    assert not again.next(step(add, 1), 0.0).is_done


def test_timers_and_tries():
    stored = recorded((sleep(5), TIMER, 5.0))
    assert journal(stored).next(sleep(5), 4.9).parts[0].due == 5.0
    assert journal(stored).next(sleep(5), 5.0).is_done
    assert journal(stored, timer="1").next(sleep(5), 0.0).is_done, "it was put away for this one"
    assert not journal(stored, timer="2").next(sleep(5), 0.0).is_done
    stored = recorded((step(add, 1), TRYING, [2, 5.0]))
    for timer, now, due in (("", 4.0, 5.0), ("", 5.0, 0.0), ("1", 4.0, 0.0)):
        [part] = journal(stored, timer).next(step(add, 1), now).parts
        assert (part.is_done, part.tries, part.due) == (False, 2, due)


@pytest.mark.parametrize(
    ("then", "now", "words"),
    [
        (step(add, 1), step(add, 2), "Step 1 of shop.order is .*it was recorded with other"),
        (step(add, 1), step(aadd, 1), "is .*aadd .* now: .*add was recorded"),
        (step(add, 1), sleep(1), "is sleep now: .*add was recorded"),
        (sleep(1), sleep_until(datetime.now(timezone.utc)), "sleep_until now: sleep was recorded"),
        (step(add, 1), [step(add, 1)], "instead of that .*add was recorded"),
        ([step(add, 1)], step(add, 1), "instead of that .*add was recorded"),
        ([step(add, 1), step(add, 2)], [step(add, 1)], "beside or instead of that .*add was"),
    ],
)
def test_mismatches(then, now, words):
    stored = recorded((then, TIMER if now is then else VALUE, 1))
    with pytest.raises(StepMismatch, match=words):
        journal(stored).next(now, 0.0)


def test_others_put_the_job_into_its_queue_again():
    """RQ's requeue: what failed last is forgotten then, as our own scripts do at a retry."""
    fields = [b"data", b"", b"enqueued_at", b"2", b"tq_timer", b"3.1"]
    claim = Claim(1, "default", "job", "exec", fields, 0.0)
    stale = Journal(claim, Codec()).is_stale
    assert stale({b"x": b"4.0,4.1", b"xe": b"1"})
    assert not stale({b"x": b"4", b"xe": b"2"}), "a crash is no new beginning"
    assert not stale({b"x": b"3.0", b"xe": b"1"}), "it was put away for a step beside it"
    assert not stale({b"xe": b"1"})


def test_many_steps_are_recalled_fast():
    """Neither replay nor many steps at once take a time that grows with the square."""
    stored = recorded(*((step(add, 1), VALUE, 2) for _ in range(3000)))
    again = journal(stored)
    began = time.process_time()
    for _ in range(3000):
        assert again.next(step(add, 1), 0.0).is_done
    one_by_one = time.process_time() - began
    many = journal().next([step(add, 1)] * 3000, 0.0)
    began = time.process_time()
    for part in many.parts:
        assert many.first_open is part
        part.finish(1)
    assert many.is_done
    assert time.process_time() - began < 1
    assert one_by_one < 10, "0.1 s on a machine that has nothing else to do"


def test_gaps_and_losses():
    stored = recorded((step(add, 1), VALUE, 1), (step(add, 2), VALUE, 2))
    del stored["1"]
    with pytest.raises(StepMismatch, match="it is not recorded, and step 2 is"):
        journal(stored).next(step(add, 1), 0.0)
    claim = Claim(1, "default", "job", "exec", [b"data", b"", b"tq_steps", b"2"], 0.0)
    with pytest.raises(StepMismatch, match="2 steps of .* were recorded, and Redis has only 0"):
        Journal(claim, Codec()).fill({})


@pytest.mark.parametrize("item", [add, [sleep(1)], [step(add, 1), 5]])
def test_only_steps(item):
    with pytest.raises(TypeError, match="only what step\\(\\) gives"):
        journal().next(item, 0.0)


def test_values_that_cannot_be_recorded():
    made = journal()
    [part] = made.next(step(add, 1), 0.0).parts
    with pytest.raises(NotSerializable, match=r"add\(\): the step's result at \.a is an object"):
        made.pack(part, VALUE, {"a": object()})
    with pytest.raises(PayloadTooLarge, match=r"add\(\): the step's result is 2,000,\d\d\d bytes"):
        made.pack(part, VALUE, "x" * 2_000_000)
