"""Importing mmsegmentation's models beside mmcv-lite, which has no compiled operators.

`mmseg.models` imports `mmcv.ops` at the top of four modules, and that wants the compiled
`mmcv._ext`. A stand-in takes its place while the import runs, and leaves again: mmengine's
Runner probes for `mmcv._ext` and would be misled by it. The heads used here need no operator.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Mapping
from typing import Any

from ris.errors import OptionError

# Beginnings of arguments of heads that `refuse_code` takes none of.
UNUSED = ("loss", "sampler", "init_cfg", "pretrained", "checkpoint", "_scope_")


class _Absent(types.ModuleType):
    """Answers every name with a function that says what is missing when it is called."""

    __file__ = None
    __spec__ = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*args: object, **kwargs: object) -> None:
            raise RuntimeError(f"mmcv operator {name} is not in mmcv-lite; install full mmcv")

        return missing


def head_class(name: str) -> type:
    """The mmsegmentation decode head called `name`, such as `UPerHead`.

    Raises:
        OptionError: mmsegmentation registers no such head; the message lists those it has.
    """
    import_models()
    from mmseg.registry import MODELS

    # Not by `MODELS.get`, which imports whatever a name that is not registered points to.
    found = MODELS.module_dict.get(name)
    if found is None:
        heads = sorted(key for key in MODELS.module_dict if key.endswith("Head"))
        raise OptionError(f"mmseg.{name} is unknown; mmsegmentation has {', '.join(heads)}")
    return found


def refuse_code(config: Any, where: str) -> None:
    """Raise OptionError for what of a head's arguments would run more than a registered part.

    The registry calls anything that a `type` names by its import path, a `_scope_` imports a
    package, and losses and initialisers may read pickles from a path or an address: a config that
    came with a stranger's weights must not reach them. Losses, samplers and initial weights of
    mmsegmentation's heads have no part here anyway.
    """
    if isinstance(config, Mapping):
        for key, value in config.items():
            if str(key).startswith(UNUSED) and value is not None:
                raise OptionError(
                    f"{where} has {key}={value!r}; losses, samplers, initial weights and scopes of "
                    "mmsegmentation's heads are not used here (the loss is that of "
                    "model.class_weight and model.dice_weight); leave it out"
                )
            # A class cannot come from a file: whoever passes one already runs code.
            known = isinstance(value, type) or (isinstance(value, str) and value in _registered())
            if key == "type" and not known:
                raise OptionError(
                    f"{where} names a part of type {value!r}; mmsegmentation and mmcv register "
                    "none of this name"
                )
            refuse_code(value, f"{where}.{key}")
    elif isinstance(config, (list, tuple)):
        for value in config:
            refuse_code(value, where)


def _registered() -> set[str]:
    import_models()
    from mmengine.registry import MODELS as ROOT
    from mmseg.registry import MODELS

    return {*MODELS.module_dict, *ROOT.module_dict}


def import_models() -> None:
    """Import `mmseg.models` once, with the stand-in where mmcv has no compiled part."""
    if "mmseg.models" in sys.modules:
        return
    needed = importlib.util.find_spec("mmcv._ext") is None if _has_mmcv() else True
    if needed:
        sys.modules["mmcv._ext"] = _Absent("mmcv._ext")
    try:
        importlib.import_module("mmseg.models")
    finally:
        if needed:
            sys.modules.pop("mmcv._ext", None)


def _has_mmcv() -> bool:
    return importlib.util.find_spec("mmcv") is not None
