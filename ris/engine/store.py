"""Resume checkpoints on disk: whole or absent, checked when read, the last few kept.

A checkpoint is a folder `step_<n>` of safetensors files and a `state.json` that lists every file's
size and CRC-32. It is written beside, synced, and renamed; a reader takes the newest that is whole.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import threading
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ris.errors import CheckpointError
from vpd.files import save_file

FORMAT = "vpd-ris resume 1"
_NAME = re.compile(r"step_(\d+)")
_FILE = re.compile(r"\w+\.safetensors")
_BLOCK = 1 << 24
UNREADABLE = (OSError, ValueError, RecursionError, msgspec.MsgspecError, SafetensorError)


class _File(msgspec.Struct):
    bytes: int
    crc32: int


class _State(msgspec.Struct):
    """state.json. `crc32` is that of `values`; states of before it was kept have none."""

    format: str
    step: int
    files: dict[str, _File]
    values: dict[str, Any]
    crc32: int | None = None


@dataclass
class Snapshot:
    """What a run needs to go on: named groups of CPU tensors, and the rest as plain JSON values.

    folder: where it was read from.
    """

    step: int
    tensors: dict[str, dict[str, Tensor]]
    values: dict[str, Any]
    folder: Path | None = None


class Store:
    """The resume checkpoints of one run.

    Args:
        folder: where they lie; made when the first is written.
        keep: how many of the newest stay.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        if keep < 1:
            raise CheckpointError(f"at least one checkpoint must be kept, got keep = {keep}")
        self.folder, self.keep = folder, keep

    def steps(self) -> list[int]:
        """Steps of the checkpoints there are, oldest first; unfinished drafts do not count."""
        found = (_NAME.fullmatch(path.name) for path in self.folder.glob("step_*"))
        return sorted(int(match[1]) for match in found if match)

    @staticmethod
    def step_of(path: Path) -> int:
        """The step that a checkpoint folder's name tells."""
        match = _NAME.fullmatch(path.name)
        if match is None:
            raise CheckpointError(f"{path} is no checkpoint: its name is not step_<number>")
        return int(match[1])

    def path(self, step: int) -> Path:
        return self.folder / f"step_{step:09d}"

    def write(self, snapshot: Snapshot) -> Path:
        """Write a checkpoint and then drop those that are too old.

        Raises:
            CheckpointError: it could not be written (disk full, no permission); what was there
                before is untouched.
        """
        final = self.path(snapshot.step)
        draft = self.folder / f".{final.name}.partial"
        try:
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            files = {}
            for name, tensors in snapshot.tensors.items():
                file = draft / f"{name}.safetensors"
                save_file(tensors, file)
                files[file.name] = {"bytes": file.stat().st_size, "crc32": _checksum(file)}
                _sync(file)
            state = {
                "format": FORMAT,
                "step": snapshot.step,
                "files": files,
                "values": snapshot.values,
                "crc32": _checksum_of(snapshot.values),
            }
            card = draft / "state.json"
            card.write_text(json.dumps(state), encoding="utf-8")
            _sync(card)
            _sync(draft)
            shutil.rmtree(final, ignore_errors=True)
            os.replace(draft, final)
            _sync(self.folder)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(draft, ignore_errors=True)
            kept = ", ".join(map(str, self.steps())) or "none"
            raise CheckpointError(
                f"checkpoint of step {snapshot.step} could not be written to {self.folder}: "
                f"{error}; checkpoints kept: {kept}; make room there"
            ) from error
        for old in self.steps()[: -self.keep]:
            shutil.rmtree(self.path(old), ignore_errors=True)
        return final

    def read(self, step: int) -> Snapshot:
        """The checkpoint of a step. Raises CheckpointError when it is damaged, saying how."""
        path = self.path(step)
        try:
            text = (path / "state.json").read_text(encoding="utf-8")
            state = msgspec.convert(json.loads(text), _State)
            if state.format != FORMAT:
                raise CheckpointError(f"{path} has format {state.format!r}, not {FORMAT!r}")
            if state.step != step:
                raise CheckpointError(f"{path} holds the state of step {state.step}")
            if state.crc32 is not None and state.crc32 != _checksum_of(state.values):
                raise CheckpointError(f"{path / 'state.json'} was changed after it was written")
            tensors = {}
            for name, expected in state.files.items():
                if not _FILE.fullmatch(name):
                    raise CheckpointError(f"{path / 'state.json'} names a file {name!r}")
                file = path / name
                size = file.stat().st_size
                if size != expected.bytes:
                    raise CheckpointError(f"{file} has {size} bytes, not {expected.bytes}")
                if _checksum(file) != expected.crc32:
                    raise CheckpointError(f"{file} was changed after it was written (CRC-32)")
                tensors[file.stem] = load_file(file)
            return Snapshot(state.step, tensors, state.values, path)
        except CheckpointError:
            raise
        except UNREADABLE as error:
            raise CheckpointError(f"{path} is damaged or half written: {error}") from error

    def retire(self, snapshot: Snapshot | None, log: logging.Logger) -> None:
        """Move aside, to `<folder>.old`, the checkpoints of other runs: all that do not lie behind
        the one that this run goes on from (None: it begins anew). They would be newer by their
        number than this run's own, and be kept and resumed in its place.

        Raises CheckpointError where they cannot be moved.
        """
        home = None if snapshot is None or snapshot.folder is None else snapshot.folder.parent
        own = home is not None and home.resolve() == self.folder.resolve()
        first = snapshot.step if own and snapshot is not None else -1
        foreign = [step for step in self.steps() if step > first]
        if not foreign:
            return
        aside = self.folder.with_name(f"{self.folder.name}.old")
        try:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            for step in foreign:
                os.replace(self.path(step), aside / self.path(step).name)
        except OSError as error:
            raise CheckpointError(
                f"{self.folder} holds states of another run, which could not be moved to {aside}: "
                f"{error}; make room there, or give this run a log folder of its own"
            ) from error
        log.warning(
            f"{self.folder} held states of steps {', '.join(map(str, foreign))} that this run does "
            f"not go on from; they are in {aside} now"
        )

    def latest(self, log: logging.Logger) -> Snapshot | None:
        """The newest checkpoint that is whole, or None; says which damaged ones it passed over."""
        for step in reversed(self.steps()):
            try:
                return self.read(step)
            except CheckpointError as error:
                log.warning(f"skipped a damaged checkpoint, trying the one before: {error}")
        return None


class BackgroundWriter:
    """Writes snapshots in a thread beside the training; at most one is under way."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def submit(self, snapshot: Snapshot) -> None:
        """Start to write; waits for the one before, whose failure is raised here, behind the start:
        what follows a snapshot that failed is not lost with it."""
        if self._thread is not None:
            self._thread.join()
        error, self._error = self._error, None
        self._thread = threading.Thread(target=self._write, args=(snapshot,), name="checkpoint")
        self._thread.start()
        if error is not None:
            raise error

    def wait(self) -> None:
        """Until the last snapshot is on disk. Raises CheckpointError when it could not be."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _write(self, snapshot: Snapshot) -> None:
        try:
            self.store.write(snapshot)
        except Exception as error:  # whatever it is, the training thread must hear of it
            self._error = error


def _checksum_of(values: dict[str, Any]) -> int:
    as_read = json.loads(json.dumps(values))  # whose keys are all strings
    return zlib.crc32(json.dumps(as_read, sort_keys=True).encode())


def _checksum(path: Path) -> int:
    value = 0
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            value = zlib.crc32(block, value)
    return value


def _sync(path: Path) -> None:
    """Ask the system to put a file's or folder's content on the disk now."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
