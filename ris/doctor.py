"""What is installed and found here, what is missing, and the cure of each."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from packaging.requirements import Requirement

from refer.catalog import DATASETS, DataSet

if TYPE_CHECKING:
    from vpd.zoo import Zoo

# Nothing heavy is imported above: a broken torch must not keep the rest from being looked at.

# The parts of a diffusers repository that are read, and the names their weights may have.
PARTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}
ENDINGS = (".safetensors", ".fp16.safetensors", ".bin")


class Finding(NamedTuple):
    """One line of the report.

    name: what was looked for. ok: it can be used; None where it is missing or of no use here, and
        not needed.
    seen: what is there. cure: what to do about it, empty where nothing is to be done.
    """

    name: str
    ok: bool | None
    seen: str
    cure: str = ""


def versions() -> list[Finding]:
    """Python, and every package this one needs, against the range it was tested with."""
    found = [Finding("python", True, f"{platform.python_version()} on {platform.platform()}")]
    try:
        wanted = [Requirement(line) for line in requires("vpd-ris") or []]
    except PackageNotFoundError:
        cure = "run: pip install --no-deps --no-build-isolation -e . in the checkout"
        return [*found, Finding("vpd-ris", False, "not installed", cure)]
    for need in [Requirement("vpd-ris"), *wanted]:
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        cure = f'run: pip install "{need.name}{need.specifier}"'
        try:
            seen = version(need.name)
        except PackageNotFoundError:
            found.append(Finding(need.name, False, "not installed", cure))
            continue
        fits = need.specifier.contains(seen, prereleases=True)
        text = seen if fits else f"{seen}, outside {need.specifier}"
        found.append(Finding(need.name, fits, text, "" if fits else cure))
    return found


def devices() -> list[Finding]:
    """CPU, the speed of bfloat16 there, and each CUDA device with its memory."""
    import torch

    found = [
        Finding("cpu", True, f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"),
        half_precision(speed_of_half()),
    ]
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        found.append(
            Finding(
                f"cuda:{index}",
                True,
                f"{card.name}, {card.total_memory / 2**30:.0f} GiB, "
                f"compute capability {card.major}.{card.minor}"
                + (", bfloat16" if card.major >= 8 else ", no bfloat16"),
            )
        )
    if not torch.cuda.device_count():
        build = torch.version.cuda
        cure = (
            "check nvidia-smi and the driver: torch is built for CUDA and sees none"
            if build
            else "with an NVIDIA card, install a CUDA build of torch (pytorch.org); else --device "
            "cpu does everything, slowly"
        )
        seen = f"none (torch built {f'for CUDA {build}' if build else 'without CUDA'})"
        found.append(Finding("cuda", None, seen, cure))
    return found


def half_precision(ratio: float) -> Finding:
    """Whether bfloat16 is worth asking for on the CPU: `ratio` is its speed over float32's."""
    seen = f"matrix products in bfloat16 run at {ratio:.1f} times the speed of float32"
    if ratio < 1.2:
        return Finding("bf16 on the CPU", None, seen, "leave --precision at fp32 on the CPU")
    return Finding("bf16 on the CPU", True, f"{seen}: --precision bf16 is worth it")


def speed_of_half(side: int = 512, seconds: float = 1.0) -> float:
    """Speed of bfloat16 over that of float32 in a square matrix product on the CPU.

    In turns, and the best of each, so that what else the machine does slows both; for at most
    about so many seconds, since without fast kernels one product may take one.
    """
    import torch

    pairs = {kind: torch.randn(side, side, dtype=kind) for kind in (torch.float32, torch.bfloat16)}
    best = dict.fromkeys(pairs, float("inf"))
    until = time.perf_counter() + seconds
    for _ in range(20):
        for kind, one in pairs.items():
            started = time.perf_counter()
            one @ one
            best[kind] = min(best[kind], time.perf_counter() - started)
        if time.perf_counter() > until:
            break
    return best[torch.float32] / best[torch.bfloat16]


def kernels() -> list[Finding]:
    """Attention kernels that `--attention` may name."""
    from vpd.attention import KERNELS, kernel

    found = []
    for name in KERNELS:
        try:
            kernel(name)
            found.append(Finding(name, True, "available"))
        except ImportError as error:
            found.append(Finding(name, None, "not installed", str(error)))
    return found


