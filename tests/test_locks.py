"""The locked versions against the bounds that pyproject.toml declares."""

from __future__ import annotations

import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

UNLOCKED = {"xformers"}  # CUDA only


def locked(path) -> dict[str, str]:
    lines = [line.split("==") for line in path.read_text().splitlines()]
    return {canonicalize_name(name): version for name, version in lines}


def test_what_is_declared_is_locked_within_its_bounds(repo):
    project = tomllib.loads((repo / "pyproject.toml").read_text())["project"]
    base, extras = (locked(repo / f"requirements{end}.txt") for end in ("", "-extras"))
    assert not base.keys() & extras.keys()
    parts = {"": project["dependencies"], **project["optional-dependencies"]}
    for part, declared in parts.items():
        for found in map(Requirement, declared):
            name = canonicalize_name(found.name)
            if name in UNLOCKED:
                continue
            # What everybody installs, and what the tests want, must not come with an extra.
            lock = base if part in ("", "dev", "lora") else base | extras
            assert name in lock, f"{part}: {found}"
            assert found.specifier.contains(lock[name]), f"{part}: {found}, locked {lock[name]}"
