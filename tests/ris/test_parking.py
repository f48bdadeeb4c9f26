"""Training with encoders that wait on disk: the same run, and steps in which they do not exist."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from ris.cli import main
from ris.models import VPDRefer
from vpd.parking import Parking


def losses(folder: Path) -> list[float]:
    (record,) = folder.rglob("scalars.json")
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_a_run_learns_the_same_bits_and_a_second_one_never_wakes(
    train_arguments, tmp_path, monkeypatch
):
    awake: list[bool] = []  # as each step of the UNet begins
    wakes: list[int] = []
    inner, waking = VPDRefer._losses, Parking.wake

    def watched(model, *arguments, **named):
        found = inner(model, *arguments, **named)
        if model.backbone._parking:
            awake.append(any(one.awake for one in model.backbone._parking.values()))
        return found

    def counted(parking):
        wakes.append(len(awake))
        waking(parking)

    monkeypatch.setattr(VPDRefer, "_losses", watched)
    monkeypatch.setattr(Parking, "wake", counted)
    cached = ["--set", f"model.cache_dir={tmp_path / 'cache'}", "--epochs", "1"]
    parked = ["--set", "model.park_encoders=True"]
    for name, more in (("plain", []), ("first", parked), ("second", parked)):
        folder = tmp_path / name
        arguments = [*train_arguments, *cached, "--logdir", str(folder)]
        assert main([*arguments, "--output-dir", str(folder), *more]) == 0
        if name == "plain":
            assert not awake
            assert not wakes
    for name in ("vae", "text_encoder"):
        assert len(list((tmp_path / "cache").glob(f"{name}_*.safetensors"))) == 1
    steps = len(awake) // 2
    assert steps > 2
    assert not any(awake)
    # The plain run has filled the cache: only the validation behind the steps wakes them.
    assert set(wakes) == {steps, 2 * steps}
    weights = [load_file(tmp_path / n / "model_best_refshapes/model.safetensors")
               for n in ("plain", "first", "second")]  # fmt: skip
    for other in weights[1:]:
        assert other.keys() == weights[0].keys()
        assert all((other[name] == value).all() for name, value in weights[0].items())
    assert losses(tmp_path / "plain") == losses(tmp_path / "second")
    logs = (tmp_path / "first").rglob("*.log")
    assert any("GiB less in such steps" in log.read_text() for log in logs)


@pytest.mark.parametrize(
    ("more", "said"),
    [([], "model.cache_dir"), (["model.cache_dir=c", "survival.shard=True"], "leave model.park")],
)
def test_what_it_does_not_fit_is_refused(
    train_arguments, tmp_path, capsys, monkeypatch, more, said
):
    monkeypatch.chdir(tmp_path)
    entries = [part for entry in ["model.park_encoders=True", *more] for part in ("--set", entry)]
    assert main([*train_arguments, "--logdir", str(tmp_path), *entries]) == 2
    assert said in capsys.readouterr().err
