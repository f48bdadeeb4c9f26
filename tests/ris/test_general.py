"""Several targets or none: head, loss, system, boxes, training and prediction."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from refer.evaluation import gres, gres_records
from refer.evaluation.grec import GrecProtocol
from refer.evaluation.gres_table import gres_table
from ris.boxes import boxes_of
from ris.cards import read_config
from ris.checkpoints import load, save
from ris.cli import main
from ris.engine import settings
from ris.engine.gres_metric import GresMetric
from ris.engine.tasks import gres_protocol
from ris.errors import OptionError
from ris.general import GeneralAnswer, GeneralRefer
from ris.heads import build_head
from ris.heads.gres import AnyEvidence, GRESHead, GRESOutput
from ris.losses import GeneralLoss
from ris.predictor import Predictor
from vpd import DiffusionBackbone

CONFIGS = Path(__file__).parents[2] / "configs"
CHANNELS = (12, 20, 20, 16)
SMALL = {"type": "GRESHead", "mask": {"type": "VPDDecoder", "channels": 16}, "grid": 4,
         "width": 32, "heads": 4, "feedforward": 32, "mask_channels": 8}  # fmt: skip
COMPARING = {"type": "WordDecoder", "channels": 16, "subpixel": 1, "layers": 1}


def pyramid() -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(3, c, 16 >> level, 16 >> level) for level, c in enumerate(CHANNELS)]


@pytest.mark.parametrize(
    ("switches", "minimap", "no_target"),
    [
        ({}, True, True),
        ({"no_target": False}, True, False),
        ({"existence": "any"}, True, True),
        ({"region_masks": False}, True, True),
        ({"language": False}, True, True),
        ({"regions": False}, False, False),
        ({"mask": {"type": "WordDecoder", "channels": 16, "subpixel": 1}}, True, True),
        ({"mask": COMPARING, "region_cells": True}, True, True),
    ],
)
def test_every_switch_of_the_head_builds_and_learns(switches, minimap, no_target):
    head = build_head({**SMALL, **switches}, CHANNELS, text_channels=10)
    output = head(pyramid(), torch.randn(3, 6, 10))
    assert output.mask.shape == (3, 2, 16, 16)
    assert (output.minimap is not None) == minimap
    assert (output.no_target is not None) == no_target
    if minimap:
        assert output.minimap.shape == (3, 2, 4, 4)
    sum(part.square().mean() for part in output if part is not None).backward()
    silent = [name for name, parameter in head.named_parameters() if parameter.grad is None]
    assert not silent


def test_the_mask_is_the_sum_over_regions_written_out():
    """ReLA's equation, one region after the other, and the filter beside them."""
    head = build_head(SMALL, CHANNELS, text_channels=10).eval()
    levels, text = pyramid(), torch.randn(3, 6, 10)
    with torch.no_grad():
        output = head(levels, text)
        tokens, features = head.regions(levels, text, None), head.decoder(levels)
        expected = torch.einsum("am,bmhw->bahw", head.own, features)
        for region in range(16):
            own = torch.einsum("bm,bmhw->bhw", head.filters(tokens[:, region]), features)
            row, column = divmod(region, 4)
            expected += output.minimap[:, :, row, column, None, None] * own[:, None]
    assert torch.allclose(output.mask, expected, atol=1e-4)


def test_the_tiny_recipes_regions_leave_the_mask_as_the_plain_head_learns_it():
    """Same steps, clipping included: only what "nothing here" rests on may differ."""
    config = settings.load(CONFIGS / "gres/grefshapes_tiny_128.py").to_dict()

    def decoder_after_steps(**switches: bool) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        head = build_head({**config["model"]["head"], **switches}, CHANNELS, text_channels=10)
        loss = GeneralLoss(weights=config["model"]["loss_weights"])
        optimizer = torch.optim.AdamW(head.parameters(), config["optim"]["lr"])
        for _ in range(3):
            output = head(pyramid(), torch.randn(3, 6, 10))
            truth = torch.randint(2, (3, *output.mask.shape[-2:]), dtype=torch.uint8)
            parts = loss(output.mask, output, truth, torch.tensor([0, 1, 0]))
            optimizer.zero_grad()
            sum(parts.values()).backward()
            torch.nn.utils.clip_grad_norm_(head.parameters(), config["optim"]["clip"])
            optimizer.step()
        return head.decoder.state_dict()

    plain, with_regions = decoder_after_steps(regions=False), decoder_after_steps()
    assert plain.keys() == with_regions.keys()
    for name, value in plain.items():
        assert torch.allclose(value, with_regions[name], rtol=1e-3, atol=1e-4), name


