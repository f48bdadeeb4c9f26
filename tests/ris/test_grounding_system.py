"""Boxes and masks of phrases: the system, training in stages, tests, prediction."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from refer import REFER
from refer.boxes import to_pixels
from refer.errors import MissingDataError
from refer.evaluation import GROUNDING_PROTOCOLS, load_predictions
from refer.readers.phrases import save_phrases
from refer.readers.refer_phrases import refer_phrases
from ris import Predictor
from ris.checkpoints import load, save
from ris.cli import main
from ris.engine import optim, settings
from ris.engine.ground_metric import GroundMetric
from ris.engine.tasks import TASKS, scored_on, task_of
from ris.errors import CheckpointError, OptionError
from ris.grounding import GroundAnswer, GroundRefer
from ris.stages import start_from
from vpd import DiffusionBackbone
from vpd.text import tokenize

REFTR = {"type": "RefTRHead", "width": 32, "heads": 4, "feedforward": 32, "dropout": 0.0,
         "encoder_layers": 1, "decoder_layers": 1}  # fmt: skip
PIXELS = {"type": "PhrasePixelHead", "channels": 16, "word_channels": 8, "width": 8}
CAPTIONS = ["a red circle, two blue squares and a star", "the dog"]
OWNERS = [0, 0, 0, 1]
SPANS = [(0, 12), (14, 30), (35, 41), (0, 7)]


def build(head: dict, answers: str = "both", tokens: int = 16) -> GroundRefer:
    backbone = DiffusionBackbone.from_name("tiny", token_length=tokens)
    torch.manual_seed(0)
    return GroundRefer(backbone, {**head, "answers": answers}, sentence_batch=1).eval()


@pytest.fixture(scope="module", params=[REFTR, PIXELS], ids=["reftr", "pixels"])
def system(request) -> GroundRefer:
    model = build(request.param)
    if request.param is REFTR:  # which begins with the same box for everything
        torch.nn.init.normal_(model.head.box[-1].weight)
    return model


def asked(model: GroundRefer, image: torch.Tensor, **batch) -> list[GroundAnswer]:
    batch = {"captions": CAPTIONS, "caption_of_phrase": torch.tensor(OWNERS),
             "spans": torch.tensor(SPANS), **batch}  # fmt: skip
    return model(image, mode="predict", **batch)


def test_answers_do_not_depend_on_the_batch(system):
    image = torch.rand(2, 3, 64, 64) * 2 - 1
    answers = asked(system, image)
    system.sentence_batch = 8
    together = asked(system, image)
    system.sentence_batch = 1
    (alone,) = asked(system, image[1:], captions=CAPTIONS[1:], spans=torch.tensor(SPANS[3:]),
                     caption_of_phrase=torch.tensor([0]))  # fmt: skip
    for one, two in [*zip(answers, together, strict=True), (answers[3], alone)]:
        assert torch.allclose(one.box, two.box, atol=1e-4)
        assert torch.allclose(one.probability, two.probability, atol=1e-4)


def test_a_caption_costs_one_pass_whatever_its_phrases(system, monkeypatch):
    passes = []
    original = system.backbone.features.__call__
    monkeypatch.setattr(type(system.backbone.features), "__call__",
                        lambda self, *a: passes.append(a[1].shape[0]) or original(*a))  # fmt: skip
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    assert len(asked(system, image, captions=CAPTIONS[:1], spans=torch.tensor(SPANS[:3]),
                     caption_of_phrase=torch.tensor([0, 0, 0]))) == 3  # fmt: skip
    assert passes == [1]


def test_the_last_layers_box_is_the_answer():
    model = build({**REFTR, "decoder_layers": 3})
    torch.nn.init.normal_(model.head.box[-1].weight)
    image = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        layers = model(image, CAPTIONS, torch.tensor(OWNERS), torch.tensor(SPANS)).boxes
    for phrase, answer in enumerate(asked(model, image)):
        assert torch.allclose(answer.box, layers[-1, phrase], atol=1e-4)
        assert not torch.allclose(answer.box, layers[0, phrase], atol=1e-2)


def test_a_phrase_by_itself_is_what_its_end_token_has_read(system, monkeypatch):
    given = []
    monkeypatch.setattr(system.head, "forward", lambda pyramid, said: given.append(said))
    phrases = [CAPTIONS[owner][slice(*span)] for owner, span in zip(OWNERS, SPANS, strict=True)]
    with torch.no_grad():
        system(torch.rand(2, 3, 64, 64), CAPTIONS, torch.tensor(OWNERS), torch.tensor(SPANS))
    (said,) = given
    ids = tokenize(system.backbone.tokenizer, phrases, system.backbone.token_length)
    ends = (ids == system.backbone.tokenizer.eos_token_id).int().argmax(dim=1)
    whole = system.backbone.encode_text(phrases)
    assert torch.allclose(said.alone, whole[torch.arange(len(phrases)), ends], atol=1e-5)


def test_saved_and_loaded_it_answers_the_same(system, tmp_path):
    save(system, tmp_path / "model", image_size=64)
    back = load(tmp_path / "model")
    assert isinstance(back, GroundRefer)
    back.sentence_batch = system.sentence_batch  # on which rounding depends
    image = torch.rand(2, 3, 64, 64) * 2 - 1
    for one, two in zip(asked(system, image), asked(back, image), strict=True):
        assert torch.equal(one.box, two.box)
        assert torch.equal(one.probability, two.probability)


def test_every_trained_parameter_gets_a_gradient(system):
    """What DDP needs, and what shows that no part is idle."""
    losses = system(
        torch.rand(2, 3, 64, 64), CAPTIONS, torch.tensor(OWNERS), torch.tensor(SPANS),
        torch.rand(4, 4) * 0.5 + 0.2, torch.ones(4, 64, 64, dtype=torch.uint8), mode="loss",
    )  # fmt: skip
    sum(losses.values()).backward()
    named = dict(system.named_parameters())
    silent = [name for name, own in named.items() if own.requires_grad and own.grad is None]
    system.zero_grad()
    assert not silent


def test_the_second_stage_goes_on_from_the_first(tmp_path):
    first = build(REFTR, "boxes")
    save(first, tmp_path / "first")
    second = build(REFTR, "both")
    for parameter in second.head.parameters():
        parameter.data += 1.0
    text = start_from(second, tmp_path / "first")
    assert "of the head begin anew (head.mask." in text
    state = second.head.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in first.head.state_dict().items())
    with pytest.raises(CheckpointError, match="--token_length 16"):
        start_from(build(REFTR, "both", tokens=8), tmp_path / "first")
    with pytest.raises(CheckpointError, match="other shapes: head"):
        start_from(build({**REFTR, "width": 64}), tmp_path / "first")
    with pytest.raises(CheckpointError, match="no weight of the head"):
        start_from(build(PIXELS), tmp_path / "first")


def test_the_mask_heads_rate_is_its_own():
    model = build(REFTR)
    groups = optim.parameter_groups(model, 1e-4, 1e-5, {"head.mask": 10.0})
    rates = {group.get("lr", 1e-5): len(group["params"]) for group in groups}
    masks = sum(name.startswith("head.mask") for name, _ in model.named_parameters())
    assert rates[1e-4] == masks > 0
    assert sum(rates.values()) == sum(p.requires_grad for p in model.parameters())
    with pytest.raises(OptionError, match=r"head\.nothing"):
        optim.parameter_groups(model, 1e-4, 1e-5, {"head.nothing": 10.0})


# The last of 30 steps of a cosine from 1 to 0.01: its floor is one step further.
LAST = 0.505 + 0.495 * math.cos(math.pi * 29 / 30)


@pytest.mark.parametrize(
    ("wanted", "rates"),
    [
        ({"schedule": "step", "lr_drop": (2, 3)}, {0: 1.0, 19: 1.0, 20: 0.1, 30: 0.01, 39: 0.01}),
        ({"schedule": "cosine", "warmup_epochs": 1}, {0: 0.02, 10: 1.0, 25: 0.505, 39: LAST}),
        ({"schedule": "step", "lr_drop": (3,), "warmup_epochs": 1}, {10: 1.0, 29: 1.0, 30: 0.1}),
    ],
)
@pytest.mark.parametrize("stop", [None, 15])
def test_published_schedules_and_their_resume(wanted, rates, stop):
    """[2] RefTR's resumed runs step by iterations times epoch length: the rate collapses."""
    from mmengine.optim import build_optim_wrapper  # noqa: F401  registers the schedulers
    from mmengine.registry import PARAM_SCHEDULERS

    def start() -> tuple[torch.optim.Optimizer, list]:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        made = optim.schedule({"power": 0.9, **wanted}, 40, 0, 10)
        return optimizer, [PARAM_SCHEDULERS.build({**one, "optimizer": optimizer}) for one in made]

    optimizer, schedulers = start()
    seen = {}
    for step in range(41):
        seen[step] = optimizer.param_groups[0]["lr"]
        if step == stop:
            kept = optimizer.state_dict(), [one.state_dict() for one in schedulers]
            optimizer, schedulers = start()
            optimizer.load_state_dict(kept[0])
            for one, own in zip(schedulers, kept[1], strict=True):
                one.load_state_dict(own)
        optimizer.step()
        for one in schedulers:
            one.step()
    assert {step: seen[step] for step in rates} == pytest.approx(rates, rel=1e-6)


