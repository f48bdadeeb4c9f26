"""Does text-to-image pre-training teach where things are and what words mean? Measured.

    python benchmarks/claim.py [--seeds 0 1 2] [--only a b c] [--steps 4000] [--jobs 2] [--readme]

One system, one head, one number of optimizer steps; only the backbone differs. The last step's
weights are scored; nothing is chosen by looking at a score. Rows that the CSV already holds for the
same settings are not run again, so an interrupted run goes on.

The random backbones `b`, `c` and `c10` keep the pre-trained autoencoder: what differs is the UNet
and the text encoder alone, as diffusers and transformers initialise them. `bp` and `cp` are harder
to beat: their initial values are prepared so that a head can learn from them (`vpd/untrained.py`).
`b0` is prepared too, and its autoencoder is as untrained as the rest.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trained import PRECISION, recipe_hash

REPO = Path(__file__).resolve().parents[1]
RESULTS = REPO / "benchmarks" / "results" / "claim.csv"
RECIPE = "res/refshapes_tiny_128.py"
STEPS = 4000
BEGIN, END = "<!-- claim:begin -->", "<!-- claim:end -->"
PICTURES = {"train": 6000, "val": 150, "test_a": 100, "test_b": 100}
SPLITS = ("val", "testA", "testB")
PLAIN = "pre-trained autoencoder, random UNet and text encoder"
PREPARED = f"{PLAIN}, prepared"


@dataclass(frozen=True)
class Variant:
    """A row of the table: the config entries that make it, and what it is called."""

    label: str
    entries: dict[str, Any] = field(default_factory=dict)
    fraction: float = 1.0


TUNED = {"model.backbone.unet_mode": "finetune"}  # at a tenth of the head's rate, by the recipe
ADAPTED = {"model.backbone.unet_mode": "lora"}
NOISE = {"model.backbone.source": PLAIN}
READY = {"model.backbone.source": PREPARED}
WHOLE = {"model.backbone.source": "random"}
VARIANTS = {
    "a": Variant("pre-trained, frozen"),
    "b": Variant("random, frozen", NOISE),
    "c": Variant("random, trained end to end", {**NOISE, **TUNED}),
    "d": Variant("pre-trained, fine-tuned", TUNED),
    "e": Variant("pre-trained, LoRA", ADAPTED),
    "a10": Variant("pre-trained, frozen, 10 % of the pictures", fraction=0.1),
    "c10": Variant("random, trained end to end, 10 % of the pictures", {**NOISE, **TUNED}, 0.1),
    "maps": Variant("a, without cross-attention maps", {"model.backbone.attention_maps": False}),
    "adapter": Variant("a, without the text adapter", {"model.backbone.text_adapter": False}),
    "adamw": Variant("a, AdamW alone", {"optim.muon": None}),
    **{
        f"t{time}": Variant(f"a, at timestep {time}", {"model.backbone.timestep": time})
        for time in (50, 200, 500)  # a is at 1, as published
    },
    "bp": Variant("random but prepared, frozen", READY),
    "cp": Variant("random but prepared, trained end to end", {**READY, **TUNED}),
    "b0": Variant("random but prepared, autoencoder too, frozen", WHOLE),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--steps", type=int, default=STEPS, help="optimizer steps of every run")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default=PRECISION)
    parser.add_argument("--data-seed", type=int, default=0, help="another data set, for trials")
    parser.add_argument("--work", type=Path, default=Path("work_dirs/claim"))
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--csv", type=Path, default=RESULTS)
    parser.add_argument("--readme", action="store_true", help="write the table into the docs")
    parser.add_argument("--no-runs", action="store_true", help="only the table of what there is")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="ENTRY=VALUE",
                        help="for all runs")  # fmt: skip
    arguments = parser.parse_args()
    if not arguments.no_runs:
        measure_all(arguments)
    text = table(read(arguments.csv), arguments.steps, arguments.precision)
    print(text)
    if arguments.readme:
        into_readme(text)


def measure_all(arguments: argparse.Namespace) -> None:
    """Run what the CSV does not hold yet, and append a row as each run ends."""
    from refer.shapes import generate

    root = (arguments.work / f"data_{arguments.data_seed}").resolve()
    generate(root, **PICTURES, size=128, seed=arguments.data_seed)
    common = {
        "steps": arguments.steps,
        "precision": arguments.precision,
        "data_seed": arguments.data_seed,
        "weights": weights_hash(),
        "recipe": recipe_hash(RECIPE),
        "set": " ".join(arguments.set),
    }
    done = {
        (row["variant"], int(row["seed"]))
        for row in read(arguments.csv)
        if all(row[name] == str(value) for name, value in common.items())
        and row["entries"] == said(row["variant"])
    }
    jobs = [
        (variant, seed)
        for seed in arguments.seeds
        for variant in arguments.only
        if (variant, seed) not in done
    ]
    print(f"{len(jobs)} runs to make, {len(done)} of these settings there already", flush=True)
    # One thread a run: models this small gain more from two runs than from two threads.
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // arguments.jobs))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.jobs, context, max_tasks_per_child=1) as pool:
        futures = {
            pool.submit(measure, variant, seed, root, common, arguments.work): (variant, seed)
            for variant, seed in jobs
        }
        for number, future in enumerate(as_completed(futures), start=1):
            row = future.result()
            append(arguments.csv, row)
            print(
                f"[{number}/{len(jobs)}] {row['variant']} seed {row['seed']}: "
                f"val oIoU {row['val_oIoU']}, testB {row['testB_oIoU']}, {row['seconds']} s",
                flush=True,
            )


def measure(name: str, seed: int, root: Path, common: dict[str, Any], work: Path) -> dict[str, Any]:
    """Train one variant with one seed and score it on every split; returns the CSV row."""
    from ris.engine import data, settings
    from ris.engine.evaluate import evaluate
    from ris.engine.train import train

    variant = VARIANTS[name]
    started = time.monotonic()
    # Of these settings alone, so that a run that was killed can go on from its last state.
    identity = json.dumps({**common, "entries": said(name)}, sort_keys=True)
    settings_hash = hashlib.sha256(identity.encode()).hexdigest()[:8]
    folder = work.resolve() / f"{name}_{seed}_{settings_hash}"
    entries: dict[str, Any] = {
        "data.root": str(root),
        "seed": seed,
        "output_dir": str(folder),
        "optim.precision": common["precision"],
        "data.train_fraction": variant.fraction,
        **variant.entries,
        **_parsed(common["set"]),
    }
    source = entries.get("model.backbone.source")
    if source in (PLAIN, PREPARED):
        folder_of = random_denoiser(work.resolve(), seed, prepared=source == PREPARED)
        entries["model.backbone.source"] = str(folder_of)
    config = settings.load(REPO / "configs" / RECIPE, entries)
    loader = data.train_loader(data.open_refer(config.data), config.to_dict(), "cpu")
    epochs = max(1, round(common["steps"] / len(loader)))
    config.schedule.epochs = config.schedule.val_interval = epochs
    trained = train(config, folder, device="cpu", resume_from="auto")
    scores = {"val": trained["scores"]}
    for split in SPLITS[1:]:
        tested = evaluate(
            config, trained["best_weights"], folder / split, split=split, device="cpu"
        )
        scores[split] = tested["scores"]
    return {
        "variant": name,
        "label": variant.label,
        "seed": seed,
        **common,
        "entries": said(name),
        "optimizer_steps": trained["optimizer_steps"],
        "train_refs": trained["train_refs"],
        **{
            f"{split}_{metric}": f"{scores[split][metric]:.2f}"
            for split in SPLITS
            for metric in ("oIoU", "mIoU", "P@0.5")
        },
        "seconds": round(time.monotonic() - started),
        "data_hash": trained["data_hash"][:16],
        "protocol": trained["protocol"]["resolution"],
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, no GPU",
        "commit": _commit(),
    }


def said(name: str) -> str:
    """A variant's config entries, as its rows name them; nothing for one that there is no more."""
    return json.dumps(VARIANTS[name].entries, sort_keys=True) if name in VARIANTS else ""