def test_padding_says_nothing_to_the_regions():
    head = build_head(SMALL, CHANNELS, text_channels=10).eval()
    levels, text = pyramid(), torch.randn(3, 6, 10)
    words = torch.ones(3, 6, dtype=torch.bool)
    words[:, 4:] = False
    other = text.clone()
    other[:, 4:] = 100.0
    with torch.no_grad():
        one, two = head(levels, text, words), head(levels, other, words)
        three = head(levels, other)
    assert torch.equal(one.mask, two.mask)
    assert not torch.allclose(two.mask, three.mask)


def test_the_loss_by_hand():
    """One pair at 4 x 4: the left half is referred; the 2 x 2 grid is covered on the left."""
    mask = torch.zeros(1, 4, 4, dtype=torch.uint8)
    mask[..., :2] = 1
    mask[0, 0, 0] = 0  # so the first cell is no longer wholly covered
    torch.manual_seed(0)
    output = GRESOutput(torch.randn(1, 2, 4, 4), torch.randn(1, 2, 2, 2), torch.randn(1, 2))
    parts = GeneralLoss()(output.mask, output, mask, torch.tensor([1]))
    weight = torch.tensor([0.9, 1.1])

    def mean(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        log = torch.log_softmax(logits, dim=1)
        own = log.gather(1, truth[:, None].long())[:, 0]
        return -(weight[truth.long()] * own).sum() / weight[truth.long()].sum()

    grid = torch.tensor([[[0, 0], [1, 0]]])
    assert torch.allclose(parts["loss_mask"], 5 * mean(output.mask, mask))
    assert torch.allclose(parts["loss_minimap"], 0.5 * mean(output.minimap, grid))
    expected = -torch.log_softmax(output.no_target, dim=1)[0, 1]
    assert torch.allclose(parts["loss_no_target"], 0.5 * expected)
    silent = GeneralLoss(weights={"minimap": 0.0, "no_target": 0.0})
    assert list(silent(output.mask, output, mask, torch.tensor([1]))) == ["loss_mask"]
    with pytest.raises(OptionError, match="minimap"):
        GeneralLoss(weights={"grid": 1.0})


def test_boxes_are_the_masks_parts_at_the_pictures_size():
    probability = np.zeros((10, 20))
    probability[1:4, 2:6] = 0.8
    probability[6:9, 10:20] = 0.9
    probability[0, 19] = 0.99  # one pixel: noise
    boxes, scores = boxes_of(probability, (20, 60), least=0.02)
    assert boxes.tolist() == [[30.0, 12.0, 60.0, 18.0], [6.0, 2.0, 18.0, 8.0]]
    assert scores == pytest.approx([0.9, 0.8])
    boxes, scores = boxes_of(np.zeros((4, 4)), (4, 4))
    assert boxes.shape == (0, 4)
    assert scores.shape == (0,)


@pytest.fixture(scope="module")
def system() -> GeneralRefer:
    backbone = DiffusionBackbone.from_name("tiny", token_length=16)
    torch.manual_seed(0)
    return GeneralRefer(backbone, SMALL, sentence_batch=2).eval()


def test_words_are_told_from_padding(system):
    words = system.backbone.token_mask(["dog", "the left dog"])
    assert words.sum(dim=1).tolist() == [3, 5]
    assert words[:, 0].all()


def test_answers_do_not_depend_on_the_batch(system):
    image = torch.rand(2, 3, 64, 64) * 2 - 1
    texts, index = ["dog", "both cats", "the red one"], torch.tensor([0, 1, 1])
    together = system(image, texts, mode="predict", picture_index=index)
    for number, text in enumerate(texts):
        (alone,) = system(image[index[number]][None], [text], mode="predict")
        assert torch.allclose(alone.probability, together[number].probability, atol=1e-5)
        assert alone.no_target.item() == pytest.approx(together[number].no_target.item(), abs=1e-5)


def test_saved_and_loaded_it_answers_the_same(system, tmp_path):
    save(system, tmp_path / "model", image_size=64)
    back = load(tmp_path / "model")
    assert isinstance(back, GeneralRefer)
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    one, two = (model(image, ["dog"], mode="predict")[0] for model in (system, back))
    assert torch.equal(one.probability, two.probability)


def test_the_predictor_says_when_nothing_matches(system, tmp_path, monkeypatch):
    predictor = Predictor(system, 64, "cpu")
    predictor.set_image(np.zeros((50, 80, 3), np.uint8))
    original = system.output

    def certain(*args):
        output = original(*args)
        sure = torch.tensor([[9.0, -9.0], [-9.0, 9.0]])[: len(output.mask)]
        return output._replace(mask=torch.ones_like(output.mask).cumsum(1), no_target=sure)

    monkeypatch.setattr(system, "output", certain)
    found = predictor.predict(["dog", "unicorn"])
    assert found.no_target == pytest.approx([0.0, 1.0], abs=1e-3)
    assert found.masks[0].all()
    assert not found.masks[1].any()


def arguments(root: Path, logdir: Path, *extra: str) -> list[str]:
    return ["--backbone", "tiny", "--device", "cpu", "--refer_data_root", str(root), "--img_size",
            "64", "--workers", "0", "--logdir", str(logdir), *extra]  # fmt: skip


def test_train_test_and_score_again(general_root, tmp_path, capsys):
    run = tmp_path / "run"
    options = ["--dataset", "grefshapes", "--epochs", "1", "--val-interval", "1",
               "--output-dir", str(tmp_path)]  # fmt: skip
    assert main(["train", *arguments(general_root, run, *options)]) == 0
    metrics = json.loads((run / "metrics.json").read_text())
    assert {"gIoU", "cIoU", "N_acc", "T_acc"} <= set(metrics["scores"])
    drawn = "outlines drawn at input size, their overlapping parts: union"
    assert drawn in metrics["protocol"]["GRES"]
    best = tmp_path / "model_best_grefshapes"
    assert json.loads((best / "config.json").read_text())["system"] == "GeneralRefer"
    capsys.readouterr()
    test = ["test", "--dataset", "grefshapes", "--checkpoint", str(best), "--split", "val"]
    assert main([*test, *arguments(general_root, tmp_path / "t", "--task", "grec")]) == 0
    text = capsys.readouterr().out
    assert "always empty" in text
    assert "generalized IoU >= 0.5, F1 = 1" in text
    details = tmp_path / "t" / "grefshapes_val_detailed_results.json"
    table = gres_table(gres_records.load(details), "val")
    assert table in text
    assert main(["score", str(details), "--nt-rule", "pixels", "--nt-pixels", "1"]) == 0
    assert "no target below 1 pixels" in capsys.readouterr().out
    for option in (("--protocol", "cris"), ("--refer_data_root", "."), ("--splitBy", "unc")):
        assert main(["score", str(details), *option]) == 2
        assert f"result file, which {option[0]} is not for" in capsys.readouterr().err
    assert main(["score", str(details), "--nt-pixels", "1"]) == 2
    assert "--nt-pixels is for --nt-rule pixels" in capsys.readouterr().err
    assert main(["score", str(details), "--nt-rule", "pixels", "--nt-pixels", "-5"]) == 2
    assert "--nt-pixels is -5; want 0 or more" in capsys.readouterr().err
    # Data sets and tasks that do not fit each other are told so.
    assert main([*test, *arguments(general_root, tmp_path / "t", "--task", "res")]) == 2
    assert "grefshapes" in capsys.readouterr().err
    picture = str(next((general_root / "images/refshapes").glob("*.jpg")))
    predict = ["predict", picture, "all the circles", "--weights", str(best)]
    assert main([*predict, "--out", str(tmp_path / "o.png")]) == 0
    assert Image.open(tmp_path / "o.png").width >= 128


def test_the_plain_mask_head_uses_the_rule_on_pixels(general_root, tmp_path, capsys):
    options = ["--dataset", "grefshapes", "--epochs", "1", "--output-dir", str(tmp_path),
               "--set", "model.head.regions=False"]  # fmt: skip
    assert main(["train", *arguments(general_root, tmp_path / "run", *options)]) == 0
    assert "no target below 50 pixels" in capsys.readouterr().out


def test_mixed_training_reads_both(general_root, tmp_path):
    options = ["--dataset", "grefshapes+refshapes", "--epochs", "1", "--output-dir", str(tmp_path)]
    assert main(["train", *arguments(general_root, tmp_path / "run", *options)]) == 0
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    counts = [
        len([r for r in json.loads((general_root / "grefcoco/grefs(unc).json").read_text())
             if r["split"] == "train"])
    ]  # fmt: skip
    from refer import REFER

    counts.append(len(REFER(general_root, "refshapes").getRefIds(split="train")))
    assert metrics["train_refs"] == sum(counts)
    said = {"dataset": "grefshapes", "split_by": "unc", "trained_on": "grefshapes+refshapes"}
    assert said.items() <= metrics.items()
    best = tmp_path / "model_best_grefshapes+refshapes"
    assert said.items() <= read_config(best)["info"].items()
    # A test knows it from the checkpoint's card, whatever the settings of the test.
    test = ["test", "--dataset", "grefshapes", "--checkpoint", str(best), "--split", "val"]
    assert main([*test, *arguments(general_root, tmp_path / "t")]) == 0
    assert said.items() <= json.loads((tmp_path / "t/metrics.json").read_text()).items()


@pytest.mark.parametrize("dataset", ["grefcoco", "grefshapes"])
@pytest.mark.parametrize("backbone", ["sd15", "tiny"])
def test_the_truth_is_the_union_as_rela_has_it(dataset, backbone):
    path = settings.find_config("gres", dataset, backbone, None)
    assert gres_protocol(settings.load(path)).overlap == "union"
    # Another rule is named, not hidden.
    assert gres_protocol(settings.load(path, {"data.overlap": "drop"})).overlap == "drop"


def test_any_evidence_hears_one_region_and_the_mask_a_mean_does_not():
    rule = AnyEvidence()
    votes, mask = torch.zeros(3, 64, 2), torch.full((3, 2, 8, 8), -1.0)
    votes[..., 1] = 6.0  # every region: nothing here
    votes[1, 5] = torch.tensor([30.0, 0.0])  # but one
    mask[2, 1, :4, :4] = 60.0  # or the mask is sure of sixteen cells
    nothing = rule(votes, mask).softmax(dim=1)[:, 1]
    assert nothing[0] > 0.99
    assert nothing[1] < 0.01
    assert nothing[2] < 0.05
    assert votes.mean(dim=1).softmax(dim=1)[1, 1] > 0.99
    # Who is first does not matter.
    assert torch.allclose(rule(votes.flip(1), mask.flip(2)), rule(votes, mask))


def test_without_their_gradient_regions_learn_and_the_pyramid_does_not():
    head = build_head(
        {**SMALL, "region_gradient": False, "existence": "any"}, CHANNELS, text_channels=10
    )
    levels = [level.requires_grad_() for level in pyramid()]
    output = head(levels, torch.randn(3, 6, 10))
    (output.no_target.sum() + output.minimap.square().sum()).backward()
    assert all(level.grad is None for level in levels)
    assert head.minimap.weight.grad is not None
    output = head(levels, torch.randn(3, 6, 10))
    output.mask.square().sum().backward()
    assert all(level.grad is not None for level in levels)


def test_regions_see_what_the_decoder_compared_and_do_not_teach_it():
    switches = {**SMALL, "mask": COMPARING, "region_cells": True, "region_masks": False}
    head = build_head({**switches, "region_gradient": False}, CHANNELS, text_channels=10).eval()
    levels, text = pyramid(), torch.randn(3, 6, 10)
    before = head(levels, text)
    before.no_target.sum().backward()
    assert all(parameter.grad is None for parameter in head.decoder.parameters())
    with torch.no_grad():
        assert torch.allclose(before.mask, head.decoder(levels, text), atol=1e-5)
        last = head.decoder.layers.layers[-1].linear[-1]
        last.weight.add_(1.0)  # nothing else of the head reads these cells but the mask
        after = head(levels, text)
    assert not torch.allclose(before.no_target, after.no_target)


def test_regions_cannot_see_cells_that_no_decoder_compares():
    with pytest.raises(OptionError, match=r"region_cells.*layers"):
        build_head({**SMALL, "region_cells": True}, CHANNELS, text_channels=10)


def test_another_word_for_existence_is_refused():
    with pytest.raises(OptionError, match="mean or any"):
        GRESHead((8, 8, 8, 8), 4, build_head, existence="most")


def two_items() -> tuple[torch.Tensor, dict[str, Any]]:
    """A probability with one sure square, and a batch of two sentences of which it is the truth."""
    probability = torch.full((20, 20), 0.05)
    probability[4:14, 4:14] = 0.9
    return probability, {
        "ref_of_text": torch.tensor([0, 1]), "picture_index": torch.tensor([0, 0]),
        "image_ids": [7], "ref_ids": [1, 2], "sent_ids": [3, 4], "text": ["a", "b"],
        "masks": (probability > 0.5).expand(2, 20, 20), "n_targets": [1, 1],
        "boxes": [np.array([[4.0, 4.0, 14.0, 14.0]])] * 2, "original_sizes": [(20, 20)],
    }  # fmt: skip


def test_scoring_masks_waits_for_no_device(tmp_path):
    """A "meta" tensor's values cannot be read: to put a batch aside must not ask for them."""
    metric = GresMetric(gres.GresProtocol(), "made", tmp_path, "val")
    probability, batch = two_items()
    answer = GeneralAnswer(probability.to("meta"), torch.tensor(0.4, device="meta"))
    metric.process({**batch, "masks": batch["masks"].to("meta")}, [answer] * 2)
    metric._pending.clear()
    # Read in pieces, what is put aside makes the same items as masks given at once.
    answers = [GeneralAnswer(probability, torch.tensor(nothing)) for nothing in (0.4, 0.6)]
    for number in range(70):
        ids = {"ref_ids": [2 * number, 2 * number + 1], "sent_ids": [9, 9]}
        metric.process({**batch, **ids}, answers)
    assert len(metric.masks) == 2 * 64
    metric._take_in()
    wanted = gres.GresEvaluator()
    for number in range(70):
        wanted.update(
            np.stack([probability > 0.5] * 2), batch["masks"], n_targets=[1, 1],
            pred_nt=[False, True], source="made", img_ids=[7, 7], sents=["a", "b"],
            ref_ids=[2 * number, 2 * number + 1], sent_ids=[9, 9],
        )  # fmt: skip
    assert metric.masks.records == wanted.records


@pytest.mark.parametrize(("rule", "kept"), [("head", [1, 0]), ("pixels", [1, 1])])
def test_boxes_are_none_where_nothing_is_said_to_be_there(tmp_path, rule, kept):
    """And where something is, no doubt about it takes a sure box below the threshold."""
    metric = GresMetric(gres.GresProtocol(no_target=rule), "made", tmp_path, "val", GrecProtocol())
    probability, batch = two_items()
    metric.process(batch, [GeneralAnswer(probability, torch.tensor(n)) for n in (0.4, 0.6)])
    assert [len(item.scores) for item in metric.boxes._items.values()] == kept
    assert metric.boxes.compute()["F1_score"] == pytest.approx(sum(kept) / 2)
