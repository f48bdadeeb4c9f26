"""Errors of the systems: wrong options, checkpoints that do not fit, unusable runs."""

from __future__ import annotations


class RISError(Exception):
    """Base of every error raised by `ris`."""


class OptionError(RISError, ValueError):
    """An option or config entry has a value that cannot be used; the message lists what can."""


class CheckpointError(RISError, ValueError):
    """A checkpoint is missing, damaged, of another layout, or contradicts the options given."""
