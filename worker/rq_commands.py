"""RQ's commands to a worker, over its pub/sub channel: stop a job, kill the horse, shut down.

Anybody who can reach Redis can publish there. A message that is no command is logged, and
the next one is heard.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskq.worker.runners import Runners

log = logging.getLogger("taskq.worker")

_SHOWN = 200
"""So many characters of a message that is none are logged."""


class Commands:
    """Carries them out. Used on the event loop."""

    def __init__(self, runners: Runners, shut_down: Callable[[], None]) -> None:
        """Act on the jobs of `runners`; `shut_down` stops the worker warmly."""
        self._runners = runners
        self._shut_down = shut_down

    def heard(self, text: str) -> None:
        """Carry out one message."""
        try:
            payload = json.loads(text)
            command = payload["command"]
        except (ValueError, KeyError, TypeError, RecursionError):
            log.warning("A message on this worker's command channel is no command, ignored: %.*r",
                        _SHOWN, text)  # fmt: skip
            return
        if command == "stop-job":
            self._stop(payload, by="job_id")
        elif command == "stop-execution":
            self._stop(payload, by="execution_id")
        elif command == "kill-horse":
            self.kill()
        elif command == "shutdown":
            log.info("Received the shutdown command")
            self._shut_down()
        else:
            log.warning("Unknown command %.*r, ignored", _SHOWN, command)

    def _stop(self, payload: dict[str, Any], *, by: str) -> None:
        wanted = payload.get(by)
        for claim in self._runners.in_hand():
            if wanted == claim.id if by == "job_id" else self._is_execution(claim, payload):
                log.warning("Job %s is stopped: somebody asked for it", claim.id)
                self._runners.end_now(claim, "stop")
                return
        log.warning("Not working on job %s, command ignored", payload.get("job_id"))

    @staticmethod
    def _is_execution(claim: Any, payload: dict[str, Any]) -> bool:
        # all jobs of one reserve call share its execution id: the job's id tells them apart
        same = payload.get("execution_id") == claim.exec_id
        return same and payload.get("job_id") in (None, claim.id)

    def kill(self) -> None:
        """End all running jobs at once: they have failed."""
        running = self._runners.running()
        if not running:
            log.info("This worker runs no job, kill-horse command ignored")
        for claim in running:
            log.warning("Job %s is killed: somebody asked for it", claim.id)
            self._runners.end_now(claim, "kill")
