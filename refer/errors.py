"""Typed errors of `refer`: each names the culprit, the value seen, the values allowed, the cure."""

from __future__ import annotations


class ReferError(Exception):
    """Base of every error raised by `refer`."""


class DataFileError(ReferError, ValueError):
    """A data file is damaged, hostile, or holds something else than its format says."""


class MissingDataError(ReferError, FileNotFoundError):
    """A file or folder of the data is not there; the message says where to put what."""


class UnknownNameError(ReferError, ValueError):
    """A data set, splitBy, split or option that does not exist; the message lists those that do."""


class UnknownIdError(UnknownNameError, KeyError):
    """An id that the data files do not hold.

    Also a KeyError, because that is what the classic API raises for an id it does not know.
    """

    def __str__(self) -> str:
        # KeyError would print the repr of the message, quotes and all.
        return Exception.__str__(self)


class PictureError(ReferError, ValueError):
    """A picture is there but cannot be read as one."""
