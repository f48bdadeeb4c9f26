"""Errors of the backbone: each names the culprit, what was expected and the cure."""

from __future__ import annotations


class VPDError(Exception):
    """Base of every error raised by `vpd`."""


class WeightsError(VPDError, ValueError):
    """A weights file or folder is missing, damaged, of another layout or of another shape."""


class ConfigError(VPDError, ValueError):
    """An option has a value that no part of the backbone accepts."""


class TextError(VPDError, ValueError):
    """An expression that cannot be encoded (empty, or not a string)."""


class ExtraError(VPDError, ImportError):
    """An optional package is not installed."""


def missing_extra(package: str, extra: str, purpose: str) -> ExtraError:
    """An error that tells which extra brings `package`."""
    return ExtraError(
        f"{purpose} needs the package '{package}', which is not installed; "
        f"install it in the repository: pip install -e '.[{extra}]'"
    )