def test_boxes_are_scored_in_the_pictures_own_pixels(tmp_path):
    """And a mask's tight box stands in where there is no box."""
    metric = GroundMetric(GROUNDING_PROTOCOLS["reftr"], None, {"split": "val"},
                          [("a", 0), ("b", 0)], tmp_path)  # fmt: skip
    truth = [torch.tensor([[20.0, 10.0, 60.0, 30.0]], dtype=torch.float64)] * 2
    batch = {"picture_index": torch.tensor([0]), "caption_of_phrase": torch.tensor([0, 0]),
             "original_sizes": [(40, 80)], "keys": [("a", 0), ("b", 0)], "truth": truth,
             "types": [(), ()]}  # fmt: skip
    right = torch.tensor([0.5, 0.5, 0.5, 0.5])
    wrong = torch.tensor([0.2, 0.5, 0.5, 0.5])
    metric.process(batch, [GroundAnswer(right, None), GroundAnswer(wrong, None)])
    scores = metric.evaluate(2)
    assert scores["Acc@0.5"] == 50.0
    assert scores["box_mIoU"] == pytest.approx(100 * (1 + 16 / 64) / 2)
    evaluator, _ = load_predictions(tmp_path / "boxes_val.jsonl")
    assert evaluator.items[0].boxes == ((20.0, 10.0, 60.0, 30.0),)
    mask = torch.zeros(4, 8, dtype=torch.bool)
    mask[1:3, 2:6] = True
    assert metric._box(None, mask, (40, 80)).tolist() == [[20.0, 10.0, 60.0, 30.0]]
    assert metric._box(None, mask & False, (40, 80)).shape == (0, 4)


