"""Weight files of strangers: what is damaged, would run code, or would fill the memory."""

from __future__ import annotations

import os
import pickle
import random
import stat
import zipfile
from pathlib import Path

import pytest
import torch

from vpd import WeightsError, files


class _Runs:
    def __reduce__(self):
        return (eval, ("1 + 1",))


def saved(path: Path) -> Path:
    torch.save({"weight": torch.arange(6.0), "epoch": 3}, path)
    return path


def test_what_would_run_code_is_refused_as_such(tmp_path):
    torch.save({"weight": _Runs()}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"refused: loading it would run code.*eval"):
        files.load(tmp_path / "a.pth")


@pytest.mark.parametrize("content", [b"x is what it is", b"\xff\xd8\xff\xe0 JFIF", b"PK\x03\x04"])
def test_what_is_no_weights_file_is_not_called_code(tmp_path, content):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(WeightsError, match="damaged, truncated or no weights file"):
        files.load(tmp_path / "a.pth")


def test_an_archive_that_unpacks_is_refused_before_it_does(tmp_path):
    """torch stores; what is compressed may be a thousand times its size."""
    packed = tmp_path / "packed.pth"
    with (
        zipfile.ZipFile(saved(tmp_path / "a.pth")) as plain,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for part in plain.infolist():
            small.writestr(part.filename, plain.read(part.filename))
    assert torch.load(packed, weights_only=True)["epoch"] == 3  # torch itself would unpack it
    with pytest.raises(WeightsError, match=r"its part '.*' is compressed"):
        files.load(packed)


@pytest.mark.parametrize("legacy", [False, True])
def test_flipped_and_missing_bytes_have_one_kind_of_error(tmp_path, legacy):
    whole = tmp_path / "whole.pth"
    content = {"weight": torch.arange(6.0), "names": ["a", "b"], "rate": 0.5}
    torch.save(content, whole, _use_new_zipfile_serialization=not legacy)
    data, chance = whole.read_bytes(), random.Random(0)
    read = 0
    for number in range(60):
        damaged = bytearray(data)
        if number % 3:
            damaged[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        else:
            del damaged[chance.randrange(1, len(data)) :]
        (tmp_path / "a.pth").write_bytes(bytes(damaged))
        try:
            read += isinstance(files.load(tmp_path / "a.pth"), dict)
        except WeightsError:
            continue
    assert read < 60  # a flip within a tensor's values is not seen


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_what_is_written_is_for_those_that_the_user_lets(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        files.save_file({"weight": torch.ones(2)}, tmp_path / "a.safetensors")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.safetensors").stat().st_mode) == mode
    assert torch.equal(files.load(tmp_path / "a.safetensors")["weight"], torch.ones(2))


def test_a_plain_pickle_is_read_as_far_as_it_is_harmless(tmp_path):
    (tmp_path / "a.pth").write_bytes(pickle.dumps(_Runs(), protocol=2))
    with pytest.raises(WeightsError):
        files.load(tmp_path / "a.pth")
