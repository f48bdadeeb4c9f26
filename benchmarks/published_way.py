"""What the speed benchmarks share: one model, run the published way and ours, on the same weights.

The published way (of VPD's referring segmentation, from its own files): for every (picture,
sentence) pair again the VAE, the text encoder, the UNet with the full map of every attention layer,
and the head; scores on the CPU, one pair after the other. Ours: see `ris.models`.
"""

from __future__ import annotations

import contextlib
import copy
import csv
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from refer.transforms import normalise
from ris import allocator
from ris.models import VPDRefer
from vpd import DiffusionBackbone, attention, convolution, text
from vpd.weights import random_components
from vpd.zoo import named

RESULTS = Path(__file__).resolve().parent / "results"
SIDES = {"tiny": 128, "full": 512}
TOKENS = 40
# `kept`: glibc keeps freed memory instead of giving it back and faulting it in again; `huge`: large
# blocks lie in huge pages too, which is how `ris` runs (`ris.allocator`).
KEPT = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "MALLOC_TOP_PAD_": str(1 << 28),
}
ALLOCATORS = {"default": {}, "kept": KEPT, "huge": {**KEPT, "THP_MEM_ALLOC_ENABLE": "1"}}
WORDS = (
    "left",
    "right",
    "red",
    "man",
    "dog",
    "chair",
    "in",
    "the",
    "front",
    "woman",
    "with",
    "hat",
)


def allocator_of(device: str) -> str:
    """The setting that `ris` runs under on this device and machine."""
    if device == "cuda":
        return "default"
    return "huge" if allocator.offered() else "kept"


def run_as_ris(device: str) -> None:
    """Begin this script anew where it does not run under that setting: it is read at the start."""
    wanted = ALLOCATORS[allocator_of(device)]
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **wanted})


def build(size: str, device: str, **options: Any) -> VPDRefer:
    """VPD's system with random weights: `full` is Stable Diffusion 1.5's size."""
    zoo = named("sd15" if size == "full" else "tiny")
    parts = random_components(zoo, 0, prepared=False)
    torch.manual_seed(0)
    backbone = DiffusionBackbone(parts, token_length=TOKENS, **options)
    return VPDRefer(backbone, {"type": "VPDDecoder"}).to(device)


def as_tested(model: VPDRefer, precision: str) -> VPDRefer:
    """A second model with the same weights, made ready as `ris test` does it. float32 weights are
    shared with the first."""
    shared = {} if precision == "bf16" else {id(one): one for one in model.parameters()}
    own = copy.deepcopy(model, shared)
    if precision == "bf16":
        own.lower_precision(torch.bfloat16)
    own.fast_convolutions()
    if precision == "fp32":  # in bf16 they are not taken
        convolution.prepare(own)
    return own


def use_kernel(model: VPDRefer, kernel: str) -> None:
    """Every attention layer that is not asked for its map runs this kernel from now on."""
    processor = attention.kernel(kernel)
    for part in (model.backbone.unet, model.backbone.vae):
        for module in part.modules():
            if isinstance(module, Attention) and not isinstance(
                module.processor, attention.MapProcessor
            ):
                module.set_processor(processor)


def workload(
    pictures: int, sentences: int, side: int
) -> Iterator[tuple[Tensor, list[str], Tensor]]:
    """Pictures uint8 [1, 3, H, W], their sentences, masks bool [S, H, W]; all seeded noise."""
    chance = np.random.default_rng(0)
    for _ in range(pictures):
        picture = torch.from_numpy(chance.integers(0, 256, (1, 3, side, side), dtype=np.uint8))
        asked = [" ".join(chance.choice(WORDS, 4)) + f" {n}" for n in range(sentences)]
        masks = torch.from_numpy(chance.random((sentences, side, side)) > 0.5)
        yield picture, asked, masks


