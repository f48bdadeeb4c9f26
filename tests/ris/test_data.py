"""What the settings say of the data reaches the loaders, and the protocol says the same."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from refer.sentences import draw
from ris.engine import settings
from ris.engine.data import open_refer, picture_loader, pictures_of, refs_of, train_loader
from ris.engine.phrase_data import phrases_of, train_phrases, val_phrases
from ris.engine.tasks import gres_protocol, res_protocol

# Two squares of 32 x 32 that share 16 x 32 pixels of a picture of 64 x 64.
PARTS = [[8, 8, 40, 8, 40, 40, 8, 40], [24, 8, 56, 8, 56, 40, 24, 40]]
PIXELS = {"union": 48 * 32, "drop": 48 * 32 - 16 * 32}
SENTENCES = 7


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RefCOCO of four pictures to train on and one to validate on, a ref in each."""
    root = tmp_path_factory.mktemp("data")
    folder, pictures = root / "refcoco", root / "images" / "train2014"
    folder.mkdir()
    pictures.mkdir(parents=True)
    images, annotations, refs = [], [], []
    for number in range(1, 6):
        name = f"COCO_train2014_{number:012d}.jpg"
        Image.fromarray(np.full((64, 64, 3), number, np.uint8)).save(pictures / name)
        images.append({"id": number, "file_name": name, "height": 64, "width": 64})
        annotations.append(
            {"id": number, "image_id": number, "category_id": 1, "segmentation": PARTS,
             "bbox": [8, 8, 48, 32], "area": PIXELS["union"], "iscrowd": 0}
        )  # fmt: skip
        sentences = [
            {"sent_id": 10 * number + n, "sent": f"thing {n}", "raw": f"Thing {n}", "tokens": []}
            for n in range(SENTENCES)
        ]
        refs.append(
            {"ref_id": number, "ann_id": number, "image_id": number, "category_id": 1,
             "split": "val" if number == 5 else "train", "file_name": name,
             "sent_ids": [one["sent_id"] for one in sentences], "sentences": sentences}
        )  # fmt: skip
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "x"}]}
    (folder / "instances.json").write_text(json.dumps(content))
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    return root


def config_of(root: Path, task: str = "res", **entries: Any) -> Config:
    dataset = "grefcoco" if task == "gres" else "refcoco"
    own = {"data.root": str(root), "data.image_size": 64, "schedule.batch_size": 4}
    named = {name.replace("__", "."): value for name, value in entries.items()}
    return settings.load(settings.find_config(task, dataset, "tiny", None), own | named)


@pytest.mark.parametrize("overlap", ["drop", "union"])
def test_truth_is_drawn_as_the_protocol_says_in_training_and_evaluation(root, overlap):
    config = config_of(root, data__overlap=overlap)
    found, refers = config.to_dict(), open_refer(config.to_dict()["data"])
    (batch,) = train_loader(refers, found, "cpu")
    assert batch["mask"].sum(dim=(1, 2)).tolist() == [PIXELS[overlap]] * 4
    (batch,) = picture_loader(refers, "val", found, "cpu")
    assert batch["masks"].sum(dim=(1, 2)).tolist() == [PIXELS[overlap]]
    assert res_protocol(config).overlap == overlap
    assert gres_protocol(config_of(root, "gres", data__overlap=overlap)).overlap == overlap


@pytest.mark.parametrize(
    ("task", "asked", "drawn_at"),
    [("res", None, "original"), ("gres", None, "input"), ("gres", "original", "original")],
)
def test_outlines_are_drawn_where_the_published_code_draws_them(root, task, asked, drawn_at):
    entries = {} if asked is None else {"gres__drawn_at": asked}
    config = config_of(root, task, data__dataset="refcoco", **entries)
    found, refers = config.to_dict(), open_refer(config.to_dict()["data"])
    assert refs_of(train_loader(refers, found, "cpu")).drawn_at == drawn_at
    assert pictures_of(picture_loader(refers, "val", found, "cpu")).drawn_at == drawn_at
    if task == "gres":
        assert gres_protocol(config).drawn_at == drawn_at


@pytest.mark.parametrize("seed", [0, 3])
def test_the_runs_seed_draws_the_sentences(root, seed):
    config = config_of(root, seed=seed).to_dict()
    dataset = refs_of(train_loader(open_refer(config["data"]), config, "cpu"))
    for epoch in range(3):
        dataset.set_epoch(epoch)
        expected = [f"thing {draw(SENTENCES, ref_id, seed, epoch)}" for ref_id in range(1, 5)]
        assert [item["text"] for item in dataset] == expected


def test_the_runs_seed_draws_the_share_of_the_pictures(root):
    kept = set()
    for seed in range(8):
        config = config_of(root, seed=seed, data__train_fraction=0.25).to_dict()
        (ref,) = refs_of(train_loader(open_refer(config["data"]), config, "cpu")).refs
        kept.add(ref.ref_id)
    assert len(kept) > 1


@pytest.mark.parametrize("overlap", ["drop", "union"])
def test_masks_of_phrases_are_drawn_so_too(root, overlap):
    config = config_of(root, "rec", data__overlap=overlap, model__head__answers="both").to_dict()
    for batch in (
        next(iter(train_phrases([], config, "cpu"))),
        next(iter(val_phrases([], "val", config, "cpu"))),
    ):
        assert set(batch["masks"].sum(dim=(1, 2)).tolist()) == {PIXELS[overlap]}


def test_phrases_are_validated_on_the_data_set_that_is_named(root, tmp_path):
    data = shutil.copytree(root, tmp_path / "data")
    shutil.copytree(data / "refcoco", data / "refcoco+")
    for named, source in ((None, "refcoco(unc)"), ("refcoco+", "refcoco+(unc)")):
        config = config_of(data, "rec", data__val_dataset=named).to_dict()
        found = phrases_of(val_phrases([], "val", config, "cpu"))
        assert {record.source for record in found.records} == {source}
        trained_on = phrases_of(train_phrases([], config, "cpu"))
        assert {record.source for record in trained_on.records} == {"refcoco(unc)"}


def test_loaders_leave_the_runs_random_state_as_it_is(root):
    """A run that goes on in the middle of an epoch opens another number of them."""
    config = config_of(root).to_dict()
    refers = open_refer(config["data"])
    loaders = train_loader(refers, config, "cpu"), picture_loader(refers, "val", config, "cpu")
    before = torch.get_rng_state()
    for loader in loaders:
        assert len(list(loader)) == 1
    assert torch.equal(torch.get_rng_state(), before)
