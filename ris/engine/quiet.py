"""mmengine's Runner without the pages it logs at every start, so that progress can be read.

Nothing is lost: versions and settings stand in metrics.json, and the config beside the logs.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from typing import Any

from mmengine.dist import broadcast_object_list
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.runner import Runner

from ris.engine import loop, state  # loop registers ours
from ris.engine.hooks import plain_model
from ris.engine.store import Snapshot
from ris.errors import CheckpointError

__all__ = ["QuietRunner", "loop"]

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


def initialise(model: BaseModel) -> None:
    """mmengine's initial values of the heads that have such, without a page of their names."""
    log = MMLogger.get_current_instance()
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        model.init_weights()
    finally:
        log.setLevel(level)


class QuietRunner(Runner):
    """A Runner that logs what happens, not what it is made of, and resumes from our own states.

    resume_state: called when model, optimizer and schedules stand; gives the state to go on from.

    `run_id` names the run, over all its resumptions; None in states of before there were names.
    """

    run_id: str | None

    def __init__(
        self, *args: Any, resume_state: Callable[[], Snapshot | None] | None = None, **kwargs: Any
    ) -> None:
        self.resume_state = resume_state
        super().__init__(*args, **kwargs)
        said = [uuid.uuid4().hex]
        broadcast_object_list(said)  # one name for all processes
        (self.run_id,) = said

    def _init_model_weights(self) -> None:
        """Left out: see `initialise`, which comes before anything is read into the model, sharded,
        or copied to other processes."""

    def load_or_resume(self) -> None:
        """Put the run back to where its state was saved, if there is one."""
        snapshot = self.resume_state() if self.resume_state else None
        if snapshot is None:
            return
        try:
            state.restore(self, plain_model(self), snapshot)
            self.run_id = snapshot.values.get("run")
            place = snapshot.values["place"]
            self.train_loop.go_to(snapshot.step, place)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise CheckpointError(
                f"{snapshot.folder} lacks what a run goes on from ({type(error).__name__}: "
                f"{error}); name an older state, or begin anew without --resume"
            ) from error
        self.logger.info(
            f"resumed after step {snapshot.step}: epoch {place['epoch'] + 1}, "
            f"{place['consumed']} of its samples done"
        )

    def build_logger(self, *args: Any, **kwargs: Any) -> Any:
        logger = super().build_logger(*args, **kwargs)
        logger.addFilter(_Filter())
        for handler in logger.handlers:
            handler.addFilter(_Filter())
        return logger

    def _log_env(self, env_cfg: dict[str, Any]) -> None:
        """Left out: see `ris.engine.report.environment`."""
