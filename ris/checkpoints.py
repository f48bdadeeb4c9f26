"""Saving a trained segmenter as a folder (safetensors + config.json), and loading any checkpoint.

Frozen weights that came from elsewhere (a Stable Diffusion folder, say) are not copied: the folder
names their source and keeps a fingerprint, so that another model's weights are never used silently.
Random frozen weights have no other home and are saved with the rest.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec.structs import asdict
from safetensors import SafetensorError
from torch import Tensor

from ris.cards import FORMAT, built_from, whole_card
from ris.errors import CheckpointError
from ris.frozen import fingerprint, frozen_names, has_no_home
from ris.general import GeneralRefer
from ris.grounding import GroundRefer
from ris.models import VPDRefer
from ris.released import load_released
from vpd import DiffusionBackbone, files, weights
from vpd.errors import VPDError
from vpd.files import save_file
from vpd.soundness import unsound
from vpd.zoo import ZOO

SYSTEMS: dict[str, type[VPDRefer]] = {
    "VPDRefer": VPDRefer,
    "GeneralRefer": GeneralRefer,
    "GroundRefer": GroundRefer,
}
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
    if "\0" in str(folder):
        raise CheckpointError(f"{str(folder)!r} is no name of a folder: it holds a null character")
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
    try:
        for stale in (beside, old):
            shutil.rmtree(stale, ignore_errors=True)
        beside.mkdir(parents=True)
        save_file(kept, beside / "model.safetensors")
        (beside / "config.json").write_text(json.dumps(config, indent=1, default=str))
        if folder.exists():
            os.replace(folder, old)
        os.replace(beside, folder)
    except (OSError, SafetensorError) as error:
        said = str(error).replace(str(beside), str(folder))  # the draft's name says nobody anything
        raise CheckpointError(
            f"the model could not be written to {folder}: {said}; make room there or name another "
            "place; what was there before is kept"
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
    card = whole_card(path)
    # Checkpointing is for training, and would only get into the way of what is asked for here.
    settings = {**card.backbone.options, "checkpointing": False, **options}
    trades = settings.pop("trades", None)
    if token_length is not None and token_length != settings["token_length"]:
        raise CheckpointError(
            f"{path} was trained with token_length {settings['token_length']}, but {token_length} "
            f"was asked for; pass --token_length {settings['token_length']}"
        )
    frozen, system = card.frozen, SYSTEMS.get(card.system)
    if system is None:
        raise CheckpointError(
            f"{path}/config.json names system {card.system!r}; there are {', '.join(SYSTEMS)}"
        )
    if frozen:
        source = str(weights_source or frozen.source)
        components = weights.load_components(source, ZOO["sd15"])
    else:
        with built_from(path, "backbone"):
            components = weights.empty_components(asdict(card.backbone), card.backbone.source)
    # Options may be the caller's, whose errors are clear.
    with built_from(path, "backbone.options", VPDError, ImportError):
        backbone = DiffusionBackbone(components, **settings)
    with built_from(path, "head or class_weight", ImportError):
        model = system(
            backbone,
            card.head,
            class_weight=card.class_weight,
            ignore_sentence=card.ignore_sentence,
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
        if found != frozen.fingerprint:
            raise CheckpointError(
                f"{path} was trained on the frozen weights of {frozen.source}; those in {source} "
                f"are others (fingerprint {found[:12]}, not {frozen.fingerprint[:12]}); name the "
                "original ones (ris test --weights, ris predict or convert --sd)"
            )
    model.backbone.trade(trades)  # they change weights: only now that all are there and checked
    return model.eval()


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
        "no weights": unsound(state, own),
    }
    text = "; ".join(
        f"{label}: {', '.join(names[:5])}" + (f" and {len(names) - 5} more" if names[5:] else "")
        for label, names in problems.items()
        if names
    )
    if text:
        raise CheckpointError(f"{path}/model.safetensors does not fit its config.json; {text}")
