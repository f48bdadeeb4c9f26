"""Errors of the systems: wrong options, checkpoints that do not fit, unusable runs."""

from __future__ import annotations

import signal

# EX_TEMPFAIL of sysexits.h: nothing is wrong, run the same command again.
EXIT_RESUMABLE = 75


class RISError(Exception):
    """Base of every error raised by `ris`."""


class OptionError(RISError, ValueError):
    """An option or config entry has a value that cannot be used; the message lists what can."""


class CheckpointError(RISError, ValueError):
    """A checkpoint is missing, damaged, of another layout, or contradicts the options given."""


class TrainingError(RISError, RuntimeError):
    """A run cannot go on: too many steps skipped, or too many broken pictures."""


class Stopped(Exception):
    """A signal ended the run after its state was saved; running it again goes on from there."""

    def __init__(self, number: int, step: int) -> None:
        super().__init__(
            f"stopped by {signal.Signals(number).name} after step {step}, state saved; the same "
            "command with --resume auto goes on from there"
        )
        self.step = step
