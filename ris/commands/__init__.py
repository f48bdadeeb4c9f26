"""One module a command: a docstring (its help), `add_arguments(parser)` and `run(arguments)`.

Heavy imports belong inside `run`: printing help must not load torch.
"""

from __future__ import annotations

from types import ModuleType

from ris.commands import (
    app,
    compare,
    convert,
    doctor,
    import_,
    predict,
    score,
    shapes,
    sheet,
    test,
    tokens,
    train,
    zoo,
)

COMMANDS: dict[str, ModuleType] = {
    "train": train,
    "test": test,
    "predict": predict,
    "app": app,
    "sheet": sheet,
    "score": score,
    "compare": compare,
    "tokens": tokens,
    "convert": convert,
    "shapes": shapes,
    "import": import_,
    "doctor": doctor,
    "zoo": zoo,
}
