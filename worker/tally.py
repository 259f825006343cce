"""What a worker has counted and Redis does not know yet; it goes out with the next settle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taskq.clock import parse_iso
from taskq.histogram import bucket

if TYPE_CHECKING:
    from taskq.clock import Clock
    from taskq.worker.claim import Claim

_MINUTE_CHARS = len("2026-11-22T18:00:")


class Tally:
    """Ends of jobs, for the worker's own counters and for the statistics of its queues.

    One entry of a dictionary for each job: what shares queue, kind of end, run time and wait
    is counted together, and taken apart only when a batch is sent.
    """

    def __init__(self, waits: Waits) -> None:
        """Nothing has ended.

        Args:
            waits: tells how long a job waited.
        """
        self.waits = waits
        self._ok = self._not_ok = 0
        self._seconds = 0.0
        self._ends: dict[tuple[int, str, int, int], int] = {}
        self._run_s: dict[int, float] = {}
        self._counts: dict[tuple[int, str], int] = {}

    def __bool__(self) -> bool:
        """Whether something was counted."""
        return bool(self._ends or self._counts)

    def end(self, claim: Claim, what: str, seconds: float) -> None:
        """A job was "finished", "retried" or "failed"; `seconds` 0.0 where it did not run."""
        if what == "finished":
            self._ok += 1
        else:
            self._not_ok += 1
        self._seconds += seconds
        position = claim.position
        run = wait = -1
        if claim.begun_mono:
            run = bucket(seconds)
            if not claim.counted:
                wait = self.waits.bucket_of(claim)
            runs = self._run_s
            runs[position] = runs.get(position, 0.0) + seconds
        key = (position, what, run, wait)
        ends = self._ends
        ends[key] = ends.get(key, 0) + 1

    def began(self, claim: Claim) -> None:
        """A job's code has begun, and it is not known yet when it will end, or it was cut off."""
        if claim.counted or not claim.begun_mono:
            return
        claim.counted = True
        self._count(claim.position, "started", 1)
        self._count(claim.position, f"w{self.waits.bucket_of(claim)}", 1)

    def failed(self, claim: Claim, error_type: str) -> None:
        """It failed for good: who, with what."""
        self._count(claim.position, failure_field(claim, error_type), 1)

    def crash(self, position: int) -> None:
        """The process died that ran a job of the queue at `position`."""
        self._count(position, "crashed", 1)

    def add(self, other: Tally) -> None:
        """Take back what could not be sent."""
        self._ok += other._ok
        self._not_ok += other._not_ok
        self._seconds += other._seconds
        for end, n in other._ends.items():
            self._ends[end] = self._ends.get(end, 0) + n
        for position, seconds in other._run_s.items():
            self._run_s[position] = self._run_s.get(position, 0.0) + seconds
        for (position, field), n in other._counts.items():
            self._count(position, field, n)

    def totals(self) -> tuple[int, int, str]:
        """Finished, not finished, and seconds of work: as `rq info` shows them."""
        return self._ok, self._not_ok, f"{self._seconds:.6f}" if self._seconds else "0"

    def fields(self) -> list[Any]:
        """The number of statistics, then position, field and increment of each."""
        counts = dict(self._counts)
        for (position, what, run, wait), n in self._ends.items():
            names = [what]
            if run >= 0:
                names.append(f"r{run}")
            if wait >= 0:
                names += ("started", f"w{wait}")
            for name in names:
                counts[position, name] = counts.get((position, name), 0) + n
        for position, seconds in self._run_s.items():
            if us := round(seconds * 1e6):
                counts[position, "run_us"] = us
        out: list[Any] = [len(counts)]
        for (position, field), n in counts.items():
            out += (position, field, n)
        return out

    def _count(self, position: int, field: str, n: int) -> None:
        key = (position, field)
        self._counts[key] = self._counts.get(key, 0) + n


def failure_field(claim: Claim, error_type: str) -> str:
    """The statistic of one failure: who, with what (see `tally` in stats.lua)."""
    what = "\n".join(text.replace("\n", " ")[:200] for text in (claim.name, error_type))
    return f"!{what}\n{claim.id}"


class Waits:
    """How long jobs waited: from their `enqueued_at` to the begin of their code.

    Called for each job: jobs that were enqueued in the same minute share what is costly to
    read in their date (0.3 instead of 1.5 us).
    """

    def __init__(self, clock: Clock) -> None:
        """Nothing is known.

        Args:
            clock: knows how far Redis's clock is ahead of ours: dates are by that one.
        """
        self._clock = clock
        self._raw = self._minute = b""
        self._minute_at = self._at = 0.0

    def bucket_of(self, claim: Claim) -> int:
        """Bucket of the histogram; the lowest where the date is none, or clocks differ."""
        raw = claim.fields.get(b"enqueued_at", b"")
        if raw != self._raw:
            self._raw, self._at = raw, self._read(raw)
        return bucket(claim.begun_at + self._clock.offset_s - self._at) if self._at else 0

    def _read(self, raw: bytes) -> float:
        minute = raw[:_MINUTE_CHARS]
        try:
            if minute != self._minute:
                self._minute_at = parse_iso(f"{minute.decode('ascii')}00Z")
                self._minute = minute
            return self._minute_at + float(raw[_MINUTE_CHARS:-1])
        except ValueError:
            try:
                return parse_iso(raw.decode("utf-8", "replace"))
            except (ValueError, OverflowError):
                return 0.0
