"""What `taskq worker` prints before it starts: plain data in, lines out."""

from __future__ import annotations

from collections.abc import Sequence

from taskq.cli.output import paint
from taskq.terminal import safe_line

_SHOWN_TASKS = 30


def banner(
    *,
    app: str,
    url: str,
    queues: Sequence[tuple[str, float]],
    tasks: Sequence[tuple[str, str]],
    slots: str,
) -> list[str]:
    """Lines that say what this worker will do.

    Args:
        app: name of the app, or "" where any RQ job is run.
        url: where Redis is, without its password.
        queues: (name, weight); weight 0 means strict order.
        tasks: (name, mode).
        slots: how many jobs run at once, in words.
    """
    rows = [("app", app or "none: any RQ job"), ("redis", url)]
    rows.append(("queues", _queues(queues)))
    rows.append(("slots", slots))
    lines = [f"{paint(name.rjust(8), None, bold=True)}  {safe_line(text)}" for name, text in rows]
    if app:
        lines += _tasks(tasks)
    return lines


def _queues(queues: Sequence[tuple[str, float]]) -> str:
    if all(weight == 0 for _, weight in queues):
        names = [name for name, _ in queues]
        return " before ".join(names)
    return ", ".join(f"{name} (weight {weight:g})" for name, weight in queues)


def _tasks(tasks: Sequence[tuple[str, str]]) -> list[str]:
    if not tasks:
        return [f"{'tasks'.rjust(8)}  none. Missing @queue.task, or a module in include=[...]?"]
    shown = sorted(tasks)[:_SHOWN_TASKS]
    width = max(len(safe_line(name)) for name, _ in shown)
    lines = []
    for at, (name, mode) in enumerate(shown):
        head = paint(("tasks" if at == 0 else "").rjust(8), None, bold=True)
        lines.append(f"{head}  {safe_line(name).ljust(width)}  {mode}")
    if len(tasks) > len(shown):
        lines.append(f"{' ' * 8}  and {len(tasks) - len(shown)} more")
    return lines
