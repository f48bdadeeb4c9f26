"""Saving a trained segmenter as a folder (safetensors + config.json), and loading any checkpoint.

Frozen weights that came from elsewhere (a Stable Diffusion folder, say) are not copied: the folder
names their source and keeps a fingerprint, so that another model's weights are never used silently.
Random frozen weights have no other home and are saved with the rest.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ris.errors import CheckpointError
from ris.general import GeneralRefer
from ris.grounding import GroundRefer
from ris.models import VPDRefer
from ris.released import load_released
from vpd import DiffusionBackbone, files, weights
from vpd.zoo import ZOO

FORMAT = "vpd-ris 1"
SYSTEMS: dict[str, type[VPDRefer]] = {
    "VPDRefer": VPDRefer,
    "GeneralRefer": GeneralRefer,
    "GroundRefer": GroundRefer,
}
# What config.json must hold, by part.
_CARD = {
    "": ("system", "backbone", "head", "class_weight", "ignore_sentence", "info"),
    "backbone ": ("unet", "vae", "text", "options", "source"),
}
_PRETRAINED = ("backbone.unet.", "backbone.vae.", "backbone.text_encoder.")
DEFAULT_TEXT = "openai/clip-vit-large-patch14"


def save(
    model: VPDRefer,
    folder: str | Path,
    state: Mapping[str, Tensor] | None = None,
    **info: Any,
) -> None:
    """Write `model` to `folder`, replacing an older one there only once the new one is complete.

    state: its state dict, where that is not simply the model's own (sharded weights, gathered).
    info: entries for the card in config.json (image_size, scores, data set, ...).
    """
    folder = Path(folder)
    if model.backbone.trades["int8"]:
        raise CheckpointError(
            "weights of trade int8 are rounded and cannot be saved; load the model without the "
            "trade, and save that"
        )
    frozen = set() if has_no_home(model) else frozen_names(model)
    state = model.state_dict() if state is None else state
    kept = {name: value.contiguous().cpu() for name, value in state.items() if name not in frozen}
    config = {
        "format": FORMAT,
        "system": type(model).__name__,
        "backbone": model.backbone.architecture(),
        "head": model.head_config,
        "class_weight": list(model.class_weight),
        "ignore_sentence": model.ignore_sentence,
        "frozen": {
            "source": model.backbone.source,
            "fingerprint": model.frozen_fingerprint
            or fingerprint({name: state[name] for name in frozen}),
        }
        if frozen
        else None,
        "info": info,
    }
    # Of this process alone: another run may be writing to the same place.
    beside, old = (folder.with_name(f"{folder.name}.{end}{os.getpid()}") for end in ("part", "old"))
    for stale in (beside, old):
        shutil.rmtree(stale, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        save_file(kept, beside / "model.safetensors")
        (beside / "config.json").write_text(json.dumps(config, indent=1, default=str))
        if folder.exists():
            os.replace(folder, old)
        os.replace(beside, folder)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"the model could not be written to {folder}: {error}; make room there; what was there "
            "before is kept"
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def load(
    path: str | Path,
    *,
    token_length: int | None = None,
    weights_source: str | Path | None = None,
    text: str | Path | None = None,
    config: Mapping[str, Any] | None = None,
    **options: Any,
) -> VPDRefer:
    """A segmenter from a folder written by `save`, or from a released VPD `.pth`, in eval mode.

    Args:
        token_length: what the caller expects; an error names both numbers if it differs.
        weights_source: where the frozen weights lie here, if not where they lay when saving.
        text: CLIP text encoder for a released file (default: `openai/clip-vit-large-patch14`).
        config: for a released file whose number of heads is not 8 (see `load_released`).
        options: override what the checkpoint says of the backbone (`attention_kernel`, `trades`).

    Raises:
        vpd.ConfigError: an option does not fit the backbone.
        CheckpointError, vpd.WeightsError: name the file and what is wrong.
    """
    path = Path(path)
    if not path.exists() and path.suffix not in weights.FILE_SUFFIXES:
        raise CheckpointError(
            f"there is nothing at {path}; give a folder that training wrote (config.json and "
            "model.safetensors), a released .pth, or the Hub id (owner/name) of a segmenter"
        )
    if not path.is_dir():
        return load_released(
            path, config, token_length=token_length, text=text or DEFAULT_TEXT, **options
        )
    described = _whole_card(path)
    architecture = described["backbone"]
    # Checkpointing is for training, and would only get into the way of what is asked for here.
    settings = {**architecture["options"], "checkpointing": False, **options}
    trades = settings.pop("trades", None)
    if token_length is not None and token_length != settings["token_length"]:
        raise CheckpointError(
            f"{path} was trained with token_length {settings['token_length']}, but {token_length} "
            f"was asked for; pass --token_length {settings['token_length']}"
        )
    frozen = described.get("frozen")
    if frozen:
        source = str(weights_source or frozen["source"])
        components = weights.load_components(source, ZOO["sd15"])
    else:
        components = weights.empty_components(architecture, architecture["source"])
    system = SYSTEMS.get(described["system"])
    if system is None:
        raise CheckpointError(
            f"{path}/config.json names system {described['system']!r}; there are "
            f"{', '.join(SYSTEMS)}"
        )
    model = system(
        DiffusionBackbone(components, **settings),
        described["head"],
        class_weight=described["class_weight"],
        ignore_sentence=described["ignore_sentence"],
    )
    state = files.tensors(files.load(path / "model.safetensors"))
    # What is in the file counts, also of weights that this model does not train: an earlier stage
    # may have (`start_from`).
    allowed = frozen_names(model) - state.keys() if frozen else set()
    _check_keys(model, state, allowed, path)
    model.load_state_dict(state, strict=False)
    if frozen:
        own = model.state_dict()
        found = fingerprint({name: own[name] for name in allowed})
        if found != frozen["fingerprint"]:
            raise CheckpointError(
                f"{path} was trained on the frozen weights of {frozen['source']}; those in "
                f"{source} are others (fingerprint {found[:12]}, not "
                f"{frozen['fingerprint'][:12]}); name the original ones (ris test --weights, "
                "ris predict or convert --sd)"
            )
    model.backbone.trade(trades)  # they change weights: only now that all are there and checked
    return model.eval()


def start_from(model: VPDRefer, path: str | Path) -> str:
    """Give `model` the weights of the checkpoint folder of an earlier stage, by name; the rest of
    it stays as it is built (a mask head, say, that the stage before had not). Returns in words what
    was taken and what was not.

    Weights of the text-to-image model that the earlier stage trained and this one does not are
    saved with this one's own from then on.

    Raises CheckpointError if shapes differ, if no weight of the head is met, if the earlier stage
    trained LoRA's weights and this one has none, or if the frozen weights that are not in the
    folder are others here.
    """
    described = _whole_card(path)
    state = files.tensors(files.load(Path(path) / "model.safetensors"))
    own = model.state_dict()
    met = [name for name in state if name in own]
    differing = [
        f"{name} {tuple(state[name].shape)} for {tuple(own[name].shape)}"
        for name in met
        if state[name].shape != own[name].shape
    ]
    length = described["backbone"]["options"]["token_length"]
    if length != model.backbone.token_length:
        raise CheckpointError(
            f"{path} was trained with token_length {length}, this run has "
            f"{model.backbone.token_length}; the maps of every token are input channels of the "
            f"head, so all stages need one length: pass --token_length {length}"
        )
    if differing or not any(name.startswith("head.") for name in met):
        what = f"other shapes: {', '.join(differing[:5])}" if differing else "no weight of the head"
        raise CheckpointError(
            f"{path} ({described['head']}) cannot begin this run ({model.head_config}): {what}; "
            "give both stages the same head settings, answers apart"
        )
    if any(".lora_" in name for name in state.keys() - own.keys()):
        raise CheckpointError(
            f"{path} was trained with --unet_mode lora, and this run's UNet "
            f"({model.backbone.unet_mode}) has no place for what was learned; pass --unet_mode lora"
        )
    elsewhere = {n: own[n] for n in own if n.startswith(_PRETRAINED) and n not in state}
    frozen = described.get("frozen")
    if frozen and fingerprint(elsewhere) != frozen["fingerprint"]:
        raise CheckpointError(
            f"{path} was trained on the frozen weights of {frozen['source']}; this run's, of "
            f"{model.backbone.source}, are others; give both stages the same --weights"
        )
    model.load_state_dict({name: state[name] for name in met}, strict=False)
    if not has_no_home(model):
        model.tuned = frozen_names(model) & state.keys()
    fresh = [name for name, _ in model.named_parameters() if name.startswith("head.")]
    fresh = [name for name in fresh if name not in state]
    left = [name for name in state if name not in own]
    return (
        f"{len(met)} tensors taken; {len(fresh)} of the head begin anew"
        f"{f' ({_some(fresh)})' if fresh else ''}; {len(left)} not used"
        f"{f' ({_some(left)})' if left else ''}"
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if names[3:] else "")


def read_config(path: str | Path) -> dict[str, Any]:
    """config.json of a folder written by `save`. Raises CheckpointError if it is none."""
    file = Path(path) / "config.json"
    try:
        described = json.loads(file.read_text())
        if described["format"] != FORMAT:
            raise CheckpointError(f"{file} has format {described['format']!r}, not {FORMAT!r}")
    except FileNotFoundError:
        if (Path(path) / "model_index.json").is_file():
            raise CheckpointError(
                f"{path} is a text-to-image model and no segmenter; train one on it: ris train "
                f"--weights {path}"
            ) from None
        raise CheckpointError(
            f"{path} is no checkpoint folder: config.json and model.safetensors are needed"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{file} is damaged or no checkpoint's: {error}") from error
    return described


def _whole_card(path: str | Path) -> dict[str, Any]:
    """config.json with all that a model is built from. Raises CheckpointError for entries that are
    not there, or options that no backbone has."""
    described, file = read_config(path), Path(path) / "config.json"
    parts = {"": described, "backbone ": described.get("backbone", {})}
    for part, wanted in _CARD.items():
        if lacking := [name for name in wanted if name not in parts[part]]:
            raise CheckpointError(
                f"{file} lacks {part}{', '.join(lacking)}; it was not written whole"
            )
    options = described["backbone"]["options"]
    known = set(inspect.signature(DiffusionBackbone.__init__).parameters) - {"self", "components"}
    if odd := sorted(set(options) - known):
        raise CheckpointError(
            f"{file} has backbone options that this version does not know: {', '.join(odd)}; it "
            f"knows {', '.join(sorted(known))}; update this package"
        )
    return described


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """sha256 over names, shapes and up to 1024 evenly spaced values of every tensor (float32)."""
    digest = hashlib.sha256()
    names = {name.replace(".base_layer", ""): name for name in state}
    for plain in sorted(names):
        flat = state[names[plain]].detach().flatten()
        values = flat[:: max(1, flat.numel() // 1024)][:1024].float().cpu().numpy()
        digest.update(f"{plain}{tuple(state[names[plain]].shape)}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def frozen_names(model: VPDRefer) -> set[str]:
    """Weights of the text-to-image model that no optimizer step changes, neither this run's nor
    that of the stage it began with."""
    return {
        name
        for name, value in model.named_parameters(remove_duplicate=True)
        if name.startswith(_PRETRAINED) and not value.requires_grad and name not in model.tuned
    }


def has_no_home(model: VPDRefer) -> bool:
    """Whether the frozen weights cannot be found again where they came from, and are saved too."""
    return model.backbone.source.startswith("random")


def _check_keys(
    model: VPDRefer, state: Mapping[str, Tensor], allowed: set[str], path: Path
) -> None:
    own = model.state_dict()
    problems = {
        "missing": [name for name in own if name not in state and name not in allowed],
        "unexpected": [name for name in state if name not in own],
        "wrong shapes": [
            f"{name} {tuple(value.shape)} for {tuple(own[name].shape)}"
            for name, value in state.items()
            if name in own and own[name].shape != value.shape
        ],
    }
    text = "; ".join(
        f"{label}: {', '.join(names[:5])}" + (f" and {len(names) - 5} more" if names[5:] else "")
        for label, names in problems.items()
        if names
    )
    if text:
        raise CheckpointError(f"{path}/model.safetensors does not fit its config.json; {text}")
