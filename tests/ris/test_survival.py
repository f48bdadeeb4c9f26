"""Long runs: state on disk, order of samples, signals, faults. Small parts and whole runs."""

from __future__ import annotations

import json
import logging
import os
import signal
from itertools import chain
from pathlib import Path

import pytest
import torch
from torch import nn

from ris.cli import main
from ris.engine import resume, survival
from ris.engine.guard import GuardedOptimWrapper
from ris.engine.sampler import EpochBatches
from ris.engine.store import BackgroundWriter, Snapshot, Store
from ris.errors import EXIT_RESUMABLE, CheckpointError

LOG = logging.getLogger("test")


def snapshot(step: int) -> Snapshot:
    tensors = {"model": {"w": torch.full((4,), float(step))}}
    return Snapshot(step, tensors, {"place": {"epoch": 0, "consumed": step}})


# --- checkpoints on disk -------------------------------------------------------------------------


def test_what_is_written_comes_back_and_old_ones_go(tmp_path):
    store = Store(tmp_path / "resume", keep=2)
    for step in (1, 2, 3):
        store.write(snapshot(step))
    assert store.steps() == [2, 3]
    found = store.latest(LOG)
    assert found is not None
    assert found.step == 3
    assert torch.equal(found.tensors["model"]["w"], torch.full((4,), 3.0))
    assert found.values == snapshot(3).values


DAMAGED_STATE = {
    "half state": lambda text: text[:30],
    "deep state": lambda text: "[" * 100_000,
    "no files": lambda text: text.replace('"files": {', '"files": null, "other": {'),
    "another step": lambda text: text.replace('"step": 2', '"step": 7'),
    "another value": lambda text: text.replace('"consumed": 2', '"consumed": 3'),
    "a file elsewhere": lambda text: text.replace('"model.saf', '"../model.saf'),
}


@pytest.mark.parametrize("damage", ["truncated", "flipped", "no state", "missing", *DAMAGED_STATE])
def test_a_damaged_latest_is_skipped_and_named(tmp_path, caplog, damage):
    store = Store(tmp_path, keep=3)
    store.write(snapshot(1))
    path = store.write(snapshot(2))
    model, state = path / "model.safetensors", path / "state.json"
    content = model.read_bytes()
    if damage == "truncated":
        model.write_bytes(content[:-3])
    elif damage == "flipped":
        model.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "no state":
        state.unlink()
    elif damage in DAMAGED_STATE:
        whole = state.read_text()
        state.write_text(DAMAGED_STATE[damage](whole))
        assert state.read_text() != whole
    else:
        model.unlink()
    with caplog.at_level(logging.WARNING):
        found = store.latest(LOG)
    assert found is not None
    assert found.step == 1
    assert "step_000000002" in caplog.text
    with pytest.raises(CheckpointError, match="step_000000002"):
        store.read(2)


def test_drafts_do_not_count(tmp_path):
    store = Store(tmp_path)
    (tmp_path / ".step_000000007.partial").mkdir()
    assert store.steps() == []
    assert store.latest(LOG) is None


