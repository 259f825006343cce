"""What `taskq demo --ways` shows: bars, a table, and when to choose which."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from taskq.cli.demo_parts import private_redis, workers
from taskq.cli.output import Column, complain, print_json, say, table

if TYPE_CHECKING:
    from taskq.demo.ways import Comparison, Took

ADVICE = """
Which to choose. Waiting for others (HTTP, databases): `async def`, hundreds at once in one
process; a plain `def` runs in threads, as many at once as --threads says. Computing in Python:
mode="process", one core for each child, and a crash there costs only its job; threads, turns
and the event loop share one core. A generator (`yield`) gives its turn away where it likes,
streams what it yields and takes what callers send. More cores or servers: more workers; the
caller and the tasks stay as they are.
"""


def compare(files: Sequence[Path], svg: str | None, as_json: bool) -> None:
    """Run the comparison with a private Redis and workers of its own, and show it."""
    from taskq.demo import chart, ways  # noqa: PLC0415 (redis)

    with private_redis() as (url, what):
        os.environ["TASKQ_REDIS_URL"] = url
        if not as_json:
            say(f"Redis    {what}")
            say(f"Cores    {os.cpu_count()}; workers have one process with 8 threads")
        compared = ways.run(files, _workers, lambda _: None if as_json else say(f"  {_} ..."))
    seconds = {
        load: {name: took[load].seconds for name, took in compared.took.items()}
        for load in ways.LOADS
    }
    titles = {
        "pages": f"{compared.counts['pages']} pages over HTTP, each {ways.LATENCY_S * 1000:g} ms "
        "away, parsed",
        "files": f"{compared.counts['files']} source files tokenised",
        "mixed": f"both mixed, {compared.counts['mixed']} jobs",
    }
    if svg is not None:
        groups = {titles[load]: values for load, values in seconds.items()}
        Path(svg).write_text(chart.svg("The same work, every way", groups), encoding="utf-8")
    if as_json:
        print_json(_as_json(compared))
    else:
        for load, values in seconds.items():
            say()
            say(titles[load])
            for line in chart.bars(values):
                say(f"  {line}")
        say()
        for line in _table(compared):
            say(line)
        say(ADVICE)
        if svg is not None:
            say(f"The chart is in {svg}.")
    if compared.wrong:
        complain(f"{compared.wrong} results are not as plain Python's.", label="wrong")
        sys.exit(1)
    if not as_json:
        say("Every result is as plain Python's.")


@contextmanager
def _workers(count: int) -> Iterator[list[int]]:
    """So many workers of one process each; gives their process ids."""
    with ExitStack() as stack:
        found = [
            stack.enter_context(workers("taskq.demo.ways_tasks:queue", "ways", 1))
            for _ in range(count)
        ]
        yield [watch() for watch in found]


def _table(compared: Comparison) -> list[str]:
    columns = [Column("way"), Column("work")]
    columns += [Column(name, right=True) for name in ("seconds", "CPU s", "memory MB")]
    rows = [
        (name, load, f"{took.seconds:.2f}", _shown(took.cpu_s, 2), _shown(took.memory_mb, 0))
        for name, loads in compared.took.items()
        for load, took in loads.items()
    ]
    return table(columns, rows)


def _shown(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _as_json(compared: Comparison) -> dict[str, object]:
    def one(took: Took) -> dict[str, object]:
        return {
            "seconds": round(took.seconds, 3),
            "cpu_s": None if took.cpu_s is None else round(took.cpu_s, 3),
            "memory_mb": None if took.memory_mb is None else round(took.memory_mb, 1),
            "wrong": took.wrong,
        }

    return {
        "jobs": compared.counts,
        "ways": {
            name: {load: one(took) for load, took in loads.items()}
            for name, loads in compared.took.items()
        },
        "wrong": compared.wrong,
    }
