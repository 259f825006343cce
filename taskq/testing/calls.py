"""What was enqueued in a test: the calls, as a worker would get them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, overload

from taskq.future import Handle
from taskq.options import Options

R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True)
class EnqueuedCall(Generic[R_co]):
    """One job that was enqueued.

    Attributes:
        task: name of the task.
        args: positional arguments, as they came out of the serializer.
        kwargs: arguments by name, the same.
        options: with which it was enqueued: `call.options.queue`, `call.options.delay` ...
        handle: of its job.
    """

    task: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    options: Options
    handle: Handle[R_co]

    @property
    def id(self) -> str:
        """Id of the job."""
        return self.handle.id

    @property
    def queue(self) -> str:
        """Name of the queue it went to."""
        return self.options.queue

    def __repr__(self) -> str:
        shown = [*map(repr, self.args), *(f"{k}={v!r}" for k, v in self.kwargs.items())]
        chosen = "".join(
            f" {name}={getattr(self.options, name)!r}"
            for name in sorted(self.options.given)
            if getattr(self.options, name) is not None
        )
        return f"<{self.task.rpartition('.')[2]}({', '.join(shown)}){chosen} job {self.id}>"


class Calls(Generic[R_co]):
    """Calls in the order in which they were enqueued."""

    def __init__(self, task: str, calls: Sequence[EnqueuedCall[R_co]]) -> None:
        """Keep the calls of one task, or of all (`task` is "")."""
        self._task = task
        self._calls = tuple(calls)

    @property
    def count(self) -> int:
        """How many there were; the same as `len()`."""
        return len(self._calls)

    @property
    def handles(self) -> list[Handle[R_co]]:
        """Of their jobs."""
        return [call.handle for call in self._calls]

    @property
    def last(self) -> EnqueuedCall[R_co]:
        """The latest.

        Raises:
            LookupError: there was none.
        """
        if not self._calls:
            raise LookupError(f"No job{f' of {self._task}' if self._task else ''} was enqueued.")
        return self._calls[-1]

    def __len__(self) -> int:
        return len(self._calls)

    def __iter__(self) -> Iterator[EnqueuedCall[R_co]]:
        return iter(self._calls)

    @overload
    def __getitem__(self, index: int) -> EnqueuedCall[R_co]: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[EnqueuedCall[R_co], ...]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, int) and not -len(self._calls) <= index < len(self._calls):
            raise IndexError(f"Call {index} of {self!r}: there are {len(self._calls)}.")
        return self._calls[index]

    def __repr__(self) -> str:
        if not self._calls:
            return f"<no calls{f' of {self._task}' if self._task else ''}>"
        lines = "".join(f"\n  {call!r}" for call in self._calls[:20])
        more = f"\n  ... and {len(self._calls) - 20} more" if len(self._calls) > 20 else ""
        return f"<{len(self._calls)} calls:{lines}{more}\n>"