def test_a_failed_write_keeps_the_last_good_one(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.write(snapshot(1))

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ris.engine.store.save_file", full)
    writer = BackgroundWriter(store)
    writer.submit(snapshot(2))
    with pytest.raises(CheckpointError, match=r"step 2.*No space left.*kept: 1; make room"):
        writer.wait()
    assert [path.name for path in tmp_path.iterdir()] == ["step_000000001"]
    writer.wait()  # told once


def test_what_follows_a_failed_write_is_written(tmp_path, monkeypatch):
    store = Store(tmp_path, keep=5)
    written = Store.write

    def fails_once(self: Store, one: Snapshot) -> Path:
        if one.step == 1:
            raise MemoryError("of any kind")
        return written(self, one)

    monkeypatch.setattr(Store, "write", fails_once)
    writer = BackgroundWriter(store)
    writer.submit(snapshot(1))
    with pytest.raises(MemoryError):
        writer.submit(snapshot(2))
    writer.wait()
    assert store.steps() == [2]


@pytest.mark.parametrize(("begun_from", "left"), [(None, []), (2, [1, 2])])
def test_states_of_another_run_are_moved_aside(tmp_path, caplog, begun_from, left):
    """Newer by their number, they would be kept and resumed in place of this run's own."""
    store = Store(tmp_path / "resume", keep=3)
    for step in (1, 2, 3):
        store.write(snapshot(step))
    with caplog.at_level(logging.WARNING):
        store.retire(None if begun_from is None else store.read(begun_from), LOG)
    assert store.steps() == left
    assert Store(tmp_path / "resume.old").steps() == [n for n in (1, 2, 3) if n not in left]
    assert "resume.old" in caplog.text
    store.write(snapshot(3))
    assert store.latest(LOG).step == 3
    caplog.clear()
    store.retire(store.latest(LOG), LOG)
    assert not caplog.text


def test_states_behind_one_from_elsewhere_are_another_runs_too(tmp_path):
    own, other = Store(tmp_path / "a" / "resume"), Store(tmp_path / "b" / "resume")
    own.write(snapshot(1))
    other.write(snapshot(5))
    own.retire(other.read(5), LOG)
    assert own.steps() == []
    assert other.steps() == [5]


def test_a_restart_goes_on_from_what_has_been_saved_since(tmp_path):
    before, own = Store(tmp_path / "before"), Store(tmp_path / "own")
    path = str(before.write(snapshot(100)))
    assert resume.choose(path, own, 0, LOG).step == 100
    assert resume.choose(path, own, 1, LOG).step == 100  # nothing has been saved since
    own.write(snapshot(200))
    assert resume.choose(path, own, 1, LOG).step == 200


def test_a_snapshot_is_of_its_moment(tmp_path):
    """The writer's tensors are copies: training that goes on does not reach them."""
    from ris.engine.state import _copy

    weight = torch.ones(3)
    kept = _copy(weight)
    weight.zero_()
    assert torch.equal(kept, torch.ones(3))


# --- order of samples ----------------------------------------------------------------------------


def global_batches(
    monkeypatch, world: int, batch: int, count: int, **place: int
) -> list[list[int]]:
    """What all ranks read in each step, in the order of ranks."""
    ranks = []
    for rank in range(world):
        monkeypatch.setattr("ris.engine.sampler.get_dist_info", lambda r=rank: (r, world))
        batches = EpochBatches(count, batch, seed=5)
        batches.set_epoch(place.get("epoch", 0), place.get("consumed", 0))
        ranks.append(list(batches))
        assert place or len(batches) == len(ranks[-1])
    return [list(chain(*parts)) for parts in zip(*ranks, strict=True)]


@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_global_order_does_not_depend_on_the_number_of_processes(monkeypatch, world):
    alone = global_batches(monkeypatch, 1, 8, 37)
    assert global_batches(monkeypatch, world, 8 // world, 37) == alone
    assert len(alone) == 4
    flat = list(chain(*alone))
    assert len(set(flat)) == len(flat) == 32
    assert global_batches(monkeypatch, 1, 8, 37, epoch=1) != alone


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (4, 2)])
def test_it_goes_on_with_another_number_of_processes(monkeypatch, before, after):
    whole = global_batches(monkeypatch, before, 8 // before, 37)
    rest = global_batches(monkeypatch, after, 8 // after, 37, consumed=16)
    assert rest == whole[2:]
    assert global_batches(monkeypatch, after, 8 // after, 37, consumed=32) == []


def test_fewer_samples_than_a_batch_make_one_batch(monkeypatch):
    assert [sorted(b) for b in global_batches(monkeypatch, 1, 8, 3)] == [[0, 1, 2]]
    assert global_batches(monkeypatch, 1, 8, 3, consumed=8) == []  # resumed behind it
    (both,) = global_batches(monkeypatch, 2, 8, 3)
    assert len(both) == 4
    assert set(both) == {0, 1, 2}


# --- steps that must not count -------------------------------------------------------------------


def guarded(clip: float | None = None) -> tuple[nn.Module, GuardedOptimWrapper]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    return model, GuardedOptimWrapper(
        optimizer, device="cpu", dtype=None, clip=clip, running=[model[1]]
    )


def train(model: nn.Module, wrapper: GuardedOptimWrapper, batches: list[torch.Tensor]) -> None:
    for batch in batches:
        with wrapper.optim_context(model):
            loss = model(batch).square().mean()
        wrapper.update_params(loss)


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_bad_step_leaves_no_trace(clip, value):
    """With a bad batch between them, two good batches lead to where they lead without it."""
    good = list(torch.randn(2, 4, 3))
    bad = torch.full((4, 3), value)
    model, wrapper = guarded(clip)
    train(model, wrapper, [good[0], bad, good[1]])
    assert wrapper.faults() == {"skipped": 1, "streak": 0}
    assert wrapper.take_flags() == [False, True, False]
    assert wrapper.take_flags() == []
    clean, other = guarded(clip)
    train(clean, other, good)
    for (name, one), (_, two) in zip(
        model.state_dict().items(), clean.state_dict().items(), strict=True
    ):
        if "num_batches" not in name:
            assert torch.equal(one, two), name
    moments = zip(wrapper.optimizer.state.values(), other.optimizer.state.values(), strict=True)
    assert all(torch.equal(a[k], b[k]) for a, b in moments for k in a)


def test_statistics_are_found_where_the_model_was_moved_to():
    """Moving a model replaces its buffers; so does a change of type, on one device."""
    model, wrapper = guarded()
    model.double()
    train(model, wrapper, [torch.full((4, 3), float("nan"), dtype=torch.float64)])
    assert wrapper.faults()["skipped"] == 1
    assert torch.equal(model[1].running_mean, torch.zeros(3, dtype=torch.float64))
    train(model, wrapper, [torch.randn(4, 3, dtype=torch.float64)])
    assert model[1].running_mean.abs().min() > 0


def test_bad_steps_in_a_row_are_counted():
    model, wrapper = guarded()
    bad = torch.full((4, 3), float("nan"))
    train(model, wrapper, [torch.ones(4, 3), bad, bad])
    assert wrapper.faults() == {"skipped": 2, "streak": 2}
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


def test_clipping_is_torchs(tmp_path):
    model, wrapper = guarded(clip=1e-3)
    plain, _ = guarded()
    optimizer = torch.optim.AdamW(plain.parameters(), lr=0.1)
    batch = torch.randn(4, 3)
    train(model, wrapper, [batch])
    plain(batch).square().mean().backward()
    nn.utils.clip_grad_norm_(plain.parameters(), 1e-3)
    optimizer.step()
    for one, two in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(one, two, atol=1e-6)


# --- whole runs ----------------------------------------------------------------------------------


def final_state(folder: Path) -> dict[str, torch.Tensor]:
    found = Store(folder / "resume").latest(LOG)
    assert found is not None
    return {
        f"{part}.{name}": value
        for part in ("model", "optimizer")
        for name, value in found.tensors[part].items()
    }


def stop_after(monkeypatch: pytest.MonkeyPatch, *counts: int) -> list[int]:
    """Real signals after so many steps of all runs together; returns the list of steps seen."""
    original = survival.StateHook.after_train_iter
    seen: list[int] = []

    def interrupt(self, runner, batch_idx, data_batch=None, outputs=None):
        seen.append(runner.iter + 1)
        if len(seen) in counts:
            number = (signal.SIGTERM, signal.SIGUSR1)[counts.index(len(seen)) % 2]
            os.kill(os.getpid(), number)
        original(self, runner, batch_idx, data_batch, outputs)

    monkeypatch.setattr(survival.StateHook, "after_train_iter", interrupt)
    return seen


def test_a_stopped_run_ends_bitwise_where_an_unbroken_one_does(
    train_arguments, tmp_path, monkeypatch
):
    """Stopped twice in the middle of epochs by a real signal, and resumed."""
    common = [*train_arguments, "--epochs", "2", "--set", "schedule.val_interval=2"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main([*common, "--logdir", str(whole), "--output-dir", str(whole)]) == 0

    seen = stop_after(monkeypatch, 3, 5)
    again = [*common, "--logdir", str(parts), "--output-dir", str(parts)]
    assert main(again) == EXIT_RESUMABLE
    assert main([*again, "--resume", "auto"]) == EXIT_RESUMABLE
    assert main([*again, "--resume", "auto"]) == 0
    assert seen == list(range(1, seen[-1] + 1))  # no step twice, none left out
    one, two = final_state(whole), final_state(parts)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    scores = [json.loads((run / "metrics.json").read_text())["scores"] for run in (whole, parts)]
    assert scores[0] == scores[1]


def losses(folder: Path) -> list[float]:
    (scalars,) = folder.glob("*/vis_data/scalars.json")
    lines = [json.loads(line) for line in scalars.read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("checkpointing=light", "takes apart"),
        ("channels_last=True", "lays them otherwise"),
        ("checkpointing=False", "needs several processes"),
    ],
)
def test_weights_are_not_shared_out_where_they_cannot_be(
    train_arguments, tmp_path, capsys, entry, said
):
    entries = ["survival.shard=True", f"model.backbone.{entry}"]
    assert main([*train_arguments, "--logdir", str(tmp_path), "--set", *entries]) == 2
    assert said in capsys.readouterr().err


def test_one_seed_decides_everything(train_arguments, tmp_path):
    curves = []
    for name, seed in (("a", "7"), ("b", "7"), ("c", "8")):
        place = ["--logdir", str(tmp_path / name), "--output-dir", str(tmp_path / name)]
        assert main([*train_arguments, *place, "--epochs", "1", "--seed", seed]) == 0
        curves.append(losses(tmp_path / name))
    assert curves[0] == curves[1]
    assert curves[0] != curves[2]


def test_the_average_is_scored_saved_and_resumed(train_arguments, tmp_path, monkeypatch):
    """The best weights are the average that the state holds; a stopped run has the same one."""
    from safetensors.torch import load_file

    common = [*train_arguments, "--set", "optim.ema=0.9", "schedule.val_interval=2"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    place = ["--logdir", str(whole), "--output-dir", str(whole)]
    assert main([*common, *place, "--epochs", "2"]) == 0
    place = ["--logdir", str(parts), "--output-dir", str(parts), "--epochs", "2"]
    stop_after(monkeypatch, 4)
    assert main([*common, *place]) == EXIT_RESUMABLE
    assert main([*common, *place, "--resume", "auto"]) == 0
    other = Store(parts / "resume").latest(LOG)
    found = Store(whole / "resume").latest(LOG)
    assert found is not None
    best = load_file(whole / "model_best_refshapes" / "model.safetensors")
    assert other is not None
    for name, value in found.tensors["ema"].items():
        assert torch.equal(value, other.tensors["ema"][name])
    averages = list(found.tensors["ema"].values())
    trained = [n for n in best if n.endswith("conv1_1.weight")]
    assert any(torch.equal(best[trained[0]], value) for value in averages)
    assert not torch.equal(best[trained[0]], found.tensors["model"][trained[0]])


def test_the_learning_rate_is_tied_to_the_total_batch():
    from ris.engine.optim import learning_rate

    tied = {"lr": 5e-5, "lr_batch": 32}
    assert learning_rate(tied, 32) == 5e-5
    assert learning_rate(tied, 8) == pytest.approx(1.25e-5)
    assert learning_rate({"lr": 5e-5, "lr_batch": None}, 8) == 5e-5
