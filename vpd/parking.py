"""Frozen encoders that wait on disk while caches answer for them.

Once latents and text features are kept, neither the autoencoder nor the text encoder runs, and both
hold memory for nothing (0.59 GiB of Stable Diffusion 1.5). Parked, their weights are views of a
file: tensors like any other, of which the system holds only what is read. On another device than
the CPU they go there when they are needed.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from vpd.errors import ConfigError
from vpd.files import save_file


class Parking:
    """The weights of a frozen module, in place (`wake`) or in a file (`sleep`); awake at first.

    Args:
        module: nothing of it may train.
        name: of the file, before a digest of what it holds.
        root: folder of the file: all runs with the same weights share it, and one that is damaged
            is written anew.

    Raises ConfigError where the file cannot be written, or a parameter trains.
    """

    def __init__(self, module: nn.Module, name: str, root: str | Path) -> None:
        self._parameters = dict(module.named_parameters())
        training = [name for name, p in self._parameters.items() if p.requires_grad]
        if training:
            raise ConfigError(f"only frozen weights can be parked, and {name}.{training[0]} trains")
        self._device = next(iter(self._parameters.values())).device
        # What lies channels innermost does so again behind a sleep: sums keep their order.
        self._innermost = {name for name, p in self._parameters.items() if not p.is_contiguous()}
        tensors = {name: p.detach().cpu().contiguous() for name, p in self._parameters.items()}
        digest = _digest(tensors)
        self.file = Path(root) / f"{name}_{digest[:16]}.safetensors"
        self.awake = True
        if not self._holds(digest):
            self._write(tensors)

    @property
    def nbytes(self) -> int:
        """Bytes that a sleep gives back."""
        return sum(parameter.nbytes for parameter in self._parameters.values())

    def sleep(self) -> None:
        """The weights become views of the file; outside the CPU, unfit for use until `wake`."""
        if not self.awake:
            return
        stored = load_file(self.file)  # mapped: nothing is read yet
        for name, parameter in self._parameters.items():
            parameter.data = stored[name]
        self.awake = False

    def wake(self) -> None:
        """Everything may run again, as it was."""
        if self.awake:
            return
        for name, parameter in self._parameters.items():
            order = torch.channels_last if name in self._innermost else torch.preserve_format
            parameter.data = parameter.data.to(self._device, memory_format=order)
        self.awake = True

    def _holds(self, digest: str) -> bool:
        try:
            return self.file.is_file() and _digest(load_file(self.file)) == digest
        except (OSError, SafetensorError):
            return False

    def _write(self, tensors: dict[str, Tensor]) -> None:
        beside = self.file.with_name(f".{self.file.name}.{uuid.uuid4().hex}")
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            save_file(tensors, beside)
            os.replace(beside, self.file)
        except (OSError, SafetensorError) as error:
            if beside.is_file():
                beside.unlink()
            raise ConfigError(
                f"the weights to park could not be written to {self.file}: {error}; make room for "
                f"{self.nbytes / 2**30:.2f} GiB there, or do not park"
            ) from error


def _digest(tensors: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
