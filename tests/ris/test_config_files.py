"""`--config FILE`: what is no config, and what cannot be laid over one."""

from __future__ import annotations

import pytest

from ris.engine import settings, train
from ris.engine.data import drawn_at
from ris.engine.store import Snapshot, Store
from ris.engine.tasks import gres_protocol
from ris.errors import CheckpointError, OptionError

BASE = settings.find_config("res", "refshapes", "tiny", None)


def test_only_python_is_read_and_nothing_else_runs(tmp_path):
    made = tmp_path / "made"
    file = tmp_path / "config.yaml"
    file.write_text(f'task: !!python/object/apply:os.mkdir ["{made}"]\n')
    with pytest.raises(OptionError, match=r"config\.yaml is no Python file"):
        settings.load(file)
    assert not made.exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "lacks model, data, optim, schedule, survival"),
        (f"_base_ = [{str(BASE)!r}]\ndata = 1\n", r"lacks data \(each a dict\)"),
        ("_base_ = ['absent.py']\n", "cannot be read: FileNotFoundError"),
        ("data = dict(\n", "cannot be read: SyntaxError"),
        ("1 / 0\n", "cannot be read: ZeroDivisionError"),
    ],
)
def test_what_is_no_config_is_named(tmp_path, text, said):
    file = tmp_path / "own.py"
    file.write_text(text)
    with pytest.raises(OptionError, match=rf"own\.py {said}"):
        settings.load(file)


@pytest.mark.parametrize(
    ("entry", "value", "said"),
    [
        ("data", 1, "data is a section of .*root.*got 1"),
        ("model", None, "model is a section of .*got None"),
        ("model.head", 1, "model.head is a section"),
        ("model.backbone", None, "model.backbone is a section"),
        ("optim.lr_scale", 2, "optim.lr_scale is a section"),
        ("data.dataset", {}, "data.dataset wants a string, got {}"),
        ("data.dataset", None, "data.dataset is None; want the name of a data set"),
        ("data.root", 3, "data.root wants a string, got 3"),
        ("protocol", [], "protocol wants a string"),
        ("init", 0, "init is 0; want the folder"),
        ("data.image_size", 10**9, "from 64 to 8192"),
    ],
)
def test_an_entry_of_another_kind_is_named(entry, value, said):
    with pytest.raises(OptionError, match=said):
        settings.load(BASE, {entry: value})


def test_none_leaves_a_section_to_its_default():
    assert settings.load(BASE, {"model.head": None}).model.head is None


def test_a_config_of_before_outlines_had_a_place_keeps_the_old_one(tmp_path):
    base = settings.find_config("gres", "grefshapes", "tiny", None)
    file = tmp_path / "own.py"
    gres = "dict(_delete_=True, no_target=None, pixels=50, match='giou')"
    file.write_text(f"_base_ = [{str(base)!r}]\ngres = {gres}\n")
    config = settings.load(file)
    assert drawn_at(config.to_dict()) == gres_protocol(config).drawn_at == "original"


@pytest.mark.parametrize("values", [{}, {"drawn_at": "original"}])
def test_a_state_keeps_to_the_truth_it_was_trained_on(tmp_path, values):
    store = Store(tmp_path)
    store.write(Snapshot(1, {}, values))
    base = settings.find_config("gres", "grefshapes", "tiny", None)
    with pytest.raises(CheckpointError, match=r"pass --set gres\.drawn_at=original"):
        train._snapshot("auto", store, settings.load(base))
    found = train._snapshot("auto", store, settings.load(base, {"gres.drawn_at": "original"}))
    assert found is not None
    assert train._snapshot("auto", store, settings.load(BASE)) is not None  # a task with one way