# --- runs


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from refer.shapes import generate

    folder = tmp_path_factory.mktemp("phrases")
    generate(folder, train=8, val=4, test_a=2, test_b=2, size=64, workers=1, progress=False,
             extras=True)  # fmt: skip
    return folder


def options(root: Path, logdir: Path, *extra: str) -> list[str]:
    return ["--backbone", "tiny", "--device", "cpu", "--refer_data_root", str(root), "--img_size",
            "64", "--workers", "0", "--logdir", str(logdir), *extra]  # fmt: skip


def test_phrases_are_trained_tested_and_drawn(root, tmp_path, capsys):
    run = tmp_path / "run"
    train = options(root, run, "--epochs", "1", "--val-interval", "1", "--batch-size", "4",
                    "--output-dir", str(tmp_path))  # fmt: skip
    assert main(["train", "--dataset", "phraseshapes", *train]) == 0
    metrics = json.loads((run / "metrics.json").read_text())
    assert {"Acc@0.5", "box_mIoU", "oIoU", "mIoU"} <= set(metrics["scores"])
    # [8] Every score that is named is one that is logged.
    for start in TASKS["phrase"].scores:
        assert any(name.startswith(start) for name in metrics["scores"]), start
    assert metrics["protocol"]["boxes"]["name"] == "reftr"
    assert (run / "curves.png").is_file()
    assert len(list((run / "overlays").glob("*.png"))) == 4
    best = tmp_path / "model_best_phraseshapes"
    capsys.readouterr()
    test = ["test", "--dataset", "phraseshapes", "--checkpoint", str(best), "--split", "val"]
    tested = tmp_path / "t"
    assert main([*test, *options(root, tested, "--grounding_protocol", "transvg")]) == 0
    printed = capsys.readouterr().out
    assert "protocol transvg: right at IoU >= 0.5" in printed
    assert "masks at 64x64 by sigmoid(0.5)" in printed
    assert f"scored: phraseshapes val, {metrics['counts']['n_items']:,} items" in printed
    boxes = str(tested / "boxes_val.jsonl")
    assert main(["score", boxes]) == 0
    assert f"scored: phraseshapes val, {metrics['counts']['n_items']:,}" in capsys.readouterr().out
    assert main(["score", boxes, "--nt-pixels", "3"]) == 2
    assert "a file of boxes, which --nt-pixels is not for" in capsys.readouterr().err
    # [3] What a test leaves behind is what is named, not pictures of every item.
    left = {path.name for path in tested.iterdir() if path.suffix in (".json", ".jsonl")}
    assert not list(tested.rglob("*.png"))
    assert left == {"metrics.json", "boxes_val.jsonl", "records_val.jsonl"}
    # [1] One line a phrase, and each of the split's phrases once.
    evaluator, header = load_predictions(tested / "boxes_val.jsonl")
    captions = json.loads((root / "refshapes/phrases.json").read_text())
    assert len(evaluator) == sum(len(c["phrases"]) for c in captions if c["split"] == "val")
    assert header["data_hash"] == metrics["data_hash"]
    assert header["clamp"] is False
    assert main([*test, *options(root, tested, "--task", "res")]) == 2
    assert "phraseshapes" in capsys.readouterr().err
    predict = ["predict", str(next((root / "images/refshapes").glob("*.jpg"))),
               "[a red circle] and [a star]", "--weights", str(best), "--out",
               str(tmp_path / "o.png"), "--json", str(tmp_path)]  # fmt: skip
    assert main(predict) == 0
    (said,) = (json.loads(path.read_text())["answers"] for path in tmp_path.glob("*.json"))
    assert [answer["expression"] for answer in said] == ["a red circle", "a star"]
    assert all(answer["caption"] == "a red circle and a star" for answer in said)
    assert Image.open(tmp_path / "o.png").width >= 64


