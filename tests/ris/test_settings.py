"""From options and config files to a run's settings, and what they say of the data."""

from __future__ import annotations

import argparse
import json
import pickle

import pytest

from refer.errors import DataFileError, UnknownNameError
from refer.shapes import generate
from ris import cards
from ris.commands import options
from ris.engine import runner, settings
from ris.engine.data import split_by_of
from ris.engine.tasks import identity, task_of
from ris.errors import OptionError
from vpd import ConfigError


def test_the_published_recipe_is_the_default():
    config = settings.load(settings.find_config("res", "refcocog", "sd15", None))
    assert config.data.token_length == 77
    assert config.data.split_by == "umd"
    assert (config.optim.lr, config.optim.weight_decay, config.optim.power) == (5e-5, 1e-2, 0.9)
    assert (config.schedule.epochs, config.schedule.batch_size) == (40, 4)
    assert tuple(config.model.class_weight) == (0.9, 1.1)
    assert config.model.dice_weight == 0
    assert config.data.overlap == "drop"
    assert config.model.backbone.unet_mode == "frozen"
    assert config.model.backbone.timestep == 1
    assert config.model.backbone.map_gradient is False


@pytest.mark.parametrize("dataset", ["refcoco", "refcoco+", "refcocog", "refclef", "refshapes"])
@pytest.mark.parametrize("backbone", ["sd15", "tiny"])
def test_every_config_loads(dataset, backbone):
    config = settings.load(settings.find_config("res", dataset, backbone, None))
    assert config.data.dataset == dataset
    assert config.model.backbone.name == backbone


@pytest.mark.parametrize(
    ("config", "entries", "expected"),
    [
        ("res/refcocog_sd15_512.py", {}, ("refcocog", "umd", None)),
        ("res/refcoco_sd15_512.py", {}, ("refcoco", "unc", None)),
        ("res/refcocog_sd15_512.py", {"data.split_by": "google"}, ("refcocog", "google", None)),
        (
            "res/refcoco_sd15_512.py",
            {"data.dataset": "refcoco+refcocog"},
            ("refcoco", "unc", "refcoco+refcocog"),
        ),
        ("pretrain/vg_sd15_512.py", {}, ("refcoco", "unc", "vg")),
        ("phrase/flickr30k_sd15_512.py", {}, ("flickr30k", None, None)),
        # Grounding validates on every part.
        (
            "phrase/flickr30k_sd15_512.py",
            {"data.dataset": "flickr30k+refcoco"},
            ("flickr30k+refcoco", None, None),
        ),
    ],
)
def test_a_run_names_the_data_that_is_scored(config, entries, expected):
    found = identity(settings.load(settings.CONFIGS / config, entries))
    assert (found["dataset"], found["split_by"], found.get("trained_on")) == expected


def test_a_split_by_is_that_of_the_first_part():
    asked = {"dataset": "refcocog+refcoco", "split_by": "google"}
    assert split_by_of(asked, "refcocog") == "google"
    assert split_by_of(asked, "refcoco") is None


def test_blank_sentences_stop_a_run_unless_they_are_skipped(tmp_path):
    generate(tmp_path, train=3, val=2, test_a=0, test_b=0, size=64, workers=1, progress=False)
    path = tmp_path / "refshapes" / "refs(unc).p"
    refs = pickle.loads(path.read_bytes())
    for split in ("train", "val"):
        next(ref for ref in refs if ref["split"] == split)["sentences"][0]["sent"] = " "
    path.write_bytes(pickle.dumps(refs))
    asked = {"data.root": str(tmp_path), "data.image_size": 64}

    def loaders(task, **more):
        found = settings.find_config(task, "refshapes", "tiny", None)
        config = settings.load(found, {**asked, **more})
        row, opened = task_of(config), task_of(config).open(config.to_dict()["data"])
        yield lambda: row.train(opened, config.to_dict(), "cpu")
        yield lambda: row.val(opened, "val", config.to_dict(), "cpu")

    for task in ("res", "rec"):
        for load in loaders(task):
            with pytest.raises(DataFileError, match=r"empty.*--set data\.on_empty=skip"):
                load()
        for load in loaders(task, **{"data.on_empty": "skip"}):
            assert len(load().dataset)
        for load in loaders(task, **{"data.on_empty": "drop"}):
            with pytest.raises(UnknownNameError, match="error, skip"):
                load()


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ({"dataset": "refcoco"}, None),
        ({"dataset": "refcoco", "trained_on": "vg"}, "vg"),
        ({"dataset": "refcoco+refcocog"}, "refcoco+refcocog"),  # as older cards have it
        ({"dataset": "refcocog"}, "refcocog"),
        ({}, None),
    ],
)
def test_what_a_checkpoint_was_trained_on_stands_on_its_card(card, expected, tmp_path):
    described = {"dataset": "refcoco", "trained_on": "refcoco+refcocog", "split": "val"}
    text = json.dumps({"format": cards.FORMAT, "info": card})
    (tmp_path / "config.json").write_text(text)
    said = {"dataset": "refcoco", "split": "val"}
    assert runner.of_checkpoint(described, tmp_path / "released.pth") == said
    if expected:
        said["trained_on"] = expected
    assert runner.of_checkpoint(described, tmp_path) == said


