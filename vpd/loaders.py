"""diffusers' and transformers' loaders and constructors, with what they let pass refused and what
they raise, a dozen types, turned into one that says where."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel
from transformers.utils import logging as transformers_log

from vpd.errors import WeightsError
from vpd.soundness import too_deep


@contextmanager
def quietly(source: Path) -> Iterator[None]:
    """Without the bar that transformers draws while it copies tensors out of a file that lies here;
    a download keeps its bars, which the same switch would hide."""
    if not source.is_dir() or not transformers_log.is_progress_bar_enabled():
        yield
        return
    transformers_log.disable_progress_bar()
    try:
        yield
    finally:
        transformers_log.enable_progress_bar()


def whole(build: Any, where: str, part: str, **options: Any) -> Any:
    """`part` of a diffusers repository. Raises WeightsError as `_complete` does."""
    shallow(build.load_config(where, subfolder=part), f"{where}: {part}/config.json")
    model, said = build.from_pretrained(where, subfolder=part, output_loading_info=True, **options)
    return _complete(model, said, f"{where}: {part}/")


def text_encoder(where: str, **options: Any) -> CLIPTextModel:
    """CLIP's text encoder from a folder or Hub id. Raises WeightsError as `_complete` does."""
    inner = {name: value for name, value in options.items() if name == "subfolder"}
    file = "/".join([*inner.values(), "config.json"])
    shallow(CLIPTextConfig.get_config_dict(where, **inner)[0], f"{where}: {file}")
    model, said = CLIPTextModel.from_pretrained(
        where, dtype=torch.float32, output_loading_info=True, **options
    )
    return _complete(model, said, f"{where}: {'/'.join([*inner.values(), ''])}")


def _complete(model: Any, said: Mapping[str, Any], where: str) -> Any:
    """`model`, if its file held every weight: the loaders warn, and go on with random or absent
    ones. Raises WeightsError otherwise; of a VAE's decoder nothing is asked."""
    lacking = sorted(key for key in said["missing_keys"] if not _of_decoder(model, key))
    if lacking:
        more = f" and {len(lacking) - 5} more" if lacking[5:] else ""
        raise WeightsError(
            f"{where} lacks weights that its config.json asks for: {', '.join(lacking[:5])}{more}; "
            "check that the download is complete and that the two belong together"
        )
    return model


def _of_decoder(model: Any, key: str) -> bool:
    return isinstance(model, AutoencoderKL) and key.startswith(("decoder.", "post_quant_conv."))


def shallow(config: Any, where: str) -> None:
    if said := too_deep(config):
        raise WeightsError(f"{where}: {said}")


@contextmanager
def building(what: str, where: str) -> Iterator[None]:
    """Whatever goes wrong in here is the fault of the description: the constructors raise a dozen
    types, and each becomes a WeightsError."""
    try:
        yield
    except WeightsError:
        raise
    except Exception as error:
        raise WeightsError(f"{where}: no {what} can be built: {reason_of(error)}") from error


def reason_of(error: Exception) -> str:
    """The first line of what a library said, with the type where the words alone say little."""
    line = (str(error).strip().splitlines() or [""])[0]
    named = isinstance(error, KeyError | IndexError) or len(line) < 8
    return f"{type(error).__name__}: {line}" if named else line[:300]


def empty(build: Any, *args: Any, **kwargs: Any) -> Any:
    """Build without drawing initial weights that would be thrown away at once."""
    with torch.device("meta"):
        model = build(*args, **kwargs)
    model = model.to_empty(device="cpu")
    # to_empty leaves non-persistent buffers (CLIP's position ids) undefined, and no file has them.
    for module in model.modules():
        if "position_ids" in module._buffers and isinstance(module.position_ids, Tensor):
            length = module.position_ids.shape[-1]
            module.position_ids = torch.arange(length).expand(1, -1)
    return model
