"""How an execution ended after which its job runs again: for the story of the job.

A line of JSON that the script puts to those before it in the job's hash (`lua/runs.lua`), with the
name of the worker. The last execution of a job has a result entry as RQ writes it.
"""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taskq.worker.claim import Claim

MESSAGE_CHARS = 200
_NAME_CHARS = 100
_OPEN_VALUE = re.compile(r"[=:]\s{0,9}(?:'[^']*|\"[^\"]*)\Z")


def run(claim: Claim, how: str, kind: str = "", message: str = "") -> str:
    """One execution that ends now.

    Args:
        claim: the job, begun.
        how: retried, postponed, crashed, given_back.
        kind: dotted name of the exception's class, or "".
        message: its text; the beginning of its first line is kept.
    """
    now = time.time()
    parts = [how, round(claim.begun_at or now, 6), round(now, 6)]
    kept = [kind[:_NAME_CHARS], short(message)]
    # one line, and what UTF-8 cannot carry has been replaced: as few bytes as the text itself
    return json.dumps([*parts, *kept], ensure_ascii=False).encode("utf-8", "replace").decode()


def short(message: str) -> str:
    """The beginning of the first line.

    What is cut is cut before the word, or the value in quotes, that would be left in part: half
    a secret does not look like one, and whoever shows it could not hide it.
    """
    line = message.lstrip().partition("\n")[0].rstrip()
    if len(line) <= MESSAGE_CHARS:
        return line
    kept = line[:MESSAGE_CHARS]
    if not line[MESSAGE_CHARS].isspace():
        kept = kept.rpartition(" ")[0]
    opened = _OPEN_VALUE.search(kept)
    if opened:
        kept = kept[: opened.start() + 1]
    return f"{kept} [...]".lstrip()
