"""A watchdog a process: when no step ends for too long, it says which process stands where."""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading
import time

EXIT_STALLED = 70  # EX_SOFTWARE: torchrun restarts the group, Slurm counts a failure


class Watchdog:
    """Ends the process when `beat` was not called for `limit` seconds.

    A thread, since the main one stands in a loader or a collective and cannot be asked.

    Args:
        limit: seconds; 0 never ends anything.
        rank: named in the message.
    """

    def __init__(self, limit: float, rank: int, log: logging.Logger) -> None:
        self.limit, self.rank, self.log = limit, rank, log
        self._phase, self._since = "start", time.monotonic()
        self._done = threading.Event()

    def start(self) -> None:
        if self.limit > 0:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        self._done.set()

    def beat(self, phase: str) -> None:
        """A sign of life; `phase` is what the process does from now on ('loading', 'step 12')."""
        self._phase, self._since = phase, time.monotonic()

    def _watch(self) -> None:
        while not self._done.wait(min(1.0, self.limit / 4)):
            waited = time.monotonic() - self._since
            if waited > self.limit:
                self.log.error(
                    f"process {self.rank} has made no progress for {waited:.0f} s "
                    f"(limit {self.limit:.0f} s) in: {self._phase}; its stacks follow"
                )
                faulthandler.dump_traceback(file=sys.stderr)
                sys.stderr.flush()
                os._exit(EXIT_STALLED)
