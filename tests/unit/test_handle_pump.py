"""The conversation of the waiting connection, step by step, with a scripted Redis."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from taskq.broker.outcomes import Kind, Outcome
from taskq.broker.pump import LOOK_AT_MOST, Ask, Block, Pause, Pump, Step
from taskq.broker.watch import Target
from taskq.keys import Keys

FINISHED = [b"5-0", [b"type", b"1"]]


class Script:
    """Runs a pump against replies given by the test; time stands still unless told."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slow: list[tuple[Any, int]] = []
        self.pump = Pump(
            Keys("rq"), lambda tag, others: self.slow.append((tag, others)), lambda: self.now
        )
        self.ended: list[tuple[Any, Outcome]] = []
        self._steps: Generator[Step, Any, None] | None = None

    def add(self, *job_ids: str, fresh: bool = True, **more: Any) -> int | None:
        requests = [(Target(job_id, is_fresh=fresh), job_id) for job_id in job_ids]
        return self.pump.add(requests, self.sink, **more)

    def sink(self, tag: Any, outcome: Outcome) -> None:
        self.ended.append((tag, outcome))

    def start(self) -> Step:
        self._steps = self.pump.steps()
        return next(self._steps)

    def reply(self, answer: Any) -> Step | None:
        assert self._steps is not None
        try:
            return self._steps.send(answer)
        except StopIteration:
            return None

    def block(self, step: Step | None) -> list[str]:
        """The streams of an XREAD."""
        assert isinstance(step, Block), step
        at = step.command.index("STREAMS")
        keys = step.command[at + 1 : at + 1 + (len(step.command) - at - 1) // 2]
        return [key.decode().rpartition(":")[2] for key in keys]

    def asked(self, step: Step | None) -> list[tuple[Any, ...]]:
        assert isinstance(step, Ask), step
        return step.commands


@pytest.fixture
def redis() -> Script:
    script = Script()
    script.pump._next_look = script.now + 1  # not at once: each test says when
    return script


def test_nobody_waits(redis: Script) -> None:
    with pytest.raises(StopIteration):
        redis.start()


def test_a_fresh_job_needs_no_look(redis: Script) -> None:
    redis.add("a")
    step = redis.start()
    assert redis.block(step) == ["a"]
    assert redis.reply([[b"rq:results:a", [FINISHED]]]) is None
    assert [(tag, outcome.kind) for tag, outcome in redis.ended] == [("a", Kind.FINISHED)]


def test_resp3_replies(redis: Script) -> None:
    redis.add("a", "b")
    redis.start()
    assert redis.block(redis.reply({b"rq:results:a": [FINISHED]})) == ["b"]


def test_a_job_from_an_id_is_looked_up_first(redis: Script) -> None:
    redis.add("a", "b", fresh=False)
    commands = redis.asked(redis.start())
    assert [command[0] for command in commands] == ["XREVRANGE", "HMGET"] * 2
    step = redis.reply([[FINISHED], [b"finished"], [], [b"queued"]])
    assert redis.ended[0][0] == "a"
    assert redis.block(step) == ["b"]


def test_an_entry_of_an_earlier_run(redis: Script) -> None:
    redis.add("a", fresh=False)
    redis.start()
    step = redis.reply([[[b"3-0", [b"type", b"2"]]], [b"queued"]])
    assert isinstance(step, Block)
    assert step.command[-1] == b"3-0"
    assert not redis.ended


def test_a_retry_moves_the_cursor(redis: Script) -> None:
    redis.add("a")
    redis.start()
    step = redis.reply([[b"rq:results:a", [[b"7-1", [b"type", b"4"]]]]])
    assert isinstance(step, Block)
    assert step.command[-1] == b"7-1"
    assert redis.reply([[b"rq:results:a", [[b"8-0", [b"type", b"1"]]]]]) is None
    assert redis.ended[0][1].kind is Kind.FINISHED


def test_the_status_was_read_before_the_stream_was_written(redis: Script) -> None:
    """No entry at the first look, there at the second."""
    redis.add("a", fresh=False)
    redis.start()
    second = redis.asked(redis.reply([[], [b"finished"]]))
    assert [command[0] for command in second] == ["TIME", "XREVRANGE", "HMGET"]
    assert redis.reply([[b"100", b"0"], [FINISHED], [None]]) is None
    assert redis.ended[0][1].kind is Kind.FINISHED


@pytest.mark.parametrize(
    ("marked", "known", "kind"),
    [(True, False, Kind.UNKEPT), (False, True, Kind.EXPIRED), (False, False, Kind.UNKNOWN)],
)
def test_the_hash_is_missing(redis: Script, marked: bool, known: bool, kind: Kind) -> None:
    redis.pump.add([(Target("a", is_known=known), "a")], redis.sink)
    redis.start()
    redis.reply([[], [None]])
    markers = redis.asked(redis.reply([[b"1000", b"0"], [], [None]]))
    keys = [f"taskq:{kind}:{b}" for kind in ("done", "failures") for b in range(93, 102)]
    assert [command[1] for command in markers] == keys
    answers: list[Any] = [[0]] * 9 + [[None]] * 9
    if marked:
        answers[3] = [1]
    assert redis.reply(answers) is None
    assert redis.ended[0][1].kind is kind


@pytest.mark.parametrize(
    ("done", "failures", "kind"),
    [
        ({4}, {4: b"no"}, Kind.FAILED),
        ({4, 5}, {4: b"no"}, Kind.UNKEPT),  # the id was used again, and that job finished
        ({4, 5}, {5: b"no"}, Kind.FAILED),
        (set(), {4: b"no"}, Kind.UNKNOWN),
    ],
)
def test_the_hash_of_a_failed_job_is_missing(
    redis: Script, done: set[int], failures: dict[int, bytes], kind: Kind
) -> None:
    redis.add("a", fresh=False)
    redis.start()
    redis.reply([[], [None]])
    redis.reply([[b"1000", b"0"], [], [None]])
    hits = [[int(n in done)] for n in range(9)]
    assert redis.reply([*hits, *([failures.get(n)] for n in range(9))]) is None
    assert redis.ended[0][1].kind is kind


def test_markers_of_another_type(redis: Script) -> None:
    redis.add("a", fresh=False)
    redis.start()
    redis.reply([[], [None]])
    redis.reply([[b"1000", b"0"], [], [None]])
    wrong = Exception("WRONGTYPE")
    assert redis.reply([wrong, *[[1]] * 8, *[wrong] * 9]) is None
    assert redis.ended[0][1].kind is Kind.UNKEPT


def test_a_look_each_second(redis: Script) -> None:
    redis.add("a", "b")
    redis.start()
    redis.now += 1.0
    look = redis.asked(redis.reply(None))
    assert [command[0] for command in look] == ["HMGET", "HMGET"]
    step = redis.reply([[b"canceled"], [b"started"]])
    assert redis.ended == [("a", Outcome(Kind.CANCELED, status="canceled"))]
    assert redis.block(step) == ["b"]
    redis.now += 0.5
    assert redis.block(redis.reply(None)) == ["b"]


def test_thousands_take_turns(redis: Script) -> None:
    count = LOOK_AT_MOST * 2 + 10
    redis.add(*[f"j{n}" for n in range(count)])
    redis.start()
    seen: set[Any] = set()
    for _ in range(3):
        redis.now += 1.0
        look = redis.asked(redis.reply(None))
        assert len(look) <= LOOK_AT_MOST
        seen |= {command[1] for command in look}
        assert isinstance(redis.reply([[b"queued"]] * len(look)), Block)
    assert len(seen) == count


def test_results_gather_while_a_large_read_would_be_repeated(redis: Script) -> None:
    redis.add(*[f"j{n}" for n in range(5_000)])
    redis.start()
    step = redis.reply([[b"rq:results:j0", [FINISHED]]])
    assert isinstance(step, Pause)
    assert 0.01 < step.seconds < 0.1
    redis.now += step.seconds
    assert len(redis.block(redis.reply(None))) == 4_999
    redis.now += 0.5  # quiet since then: no pause
    assert len(redis.block(redis.reply([[b"rq:results:j1", [FINISHED]]]))) == 4_998


def test_a_few_are_read_again_at_once(redis: Script) -> None:
    redis.add("a", "b", "c")
    redis.start()
    assert redis.block(redis.reply([[b"rq:results:a", [FINISHED]]])) == ["b", "c"]


def test_newcomers_interrupt_once(redis: Script) -> None:
    assert redis.add("a") is None
    redis.start()
    number = redis.add("b")
    assert number is not None
    assert redis.pump.is_blocked_in(number)
    assert redis.add("c") is None  # one interrupt is under way
    step = redis.reply(None)
    assert not redis.pump.is_blocked_in(number)
    assert redis.block(step) == ["a", "b", "c"]


def test_short_reads_where_interrupts_are_forbidden(redis: Script) -> None:
    redis.pump.can_interrupt = False
    redis.add("a")
    step = redis.start()
    assert isinstance(step, Block)
    assert step.seconds == 0.05
    assert redis.add("b") is None


def test_leaving(redis: Script) -> None:
    redis.add("a", "b")
    redis.start()
    redis.pump.remove(["a", "unknown"], redis.sink)
    assert redis.block(redis.reply([[b"rq:results:a", [FINISHED]]])) == ["b"]
    assert not redis.ended
    redis.pump.remove(["b"], redis.sink)
    assert redis.reply(None) is None


def test_two_callers_of_one_job(redis: Script) -> None:
    redis.add("a")
    others: list[Any] = []

    def other(tag: Any, outcome: Outcome) -> None:
        others.append(tag)
        raise RuntimeError("its own trouble")

    redis.pump.add([(Target("a"), "second")], other)
    redis.start()
    redis.reply([[b"rq:results:a", [FINISHED]]])
    assert [tag for tag, _ in redis.ended] == ["a"]
    assert others == ["second"]


def test_one_key_of_the_wrong_type(redis: Script) -> None:
    redis.add("a", "b")
    redis.start()
    look = redis.asked(redis.reply(RuntimeError("WRONGTYPE")))
    assert len(look) == 4
    step = redis.reply([RuntimeError("WRONGTYPE"), [b"queued"], [], [b"queued"]])
    assert redis.ended == [("a", Outcome(Kind.BROKEN, note="WRONGTYPE"))]
    assert redis.block(step) == ["b"]


def test_an_error_that_no_key_explains(redis: Script) -> None:
    redis.add("a", "b")
    redis.start()
    redis.reply(RuntimeError("NOPERM"))
    assert redis.reply([[], [b"queued"], [], [b"queued"]]) is None
    assert [outcome.kind for _, outcome in redis.ended] == [Kind.BROKEN, Kind.BROKEN]


def test_a_new_connection_looks_everything_up(redis: Script) -> None:
    redis.add("a")
    redis.start()
    redis.pump.reset()
    assert [command[0] for command in redis.asked(redis.start())] == ["XREVRANGE", "HMGET"]


def test_attempts_of_stock_failures_come_from_the_hash(redis: Script) -> None:
    redis.add("a", "b")
    redis.start()
    failed = [b"5-0", [b"type", b"2"]]
    more = redis.reply([[b"rq:results:a", [failed]], [b"rq:results:b", [failed]]])
    assert len(redis.asked(more)) == 2
    assert redis.reply([[b"stopped", None], [b"failed", b"3"]]) is None
    (_, first), (_, second) = redis.ended
    assert (first.kind, second.kind, second.attempts) == (Kind.STOPPED, Kind.FAILED, 4)


def test_the_patient_are_told_once(redis: Script) -> None:
    redis.add("a", "b", is_patient=True)
    redis.add("c")
    redis.start()
    for seconds in (4.0, 1.5, 1.0):
        redis.now += seconds
        redis.reply(None)
        redis.reply([[b"queued"]] * 3)
    assert redis.slow == [("a", 1)]
