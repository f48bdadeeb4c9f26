"""The digest that latents are kept by: of the pixels that the model will see."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import Dataset

from refer import REFER
from refer.datasets import PhraseDataset, RefDataset
from refer.readers.shapes_phrases import shapes_phrases
from refer.shapes import generate


def darker(item: dict[str, Any]) -> dict[str, Any]:
    return {**item, "image": item["image"] // 2}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shapes")
    generate(root, train=2, val=0, test_a=0, test_b=0, size=64, workers=1, extras=True,
             progress=False)  # fmt: skip
    return root


def opened(kind: str, root: Path, **options: Any) -> Dataset[Any]:
    if kind == "refs":
        return RefDataset(REFER(root, "refshapes"), "train", 32, "first", content=True, **options)
    records = list(shapes_phrases(root / "refshapes"))
    return PhraseDataset(records, root / "images/refshapes", "train", 32, content=True, **options)


@pytest.mark.parametrize("kind", ["refs", "phrases"])
@pytest.mark.parametrize("keep", [False, True])
def test_a_transform_changes_the_digest(root: Path, kind: str, keep: bool) -> None:
    plain, changed = (
        opened(kind, root, transform=transform, keep_in_memory=keep)[0]
        for transform in (None, darker)
    )
    for item in (plain, changed):
        assert item["content"] == hashlib.sha256(item["image"].numpy().tobytes()).digest()
    assert plain["content"] != changed["content"]
