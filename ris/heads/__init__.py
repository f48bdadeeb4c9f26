"""Heads turn a feature pyramid into predictions; `build_head` picks one by its config."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from mmengine.registry import DefaultScope
from torch import nn

from ris.errors import OptionError
from ris.heads.gres import GRESHead, GRESOutput
from ris.heads.ground_parts import GroundOutput, PhraseInput
from ris.heads.phrase_pixels import PhrasePixelHead
from ris.heads.reftr import RefTRHead
from ris.heads.vpd_decoder import VPDDecoder
from ris.heads.word_decoder import WordDecoder
from ris.mmseg_compat import head_class, refuse_code
from vpd.loaders import reason_of
from vpd.soundness import too_deep

HEADS: dict[str, type[nn.Module]] = {
    "VPDDecoder": VPDDecoder,
    "WordDecoder": WordDecoder,
    "GRESHead": GRESHead,
    "RefTRHead": RefTRHead,
    "PhrasePixelHead": PhrasePixelHead,
}
Head = TypeVar("Head", bound=nn.Module)
_FILLED_IN = ("in_channels", "text_channels", "build")  # not by a config
GROUND_HEADS = (RefTRHead, PhrasePixelHead)  # they are told of phrases, and give boxes and masks


def register_head(head: type[Head]) -> type[Head]:
    """A class decorator: from now on a config's `model.head` may name this class as its `type`.

    It is built with `in_channels` (of the pyramid's levels, finest first) and the config's other
    entries, and called with the levels [B, C_l, h / 2^l, w / 2^l] to give logits [B, 2, h', w'].
    With an attribute `reads_words = True` it is also built with `text_channels` and called with the
    text features [B, T, D]. Where a checkpoint of it is loaded, it must be registered too.

    Raises OptionError if another class has the name.
    """
    known = HEADS.setdefault(head.__name__, head)
    if known is not head:
        raise OptionError(
            f"there is a head {head.__name__} already, {known.__module__}.{known.__qualname__}; "
            "give yours another name"
        )
    return head


def build_head(
    config: Mapping[str, Any], in_channels: Sequence[int], text_channels: int | None = None
) -> nn.Module:
    """The mask head `config['type']` over a pyramid of `in_channels` (finest level first).

    `mmseg.NAME` takes a decode head of mmsegmentation; its `in_channels`, `in_index` and
    `num_classes` are filled in, and a head for one level names it with `in_index=<int>`. A head
    whose `reads_words` is true also gets `text_channels`, and is called with the text features.

    Raises:
        OptionError: an unknown type, or arguments that the head refuses, or that would run code
            of their own (see `refuse_code`).
    """
    arguments = dict(config)
    name = arguments.pop("type", None)
    if isinstance(name, str) and name.startswith("mmseg."):
        build: type[nn.Module] = head_class(name.removeprefix("mmseg."))
        refuse_code(arguments, f"head {name}")
        index = arguments.setdefault("in_index", list(range(len(in_channels))))
        arguments.setdefault("num_classes", 2)
        arguments.setdefault("align_corners", False)
        chosen = in_channels[index] if isinstance(index, int) else [in_channels[i] for i in index]
        arguments["in_channels"] = chosen
    elif isinstance(name, str) and name in HEADS:
        build = HEADS[name]
        arguments["in_channels"] = in_channels
        if reads_words(build):
            arguments["text_channels"] = text_channels
        if build is GRESHead:
            arguments["build"] = build_head
    else:
        known = ", ".join([*HEADS, "mmseg.<any decode head>"])
        raise OptionError(
            f"head type {name!r} is unknown; choose one of {known}, or name the module that "
            "registers it in RIS_PLUGINS (docs/recipes.md)"
        )
    # Of a registered head it is not known what its entries mean.
    known_entries = name.startswith("mmseg.") or build.__module__.startswith("ris.heads.")
    if known_entries and (said := too_deep(arguments)):
        raise OptionError(f"head {name}: {said}")
    # mmsegmentation looks its parts up in the current scope, which a Runner sets to mmengine's.
    scope = "mmseg" if name.startswith("mmseg.") else None
    try:
        with DefaultScope.overwrite_default_scope(scope):
            return build(**arguments)
    except (OptionError, ImportError):  # of a decoder within; of a package that is not there
        raise
    except Exception as error:  # torch and mmsegmentation raise a dozen types for odd values
        raise OptionError(_refusal(name, build, config, error)) from error


def _refusal(name: str, build: type[nn.Module], config: Mapping[str, Any], error: Exception) -> str:
    """What was asked for, and what the head takes where it is one of this package's."""
    given = ", ".join(f"{key}={value!r:.80}" for key, value in config.items() if key != "type")
    known = [key for key in inspect.signature(build).parameters if key not in _FILLED_IN]
    takes = "" if name.startswith("mmseg.") else f"; it takes {', '.join(known)}"
    return (
        f"head {name} cannot be built with {given or 'no options'}: {reason_of(error):.200}{takes}"
    )


def reads_words(head: nn.Module | type[nn.Module]) -> bool:
    """Whether a head is called with the text features beside the pyramid."""
    return bool(getattr(head, "reads_words", False))


__all__ = [
    "GROUND_HEADS",
    "HEADS",
    "GRESHead",
    "GRESOutput",
    "GroundOutput",
    "PhraseInput",
    "PhrasePixelHead",
    "RefTRHead",
    "VPDDecoder",
    "WordDecoder",
    "build_head",
    "reads_words",
    "register_head",
]
