"""Signals that ask a run to stop: it finishes its step, saves, and exits with a code of its own.

SIGTERM and SIGUSR1 are what schedulers send before they take a machine back, SIGINT is Ctrl-C.
"""

from __future__ import annotations

import atexit
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType

import torch
import torch.distributed as dist

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
# Seconds from which on a second signal is an order to stop at once. Ctrl-C comes from a person;
# launchers send the others several times, while a large state is still being written.
REPEAT = {signal.SIGINT: 2.0, signal.SIGTERM: 300.0, signal.SIGUSR1: 300.0}


class StopRequest:
    """Remembers that a signal came; processes agree on it, so that all stop after the same step.

    timeout: seconds that a process waits for the others.
    """

    def __init__(self, timeout: float = 1800.0) -> None:
        self.received: int | None = None
        self._timeout = timedelta(seconds=timeout)
        self._when = 0.0
        self._group: dist.ProcessGroup | None = None

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Catch the signals inside the block. One that comes `REPEAT` seconds after the first, or
        later, acts at once; before, it is the same wish, which reached the process by two ways."""
        before = {number: signal.getsignal(number) for number in SIGNALS}

        def note(number: int, frame: FrameType | None) -> None:
            if self.received is None:
                self.received, self._when = number, time.monotonic()
            elif time.monotonic() - self._when > REPEAT[signal.Signals(number)]:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)

        for number in SIGNALS:
            signal.signal(number, note)
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def agreed(self) -> int | None:
        """The signal that any process got, or None; with several processes, all must call this.

        The question goes through the CPUs (gloo), so no GPU is waited for.
        """
        return self._largest(self.received or 0) or None

    def all_well(self, well: bool) -> bool:
        """Wait for all processes; whether all of them say so."""
        return not self._largest(not well)

    def _largest(self, number: int) -> int:
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return int(number)
        if self._group is None:
            self._group = dist.new_group(backend="gloo", timeout=self._timeout)
        found = torch.tensor(int(number))
        dist.all_reduce(found, op=dist.ReduceOp.MAX, group=self._group)
        return int(found)


class LeaveSignalsToTheParent:
    """For loader workers (`worker_init_fn`): Ctrl-C and a group's SIGTERM reach them too, and the
    parent needs them to finish its step. Once the parent leaves they obey: it ends them by SIGTERM
    and waits for them.

    To be made in the parent, and handed to the workers.
    """

    def __init__(self) -> None:
        self._parent_leaves = torch.zeros((), dtype=torch.uint8).share_memory_()
        # Later than multiprocessing's own, which ends the workers, and so before it.
        atexit.register(self.obey, True)

    def obey(self, leaving: bool) -> None:
        """Whether workers heed signals from now on."""
        self._parent_leaves.fill_(leaving)

    def __call__(self, worker: int) -> None:
        for number in SIGNALS:
            signal.signal(number, self._heed)

    def _heed(self, number: int, frame: FrameType | None) -> None:
        if self._parent_leaves:
            os._exit(0)
