"""Parts of the engine: samplers, optimizer groups, precision, reports, token counts."""

from __future__ import annotations

import itertools
import json
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from refer.files import write_json
from ris.commands import tokens
from ris.engine import optim, report, settings
from ris.engine.guard import GuardedOptimWrapper
from ris.engine.sampler import EpochBatches
from ris.errors import OptionError
from ris.models import READ_BY_THE_HOST, PicturePreprocessor, VPDRefer
from vpd import DiffusionBackbone


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
    write_json(tmp_path / "a" / "metrics.json", {"oIoU": 1.5})
    assert json.loads((tmp_path / "a" / "metrics.json").read_text()) == {"oIoU": 1.5}
    with pytest.raises(TypeError):
        write_json(tmp_path / "a" / "metrics.json", {("a", "b"): 1})
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