def test_phrases_are_read_from_files_of_ones_own(root, tmp_path):
    """One file a split, as RefTR's lists are, in place of the data set's own."""
    records = list(refer_phrases(REFER(root, "refshapes")))[::2]  # not what is read without them
    files = []
    for split in ("train", "val"):
        files.append(str(tmp_path / f"{split}.jsonl"))
        save_phrases(Path(files[-1]), (r for r in records if r.split == split), {})
    recipe = settings.find_config("rec", "refshapes", "tiny", None)
    asked = {"data.root": str(root), "data.image_size": 64, "model.head.answers": "boxes"}

    def ids(phrases, dataset="refshapes"):
        config = settings.load(recipe, {**asked, "data.phrases": phrases, "data.dataset": dataset})
        task, found = task_of(config), config.to_dict()
        loaders = task.train([], found, "cpu"), task.val([], "val", found, "cpu")
        return [{record.id for record in loader.dataset.records} for loader in loaders], config

    own, config = ids(None)
    assert scored_on(config) == ("refshapes", "unc")
    read, config = ids(files)
    assert read == [{r.id for r in records if r.split == split} for split in ("train", "val")]
    assert all(one < other for one, other in zip(read, own, strict=True))
    assert scored_on(config) == ("refshapes", None)  # the files do not say which
    # Of a mixture, they are those of its first part.
    both, _ = ids(files, "refshapes+phraseshapes")
    assert both[1] > read[1]
    one = settings.load(recipe, {**asked, "data.phrases": files[1]}).to_dict()
    assert len(task_of(config).val([], "val", one, "cpu").dataset.records) == len(read[1])
    with pytest.raises(MissingDataError, match=r"nowhere\.jsonl"):
        ids([str(tmp_path / "nowhere.jsonl")])


