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
from typing import Any

from ris.errors import OptionError


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

    found = MODELS.get(name)
    if found is None:
        heads = sorted(key for key in MODELS.module_dict if key.endswith("Head"))
        raise OptionError(f"mmseg.{name} is unknown; mmsegmentation has {', '.join(heads)}")
    return found


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
