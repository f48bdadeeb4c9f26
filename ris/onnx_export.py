"""A segmenter as three ONNX files, compared with torch before anybody gets to see them.

`picture.onnx` depends on the picture alone, `text.onnx` on the sentences alone, `segment.onnx` on
both, as everywhere in this project: set the picture once, ask many times. `ris.onnx_runtime` runs
the folder without torch.

Shapes: S sentences (free when the files are run), T tokens, D text channels, H W pixels of the
model's square, h w latent cells, c latent channels.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from refer.files import write_json
from ris.errors import CheckpointError, OptionError
from ris.general import GeneralRefer
from ris.grounding import GroundRefer
from ris.onnx_graphs import OPSET, write_graphs
from ris.onnx_runtime import CARD, FILES, FORMAT, TOKENIZER, OnnxPredictor
from ris.predictor import Predictor
from ris.version import __version__
from vpd.errors import missing_extra

if TYPE_CHECKING:
    from ris.predictor import Picture

EQUAL = 0.999  # least share of equal mask pixels


class Parity(NamedTuple):
    """How far the exported files are from torch.

    difference: largest absolute difference of two logits. largest: largest absolute logit of torch.
    equal: share of equal pixels of the masks at the picture's own size. sentences: how many.
    """

    difference: float
    largest: float
    equal: float
    sentences: int

    def __str__(self) -> str:
        return (
            f"largest logit difference {self.difference:.2g} (logits reach {self.largest:.3g}), "
            f"{100 * self.equal:.3f} % of the mask pixels equal, {self.sentences} sentences"
        )


def export(
    predictor: Predictor,
    folder: str | Path,
    picture: Picture,
    sentences: Sequence[str],
    *,
    tolerance: float = 1e-3,
) -> Parity:
    """Write `folder`, once its files have given torch's masks of `picture` and `sentences`.

    Args:
        predictor: the segmenter, on the CPU in float32.
        folder: new; receives three .onnx files, `tokenizer.json` and `model.json`.
        picture: as for `Predictor.set_image`.
        sentences: two or more, of which the first is also asked alone.
        tolerance: largest difference of two logits, relative to the largest logit (or to 1).

    Raises:
        OptionError: the extra `onnx` is missing, the system or its head cannot be exported, or
            `folder` exists.
        CheckpointError: the files differ from torch by more than `tolerance`, or cannot be written.
        As `Predictor.set_image` and `predict` for the picture and the sentences.
    """
    check_extra()
    folder = Path(folder)
    _check(predictor, folder)
    # What is wrong with these is said before the minutes of tracing.
    predictor.set_image(picture)
    predictor.model.backbone.encode_text(sentences)
    beside = folder.with_name(folder.name + ".part")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir(parents=True)
        _write(predictor, beside)
        found = compare(predictor, OnnxPredictor(beside), sentences)
        limit = tolerance * max(1.0, found.largest)
        if not found.difference <= limit or found.equal < EQUAL:
            raise CheckpointError(
                f"the exported files differ from torch: {found}; at most {limit:.2g} and at least "
                f"{100 * EQUAL:g} % are allowed, so nothing is written; a larger --tolerance takes "
                "them as they are, if the masks agree"
            )
        card = _card(predictor)
        card["parity"] = {**found._asdict(), "tolerance": tolerance}
        write_json(beside / CARD, card, default=str)
        os.replace(beside, folder)
    except OSError as error:
        raise CheckpointError(f"the model could not be written to {folder}: {error}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return found


def compare(predictor: Predictor, exported: OnnxPredictor, sentences: Sequence[str]) -> Parity:
    """Ask both of the picture that `predictor` has set; the first sentence also alone, since their
    number is free."""
    assert predictor.picture is not None
    exported.set_image(predictor.picture)
    difference = largest = 0.0
    equal = []
    for asked in (list(sentences), list(sentences[:1])):
        own, other = _logits(predictor, asked), exported.logits(asked)
        # Not Python's max, which loses a NaN.
        difference = float(np.maximum(difference, np.abs(own - other).max()))
        largest = max(largest, float(np.abs(own).max()))
        equal.append(predictor.predict(asked).masks == exported.predict(asked).masks)
    return Parity(difference, largest, float(np.concatenate(equal).mean()), len(sentences))


@torch.inference_mode()
def _logits(predictor: Predictor, sentences: list[str]) -> np.ndarray:
    """float32 [S, 2, H, W] of the picture that is set, as `Predictor.predict` has them."""
    latent = predictor._latent
    assert latent is not None
    first = torch.zeros(len(sentences), dtype=torch.long)
    return predictor.model.logits(latent, sentences, square(predictor), first).numpy()


def check_extra() -> None:
    """Raises OptionError, with the cure, where a package of the extra `onnx` is missing."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(package) is None:
            raise OptionError(str(missing_extra(package, "onnx", "export to ONNX")))


