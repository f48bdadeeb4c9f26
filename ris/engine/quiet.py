"""mmengine's Runner without the pages it logs at every start, so that progress can be read.

Nothing is lost: versions and settings stand in metrics.json, and the config beside the logs.
"""

from __future__ import annotations

import logging
from typing import Any

from mmengine.runner import Runner

_NOISE = (
    "Hooks will be executed",
    "Exp name:",
    "Distributed training is not used",
    "The prefix is not set",
    '"FileClient" will be deprecated',
    '"HardDiskBackend" is the alias',
    "has no metainfo",
)


class _Filter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return not any(noise in message for noise in _NOISE)


class QuietRunner(Runner):
    """A Runner that logs what happens, not what it is made of."""

    def build_logger(self, *args: Any, **kwargs: Any) -> Any:
        logger = super().build_logger(*args, **kwargs)
        logger.addFilter(_Filter())
        for handler in logger.handlers:
            handler.addFilter(_Filter())
        return logger

    def _log_env(self, env_cfg: dict[str, Any]) -> None:
        """Left out: see `ris.engine.report.environment`."""