@pytest.mark.parametrize("task", ["res", "rec"])
def test_another_backbone_takes_the_recipe_and_not_the_name(task):
    parser = argparse.ArgumentParser()
    options.add_choice_of_config(parser)
    asked = ["--dataset", "refcoco", "--task", task, "--backbone"]
    theirs = options.load_config(parser.parse_args([*asked, "sd15"])).to_dict()
    own = options.load_config(parser.parse_args([*asked, "sd21"])).to_dict()
    assert own["model"]["backbone"].pop("name") == "sd21"
    assert theirs["model"]["backbone"].pop("name") == "sd15"
    assert own == theirs


def config_of(*asked: str):
    """The config that a command line chooses."""
    parser = argparse.ArgumentParser()
    options.add_choice_of_config(parser)
    options.add(parser, *options.ENTRIES)
    return options.load_config(parser.parse_args(asked))


def test_a_file_is_taken_as_it_stands_unless_options_say_otherwise():
    file = str(settings.CONFIGS / "res/refcocog_tiny_128.py")
    own = config_of("--config", file)
    assert own.to_dict() == settings.load(file).to_dict()
    assert (own.data.dataset, own.model.backbone.name) == ("refcocog", "tiny")
    plain = config_of()
    assert (plain.data.dataset, plain.model.backbone.name) == ("refcoco", "sd15")


@pytest.mark.parametrize("asked", [["--dataset", "refcocog"], ["--set", "data.dataset=refcocog"]])
def test_the_data_set_is_laid_over_a_file(asked):
    file = str(settings.CONFIGS / "res/refcoco_sd15_512.py")
    data = config_of("--config", file, *asked).data
    assert (data.dataset, data.token_length, data.split_by) == ("refcocog", 77, None)
    assert config_of("--config", file, *asked, "--token_length", "20").data.token_length == 20


def test_what_a_file_says_of_its_own_data_set_goes_with_it():
    file = str(settings.CONFIGS / "res/refcocog_sd15_512.py")
    data = config_of("--config", file, "--dataset", "refcoco").data
    assert (data.dataset, data.token_length, data.split_by) == ("refcoco", 40, None)
    data = config_of("--config", file, "--dataset", "refcoco", "--splitBy", "google").data
    assert data.split_by == "google"
    data = config_of("--config", file, "--dataset", "refcocog").data
    assert (data.token_length, data.split_by) == (77, "umd")
    stage = str(settings.CONFIGS / "pretrain/vg_sd15_512.py")
    assert config_of("--config", stage, "--dataset", "vg").data.val_dataset == "refcoco"
    other = config_of("--config", stage, "--dataset", "refcocog")
    assert (other.data.val_dataset, other.data.token_length) == (None, 77)
    # A mixture is validated on its first set, which is the file's.
    assert config_of("--config", stage, "--dataset", "vg+refcoco").data.val_dataset == "refcoco"
    masks = str(settings.CONFIGS / "rec/masks/refcoco_sd15_512.py")
    second = config_of("--config", masks, "--dataset", "refcoco+")
    assert (second.task, second.data.dataset, second.model.head.answers) == (
        "rec", "refcoco+", "both",
    )  # fmt: skip