def published_logits(model: VPDRefer, picture: Tensor, asked: Sequence[str]) -> Tensor:
    """Everything of B pairs, from pixels [B, 3, H, W] and words: logits [B, 2, H, W]."""
    backbone = model.backbone
    device = next(model.parameters()).device
    image = normalise(picture.to(device))
    latent = backbone.vae.encode(image).latent_dist.mode()
    ids = text.tokenize(backbone.tokenizer, asked, TOKENS).to(device)
    features = backbone.text_encoder(input_ids=ids).last_hidden_state
    return model.logits(latent, features, image.shape[-2:])


def published(model: VPDRefer, picture: Tensor, asked: Sequence[str], masks: Tensor) -> Tensor:
    """The published loop over one picture's sentences; predicted masks bool [S, H, W]."""
    use_kernel(model, "eager")
    found = []
    for sentence, mask in zip(asked, masks, strict=True):
        logits = published_logits(model, picture, [sentence])
        pred = logits.float().cpu().argmax(1).numpy()[0]
        np.logical_and(pred, mask.numpy()).sum(), np.logical_or(pred, mask.numpy()).sum()
        found.append(torch.from_numpy(pred > 0))
    return torch.stack(found)


def ours(model: VPDRefer, picture: Tensor, asked: Sequence[str], masks: Tensor) -> Tensor:
    """One picture's sentences as `ris test` runs them; predicted masks bool [S, H, W]."""
    use_kernel(model, "sdpa")
    model.backbone.texts.forget()  # no sentence is known from an earlier round
    device = next(model.parameters()).device
    pred = model(normalise(picture.to(device)), list(asked), mode="predict",
                 picture_index=torch.zeros(len(asked), dtype=torch.long))  # fmt: skip
    truth = masks.to(device)
    torch.stack([(pred & truth).sum((1, 2)), (pred | truth).sum((1, 2))])
    return pred.cpu()


def autocast(device: str, precision: str) -> contextlib.AbstractContextManager[Any]:
    """bf16 autocast, or none."""
    return torch.autocast(device, torch.bfloat16, enabled=precision == "bf16")


def timed(run: Callable[[], Any], device: str) -> tuple[float, Any]:
    """Seconds, and what came out; a GPU's queue is waited for before and after."""
    _wait(device)
    started = time.perf_counter()
    found = run()
    _wait(device)
    return time.perf_counter() - started, found


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def flops_of(run: Callable[[], Any]) -> int:
    """Floating-point operations of matrix products, convolutions and attention."""
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def flop_limit(device: str, precision: str) -> float:
    """Operations a second of a large matrix product here: the best of several."""
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    side = 8192 if device == "cuda" else 2048
    one = torch.randn(side, side, device=device, dtype=kind)
    return max(2 * side**3 / timed(lambda: one @ one, device)[0] for _ in range(6))


def machine(device: str) -> str:
    """The device in words."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{_processor()}, {torch.get_num_threads()} threads"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def peak_memory(device: str) -> float:
    """Peak of this process (CPU) or of torch's allocator (CUDA) so far, in GiB."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def in_child(script: str, arguments: Sequence[str], allocator: str) -> list[dict[str, Any]]:
    """Run a benchmark script in a process of its own under an allocator setting; its rows."""
    unset = {n: v for n, v in os.environ.items() if n not in ALLOCATORS["huge"]}
    environment = {**unset, **ALLOCATORS[allocator]}
    command = [sys.executable, script, *arguments, "--child", "--allocator", allocator]
    run = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a CSV; none where there is none."""
    if not path.is_file():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def save(path: Path, rows: Sequence[dict[str, Any]], keys: Sequence[str]) -> None:
    """Add rows to a CSV; an older row with the same `keys` is replaced."""
    known = read(path)
    fresh = {tuple(str(row[key]) for key in keys) for row in rows}
    known = [row for row in known if tuple(row[key] for key in keys) not in fresh]
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".partial")
    with open(draft, "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows([*known, *rows])
    os.replace(draft, path)
