"""Fixtures every test may use: shared material, goldens, and tiny models saved in real formats."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# How long an example takes is the machine's affair.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

REPO = Path(__file__).resolve().parents[1]
GOLDENS = Path(__file__).parent / "goldens"


@pytest.fixture(autouse=True)
def _same_environment() -> Iterator[None]:
    """Start-up code sets variables (RANK under Slurm) that must not reach the next test."""
    before = dict(os.environ)
    yield
    for name in set(os.environ) - set(before):
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(scope="session")
def repo() -> Path:
    """The checkout."""
    return REPO


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with goldens and real pictures: $VPD_RIS_SHARED, or `shared` beside the checkout."""
    folder = Path(os.environ.get("VPD_RIS_SHARED", REPO.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(
            f"no shared material at {folder}; set VPD_RIS_SHARED to the folder that holds "
            "golden/ and data/"
        )
    return folder


def key_weights(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """The golden model's tensor called `key`: drawn from the key, scaled by its kind."""
    if key.endswith("num_batches_tracked"):
        return np.array(1000, dtype=np.int64)
    seed = zlib.crc32(key.encode())
    count = int(np.prod(shape))
    x = np.random.RandomState(seed).standard_normal(count).astype(np.float32).reshape(shape)
    if key.endswith("running_var"):
        return 0.5 + 0.5 * np.abs(x)
    if key.endswith("running_mean"):
        return 0.1 * x
    if key == "gamma":
        return 0.3 * x
    if key.endswith(".bias"):
        return 0.05 * x
    if len(shape) == 1:
        return 1 + 0.1 * x
    scale = 5.0 if key == "encoder_vq.quant_conv.weight" else 1.0
    # Multiplied in float32 by the rounded factor, as the goldens were: a division rounds elsewhere.
    return x * np.float32(scale * float(np.prod(shape[1:])) ** -0.5)


@pytest.fixture(scope="session")
def golden() -> dict[str, Any]:
    """Tensors of `tiny_t12.safetensors` and entries of `tiny_t12.json` in one dictionary."""
    from safetensors.torch import load_file

    return {
        **load_file(GOLDENS / "tiny_t12.safetensors"),
        **json.loads((GOLDENS / "tiny_t12.json").read_text()),
    }


@pytest.fixture(scope="session")
def released_keys() -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor in the released RefCOCO file."""
    listed = json.loads((GOLDENS / "vpd_ris_refcoco_keys.json").read_text())
    return {name: tuple(shape) for name, shape in listed.items()}


@pytest.fixture(scope="session")
def released_state(golden: dict[str, Any]) -> dict[str, Any]:
    """The golden model's tensors under their released names, made from the keys alone."""
    import torch

    from ris.models import VPDRefer
    from ris.released import released_state as to_released
    from vpd import DiffusionBackbone
    from vpd.zoo import Zoo

    config = golden["config"]
    width = config["model_channels"]
    vae = config["vae_ch"]
    zoo = Zoo(
        "golden",
        None,
        unet={
            "block_out_channels": [width * m for m in config["channel_mult"]],
            "cross_attention_dim": config["context_dim"],
            "attention_head_dim": config["num_heads"],
            "layers_per_block": config["num_res_blocks"],
        },
        vae={
            "block_out_channels": [vae * m for m in config["vae_ch_mult"]],
            "layers_per_block": 2,
            "down_block_types": ["DownEncoderBlock2D"] * 4,
            "up_block_types": ["UpDecoderBlock2D"] * 4,
        },
        text={
            "hidden_size": config["context_dim"],
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
        },
    )
    from vpd.weights import random_components

    components = random_components(zoo, 0)
    model = VPDRefer(DiffusionBackbone(components, token_length=config["token_length"]))
    return {
        key: torch.from_numpy(np.asarray(key_weights(key, tuple(value.shape))).copy())
        for key, value in to_released(model).items()
    }


@pytest.fixture(scope="session")
def released_file(released_state: dict[str, Any], tmp_path_factory: Any) -> Path:
    """The golden model as a released-format `.pth`, with all that the published code saves."""
    import argparse

    import torch

    path = tmp_path_factory.mktemp("released") / "vpd_ris_tiny.pth"
    args = argparse.Namespace(dataset="refcoco", token_length=12, img_size=128)
    torch.save(
        {
            "model": released_state,
            "optimizer": {"state": {}, "param_groups": [{"lr": 5e-5, "params": [0]}]},
            "epoch": 39,
            "args": args,
            "lr_scheduler": {"last_epoch": 0, "best": np.float64(0.5)},
        },
        path,
    )
    return path
