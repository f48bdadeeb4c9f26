"""What training and scoring are given of the data: all of it, or an error."""

from __future__ import annotations

import itertools
import json
import logging
import shutil
from pathlib import Path

import pytest
from PIL import Image

from refer import REFER
from refer.errors import DataFileError
from ris.cli import main
from ris.engine import settings
from ris.engine.data import open_refer, train_loader
from ris.engine.tasks import task_of


def recipe(task: str, root: Path, **entries):
    path = settings.find_config(task, "refshapes", "tiny", None)
    named = {f"data.{name}": value for name, value in entries.items()}
    return settings.load(path, {"data.root": str(root), "data.image_size": 64, **named})


@pytest.mark.parametrize("dataset", ["refshapes", "refshapes+grefshapes"])
@pytest.mark.parametrize("sentences", ["random", "all"])
def test_an_epoch_asks_every_item_whose_batch_is_full(general_root, dataset, sentences):
    config = recipe(
        "res", general_root, dataset=dataset, train_sentences=sentences, group_by_picture=True
    )
    loader = train_loader(open_refer(config.data), config.to_dict(), "cpu")
    items, batches = loader.dataset, loader.batch_sampler
    order = batches.order()
    assert sorted(order) == list(range(len(items)))
    # Items of a picture stay together, and it is their own picture.
    paths = [items.pictures[index] for index in order]
    assert len(set(paths)) - 1 == sum(a != b for a, b in itertools.pairwise(paths))
    for index in (0, len(items) // 2, len(items) - 1):
        assert items[index]["picture"] == items.pictures[index]


def test_an_expression_without_a_box_is_not_left_out_in_silence(shapes_root, tmp_path, caplog):
    root = tmp_path / "data"
    shutil.copytree(shapes_root, root)
    refer = REFER(root, "refshapes")
    first = refer.Refs[refer.getRefIds(split="val")[0]]

    def count(**entries) -> int:
        config = recipe("rec", root, **entries)
        return len(task_of(config).val([], "val", config.to_dict(), "cpu").dataset.keys)

    whole = count()
    file = root / "refshapes" / "instances.json"
    instances = json.loads(file.read_text())
    for annotation in instances["annotations"]:
        if annotation["id"] == first["ann_id"]:
            annotation["bbox"][2] = 0
    file.write_text(json.dumps(instances))
    with pytest.raises(
        DataFileError, match=r"true boxes of 1 refs of val are empty.*on_empty=skip"
    ):
        count()
    with caplog.at_level(logging.WARNING):
        assert count(on_empty="skip") == whole - len(first["sentences"])
    assert "true boxes of 1 refs of val" in caplog.text


@pytest.mark.parametrize("fault", ["size", "outline"])
def test_training_does_not_begin_on_a_set_it_could_not_validate(
    shapes_root, train_arguments, tmp_path, capsys, fault
):
    root = tmp_path / "data"
    shutil.copytree(shapes_root, root)
    refer = REFER(root, "refshapes")
    last = refer.Refs[refer.getRefIds(split="val")[-1]]
    file = root / "refshapes" / "instances.json"
    if fault == "size":
        picture = Image.open(refer.image_path(last["image_id"]))
        picture.resize((131, 128)).save(refer.image_path(last["image_id"]))
    else:
        instances = json.loads(file.read_text())
        for annotation in instances["annotations"]:
            if annotation["id"] == last["ann_id"]:
                annotation["segmentation"] = [[1, 2, 3]]
        file.write_text(json.dumps(instances))
    place = train_arguments.index("--refer_data_root") + 1
    arguments = [*train_arguments[:place], str(root), *train_arguments[place + 1 :]]
    assert main([*arguments, "--logdir", str(tmp_path / "run")]) == 2
    said = capsys.readouterr()
    wanted = f"ref {last['ref_id']}" if fault == "outline" else f"image {last['image_id']}"
    assert wanted in said.err
    assert str(file) in said.err
    assert "Epoch(train)" not in said.out