def _check(predictor: Predictor, folder: Path) -> None:
    model = predictor.model
    if isinstance(model, GeneralRefer | GroundRefer):
        raise OptionError(
            f"a model of this task ({type(model).__name__}) cannot be exported to ONNX: only one "
            "mask a sentence (VPDRefer) can"
        )
    if model.backbone.text_encoder is None:
        raise OptionError("the model has no text encoder to export; give one with --text")
    if folder.exists():
        raise OptionError(f"{folder} exists; name a new folder")
    if predictor.device.type != "cpu" or predictor.dtype != torch.float32:
        raise OptionError(
            f"export runs on the CPU in float32; the predictor is on {predictor.device} in "
            f"{predictor.dtype}"
        )


def _write(predictor: Predictor, folder: Path) -> None:
    """The three graphs, the tokenizer and the card."""
    backbone = predictor.model.backbone
    write_graphs(predictor.model, square(predictor), folder)
    tokenizer = backbone.tokenizer.backend_tokenizer
    # A copy, since the settings that every program shall use are stored with it.
    own = type(tokenizer).from_str(tokenizer.to_str())
    own.enable_truncation(backbone.token_length)
    own.enable_padding(
        length=backbone.token_length,
        pad_id=backbone.tokenizer.pad_token_id,
        pad_token=backbone.tokenizer.pad_token,
    )
    own.save(str(folder / TOKENIZER))
    write_json(folder / CARD, _card(predictor), default=str)


def _card(predictor: Predictor) -> dict[str, Any]:
    """What a program must know to run the files."""
    model, backbone = predictor.model, predictor.model.backbone
    height, width = square(predictor)
    cells: list[Any] = [1, backbone.vae.config.latent_channels, height // 8, width // 8]
    words: list[Any] = ["sentences", backbone.token_length]
    features = [*words, backbone.text_channels]
    shapes: dict[str, tuple[dict[str, list[Any]], dict[str, list[Any]]]] = {
        "picture": ({"pixels": [1, 3, height, width]}, {"latent": cells}),
        "text": ({"ids": words}, {"text": features}),
        "segment": (
            {"latent": cells, "text": features},
            {"logits": ["sentences", 2, height, width]},
        ),
    }
    return {
        "format": FORMAT,
        "image_size": [height, width],
        "resize": "Pillow, bilinear with antialias, aspect ignored; RGB",
        "normalisation": {"divide": 255.0, "mean": 0.5, "deviation": 0.5},
        "token_length": backbone.token_length,
        "ignore_sentence": model.ignore_sentence,
        "sentence_batch": model.sentence_batch,
        "mask": "logits[:, 1] > logits[:, 0], after bilinear resizing to the picture's own size",
        "opset": OPSET,
        "dtype": "float32 (ids: int64)",
        "files": {
            f"{name}.onnx": {"inputs": shapes[name][0], "outputs": shapes[name][1]}
            for name in FILES
        },
        "head": model.head_config,
        "source": Path(backbone.source).name,
        "info": {key: value for key, value in predictor.info.items() if key != "image_size"},
        "versions": {
            "vpd-ris": __version__,
            **{name: version(name) for name in ("torch", "onnx", "onnxscript", "onnxruntime")},
        },
    }


def square(predictor: Predictor) -> tuple[int, int]:
    side = predictor.image_size
    return (side, side) if isinstance(side, int) else (side[0], side[1])


def generated(size: tuple[int, int]) -> tuple[Image.Image, list[str]]:
    """A picture of RefShapes and three sentences, for a comparison without data."""
    from refer.shapes.records import make_page

    page = make_page(0, "val", 0, *size)
    return Image.fromarray(page.picture), ["the thing on the left", "red circle", "a dog"]
