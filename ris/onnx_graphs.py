"""The three graphs of a segmenter, traced and written as .onnx files.

Shapes: S sentences (free when the files are run), T tokens, D text channels, H W pixels of the
model's square, h w latent cells, c latent channels.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from ris.errors import OptionError
from ris.heads.word_decoder import PixelWordAttention
from ris.models import VPDRefer
from vpd import convolution, text

OPSET = 20
INSIDE = 2**30  # bytes of weights kept within an .onnx file, which cannot exceed 2 GiB
# diffusers' upsamplers take a branch of their own from 64 pairs on (one that copies memory and
# changes no value), so a graph can be traced for fewer. Run, it takes any number.
TRACED = 63


def write_graphs(model: VPDRefer, size: tuple[int, int], folder: Path) -> None:
    """`picture.onnx` (pixels [1, 3, H, W] to latent [1, c, h, w]), `text.onnx` (ids [S, T] to
    features [S, T, D]) and `segment.onnx` (both to logits [S, 2, H, W]) in `folder`, of float32.

    Raises OptionError where a layer has no translation.
    """
    backbone = model.backbone
    pixels = torch.zeros(1, 3, *size)
    ids = text.tokenize(backbone.tokenizer, ["one", "two of them"], backbone.token_length)
    with torch.no_grad():
        latent = backbone.encode_image(pixels)
        features = backbone.encode_text(["one", "two of them"])
    with _written_out(model):
        _graph(_Pictures(model), ["pixels"], folder / "picture.onnx", (pixels,), (), "latent")
        _graph(_Texts(model), ["ids"], folder / "text.onnx", (ids,), (0,), "text")
        segments, names = _Segments(model, size), ["latent", "text"]
        _graph(segments, names, folder / "segment.onnx", (latent, features), (1,), "logits")


class _Pictures(nn.Module):
    def __init__(self, model: VPDRefer) -> None:
        super().__init__()
        self.backbone = model.backbone

    def forward(self, pixels: Tensor) -> Tensor:
        return self.backbone.encode_image(pixels)


class _Texts(nn.Module):
    def __init__(self, model: VPDRefer) -> None:
        super().__init__()
        assert model.backbone.text_encoder is not None
        self.encoder = model.backbone.text_encoder

    def forward(self, ids: Tensor) -> Tensor:
        found: Tensor = self.encoder(input_ids=ids).last_hidden_state
        return found


class _Segments(nn.Module):
    """Text adapter, UNet, maps, head and upsampling of S sentences about one picture."""

    def __init__(self, model: VPDRefer, size: tuple[int, int]) -> None:
        super().__init__()
        self.model = model
        self.size = size

    def forward(self, latent: Tensor, text: Tensor) -> Tensor:
        # From the text and not its length, which would become a constant.
        first = torch.zeros_like(text[:, 0, 0], dtype=torch.long)
        return self.model.logits(latent, text, self.size, first)


def _graph(
    module: nn.Module,
    names: list[str],
    path: Path,
    inputs: tuple[Tensor, ...],
    free: Collection[int],
    output: str,
) -> None:
    """Trace `module` and write it; the inputs numbered in `free` have any number of rows."""
    dimension = torch.export.Dim("sentences", min=1, max=TRACED)
    shapes = tuple({0: dimension} if index in free else None for index in range(len(inputs)))
    named = tuple({0: "sentences"} if index in free else None for index in range(len(inputs)))
    size = sum(value.nbytes for value in module.state_dict().values())
    log = logging.getLogger("torch.onnx")
    level = log.level
    try:
        log.setLevel(logging.ERROR)  # it warns that torchvision, which nothing here uses, is absent
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            traced = torch.export.export(module.eval(), inputs, dynamic_shapes=shapes, strict=False)
            program = torch.onnx.export(
                traced,
                dynamo=True,
                dynamic_shapes=named,
                input_names=names,
                output_names=[output],
                opset_version=OPSET,
                verbose=False,
            )
        assert program is not None
        program.save(path, external_data=size > INSIDE)
    except OSError:
        raise
    except Exception as error:  # of three libraries, and as many types as there are operators
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise OptionError(
            f"{path.stem} cannot be exported to ONNX with torch {torch.__version__} ({reason}); "
            "the heads VPDDecoder and WordDecoder on Stable Diffusion's layers can"
        ) from error
    finally:
        log.setLevel(level)


@contextmanager
def _written_out(model: VPDRefer) -> Iterator[None]:
    """Layers that run a kernel of this project's own, or one without a translation, as formulas."""
    layers = [module for module in model.modules() if isinstance(module, PixelWordAttention)]
    fast = [(part, type(part)) for part in convolution.installed(model)]
    for layer in layers:
        layer.written_out = True
    for part, own in fast:
        object.__setattr__(part, "__class__", own.__base__)
    try:
        yield
    finally:
        for layer in layers:
            layer.written_out = False
        for part, own in fast:
            object.__setattr__(part, "__class__", own)
