"""Tensors kept on disk between epochs and runs: memory-mapped, checked, keyed by content.

A cache is a folder of append-only part files, one a process and run, so that no two processes ever
write to one file. A part is a row of records of equal length:

    digest  32 bytes  sha256 of what the tensor was made from
    crc     4 bytes   CRC-32 of the payload, little-endian
    payload           the tensor's bytes, C order, of the cache's dtype and shape

What the tensors depend on beside the content (weights, transform, shape, dtype) is hashed into the
folder's name: with other weights, another folder is used. A record that is cut or whose CRC differs
counts as absent, and is written anew.
"""

from __future__ import annotations

import hashlib
import os
import struct
import uuid
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vpd.errors import ConfigError

DTYPES = {"float32": np.float32, "float16": np.float16}
_HEAD = struct.Struct("<32sI")


class TensorCache:
    """Tensors of one shape by the digest of their content.

    Args:
        root: folder of all caches.
        kind: what is kept ('latents'), for people who look into the folder.
        depends: everything the tensors depend on beside their content.
        shape: of each tensor.
        dtype: 'float32' keeps every bit of a float32 tensor; 'float16' half the space.

    Raises ConfigError for another dtype, or a folder that cannot be written.
    """

    def __init__(
        self,
        root: str | Path,
        kind: str,
        depends: Iterable[str],
        shape: Sequence[int],
        dtype: str = "float32",
    ) -> None:
        if dtype not in DTYPES:
            raise ConfigError(f"cache dtype {dtype!r} is unknown; choose {', '.join(DTYPES)}")
        self.shape, self.dtype = tuple(shape), np.dtype(DTYPES[dtype])
        self._bytes = int(np.prod(self.shape)) * self.dtype.itemsize
        self._record = _HEAD.size + self._bytes
        name = "\0".join([*depends, kind, dtype, str(self.shape)])
        self.folder = Path(root) / f"{kind}_{hashlib.sha256(name.encode()).hexdigest()[:16]}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cache folder {self.folder} cannot be made: {error}") from error
        # A content may be there twice: damaged, and written anew.
        self._places: dict[bytes, list[tuple[Path, int]]] = {}
        self._maps: dict[Path, np.memmap] = {}
        self._sound: set[bytes] = set()
        self._indexed: dict[Path, int] = {}
        self.refresh()
        self._own = self.folder / f"part_{uuid.uuid4().hex}.bin"
        self._written = 0

    def __len__(self) -> int:
        return len(self._places)

    def refresh(self) -> None:
        """Take notice of what other processes have written since."""
        for path in sorted(self.folder.glob("part_*.bin")):
            # Of a folder, a pipe or a dangling link nothing can be kept.
            if path != getattr(self, "_own", None) and path.is_file():
                self._index(path)

    def get(self, digest: bytes) -> Tensor | None:
        """The tensor of a content, float32 [*shape], or None when it is not kept or damaged."""
        places = self._places.get(digest, [])
        while places:
            path, offset = places[-1]
            payload = self._bytes_at(path, offset).tobytes()
            if digest not in self._sound:
                (crc,) = struct.unpack("<I", self._bytes_at(path, offset - 4, 4).tobytes())
                if zlib.crc32(payload) != crc:
                    places.pop()
                    continue
                self._sound.add(digest)
            values = np.frombuffer(payload, self.dtype).reshape(self.shape)
            return torch.from_numpy(values.astype(np.float32))
        return None

    def put(self, digest: bytes, tensor: Tensor) -> Tensor:
        """Keep a tensor; returns it as `get` will, rounded to the cache's dtype, where it was.

        A full disk is no fault of the run: the record is then left out.
        """
        if tuple(tensor.shape) != self.shape:
            raise ConfigError(f"a cache of {self.shape} was given {tuple(tensor.shape)}")
        values = tensor.detach().float().cpu().numpy().astype(self.dtype)
        rounded = torch.from_numpy(values.astype(np.float32)).to(tensor.device)
        if self._places.get(digest):
            return rounded
        payload = values.tobytes()
        record = _HEAD.pack(digest, zlib.crc32(payload)) + payload
        try:
            with open(self._own, "ab") as file:
                file.write(record)
        except OSError:
            if self._own.is_file():  # a record that is cut would shift those after it
                os.truncate(self._own, self._written)
            return rounded
        self._places.setdefault(digest, []).append((self._own, self._written + _HEAD.size))
        self._written += len(record)
        return rounded

    def _index(self, path: Path) -> None:
        """Note where the whole records of a part are; a cut one at its end is left out."""
        count = path.stat().st_size // self._record
        with open(path, "rb") as file:
            for number in range(self._indexed.get(path, 0), count):
                file.seek(number * self._record)
                digest, _ = _HEAD.unpack(file.read(_HEAD.size))
                place = (path, number * self._record + _HEAD.size)
                self._places.setdefault(digest, []).append(place)
        self._indexed[path] = count

    def _bytes_at(self, path: Path, offset: int, size: int | None = None) -> np.ndarray:
        size = self._bytes if size is None else size
        mapped = self._maps.get(path)
        if mapped is None or len(mapped) < offset + size:  # our own part grows
            mapped = self._maps[path] = np.memmap(path, np.uint8, mode="r")
        return mapped[offset : offset + size]


def digest_of(content: bytes) -> bytes:
    """sha256, 32 bytes."""
    return hashlib.sha256(content).digest()


def weights_digest(module: torch.nn.Module) -> str:
    """sha256 (hex) over the names and bytes of a module's weights."""
    found = hashlib.sha256()
    for name, value in module.state_dict().items():
        found.update(name.encode())
        found.update(
            value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        )
    return found.hexdigest()
