"""Runs a folder of `ris convert --to onnx` without torch: set a picture once, ask many times.

Needs numpy, Pillow, OpenCV, onnxruntime, tokenizers and ftfy, and what `refer` reads data with
(msgspec, pycocotools). What the three files take and give stands in the folder's `model.json`.

Shapes: S sentences, T tokens, H W pixels of the model's square, H0 W0 of the picture itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import cv2
import msgspec
import numpy as np
from PIL import Image

from refer.pictures import open_picture
from ris.card_file import read_object
from ris.errors import CheckpointError, OptionError
from ris.prediction import Prediction, tight_boxes
from vpd.cleaning import clean
from vpd.errors import TextError, missing_extra

FORMAT = "vpd-ris onnx 1"
CARD, TOKENIZER = "model.json", "tokenizer.json"
_PAIR = msgspec.Meta(min_length=2, max_length=2)
FILES = ("picture", "text", "segment")


class _Card(msgspec.Struct):
    """What is read of the card here."""

    image_size: Annotated[list[Annotated[int, msgspec.Meta(ge=1, le=2**14)]], _PAIR]
    sentence_batch: Annotated[int, msgspec.Meta(ge=1)]
    ignore_sentence: bool


class OnnxPredictor:
    """`ris.Predictor`'s `set_image` and `predict`, on exported files.

    Args:
        folder: written by `ris convert --to onnx`.
        providers: onnxruntime's execution providers, the first that works is taken; only the CPU's
            was compared with torch.

    Raises CheckpointError for a folder that is none of these, ImportError without onnxruntime.
    """

    def __init__(
        self, folder: str | Path, providers: Sequence[str] = ("CPUExecutionProvider",)
    ) -> None:
        try:
            import onnxruntime
            from tokenizers import Tokenizer
        except ModuleNotFoundError as error:
            raise missing_extra(str(error.name), "onnx", "OnnxPredictor") from error
        folder = Path(folder)
        self.card = read_card(folder)
        height, width = self.card["image_size"]
        self.image_size = int(height), int(width)
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
            self._run = {
                name: onnxruntime.InferenceSession(folder / f"{name}.onnx", providers=[*providers])
                for name in FILES
            }
        except Exception as error:  # both libraries raise bare or undocumented types
            raise CheckpointError(
                f"{folder} is damaged or incomplete: {error}; export the model again"
            ) from error
        self._latent: np.ndarray | None = None
        self.picture: Image.Image | None = None

    def set_image(self, picture: str | Path | Image.Image | np.ndarray) -> None:
        """Encode a picture; the one pass of `picture.onnx`.

        picture: path, PIL picture, or uint8 RGB array [H0, W0, 3]. Raises as `Predictor.set_image`.
        """
        if isinstance(picture, np.ndarray):
            if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
                raise OptionError(
                    f"a picture array must be uint8 [H, W, 3]; got {picture.dtype} {picture.shape}"
                )
            opened = Image.fromarray(picture)
        elif isinstance(picture, Image.Image):
            opened = picture.convert("RGB")
        else:
            opened = open_picture(picture, orient="exif")
        height, width = self.image_size
        square = np.asarray(opened.resize((width, height), Image.Resampling.BILINEAR))
        # Divisors and order of `refer.transforms.normalise`, to the last bit.
        pixels = (square.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255) - 0.5) / 0.5
        self._latent = self._one("picture", pixels=pixels.astype(np.float32))
        self.picture = opened

    def logits(self, expressions: Sequence[str]) -> np.ndarray:
        """float32 [S, 2, H, W] at the model's square: background, referred."""
        if self._latent is None:
            raise OptionError("no picture is set; call set_image first")
        ids = self._ids(expressions)
        step = int(self.card["sentence_batch"])
        parts = []
        for start in range(0, len(ids), step):
            text = self._one("text", ids=ids[start : start + step])
            parts.append(self._one("segment", latent=self._latent, text=text))
        return np.concatenate(parts)

    def predict(self, expressions: str | Sequence[str]) -> Prediction:
        """Segment what each expression refers to in the picture set before; see `Prediction`.

        Raises OptionError: no picture was set, or no expression given; vpd.TextError: one is empty.
        """
        asked = [expressions] if isinstance(expressions, str) else list(expressions)
        if not asked:
            raise OptionError("no expression was given")
        logits = self.logits(asked)
        assert self.picture is not None
        size = self.picture.size
        # Resized before the decision, as `Predictor` does; OpenCV's linear resize of floats is
        # torch's bilinear without aligned corners.
        above = [
            cv2.resize(one[1], size, interpolation=cv2.INTER_LINEAR)
            - cv2.resize(one[0], size, interpolation=cv2.INTER_LINEAR)
            for one in logits
        ]
        # The softmax of two channels; tanh does not overflow.
        probabilities = (0.5 + 0.5 * np.tanh(0.5 * np.stack(above))).astype(np.float32)
        masks = probabilities > 0.5
        inside = (probabilities * masks).sum((1, 2)) / masks.sum((1, 2)).clip(min=1)
        return Prediction(
            asked,
            masks,
            probabilities,
            inside.astype(np.float32),
            truncated=self._truncated(asked),
            boxes=tight_boxes(masks),
        )

    def _one(self, name: str, **inputs: np.ndarray) -> np.ndarray:
        return np.asarray(self._run[name].run(None, inputs)[0])

    def _ids(self, expressions: Sequence[str]) -> np.ndarray:
        """int64 [S, T]: cut at, or padded to, the token length; the file says how."""
        for index, expression in enumerate(expressions):
            if not isinstance(expression, str) or not expression.strip():
                raise TextError(
                    f"sentence {index} of {len(expressions)} is {expression!r}; a referring "
                    "expression must be a non-empty string"
                )
        if self.card["ignore_sentence"]:
            expressions = ["object"] * len(expressions)
        found = self._tokenizer.encode_batch([clean(one) for one in expressions])
        return np.array([one.ids for one in found], np.int64)

    def _truncated(self, expressions: Sequence[str]) -> list[bool]:
        found = self._tokenizer.encode_batch([clean(one) for one in expressions])
        return [bool(one.overflowing) for one in found]


def read_card(folder: Path) -> dict[str, Any]:
    """`model.json` of an exported folder. Raises CheckpointError if it is none."""
    file = folder / CARD
    try:
        card = read_object(file, FORMAT)
        msgspec.convert(card, _Card)
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder} is no exported model: {CARD} is not there; ris convert --to onnx writes one"
        ) from None
    except msgspec.ValidationError as error:
        raise CheckpointError(f"{file} is damaged: {error}; export the model again") from error
    return card
