"""How fast jobs run and how late they begin, and what follows for how many to hold."""

from __future__ import annotations

from taskq.worker.settings import LOOKAHEAD_S, PAGE


class Pace:
    """How many jobs to hold: by a moving average of run time, and by how late jobs begin.

    The average goes up at once and down slowly, so that a slow task never holds a
    fast one hostage while another worker is idle.
    """

    def __init__(self) -> None:
        """Nothing is known: begin small."""
        self.average_s = 1.0
        self.batch = 16
        self._lag_s = 0.0

    def ran(self, seconds: float) -> None:
        """A job ended after `seconds`."""
        if seconds > self.average_s:
            self.average_s = seconds
        else:
            self.average_s += (seconds - self.average_s) * 0.05

    def began(self, lag_s: float) -> None:
        """A job began `lag_s` after it was reserved."""
        if lag_s > self._lag_s:  # noqa: PLR1730 (max() is a call: this runs for each job)
            self._lag_s = lag_s

    def next_batch(self) -> int:
        """Jobs to ask for at once: doubled while jobs begin in time, cut when they do not."""
        lag, self._lag_s = self._lag_s, 0.0
        if lag > LOOKAHEAD_S:
            self.batch = max(1, int(self.batch * LOOKAHEAD_S / lag))
        elif self.batch < PAGE:
            self.batch = min(PAGE, self.batch * 2)
        return self.batch

    def lookahead(self, slots: int, longest_running_s: float) -> int:
        """Jobs that may wait here without having begun: what `slots` work off in 50 ms."""
        each = max(self.average_s, longest_running_s, 1e-5)
        return min(2 * PAGE, int(slots * LOOKAHEAD_S / each))
