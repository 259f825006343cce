"""What a request asks for: its query, and the filter of lists in it."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import parse_qsl, quote

from taskq.inspector import Criteria
from taskq.states import STATUSES, Status

PERIODS = {"15m": "15 minutes", "1h": "1 hour", "24h": "24 hours", "7d": "7 days"}

_LONGEST = 1_000
_CURSOR = 20_000
_DURATION = re.compile(r"(\d{1,6})([smhd])")
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_ROUNDED_S = 10
"""Relative times are rounded, so that all who look at the same list share an answer."""


class BadRequest(ValueError):
    """A query that means nothing; its text says what is wrong and what would be right."""


class Asked:
    """The query of a request; bytes that are no UTF-8 survive in it as surrogates."""

    def __init__(self, query: bytes) -> None:
        """Take the query apart.

        Raises:
            BadRequest: too many or too long parts.
        """
        text = query.decode("ascii", "replace")
        try:
            pairs = parse_qsl(text, errors="surrogateescape", max_num_fields=100)
        except ValueError as error:
            raise BadRequest("The address has more than 100 parameters.") from error
        self._values: dict[str, list[str]] = {}
        for name, value in pairs:
            if len(value) > (_CURSOR if name == "after" else _LONGEST):
                raise BadRequest(
                    f"The parameter {name[:40]!r} is longer than {_LONGEST:,} characters."
                )
            self._values.setdefault(name, []).append(value)

    def get(self, name: str, default: str = "") -> str:
        """The first value of a parameter, without blanks around it."""
        return self._values.get(name, [default])[0].strip()

    def all(self, name: str) -> list[str]:
        """All values of a parameter; one may hold several, separated by commas."""
        return [part for value in self._values.get(name, []) for part in value.split(",") if part]

    def number(self, name: str, default: int, least: int, most: int) -> int:
        """A whole number.

        Raises:
            BadRequest: it is none, or out of range.
        """
        text = self.get(name)
        if not text:
            return default
        if not text.isascii() or not text.isdigit() or not least <= int(text[:12]) <= most:
            raise BadRequest(f"{name}={text[:40]} is no number from {least} to {most:,}.")
        return int(text)


def address(**parts: str | Sequence[str]) -> str:
    """A query, `?a=1&b=2`, or "" where there is nothing to say."""
    pairs = [
        f"{name}={quote(one.encode('utf-8', 'surrogateescape'), safe='')}"
        for name, value in parts.items()
        for one in ([value] if isinstance(value, str) else value)
        if one
    ]
    return "?" + "&".join(pairs) if pairs else ""


@dataclass(frozen=True)
class Filter:
    """Which jobs a list shows: what the form on the page says.

    Attributes:
        since: a duration back from now (`1h`), or a date with its zone.
        until: the same.
    """

    statuses: tuple[str, ...] = ()
    queue: str = ""
    task: str = ""
    text: str = ""
    since: str = ""
    until: str = ""

    @classmethod
    def of(cls, asked: Asked) -> Filter:
        """The filter in a query.

        Raises:
            BadRequest: a status that there is not, or a time that is none.
        """
        statuses = tuple(dict.fromkeys(asked.all("status")))
        for status in statuses:
            if status not in STATUSES:
                allowed = ", ".join(STATUSES)
                raise BadRequest(f"There is no status {status[:40]!r}. There are: {allowed}.")
        found = cls(
            statuses,
            asked.get("queue"),
            asked.get("task"),
            asked.get("q"),
            asked.get("since"),
            asked.get("until"),
        )
        found.criteria()
        return found

    def criteria(self) -> Criteria:
        """The same for the inspector.

        Raises:
            BadRequest: a time that is none.
        """
        return Criteria(
            statuses=tuple(Status(status) for status in self.statuses or STATUSES),
            queues=(self.queue,) if self.queue else (),
            task=self.task,
            since=moment(self.since),
            until=moment(self.until),
            text=self.text,
        )

    @property
    def is_empty(self) -> bool:
        """Whether it lets everything through."""
        return self == Filter()

    def query(self, **changed: str | Sequence[str]) -> str:
        """The filter as a query, with some of it changed."""
        parts: dict[str, str | Sequence[str]] = {
            "status": self.statuses,
            "queue": self.queue,
            "task": self.task,
            "q": self.text,
            "since": self.since,
            "until": self.until,
        }
        return address(**{**parts, **changed})


def moment(text: str) -> float | None:
    """Seconds since 1970 of a duration back from now or of a date; None for "".

    Raises:
        BadRequest: it is neither, or a date without its zone.
    """
    if not text:
        return None
    duration = _DURATION.fullmatch(text)
    if duration:
        back = int(duration[1]) * _UNITS_S[duration[2]]
        return (time.time() - back) // _ROUNDED_S * _ROUNDED_S
    try:
        at = datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", text))
        if at.tzinfo is not None:
            return at.timestamp()
    except (ValueError, OverflowError):
        pass
    raise BadRequest(
        f"{text[:40]!r} is no time: write 15m, 2h, 7d, or a date with its zone, "
        "2026-11-22T18:00:00Z."
    )
