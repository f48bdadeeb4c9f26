"""Modules of the user's own that are imported before a command runs, to register heads.

`RIS_PLUGINS=my_head,other.module` names them; an environment variable reaches every process that a
launcher starts. They are looked for in the current folder too.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

from ris.errors import OptionError

VARIABLE = "RIS_PLUGINS"


def load() -> list[str]:
    """Import what the variable names; the names. Raises OptionError where one cannot be."""
    names = [name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()]
    if names and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    for name in names:
        try:
            import_module(name)
        except Exception as error:  # whatever the module's own statements raise
            raise OptionError(
                f"{VARIABLE} names {name!r}, which cannot be imported: {type(error).__name__}: "
                f"{error}; want modules on the path or in {os.getcwd()}"
            ) from error
    return names
