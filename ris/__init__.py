"""RIS: systems that segment what a sentence refers to, and how they are trained and served."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ris.version import __version__

if TYPE_CHECKING:
    from ris.checkpoints import load, save
    from ris.models import VPDRefer
    from ris.prediction import Prediction
    from ris.predictor import Predictor
    from ris.released import load_released, save_released

__all__ = [
    "Prediction",
    "Predictor",
    "VPDRefer",
    "__version__",
    "load",
    "load_released",
    "save",
    "save_released",
]

_HOMES = {
    "Prediction": "ris.prediction",
    "Predictor": "ris.predictor",
    "VPDRefer": "ris.models",
    "load": "ris.checkpoints",
    "save": "ris.checkpoints",
    "load_released": "ris.released",
    "save_released": "ris.released",
}


def __getattr__(name: str) -> Any:
    """Import on first use: `ris --help` should not wait for torch."""
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'ris' has no attribute {name!r}")
