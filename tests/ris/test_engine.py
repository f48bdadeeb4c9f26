"""Parts of the engine: settings, samplers, optimizer groups, precision, reports, token counts."""

from __future__ import annotations

import argparse
import itertools
import json
import pickle
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from refer.errors import DataFileError, UnknownNameError
from refer.shapes import generate
from ris import checkpoints
from ris.commands import options, tokens
from ris.engine import optim, report, runner, settings
from ris.engine.data import split_by_of
from ris.engine.guard import GuardedOptimWrapper
from ris.engine.sampler import EpochBatches
from ris.engine.tasks import identity, task_of
from ris.errors import OptionError
from ris.models import READ_BY_THE_HOST, PicturePreprocessor, VPDRefer
from vpd import ConfigError, DiffusionBackbone


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
    text = json.dumps({"format": checkpoints.FORMAT, "info": card})
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


@pytest.mark.parametrize(
    ("backbone", "mode", "entries", "factors"),
    [
        ("sd15", "finetune", {}, {"unet": 1.0, "rest": 1.0}),  # as published
        ("tiny", "finetune", {}, {"unet": 0.1, "rest": 1.0}),
        ("tiny", "lora", {}, {"unet": 1.0, "rest": 1.0}),
        ("tiny", "frozen", {}, {"rest": 1.0}),
        ("tiny", "finetune", {"optim.unet_scale": 0.5}, {"unet": 0.5, "rest": 1.0}),
        ("tiny", "finetune", {"optim.lr_scale": {"backbone.unet.": 2.0}}, {"unet": 2, "rest": 1}),
    ],
)
def test_the_rate_of_a_unet_that_is_trained(backbone, mode, entries, factors):
    path = settings.find_config("res", "refshapes", backbone, None)
    config = settings.load(path, {"optim.muon": None, **entries}).to_dict()["optim"]
    model = VPDRefer(
        DiffusionBackbone.from_name("tiny", "random", token_length=8, unet_mode=mode, lora_rank=2)
    )
    wrapper = optim.build_optimizer(model, optim.of_mode(config, mode), "cpu")
    rates = {id(p): g["lr"] for g in wrapper.optimizer.param_groups for p in g["params"]}
    found: dict[str, set[float]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = "unet" if name.startswith("backbone.unet.") else "rest"
            found.setdefault(part, set()).add(rates[id(parameter)])
    wanted = {part: [pytest.approx(config["lr"] * factor)] for part, factor in factors.items()}
    assert {part: sorted(rates) for part, rates in found.items()} == wanted


@pytest.mark.parametrize("factor", [0, -0.1])
def test_a_unet_is_not_frozen_by_its_rate(factor):
    with pytest.raises(OptionError, match="--unet_mode frozen"):
        optim.of_mode({"unet_scale": factor, "lr_scale": {}}, "finetune")


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
    with pytest.raises(OptionError, match="batch_size must be 1 or more"):
        settings.load(path, {"schedule.batch_size": 0})
    with pytest.raises(OptionError, match="does not exist"):
        settings.load(path.with_name("none.py"))


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
        ("data.token_length=12.5", "outside 3 to 77"),
        ("schedule.epochs=1.5", "epochs must be 1 or more"),
        ("schedule.batch_size=None", "batch_size must be 1 or more"),
    ],
)
def test_a_value_of_another_kind_is_refused(entry, wanted):
    with pytest.raises(OptionError, match=wanted):
        config_of("--dataset", "refcocog", "--set", entry)


def test_a_pictures_refs_stay_together():
    pictures = [5, 5, 7, 5, 9, 7]
    batches = EpochBatches(pictures, batch_size=6, seed=3)
    orders = []
    for epoch in range(4):
        batches.set_epoch(epoch)
        (order,) = batches
        assert sorted(order) == list(range(6))
        seen = [pictures[index] for index in order]
        changes = sum(a != b for a, b in itertools.pairwise(seen))
        assert changes == 2
        orders.append(order)
    assert len({tuple(order) for order in orders}) > 1
    batches.set_epoch(1)
    assert list(batches) == [orders[1]]


