"""Frozen weights kept at autocast's precision: the same steps, in less memory."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from safetensors.torch import load_file

from ris import cards
from ris.cli import main
from ris.models import VPDRefer
from vpd import DiffusionBackbone

BF16 = ["--precision", "bf16"]


def steps(model: VPDRefer) -> list[torch.Tensor]:
    """Losses and gradients of two steps."""
    torch.manual_seed(1)
    image, mask = torch.randn(2, 3, 64, 64), torch.randint(0, 2, (2, 64, 64), dtype=torch.uint8)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    found = []
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(image, ["a dog", "left"], mask, mode="loss")["loss"]
        loss.backward()
        found += [loss.detach(), *(p.grad.clone() for g in optimizer.param_groups
                                   for p in g["params"] if p.grad is not None)]  # fmt: skip
        optimizer.step()
        optimizer.zero_grad()
    return found


@pytest.mark.parametrize("mode", ["frozen", "lora"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_losses_and_gradients_are_the_same_bits(mode, checkpointing):
    torch.manual_seed(0)
    backbone = DiffusionBackbone.from_name(
        "tiny", "random", token_length=8, unet_mode=mode, lora_rank=2, checkpointing=checkpointing
    )
    whole = VPDRefer(backbone).train()
    low = copy.deepcopy(whole)
    held = sum(p.nbytes for p in low.backbone.unet.parameters())
    assert low.lower_frozen(torch.bfloat16, "known") > 0.4 * held
    expected, found = steps(whole), steps(low)
    assert len(expected) == len(found) > 20
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
    assert all(p.dtype == torch.float32 for p in low.parameters() if p.requires_grad)


def test_a_run_learns_the_same_and_its_weights_load(train_arguments, tmp_path, shapes_root):
    lowered = ["--set", "optim.lower_frozen=True"]
    for name, more in (("whole", []), ("low", lowered)):
        folder = tmp_path / name
        arguments = [*train_arguments, *BF16, "--logdir", str(folder), "--epochs", "1"]
        assert main([*arguments, "--output-dir", str(folder), *more]) == 0
    whole, low = (tmp_path / n / "model_best_refshapes" for n in ("whole", "low"))
    expected = load_file(whole / "model.safetensors")
    found = load_file(low / "model.safetensors")
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    frozen = [cards.read_config(path)["frozen"] for path in (whole, low)]
    assert frozen[0] == frozen[1]
    said = [json.loads((tmp_path / n / "metrics.json").read_text()) for n in ("whole", "low")]
    assert [one["precision"] for one in said] == ["fp32", "bf16"]
    test = ["test", "--dataset", "refshapes", "--backbone", "tiny", "--device", "cpu",
            "--checkpoint", str(low), "--refer_data_root", str(shapes_root), "--img_size", "64",
            "--workers", "0"]  # fmt: skip
    scores = []
    for precision in ("fp32", "bf16"):
        logdir = tmp_path / precision
        assert main([*test, "--logdir", str(logdir), "--precision", precision]) == 0
        scores.append(json.loads((logdir / "metrics.json").read_text())["scores"])
    # Validation in training is what `ris test` says in the same precision.
    assert [one["scores"] for one in said] == scores
    # A run may go on either way: the frozen weights are the same ones.
    more = [*train_arguments, *BF16, "--logdir", str(tmp_path / "low"), "--epochs", "2"]
    more += ["--output-dir", str(tmp_path / "low"), "--resume", "auto"]
    assert main(more) == 0
    assert json.loads((tmp_path / "low/metrics.json").read_text())["precision"] == "fp32"


@pytest.mark.parametrize("more", [[], [*BF16, "--unet_mode", "finetune"]])
def test_what_it_does_not_fit_is_refused(train_arguments, tmp_path, capsys, more):
    wanted = ["--logdir", str(tmp_path), *more, "--set", "optim.lower_frozen=True"]
    assert main([*train_arguments, *wanted]) == 2
    assert "--precision bf16 (given:" in capsys.readouterr().err