def random_denoiser(work: Path, seed: int, prepared: bool) -> Path:
    """A diffusers folder with the embedded autoencoder and everything else untrained."""
    from diffusers import AutoencoderKL

    from vpd.weights import random_components
    from vpd.zoo import EMBEDDED_FOLDER, named

    target = work / f"{'prepared' if prepared else 'random'}_denoiser_{seed}"
    if target.is_dir():
        return target
    parts = random_components(named("tiny"), seed, prepared=prepared)
    work.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=work))
    parts.unet.save_pretrained(draft / "unet")
    parts.text_encoder.save_pretrained(draft / "text_encoder")
    parts.tokenizer.save_pretrained(draft / "tokenizer")
    AutoencoderKL.from_pretrained(EMBEDDED_FOLDER / "vae").save_pretrained(draft / "vae")
    try:
        draft.rename(target)
    except OSError:  # a run beside this one was faster
        if not target.is_dir():
            raise
    return target


def weights_hash() -> str:
    """First digits of the sha256 of the embedded UNet."""
    from vpd.zoo import EMBEDDED_FOLDER

    content = (EMBEDDED_FOLDER / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    return hashlib.sha256(content).hexdigest()[:12]


def read(path: Path) -> list[dict[str, str]]:
    """The rows of the CSV; none when it is not there."""
    if not path.is_file():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def append(path: Path, row: dict[str, Any]) -> None:
    """Add a row; the file is replaced as a whole."""
    rows = [*read(path), row]
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".partial")
    with open(draft, "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(row))
        writer.writeheader()
        writer.writerows(rows)
    os.replace(draft, path)


def table(rows: list[dict[str, str]], steps: int, precision: str = PRECISION) -> str:
    """Mean and standard deviation over the seeds, as Markdown, of the recipe as it is now."""
    same = {"steps": str(steps), "precision": precision, "recipe": recipe_hash(RECIPE)}
    same |= {"set": "", "data_seed": "0"}
    rows = [row for row in rows if all(row[name] == value for name, value in same.items())]
    rows = [row for row in rows if row["entries"] == said(row["variant"])]
    lines = [
        "| backbone | val oIoU | testA oIoU | testB oIoU | val P@0.5 | seeds |",
        "|---|---|---|---|---|---|",
    ]
    for name in VARIANTS:
        own = [row for row in rows if row["variant"] == name]
        if not own:
            continue
        cells = [
            _spread([float(row[column]) for row in own])
            for column in ("val_oIoU", "testA_oIoU", "testB_oIoU", "val_P@0.5")
        ]
        label = VARIANTS[name].label
        lines.append(f"| {name}: {label} | {' | '.join(cells)} | {len(own)} |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    mean = statistics.fmean(values)
    return f"{mean:.1f} ± {statistics.stdev(values):.1f}" if len(values) > 1 else f"{mean:.1f}"


def into_readme(text: str) -> None:
    """Put the table between the marks of README.md and docs/embedded.md."""
    for page in (REPO / "README.md", REPO / "docs" / "embedded.md"):
        before, rest = page.read_text().split(BEGIN)
        after = rest.split(END)[1]
        page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def _parsed(text: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in text.split():
        name, _, value = item.partition("=")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def _commit() -> str:
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=REPO, capture_output=True, text=True
    )
    return found.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
