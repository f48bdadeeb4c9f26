"""Which saved state a run goes on from."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist

from ris.engine.store import Snapshot, Store
from ris.errors import CheckpointError


def agreed(resume: str | None, store: Store, restarts: int, log: logging.Logger) -> Snapshot | None:
    """`choose`, where all processes take what the first one chose, however their disks look.

    Raises:
        CheckpointError: on every process, when any cannot read it.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return choose(resume, store, restarts, log)
    snapshot, error = None, ""
    if dist.get_rank() == 0:
        snapshot, error = _tried(lambda: choose(resume, store, restarts, log))
    said: list[Any] = [(snapshot and snapshot.folder, error)]
    dist.broadcast_object_list(said)
    folder, error = said[0]
    if folder is not None and snapshot is None:
        snapshot, error = _tried(lambda: Store(folder.parent).read(Store.step_of(folder)))
    errors: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(errors, error)
    if any(errors):
        rank = next(number for number, told in enumerate(errors) if told)
        raise CheckpointError(f"process {rank}: {errors[rank]}")
    return snapshot


def _tried(read: Callable[[], Snapshot | None]) -> tuple[Snapshot | None, str]:
    """What was read, and what was wrong: a process that raised alone would leave the others."""
    try:
        return read(), ""
    except CheckpointError as error:
        return None, str(error)


def choose(resume: str | None, store: Store, restarts: int, log: logging.Logger) -> Snapshot | None:
    """The snapshot that `--resume` means; None starts from the beginning.

    `auto`, or a restart by torchrun, takes the newest checkpoint that is whole. A path names a
    `step_<n>` folder, or a run's log folder, whose newest is taken; a restart goes back to it only
    where nothing has been saved since.

    Raises:
        CheckpointError: the path holds no checkpoint, or the checkpoint is damaged.
    """
    if resume is None and not restarts:
        return None
    if resume in (None, "auto"):
        found = store.latest(log)
        if found is None:
            log.info(f"there is no saved state in {store.folder}: the run begins anew")
        return found
    if restarts and (own := store.latest(log)) is not None:
        return own
    path = Path(str(resume))
    if path.name.startswith("step_"):
        return Store(path.parent).read(Store.step_of(path))
    for folder in (path, path / "resume"):
        if Store(folder).steps():
            return Store(folder).latest(log)
    raise CheckpointError(
        f"--resume {resume}: no checkpoint there; name a run's log folder, a folder resume/step_N "
        "in it, or 'auto'"
    )
