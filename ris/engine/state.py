"""What a run is at one moment, taken apart into tensors and plain values, and put together again.

Model (without what is frozen), optimizer, place in the data, best score, fault counts, and the
random state of every process. Schedules follow from the settings and the step. Nothing is pickled.
"""

from __future__ import annotations

import random
import warnings
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size, is_main_process
from torch import Tensor

from ris.engine.data import drawn_at
from ris.engine.shard import like, whole
from ris.engine.store import Snapshot
from ris.errors import CheckpointError
from ris.frozen import fingerprint, frozen_names
from ris.models import VPDRefer


def capture(runner: Any, model: VPDRefer, step: int, place: dict[str, int]) -> Snapshot:
    """The run as it stands, copied to the CPU, so that training may go on while it is written.

    place: epoch, and samples of it used up. Every process must call this: the random states of all
    are gathered, and sharded weights. Only the first gets the tensors: copies of all processes of a
    machine could fill its memory.
    """
    state = model.state_dict()
    frozen = frozen_names(model)
    weights = {name: _copy(value) for name, value in state.items() if name not in frozen}
    moments, groups = _optimizer_parts(runner.optim_wrapper.optimizer)
    random_tensors, random_values = _random_state()
    values = {
        "run": runner.run_id,
        "place": place,
        "world_size": get_world_size(),
        "groups": groups,
        "best_score": runner.message_hub.runtime_info.get("best_score"),
        "frozen": _fingerprint(model, state, frozen),
        "random": random_values,
        "faults": runner.optim_wrapper.faults(),
        "drawn_at": drawn_at(getattr(runner, "cfg", {}).get("settings", {})),
    }
    tensors = {"model": weights, "optimizer": moments, "random": random_tensors}
    ema = getattr(runner, "ema", None)
    if ema is not None:
        tensors["ema"] = {name: _copy(value) for name, value in ema.tensors().items()}
        values["ema_step"] = ema.average.optimization_step
    return Snapshot(step, {name: part for name, part in tensors.items() if part}, values)


def restore(runner: Any, model: VPDRefer, snapshot: Snapshot) -> None:
    """Put the run back to where `snapshot` was taken, but for the place in the data.

    Raises:
        CheckpointError: the model or the frozen weights are others.
    """
    own = model.state_dict()
    frozen = frozen_names(model)
    values = snapshot.values
    if values["frozen"] != _fingerprint(model, own, frozen):
        raise CheckpointError(
            "the checkpoint to resume from was made on other frozen weights; repeat the run's "
            "--weights, --backbone, --unet_mode and --seed"
        )
    weights = snapshot.tensors["model"]
    wanted = own.keys() - frozen
    odd = sorted(wanted ^ weights.keys())
    odd += [n for n in wanted & weights.keys() if own[n].shape != weights[n].shape]
    if odd:
        raise CheckpointError(
            f"the checkpoint to resume from is of another model: {', '.join(odd[:5])}"
            f"{f' and {len(odd) - 5} more' if odd[5:] else ''} differ; repeat the run's settings"
        )
    weights = {name: like(value, own[name]) for name, value in weights.items()}
    model.load_state_dict(weights, strict=False)
    optimizer = runner.optim_wrapper.optimizer
    moments = _unflatten(snapshot.tensors.get("optimizer", {}))
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, entries in moments.items():
        for name, value in entries.items():
            if value.ndim:  # the step count is no part of a parameter's shape
                entries[name] = like(value, parameters[index])
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    if sizes != [len(group["params"]) for group in values["groups"]]:
        raise CheckpointError(
            "the checkpoint to resume from was made by another optimizer; repeat the run's "
            "optim.muon, optim.lr_scale and optim.weight_decay"
        )
    rates = [group["lr"] for group in optimizer.param_groups]
    optimizer.load_state_dict({"state": moments, "param_groups": values["groups"]})
    _lay_out(optimizer)
    _replay_schedules(runner, optimizer, rates, snapshot.step)
    if values["best_score"] is not None:
        runner.message_hub.update_info("best_score", values["best_score"])
    runner.optim_wrapper.restore_faults(values["faults"])
    runner.ema_state = (snapshot.tensors.get("ema"), values.get("ema_step", 0))
    _restore_random_state(snapshot)


def _lay_out(optimizer: Any) -> None:
    """Moments in their parameters' order in memory, as kernels that update many at once want them:
    the files hold them contiguous, and weights may lie channels innermost."""
    for parameter, entries in optimizer.state.items():
        for name, value in entries.items():
            odd = isinstance(value, Tensor) and value.shape == parameter.shape
            if odd and value.stride() != parameter.stride():
                entries[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _replay_schedules(runner: Any, optimizer: Any, rates: list[float], steps: int) -> None:
    """Bring the schedules to where `steps` steps under today's settings lead, from first `rates`.

    The same additions and products as in an unbroken run, so the same bits; and a run that goes on
    with more epochs than it was begun with gets the rates of its new length.
    """
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no optimizer step was seen between them
        for _ in range(steps):
            for schedule in runner.param_schedulers or []:
                schedule.step()


def _fingerprint(model: VPDRefer, state: dict[str, Tensor], frozen: set[str]) -> str:
    return model.frozen_fingerprint or fingerprint(
        {name: whole(state[name]) for name in sorted(frozen)}
    )


def _copy(value: Tensor) -> Tensor:
    """A copy on the CPU that shares memory with nothing; empty on processes that write nothing."""
    full = whole(value.detach())  # all processes together, where it is sharded
    return full.to("cpu", copy=True).contiguous() if is_main_process() else torch.empty(0)


def _optimizer_parts(optimizer: Any) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Moments as {'<parameter>.<name>': tensor}, and the parameter groups as plain values."""
    state = optimizer.state_dict()
    flat = {
        f"{index}.{name}": _copy(value)
        for index, entries in state["state"].items()
        for name, value in entries.items()
        if isinstance(value, Tensor)
    }
    return flat, state["param_groups"]


def _unflatten(flat: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in flat.items():
        index, entry = name.split(".", 1)
        state.setdefault(int(index), {})[entry] = value
    return state


def _random_state() -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Of every process: torch's generators as tensors, Python's and numpy's as lists of numbers."""
    algorithm, keys, position, has_gauss, gauss = np.random.get_state()
    version, words, gauss_next = random.getstate()
    own = {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "numpy": [str(algorithm), np.asarray(keys).tolist(), position, has_gauss, gauss],
        "python": [version, list(words), gauss_next],
    }
    tensors: dict[str, Tensor] = {}
    values = []
    for rank, one in enumerate(all_gather_object(own)):
        tensors[f"torch.{rank}"] = one.pop("torch")
        cuda = one.pop("cuda")
        if cuda is not None:
            tensors[f"cuda.{rank}"] = cuda
        values.append(one)
    return tensors, values


def _restore_random_state(snapshot: Snapshot) -> None:
    """Each process gets its own state back; with another number of processes none can be."""
    values, rank = snapshot.values["random"], get_rank()
    if len(values) != get_world_size():
        return
    tensors = snapshot.tensors["random"]
    torch.set_rng_state(tensors[f"torch.{rank}"])
    if f"cuda.{rank}" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors[f"cuda.{rank}"])
    algorithm, keys, position, has_gauss, gauss = values[rank]["numpy"]
    np.random.set_state((algorithm, np.array(keys, np.uint32), position, has_gauss, gauss))
    version, words, gauss_next = values[rank]["python"]
    random.setstate((version, tuple(words), gauss_next))
