"""Which saved state a run goes on from."""

from __future__ import annotations

import logging
from pathlib import Path

from ris.engine.store import Snapshot, Store
from ris.errors import CheckpointError


def choose(resume: str | None, store: Store, restarts: int, log: logging.Logger) -> Snapshot | None:
    """The snapshot that `--resume` means; None starts from the beginning.

    `auto`, or a restart by torchrun, takes the newest checkpoint that is whole. A path names a
    `step_<n>` folder, or a run's log folder, whose newest is taken.

    Raises:
        CheckpointError: the path holds no checkpoint, or the checkpoint is damaged.
    """
    if resume is None and not restarts:
        return None
    if resume in (None, "auto"):
        return store.latest(log)
    path = Path(str(resume))
    if path.name.startswith("step_"):
        return Store(path.parent).read(int(path.name.removeprefix("step_")))
    for folder in (path, path / "resume"):
        if Store(folder).steps():
            return Store(folder).latest(log)
    raise CheckpointError(
        f"--resume {resume}: no checkpoint there; name a run's log folder, a folder resume/step_N "
        "in it, or 'auto'"
    )
