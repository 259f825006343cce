"""Jobs sent ahead of a job process: each is begun by it or taken back, never both."""

from __future__ import annotations

import random
import socket
from collections import deque
from collections.abc import Iterator

import pytest

from taskq.worker import process_wire as wire
from taskq.worker.claim import Claim
from taskq.worker.process_ahead import AT_ONCE, Ahead, Turns
from taskq.worker.process_deal import AHEAD_BYTES, Deal


def claim(name: str, **fields: bytes) -> Claim:
    flat = [b"data", b"[]"]
    for key, value in fields.items():
        flat += [key.encode(), value]
    return Claim(1, "default", name, "exec", flat, 0.0)


@pytest.fixture
def ahead() -> Iterator[Ahead]:
    made = Ahead()
    yield made
    made.close()


def test_what_has_begun_cannot_be_taken_back(ahead: Ahead) -> None:
    turns = Turns(ahead.fd)
    first, second, third = claim("1"), claim("2"), claim("3")
    numbers = [ahead.number(one) for one in (first, second, third)]
    assert turns.has(AT_ONCE)
    assert turns.has(numbers[0])
    assert ahead.recall() == ([second, third], False)
    assert not turns.has(numbers[1])
    assert not turns.has(numbers[2])
    assert ahead.next() is first
    assert ahead.next() is None


def test_the_byte_of_a_later_job_does_not_begin_an_earlier_one(ahead: Ahead) -> None:
    turns = Turns(ahead.fd)
    back = ahead.number(claim("back"))
    ahead.recall()
    later = ahead.number(claim("later"))
    assert not turns.has(back)  # reads the byte of the later one, and keeps it
    assert ahead.recall() == ([], False)  # so that is no longer to be had
    assert turns.has(later)


def test_the_next_one_is_ordered_again_if_it_was_taken_back_unawares(ahead: Ahead) -> None:
    turns = Turns(ahead.fd)
    number = ahead.number(claim("next"))
    assert ahead.next() is not None  # the report on the job before has come
    assert ahead.recall() == ([], True)
    assert not turns.has(number)
    assert ahead.recall() == ([], False)


class Both:
    """Both sides, one step at a time, and what is on its way between them."""

    def __init__(self, ahead: Ahead) -> None:
        self.ahead = ahead
        self.turns = Turns(ahead.fd)
        self.orders: deque[tuple[int, Claim]] = deque()
        self.reports: deque[Claim] = deque()
        self.running: Claim | None = None  # as the worker process knows it
        self.begun: list[str] = []
        self.back: list[str] = []

    def send(self, one: Claim) -> None:
        if self.running is None:
            self.running = one
            self.orders.append((AT_ONCE, one))
        else:
            self.orders.append((self.ahead.number(one), one))

    def take_back(self) -> None:
        taken, again = self.ahead.recall()
        self.back += [one.id for one in taken]
        if again:
            assert self.running is not None
            self.orders.append((AT_ONCE, self.running))

    def read_order(self) -> None:
        number, one = self.orders.popleft()
        if self.turns.has(number):
            self.begun.append(one.id)
            self.reports.append(one)  # it ends at once

    def hear(self) -> None:
        assert self.reports.popleft() is self.running
        self.running = self.ahead.next()


@pytest.mark.parametrize("seed", range(20))
def test_every_job_is_begun_once_or_taken_back(ahead: Ahead, seed: int) -> None:
    """Whatever the order of the steps of both sides."""
    chance = random.Random(seed)
    both = Both(ahead)
    for n in range(2_000):
        step = chance.random()
        if step < 0.35 and len(both.orders) < 16:
            both.send(claim(str(n)))
        elif step < 0.65 and both.orders:
            both.read_order()
        elif step < 0.9 and both.reports:
            both.hear()
        elif step >= 0.9:
            both.take_back()
    while both.orders or both.reports:
        (both.read_order if both.orders else both.hear)()
    assert both.running is None
    assert not ahead.claims
    assert len(set(both.begun)) == len(both.begun)
    assert not set(both.begun) & set(both.back)
    assert both.begun == sorted(both.begun, key=int)
    assert len(both.back) > 20


# -- which are sent --------------------------------------------------------------------------


class Busy:
    """A job process, as far as `Deal` looks."""

    def __init__(self, ahead: int = 0, *, takes_more: bool = True) -> None:
        self.takes_more = takes_more
        self.claim = claim("running")
        self.claim.begun_mono = 100.0
        self.ahead = self
        self.claims = [None] * ahead


def deal(seconds: float) -> Deal:
    made = Deal()
    for _ in range(200):
        made.ran(seconds)
    return made


def queue(*claims: Claim) -> dict[str, Claim]:
    return {one.id: one for one in claims}


def dealt(made: Deal, waiting: dict[str, Claim], *processes: Busy) -> list[list[str]]:
    found = made.ahead(waiting, processes)  # type: ignore[arg-type]
    return [[one.id for one, _order in orders] for _process, orders in found]


def test_nothing_ahead_before_short_jobs_were_seen_or_behind_long_ones() -> None:
    for made in (Deal(), deal(0.1)):
        waiting = queue(claim("a"))
        assert dealt(made, waiting, Busy()) == []
        assert list(waiting) == ["a"]


def test_one_job_of_ten_milliseconds_and_many_of_a_few_microseconds() -> None:
    waiting = queue(*(claim(str(n)) for n in range(40)))
    assert dealt(deal(0.01), waiting, Busy(), Busy(1), Busy(takes_more=False)) == [["0"]]
    dealt_out = dealt(deal(1e-5), waiting, Busy(15), Busy())
    assert [len(ids) for ids in dealt_out] == [1, 16]
    assert dealt_out[0] == ["1"]
    assert len(waiting) == 40 - 18


def test_at_most_once_and_large_ones_wait_and_hold_their_place() -> None:
    for held in (claim("b", tq_redeliver=b"0"), claim("b", more=b"x" * AHEAD_BYTES)):
        waiting = queue(claim("a"), held, claim("c"))
        assert dealt(deal(1e-5), waiting, Busy()) == [["a"]]
        assert list(waiting) == ["b", "c"]


def test_an_idle_process_gets_what_a_busy_one_begins_late() -> None:
    made = deal(1e-4)
    is_late = made.is_late
    assert not is_late(Busy(), 200.0)  # type: ignore[arg-type]
    assert not is_late(Busy(2), 100.0)  # type: ignore[arg-type]
    assert is_late(Busy(2), 100.01)  # type: ignore[arg-type]
    assert deal(0.01).is_late(Busy(1), 100.0)  # type: ignore[arg-type]


# -- the bytes ---------------------------------------------------------------------------------


def test_orders_come_whole_however_they_are_cut() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        texts = [b"", b"one", b"x" * 100_000]
        data = b"".join(wire.pack_text(text, n) for n, text in enumerate(texts))
        orders = wire.Orders(theirs)
        for at in range(0, len(data), 40_000):
            ours.sendall(data[at : at + 40_000])
        assert [orders.next() for _ in texts] == list(enumerate(texts))
        ours.sendall(wire.pack_text(b"cut short", 7)[:-1])
        ours.shutdown(socket.SHUT_WR)
        assert orders.next() is None
