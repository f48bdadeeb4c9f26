"""Opening weight files from strangers: nothing in them may run.

`.safetensors` holds tensors only. Torch files go through `torch.load(weights_only=True)` with an
allow-list of harmless types that the field's checkpoints carry beside their tensors.
"""

from __future__ import annotations

import argparse
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vpd.errors import WeightsError


class _Inert:
    """Stands in for a training framework's callback object; keeps nothing of it."""

    def __init__(self, *args: object, **kwargs: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


# Old Stable Diffusion checkpoints pickle this class among their callbacks.
_INERT_NAMES = ("pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",)

# How torch says that a file names something to be called which is not on the list.
_OF_CODE = re.compile("unsupported global|allowlisted|not allowed", re.IGNORECASE)

_scalar = np.float64(0).__reduce__()[0]  # numpy's own function that rebuilds a pickled scalar

SAFE_GLOBALS: list[Any] = [
    argparse.Namespace,  # the released VPD files keep their command line in one
    np.dtype,
    np.dtypes.Float64DType,
    np.dtypes.Int64DType,
    # Numpy scalars (old best scores); torch names the function by either module path.
    (_scalar, "numpy._core.multiarray.scalar"),
    (_scalar, "numpy.core.multiarray.scalar"),
    *((_Inert, name) for name in _INERT_NAMES),
]


def load(path: str | Path) -> dict[str, Any]:
    """The dictionary a weights file holds, on the CPU, memory-mapped where the format allows.

    Raises:
        WeightsError: the file is missing, empty, truncated, no dictionary, or wants to run code.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise WeightsError(f"weights file {path} {what}")
    size = path.stat().st_size
    if size == 0:
        raise WeightsError(f"weights file {path} is empty (0 bytes); download it again")
    if path.suffix == ".safetensors":
        return _load_safetensors(path, size)
    try:
        mmap = _is_stored_zip(path)  # the legacy format (before torch 1.6) cannot be mapped
        with torch.serialization.safe_globals(SAFE_GLOBALS):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        reason = str(error)
        if _OF_CODE.search(reason):
            refused = next(line for line in reason.splitlines() if _OF_CODE.search(line))
            raise WeightsError(
                f"{path} was refused: loading it would run code from the file ({refused.strip()}); "
                "ask its author for a safetensors file"
            ) from error
        raise _damaged(path, size, reason) from error
    except MemoryError as error:
        raise WeightsError(
            f"{path} ({size:,} bytes) asks for more memory than there is: it is damaged, or too "
            "large for this machine"
        ) from error
    except Exception as error:  # torch's reader meets damaged bytes with as many as there are
        raise _damaged(path, size, f"{error}" or type(error).__name__) from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds a {type(content).__name__}, not a dictionary of tensors")
    return content


def save_file(tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Write a safetensors file that others may read as they may any new file of this user: by
    itself the library leaves it to its owner alone.

    Raises OSError or SafetensorError.
    """
    path = Path(path)
    path.touch()
    mode = path.stat().st_mode  # as the system's mask has it
    safetensors.torch.save_file(dict(tensors), path)
    path.chmod(mode)


def _is_stored_zip(path: Path) -> bool:
    """Whether it is a zip archive. Raises ValueError for one with compressed parts, which torch
    never writes: a small one could unpack to more than there is memory."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        for part in archive.infolist():
            if part.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"its part {part.filename!r} is compressed")
    return True


def _load_safetensors(path: Path, size: int) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise _damaged(path, size, str(error)) from error


def _damaged(path: Path, size: int, reason: str) -> WeightsError:
    first = (reason.strip().splitlines() or ["no reason given"])[0]
    return WeightsError(
        f"{path} ({size:,} bytes) is damaged, truncated or no weights file: {first}; "
        "compare its size and checksum with the source, and download it again"
    )


def tensors(content: Mapping[str, Any], *inner: str) -> dict[str, Tensor]:
    """The tensors of `content`, or of the first of its entries `inner` that is a dictionary."""
    for name in inner:
        if isinstance(content.get(name), dict):
            content = content[name]
            break
    return {key: value for key, value in content.items() if isinstance(value, Tensor)}