def test_the_backbone_is_laid_over_a_file(tmp_path):
    file = str(settings.CONFIGS / "res/refcoco_sd15_512.py")
    found = config_of("--config", file, "--backbone", "sd21").to_dict()
    assert found["model"]["backbone"].pop("name") == "sd21"
    theirs = settings.load(file).to_dict()
    theirs["model"]["backbone"].pop("name")
    assert found == theirs
    with pytest.raises(ConfigError, match="'sd99' is unknown"):
        config_of("--config", file, "--backbone", "sd99")
    with pytest.raises(OptionError, match="does not exist"):
        config_of("--config", str(tmp_path / "none.py"), "--backbone", "tiny")
    weights = tmp_path / "mine.py"
    text = f"_base_ = [{file!r}]\nmodel = dict(backbone=dict(source='v1-5.ckpt'))\n"
    weights.write_text(text)
    assert config_of("--config", str(weights), "--backbone", "sd15").model.backbone.source
    with pytest.raises(OptionError, match=r"--backbone sd21 contradicts .*'v1-5\.ckpt' of sd15"):
        config_of("--config", str(weights), "--backbone", "sd21")
    both = config_of("--config", str(weights), "--backbone", "sd21", "--weights", "v2.ckpt")
    assert (both.model.backbone.name, both.model.backbone.source) == ("sd21", "v2.ckpt")


def test_overrides_are_checked():
    path = settings.find_config("res", "refcoco", "sd15", 512)
    assert settings.load(path, {"data.image_size": 256}).data.image_size == 256
    head = settings.load(path, {"model.head.channels": 64}).model.head
    assert head == {"type": "VPDDecoder", "channels": 64}
    tiny = settings.find_config("res", "refcoco", "tiny", 128)  # its head has arguments of its own
    other = {"type": "mmseg.FPNHead", "channels": 32}
    assert settings.load(tiny, {"model.head": other}).model.head == other
    with pytest.raises(OptionError, match=r"'optim\.rate' is unknown.*optim\.lr"):
        settings.load(path, {"optim.rate": 1})
    with pytest.raises(OptionError, match="batch_size is 0; want a whole number from 1 on"):
        settings.load(path, {"schedule.batch_size": 0})
    with pytest.raises(OptionError, match="does not exist"):
        settings.load(path.with_name("none.py"))


def test_a_file_of_phrases_has_no_split_by():
    with pytest.raises(OptionError, match="phraseshapes is a file of phrases"):
        config_of("--dataset", "phraseshapes", "--backbone", "tiny", "--splitBy", "unc")
    assert config_of("--dataset", "phraseshapes", "--backbone", "tiny").data.split_by is None


def test_a_picture_may_be_oblong():
    assert config_of("--set", "data.image_size=[256,512]").data.image_size == (256, 512)
    assert config_of("--img_size", "256").data.image_size == 256


@pytest.mark.parametrize(
    "value", ["abc", "[256]", "[256,512,512]", "100", "[256,100]", "None", "True", "256.0", "{}"]
)
def test_a_size_of_another_kind_is_refused(value):
    with pytest.raises(OptionError, match=r"multiple of 64.*\[height, width\]"):
        config_of("--set", f"data.image_size={value}")


@pytest.mark.parametrize(
    ("entry", "wanted"),
    [
        ("data.token_length=abc", "wants a number"),
        ("optim.lr=fast", "wants a number"),
        ("optim.lr=[1e-3]", "wants a number"),
        ("optim.in_backward=false", "wants True or False"),
        ("model.backbone.checkpointing=heavy", "wants light, True or False"),
        ("data.token_length=12.5", "outside 3 to 77"),
        ("schedule.epochs=1.5", "epochs is 1.5; want a whole number"),
        ("schedule.batch_size=None", "batch_size is None; want a whole"),
    ],
)
def test_a_value_of_another_kind_is_refused(entry, wanted):
    with pytest.raises(OptionError, match=wanted):
        config_of("--dataset", "refcocog", "--set", entry)


def test_an_option_given_again_adds_to_the_first():
    optim = config_of("--set", "optim.lr=0.5", "--set", "optim.clip=2", "optim.power=1.0").optim
    assert (optim.lr, optim.clip, optim.power) == (0.5, 2, 1.0)
