"""config.json of a checkpoint folder: what a model is rebuilt from, read with suspicion."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec

from ris.card_file import read_object
from ris.errors import CheckpointError, RISError
from vpd import DiffusionBackbone
from vpd.errors import VPDError
from vpd.loaders import reason_of

FORMAT = "vpd-ris 1"
_CURE = "copy the folder anew from where it was written"


class Parts(msgspec.Struct):
    """What the backbone is rebuilt from (`DiffusionBackbone.architecture`).

    unet, vae, text: what diffusers and transformers build the parts from; no text without encoder.
    options: of `DiffusionBackbone`. source: where the weights came from.
    pad_token: the tokenizer's; folders of before it was kept say none.
    """

    unet: dict[str, Any]
    vae: dict[str, Any]
    text: dict[str, Any] | None
    options: dict[str, Any]
    source: str
    pad_token: str | None = None


class Frozen(msgspec.Struct):
    """Weights that are not in the folder: where they are, and how they are known again."""

    source: str
    fingerprint: str


class Card(msgspec.Struct):
    """config.json as a whole.

    info: what is told of the model beside what it is built from (image_size, scores, data set).
    frozen: None where all weights are in the folder.
    """

    system: str
    backbone: Parts
    head: dict[str, Any]
    class_weight: Annotated[list[float], msgspec.Meta(min_length=2, max_length=2)]
    ignore_sentence: bool
    info: dict[str, Any]
    frozen: Frozen | None = None


# The arguments of the backbone are written down once, there; here they are asked for by their type.
_Options = msgspec.defstruct(
    "Options",
    [
        (name, found.annotation, *([] if found.default is found.empty else [found.default]))
        for name, found in inspect.signature(
            DiffusionBackbone.__init__, eval_str=True
        ).parameters.items()
        if name not in ("self", "components")
    ],
)


def read_config(path: str | Path) -> dict[str, Any]:
    """config.json of a folder written by `save`; its `info` is a dictionary. Raises CheckpointError
    if it is none."""
    file = Path(path) / "config.json"
    try:
        described = read_object(file, FORMAT)
    except FileNotFoundError:
        if (Path(path) / "model_index.json").is_file():
            raise CheckpointError(
                f"{path} is a text-to-image model and no segmenter; train one on it: ris train "
                f"--weights {path}"
            ) from None
        raise CheckpointError(
            f"{path} is no checkpoint folder: config.json and model.safetensors are needed"
        ) from None
    if not isinstance(described.get("info", {}), dict):
        raise CheckpointError(f"{file}: info is {described['info']!r}; want an object; {_CURE}")
    return described


def whole_card(path: str | Path) -> Card:
    """config.json with all that a model is built from. Raises CheckpointError for entries that are
    not there or of another kind, or options that no backbone has."""
    described, file = read_config(path), Path(path) / "config.json"
    parts = described.get("backbone")
    for part, found, kind in (("", described, Card), ("backbone ", parts, Parts)):
        wanted = [entry.name for entry in msgspec.structs.fields(kind) if entry.required]
        if isinstance(found, dict) and (lacking := [name for name in wanted if name not in found]):
            raise CheckpointError(
                f"{file} lacks {part}{', '.join(lacking)}; it was not written whole"
            )
    card = _typed(described, Card, file)
    known = {entry.name for entry in msgspec.structs.fields(_Options)}
    if odd := sorted(set(card.backbone.options) - known):
        raise CheckpointError(
            f"{file} has backbone options that this version does not know: {', '.join(odd)}; it "
            f"knows {', '.join(sorted(known))}; update this package"
        )
    options = _typed(card.backbone.options, _Options, file, ".backbone.options")
    card.backbone.options = msgspec.structs.asdict(options)
    return card


def _typed(found: Any, kind: Any, file: Path, place: str = "") -> Any:
    """`found` as a `kind`; a number for a yes or no, say, as configs of training may write it, is
    understood."""
    try:
        return msgspec.convert(found, kind, strict=False)
    except (msgspec.ValidationError, RecursionError) as error:
        what, _, inner = str(error).partition(" - at `$")
        entry = f"{place}{inner.removesuffix('`')}".lstrip(".") or "the whole"
        raise CheckpointError(f"{file}: {entry}: {what}; {_CURE}") from error


@contextmanager
def built_from(path: str | Path, entry: str, *clear: type[Exception]) -> Iterator[None]:
    """What fails in here fails for what config.json of the folder says under `entry`: whatever its
    type, it becomes a CheckpointError. clear: errors that pass as they are."""
    passing: tuple[type[Exception], ...] = (CheckpointError, *clear)
    try:
        yield
    except passing:
        raise
    except Exception as error:  # libraries' constructors raise a dozen types
        said = str(error) if isinstance(error, RISError | VPDError) else reason_of(error)
        raise CheckpointError(f"{Path(path) / 'config.json'}: {entry}: {said}") from error