def data_sets(root: Path) -> list[Finding]:
    """Every data set of the catalogue under a data root: annotations, splits, pictures."""
    return [_data_set(row, root) for row in DATASETS.values()]


def _data_set(row: DataSet, root: Path) -> Finding:
    if row.phrases is not None:
        file = root / row.phrases
        if not file.is_file():
            return Finding(row.name, None, f"no file {file}", row.cure)
        return _pictures(row, root, str(file))
    folder = root / (row.folder or row.name)
    stem = "grefs" if row.general else "refs"
    split_by = sorted(
        {
            path.stem[len(stem) + 1 : -1]
            for ending in ("p", "json")
            for path in folder.glob(f"{stem}(*).{ending}")
        }
    )
    if not split_by or not (folder / "instances.json").is_file():
        what = "no refs file" if folder.is_dir() and not split_by else "no instances.json"
        seen = f"{what} in {folder}" if folder.is_dir() else f"no folder {folder}"
        return Finding(row.name, None, seen, row.cure)
    return _pictures(row, root, f"{folder}, splitBy {', '.join(split_by)}")


def _pictures(row: DataSet, root: Path, seen: str) -> Finding:
    pictures = [root / place for place in row.image_folders]
    there = next((place for place in pictures if _holds_files(place)), None)
    if there is None:
        cure = (
            f"put {row.image_source} into {pictures[0]} (other layouts are found too), or name "
            "their folder with --image_root"
        )
        return Finding(row.name, False, f"{seen}; no pictures", cure)
    return Finding(row.name, True, f"{seen}; pictures in {there}")


def _holds_files(folder: Path) -> bool:
    return folder.is_dir() and any(True for _ in folder.iterdir())


def weights() -> list[Finding]:
    """The zoo's backbones, and CLIP, which a released `.pth` needs beside it."""
    from vpd.zoo import ZOO

    return [*map(backbone, ZOO.values()), _clip()]


def backbone(row: Zoo) -> Finding:
    """Whether the weights of a row of the zoo are here: in the checkout or in the Hub's cache."""
    from vpd.zoo import EMBEDDED, EMBEDDED_FOLDER

    if row.weights == EMBEDDED:
        parts = [EMBEDDED_FOLDER / part / name for part, name in PARTS.items()]
        missing = [
            f"{path.parent.name}/" for path in parts if not path.with_suffix(ENDINGS[0]).is_file()
        ]
        if not missing:
            return Finding(row.name, True, f"{row.weights}, in {EMBEDDED_FOLDER}")
        cure = (
            "use a clone of the repository with its checkpoints/, or train it: "
            "python tools/pretrain_tiny.py"
        )
        return Finding(row.name, False, f"{EMBEDDED_FOLDER} lacks {', '.join(missing)}", cure)
    missing = [part for part, name in PARTS.items() if not _cached(row.weights, f"{part}/{name}")]
    if not missing:
        return Finding(row.name, True, f"{row.weights}, in the Hub's cache")
    cure = (
        f"online it is fetched at first use; or fetch it with: hf download {row.weights}; or give "
        "--weights a diffusers folder or a Stable Diffusion .ckpt"
    )
    seen = f"{row.weights}: {', '.join(missing)} not in the Hub's cache"
    return Finding(row.name, None, seen, cure)


def _clip() -> Finding:
    from ris.checkpoints import DEFAULT_TEXT

    if _cached(DEFAULT_TEXT, "model") or _cached(DEFAULT_TEXT, "pytorch_model"):
        return Finding("clip", True, f"{DEFAULT_TEXT}, in the Hub's cache")
    cure = (
        f"only for a released .pth: hf download {DEFAULT_TEXT}, or give --text a CLIP folder or a "
        "Stable Diffusion .ckpt"
    )
    return Finding("clip", None, f"{DEFAULT_TEXT} not in the Hub's cache", cure)


def _cached(repo_id: str, stem: str) -> bool:
    """Whether weights of that stem lie in the Hub's cache; nothing is asked of the network."""
    from huggingface_hub import try_to_load_from_cache

    return any(
        isinstance(try_to_load_from_cache(repo_id, stem + ending), str) for ending in ENDINGS
    )