def test_only_norms_inside_transformers_are_spared_decay():
    """The published rule, counted on Stable Diffusion 1.5: 128 tensors."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    from ris.models import VPDRefer
    from vpd.weights import Components, encoder_only
    from vpd.zoo import ZOO

    sd = ZOO["sd15"]
    with torch.device("meta"):
        parts = Components(
            UNet2DConditionModel(**sd.unet), encoder_only(AutoencoderKL(**sd.vae)), None, None, "x"
        )
        model = VPDRefer(DiffusionBackbone(parts, token_length=40, unet_mode="finetune"))
    decayed, spared = optim.parameter_groups(model, 1e-2)
    assert len(spared["params"]) == 128
    assert (decayed["weight_decay"], spared["weight_decay"]) == (1e-2, 0.0)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert len(decayed["params"]) + 128 == len(trained)


def test_bf16_autocast_reaches_the_forward_pass_on_cpu():
    model = torch.nn.Linear(4, 4)
    wrapper = GuardedOptimWrapper(
        torch.optim.SGD(model.parameters(), 0.1), device="cpu", dtype=torch.bfloat16
    )
    with wrapper.optim_context(model):
        assert model(torch.ones(1, 4)).dtype == torch.bfloat16
    assert model(torch.ones(1, 4)).dtype == torch.float32


def test_reports_are_whole_or_absent(tmp_path):
    report.write_json(tmp_path / "a" / "metrics.json", {"oIoU": 1.5})
    assert json.loads((tmp_path / "a" / "metrics.json").read_text()) == {"oIoU": 1.5}
    with pytest.raises(TypeError):
        report.write_json(tmp_path / "a" / "metrics.json", {("a", "b"): 1})
    assert json.loads((tmp_path / "a" / "metrics.json").read_text()) == {"oIoU": 1.5}
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["metrics.json"]
    assert report.environment()["versions"]["torch"]


def test_token_lengths_are_recommended_from_counts():
    counts = {"train": Counter({5: 5000, 21: 4}), "val": Counter({7: 900})}
    assert tokens.recommend(counts) == 16  # 4 of 5004 is less than one in a thousand
    counts["val"][23] = 1
    assert tokens.recommend(counts) == 24
    text = tokens.report(counts)
    assert "recommended: --token_length 24" in text
    assert "longest 23 tokens" in text


def test_token_command_on_real_sentences(shared, capsys):
    from ris.cli import main

    root = str(shared / "data" / "refer_mini")
    assert main(["tokens", "refcoco", "--splitBy", "mini", "--refer_data_root", root]) == 0
    printed = capsys.readouterr().out
    assert "train: 189 sentences" in printed
    assert "recommended" in printed


def test_the_schedule_is_poly_and_may_rise_first():
    """mmengine's own schedulers, stepped, against the closed form."""
    from mmengine.registry import PARAM_SCHEDULERS

    for warmup in (0, 3):
        parameter = torch.nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD([parameter], lr=1.0)
        built = [
            PARAM_SCHEDULERS.build({**part, "optimizer": optimizer})
            for part in optim.poly_schedule(10, 0.9, warmup)
        ]
        rates = []
        for _ in range(10):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            for scheduler in built:
                scheduler.step()
        for step in range(warmup, 10):
            expected = (1 - (step - warmup) / (10 - warmup)) ** 0.9
            assert rates[step] == pytest.approx(expected, rel=1e-9)
        assert rates[:warmup] == sorted(rates[:warmup])


class Readings(TorchDispatchMode):
    """Counts operations after which the host must know a value of the device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name in ("_local_scalar_dense", "item", "nonzero", "_unique2", "is_nonzero", "equal"):
            self.found[name] += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", ["frozen", "finetune"])
def test_a_training_step_reads_nothing_from_the_device(mode):
    model = VPDRefer(
        DiffusionBackbone.from_name("tiny", "random", token_length=8, unet_mode=mode),
        latent_cache_mb=64,
    ).train()
    recipe = {"lr": 1e-3, "weight_decay": 0.0, "amsgrad": False, "precision": "fp32", "clip": 1.0}
    wrapper = optim.build_optimizer(model, recipe, "cpu")
    assert wrapper.optimizer.defaults["fused"]
    image, mask = torch.randn(2, 3, 64, 64), torch.ones(2, 64, 64, dtype=torch.uint8)
    words = model.backbone.encode_text(["a dog", "left"])
    before = model.backbone.adapter.gamma.detach().clone()

    def step() -> None:
        wrapper.update_params(model(image, words, mask, mode="loss", picture=["1", "2"])["loss"])

    step()
    with Readings() as readings:
        step()
    assert not readings.found
    assert not torch.equal(model.backbone.adapter.gamma, before)
    with Readings() as readings:
        float(wrapper.skipped)  # what counts does count
    assert readings.found == {"_local_scalar_dense": 1}


def test_which_picture_a_sentence_is_asked_of_is_known_to_the_host():
    """On the meta device nothing can be read: what is asked of the index must not lie there."""
    model = VPDRefer(
        DiffusionBackbone.from_name("tiny", "random", token_length=8), sentence_batch=2
    )
    latent = torch.empty(3, 8, 8, 8, device="meta")
    parts = list(model._in_parts(latent, ["a", "b", "c"], torch.tensor([2, 2, 0])))
    assert [part[0].shape[0] for part in parts] == [1, 1]
    assert [part[2].tolist() for part in parts] == [[0, 0], [0]]
    preprocessor = PicturePreprocessor().to("meta")
    read = {name: torch.tensor([0]) for name in READ_BY_THE_HOST}
    batch = preprocessor({"image": torch.zeros(1, 3, 64, 64), **read})
    assert batch["image"].device.type == "meta"
    assert {batch[name].device.type for name in read} == {"cpu"}
