"""Reading mmengine's resume checkpoints without letting them run code.

`torch.load(weights_only=True)` refuses mmengine's HistoryBuffer as it is pickled by default. It is
taught to reduce itself to two lists and a number, and is allow-listed with numpy's scalars.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

from ris.errors import CheckpointError


def make_checkpoints_safe() -> None:
    """Call once before a Runner saves or resumes; a second call changes nothing."""

    def reduce(buffer: HistoryBuffer) -> tuple[Any, ...]:
        values, counts = (array.tolist() for array in buffer.data)
        return HistoryBuffer, (values, counts, buffer.max_length)

    HistoryBuffer.__reduce__ = reduce
    torch.serialization.add_safe_globals(
        [
            HistoryBuffer,
            np.dtype,
            np.dtypes.Float64DType,
            np.dtypes.Int64DType,
            np.float64(0).__reduce__()[0],  # rebuilds a pickled numpy scalar
        ]
    )


def resolve(resume: str | None, work_dir: Path) -> str | None:
    """The checkpoint file to resume from; `auto` takes the run's latest, or none at the start.

    Raises:
        CheckpointError: the named file does not exist.
    """
    if not resume:
        return None
    if resume == "auto":
        latest = work_dir / "last_checkpoint"
        return latest.read_text().strip() if latest.is_file() else None
    if not Path(resume).is_file():
        raise CheckpointError(
            f"--resume {resume}: no such file; name an epoch_N.pth of the run's folder, or 'auto'"
        )
    return resume
