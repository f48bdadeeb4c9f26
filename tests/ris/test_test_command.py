"""What `ris test` makes of its options: weights, size, kernel, and where the scores go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ris import Predictor
from ris.cli import main
from ris.engine import settings
from ris.models import VPDRefer
from vpd import DiffusionBackbone

TINY = ["test", "--dataset", "refshapes", "--backbone", "tiny", "--checkpoint"]
FILE = str(settings.CONFIGS / "res/refshapes_tiny_128.py")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose pictures are of 64 pixels, and whose kernel is not its recipe's."""
    folder = tmp_path_factory.mktemp("weights") / "runA" / "model_best_v1.5"
    torch.manual_seed(0)
    backbone = DiffusionBackbone.from_name("tiny", token_length=16, attention_kernel="sdpa")
    Predictor(VPDRefer(backbone), 64, "cpu").save_pretrained(folder)
    return folder


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the last command asked of `evaluate`, which is not run."""
    seen: dict[str, Any] = {}

    def evaluate(config: Any, checkpoint: str, work_dir: Path, **options: Any) -> dict[str, Any]:
        seen.update(config=config, checkpoint=checkpoint, work_dir=work_dir.as_posix(), **options)
        return {}

    monkeypatch.setattr("ris.engine.evaluate.evaluate", evaluate)
    return seen


def test_the_kernel_is_the_checkpoints_unless_it_is_asked_for(weights, asked):
    for extra in ([], ["--config", FILE]):
        assert main([*TINY, str(weights), *extra]) == 0
        assert asked["load_options"] == {}
    for extra in (["--attention", "eager"], ["--set", "model.backbone.attention_kernel='eager'"]):
        assert main([*TINY, str(weights), *extra]) == 0
        assert asked["load_options"] == {"attention_kernel": "eager"}


def test_a_files_size_counts_and_is_said(weights, asked, capsys):
    def size(*extra: str) -> tuple[Any, str]:
        assert main([*TINY, str(weights), *extra]) == 0
        return asked["config"].data.image_size, capsys.readouterr().out

    assert size()[0] == 64
    assert size("--img_size", "192")[0] == 192
    found, said = size("--config", FILE)
    assert found == 128
    assert "scored at 128, as" in said
    assert "trained at 64" in said
    found, said = size("--config", FILE, "--img_size", "64")
    assert found == 64
    assert "scored at" not in said


def test_oblong_weights_are_tested_as_they_were_trained(tmp_path, asked, capsys):
    torch.manual_seed(0)
    model = VPDRefer(DiffusionBackbone.from_name("tiny", token_length=16))
    Predictor(model, (64, 128), "cpu").save_pretrained(tmp_path / "model")
    assert main([*TINY, str(tmp_path / "model")]) == 0
    assert asked["config"].data.image_size == (64, 128)
    file = [*TINY, str(tmp_path / "model"), "--config", FILE, "--set", "data.image_size=[64,128]"]
    assert main(file) == 0
    assert "scored at" not in capsys.readouterr().out


def test_weights_of_the_hub_are_fetched(weights, asked, monkeypatch, capsys):
    wanted = []

    def fetch(repo_id: str) -> Path:
        wanted.append(repo_id)
        return weights

    monkeypatch.setattr("ris.hub.fetch", fetch)
    assert main([*TINY, "somebody/segmenter"]) == 0
    assert wanted == ["somebody/segmenter"]
    assert asked["checkpoint"] == str(weights)
    assert asked["config"].data.image_size == 64
    assert asked["work_dir"] == "work_dirs/test/somebody_segmenter_refshapes_val"
    assert main([*TINY, "somebody/segmenter", "--text", "clip"]) == 2
    assert "--text is for a released" in capsys.readouterr().err
    assert len(wanted) == 1


def test_options_of_the_other_kind_of_weights_are_refused(weights, asked, released_file, capsys):
    def refused(place: Path, *extra: str) -> str:
        assert main([*TINY, str(place), *extra]) == 2
        return capsys.readouterr().err

    assert "--text is for a released" in refused(weights, "--text", "clip")
    assert "--num_heads is for a released" in refused(weights, "--num_heads", "8")
    assert "--weights (model.backbone.source) is for" in refused(released_file, "--weights", "sd")
    assert not asked
    assert main([*TINY, str(weights), "--weights", "sd"]) == 0
    assert asked["load_options"] == {"weights_source": "sd"}
    assert main([*TINY, str(released_file), "--num_heads", "4", "--text", "clip"]) == 0
    assert asked["load_options"] == {"text": "clip", "config": {"num_heads": 4}}
    assert main([*TINY, str(released_file)]) == 0
    assert asked["load_options"] == {"text": None, "config": {"num_heads": 8}}


TRADES = "model.backbone.trades"
MERGE = ["--set", f"{TRADES}.merge_tokens=0.5", f"{TRADES}.merge_levels=2"]


@pytest.mark.parametrize(
    ("checkpoint", "dataset", "extra", "name"),
    [
        ("w/runA/model_best_refcoco", "refcoco", [], "runA_model_best_refcoco_refcoco_val"),
        ("w/runB/model_best_refcoco", "refcoco", [], "runB_model_best_refcoco_refcoco_val"),
        ("w/runB/model_best_refcoco/", "refcoco", [], "runB_model_best_refcoco_refcoco_val"),
        ("x/../runA/m_v1.5", "refcoco", [], "runA_m_v1.5_refcoco_val"),
        ("w/vpd_v1.5.pth", "refcoco", ["--split", "testA"], "w_vpd_v1.5_refcoco_testA"),
        ("w/m.pth", "refcocog", [], "w_m_refcocog_val"),
        ("w/m.pth", "refcocog", ["--splitBy", "umd"], "w_m_refcocog_umd_val"),
        ("w/m.pth", "refcocog", ["--splitBy", "google"], "w_m_refcocog_google_val"),
        ("w/m.pth", "refcoco", ["--task", "res"], "w_m_refcoco_res_val"),
        ("w/m.pth", "refcoco", ["--task", "rec"], "w_m_refcoco_rec_val"),
        ("w/m.pth", "grefcoco", ["--task", "grec"], "w_m_grefcoco_grec_val"),
        ("w/m.pth", "refcoco", ["--img_size", "384"], "w_m_refcoco_384_val"),
        ("w/m.pth", "refcoco", ["--set", "data.image_size=[256,512]"], "w_m_refcoco_256x512_val"),
        ("w/m.pth", "refcoco", ["--precision", "bf16"], "w_m_refcoco_bf16_val"),
        ("w/m.pth", "refcoco", MERGE, "w_m_refcoco_merge_tokens=0.5-2-levels_val"),
    ],
)
def test_scores_of_different_runs_lie_apart(asked, checkpoint, dataset, extra, name):
    arguments = ["test", "--dataset", dataset, "--checkpoint", checkpoint, *extra]
    assert main(arguments) == 0
    assert asked["work_dir"] == f"work_dirs/test/{name}"


def test_a_files_task_and_split_by_tell_runs_apart_too(asked, tmp_path):
    rec = str(settings.CONFIGS / "rec/refcoco_sd15_512.py")
    assert main(["test", "--checkpoint", "w/m.pth", "--config", rec]) == 0
    assert asked["work_dir"] == "work_dirs/test/w_m_refcoco_rec_val"
    google = tmp_path / "google.py"
    base = str(settings.CONFIGS / "res/refcocog_sd15_512.py")
    google.write_text(f"_base_ = [{base!r}]\ndata = dict(split_by='google')\n")
    assert main(["test", "--checkpoint", "w/m.pth", "--config", str(google)]) == 0
    assert asked["work_dir"] == "work_dirs/test/w_m_refcocog_google_val"


def test_a_name_without_a_folder_is_that_of_the_folder_it_lies_in(asked, tmp_path, monkeypatch):
    (tmp_path / "run7").mkdir()
    monkeypatch.chdir(tmp_path / "run7")
    assert main(["test", "--dataset", "refcoco", "--checkpoint", "m.pth"]) == 0
    assert asked["work_dir"] == "work_dirs/test/run7_m_refcoco_val"
