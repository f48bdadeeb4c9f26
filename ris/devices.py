"""Where a predictor runs, and in which precision."""

from __future__ import annotations

import torch

from ris.errors import OptionError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(device: str | torch.device | None) -> torch.device:
    """`device`; None or 'auto' is CUDA where there is one, else the CPU.

    Raises OptionError for a device that does not exist here.
    """
    if device is None or device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise OptionError(
            f"device {str(device)!r} is unknown; choose auto, cpu, cuda or cuda:N"
        ) from error
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise OptionError(
            f"device {chosen} is not here ({torch.cuda.device_count()} CUDA devices seen); choose "
            "cpu, or install a CUDA build of torch and check nvidia-smi"
        )
    return chosen


def choose_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """`dtype` or its name; None is bfloat16 (autocast) on CUDA and float32 elsewhere.

    Raises OptionError for any but `DTYPES`.
    """
    if dtype is None:
        # Before Ampere bfloat16 is emulated, and slower than float32.
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if fast else torch.float32
    chosen = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if chosen is None or chosen not in DTYPES.values():
        raise OptionError(f"dtype {dtype!r} is not used here; choose {', '.join(DTYPES)}")
    return chosen