def test_expressions_first_boxes_then_masks(root, tmp_path, capsys):
    """[7] The second stage reads what the first has written, by the name that it printed."""
    small = ["--set", *(f"model.head.{name}={value!r}" for name, value in REFTR.items())]
    small += ["model.head._delete_=True"]
    common = ["train", "--dataset", "refshapes", "--task", "rec", "--batch-size", "8"]
    first = options(root, tmp_path / "1", "--epochs", "1", "--output-dir", str(tmp_path / "1"),
                    "--answers", "boxes")  # fmt: skip
    assert main([*common, *first, *small]) == 0
    assert "oIoU" not in json.loads((tmp_path / "1/metrics.json").read_text())["scores"]
    best = tmp_path / "1/model_best_refshapes"
    second = options(root, tmp_path / "2", "--epochs", "1", "--output-dir", str(tmp_path / "2"),
                     "--answers", "both", "--init", str(best))  # fmt: skip
    assert main([*common, *second, *small, "optim.lr_scale={'head.mask': 10.0}"]) == 0
    assert "tensors taken; " in capsys.readouterr().out
    assert {"Acc@0.5", "oIoU"} <= set(
        json.loads((tmp_path / "2/metrics.json").read_text())["scores"]
    )
    missing = options(root, tmp_path / "3", "--init", str(tmp_path / "nowhere"))
    assert main([*common, *missing]) == 2
    assert "nowhere" in capsys.readouterr().err
    capsys.readouterr()
    test = ["test", "--dataset", "refshapes", "--checkpoint", str(best), "--split", "val"]
    assert main([*test, *options(root, tmp_path / "t")]) == 2
    assert "holds a GroundRefer, for task rec" in capsys.readouterr().err


def test_predictions_name_their_trades():
    model = build(REFTR, "boxes")
    model.backbone.trade({"merge_tokens": 0.5})
    predictor = Predictor(model, 64, "cpu")
    predictor.set_image(np.zeros((64, 64, 3), np.uint8))
    assert predictor.predict("[a dog]").trades == ["merge_tokens=0.5"]


def test_boxes_alone_are_predicted_without_masks(tmp_path):
    predictor = Predictor(build(REFTR, "boxes"), 64, "cpu")
    predictor.set_image(np.zeros((50, 80, 3), np.uint8))
    found = predictor.predict(["[a dog] and [a cat]", "a bird"])
    assert found.expressions == ["a dog", "a cat", "a bird"]
    assert (found.has_masks, found.has_boxes) == (False, True)
    middle = to_pixels(torch.full((4,), 0.5), 50, 80).tolist()
    assert found.boxes.tolist() == [pytest.approx(middle)] * 3
    assert np.isnan(found.scores).all()
    with pytest.raises(OptionError, match="bracket"):
        predictor.predict("[a dog")
    with pytest.raises(OptionError, match="attention"):
        predictor.predict("a dog", attention=True)


CONFIGS = sorted(
    path
    for folder in ("rec", "rec/masks", "phrase")
    for path in (settings.CONFIGS / folder).glob("*.py")
)


@pytest.mark.parametrize(
    "path", [*CONFIGS, settings.CONFIGS / "pretrain/vg_sd15_512.py"], ids=lambda path: path.stem
)
def test_every_config_loads_and_names_a_task_of_its_data(path):
    config = settings.load(path)
    assert task_of(config).system is GroundRefer
    assert config.model.head.type == ("RefTRHead" if "sd15" in path.stem else "PhrasePixelHead")
