"""Numbers of the settings are asked whether they can be meant, before anything is loaded."""

from __future__ import annotations

import pytest

from ris.cli import main
from ris.engine import ranges, settings
from ris.errors import OptionError

RECIPE = settings.CONFIGS / "res" / "refshapes_tiny_128.py"
ALL = sorted(
    path
    for folder in ("res", "gres", "rec", "rec/masks", "phrase")
    for path in (settings.CONFIGS / folder).glob("*.py")
)


@pytest.mark.parametrize("path", ALL, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_number_of_a_recipe_has_a_range_or_another_that_checks_it(path):
    numbers = [
        name
        for name, value in settings._flat(settings.load(path).to_dict()).items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    ]
    assert not [
        name
        for name in numbers
        if name not in ranges.RANGES and not name.startswith(ranges.ELSEWHERE)
    ]


@pytest.mark.parametrize(
    ("entry", "value", "said"),
    [
        ("optim.clip", -1, "a number above 0 or None"),  # the gradient would change its sign
        ("optim.clip", 0, "a number above 0 or None"),
        ("optim.ema", 2, "a number above 0 below 1 or None"),
        ("optim.lr", float("nan"), "a number from 0 on"),
        ("optim.lr", -1e-4, "a number from 0 on"),
        ("optim.weight_decay", -1, "a number from 0 on"),
        ("optim.accumulate", 0, "a whole number from 1 on"),
        ("optim.warmup", -5, "a whole number from 0 on"),
        ("data.workers", -1, "a whole number from 0 on"),
        ("data.eval_pictures", 0, "a whole number from 1 on"),
        ("data.max_broken", -1, "a whole number from 0 on"),
        ("schedule.print_freq", 0, "a whole number from 1 on"),
        ("seed", -1, "a whole number from 0 on up to"),
        ("survival.save_every", 1.5, "0 saves at the end of epochs only"),
        ("model.class_weight", [1], "two numbers above 0"),
        ("model.class_weight", (0.9, -1), "two numbers above 0"),
    ],
)
def test_a_number_that_cannot_be_meant_is_refused(entry, value, said):
    with pytest.raises(OptionError) as caught:
        settings.load(RECIPE, {entry: value})
    assert str(caught.value).startswith(f"{entry} is {value!r}; want")
    assert said in str(caught.value)


def test_ends_of_ranges():
    share = ranges.Range(0, 1, open_least=True)
    assert [share.holds(value) for value in (0, 0.5, 1, 1.1, None, True, "1")] == [
        False, True, True, False, False, False, False,
    ]  # fmt: skip
    for entry, value in (("optim.ema", None), ("survival.stall_timeout", 0), ("optim.lr", 0.0)):
        settings.load(RECIPE, {entry: value})


def test_a_near_miss_is_answered_with_the_name(capsys, tmp_path):
    train = ["train", "--dataset", "refshapes", "--backbone", "tiny", "--logdir", str(tmp_path)]
    assert main([*train, "--set", "modle.sentence_batch=1"]) == 2
    assert "did you mean model.sentence_batch" in capsys.readouterr().err
    assert main([*train, "--set", "optim.rate=1"]) == 2
    said = capsys.readouterr().err
    assert "has optim.accumulate" in said
    assert "schedule.epochs" not in said
    assert main([*train, "--answers", "boxes"]) == 2
    assert "is for tasks rec and phrase" in capsys.readouterr().err
    assert main([*train, "--task", "grec"]) == 2
    assert "refshapes is for task res or rec, not grec" in capsys.readouterr().err
    assert main([*train, "--set", "optim.clip=-1"]) == 2
    assert not list(tmp_path.iterdir())
    with pytest.raises(SystemExit):
        main([*train, "--epohcs", "3"])
    said = capsys.readouterr().err
    assert "usage: ris train" in said
    assert "--epohcs: did you mean --epochs" in said
