"""Train, test, predict and score as a user does, on generated data with the tiny backbone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from refer import REFER
from refer.evaluation import load_records
from ris import cards
from ris.cli import main
from ris.engine.store import Store

BEST = "best/model_best_refshapes"


def test_a_run_leaves_what_the_readme_says(trained):
    metrics = json.loads((trained / "metrics.json").read_text())
    assert set(metrics["scores"]) == {f"P@0.{n}" for n in range(5, 10)} | {"oIoU", "mIoU"}
    assert metrics["protocol"]["resolution"] == "64x64"
    assert metrics["protocol"]["prediction"] == "argmax"
    assert metrics["counts"]["pictures"] == 6
    assert (metrics["dataset"], metrics["split_by"]) == ("refshapes", "unc")
    assert "trained_on" not in metrics
    assert metrics["optimizer_steps"] == 2 * (metrics["train_refs"] // 8)
    for entry in ("data_hash", "seconds", "peak_memory", "environment", "settings"):
        assert metrics[entry], entry
    assert list(trained.glob("overlays/epoch002_val_*.png"))
    assert (trained / "curves.png").stat().st_size > 1000
    assert list(trained.glob("*/vis_data/events.out.tfevents.*"))
    assert not list(trained.rglob("*.part"))


@pytest.mark.slow
def test_scoring_needs_nothing_that_only_training_loads(trained, shapes_root, tmp_path):
    """In a process of its own, as test.sh runs it: here, training has loaded everything already."""
    arguments = [
        "test", "--dataset", "refshapes", "--backbone", "tiny", "--device", "cpu",
        "--checkpoint", str(trained / BEST), "--refer_data_root", str(shapes_root),
        "--img_size", "64", "--workers", "0", "--logdir", str(tmp_path),
    ]  # fmt: skip
    found = subprocess.run(
        [sys.executable, "-m", "ris.cli", *arguments], capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr[-2000:]
    assert "oIoU" in json.loads((tmp_path / "metrics.json").read_text())["scores"]


def test_the_test_command_repeats_the_validation(trained, shapes_root, tmp_path, capsys):
    """Same weights, same split: the integers of the best epoch come again."""
    arguments = [
        "test", "--dataset", "refshapes", "--backbone", "tiny", "--device", "cpu",
        "--checkpoint", str(trained / BEST), "--refer_data_root", str(shapes_root),
        "--img_size", "64", "--workers", "0", "--logdir", str(tmp_path), "--keep-masks",
    ]  # fmt: skip
    assert main(arguments) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    best = cards.read_config(trained / BEST)["info"]["val_oIoU"]
    assert metrics["scores"]["oIoU"] == pytest.approx(best, abs=1e-9)
    printed = capsys.readouterr().out
    assert "oIoU" in printed
    assert "protocol vpd: P@X at IoU >= X, all sentences, masks at 64x64 by argmax" in printed
    assert "; resolution, overlap not as vpd has it" in printed
    scored = f"scored: refshapes (unc) val, {metrics['counts']['n_items']:,} items, data "
    assert scored + metrics["data_hash"][:12] in printed

    records = load_records(tmp_path / "records_val.jsonl").records
    refer = REFER(shapes_root, "refshapes")
    sentences = sum(len(r["sentences"]) for r in refer.loadRefs(refer.getRefIds(split="val")))
    assert len(records) == sentences == metrics["counts"]["n_items"]
    total = sum(r.intersection for r in records) / sum(r.union for r in records)
    assert metrics["scores"]["oIoU"] == pytest.approx(100 * total)

    score = ["score", str(tmp_path / "records_val.jsonl"), "--protocol", "cris"]
    assert main([*score, "--refer_data_root", str(shapes_root)]) == 0  # the records name their data
    assert "native" in capsys.readouterr().out
    assert main([*score, "--nt-rule", "head"]) == 2
    assert "masks' counts, which --nt-rule is not for" in capsys.readouterr().err
    for option, value in (("--dataset", "refcoco"), ("--splitBy", "umd")):
        assert main([*score, option, value]) == 2
        assert f"not {value!r}; leave {option} out" in capsys.readouterr().err


def test_resume_goes_on_where_it_stopped(train_arguments, tmp_path, capsys):
    """One epoch, then --resume auto to two: the step count, the best score and the state go on."""
    arguments = [*train_arguments, "--logdir", str(tmp_path), "--output-dir", str(tmp_path / "b")]
    assert main([*arguments, "--epochs", "1"]) == 0
    store = Store(tmp_path / "resume")
    (steps,) = store.steps()
    # Frozen weights stay out of the saved state.
    assert not any(n.startswith("backbone.vae.") for n in store.read(steps).tensors["model"])
    assert main([*arguments, "--epochs", "2", "--resume", "auto"]) == 0
    assert store.steps()[-1] == 2 * steps
    log = "".join(path.read_text() for path in tmp_path.glob("*/*.log"))
    assert f"resumed after step {steps}" in log
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    # Resumed once more, nothing is left to train, and the scores are not lost.
    assert main([*arguments, "--epochs", "2", "--resume", str(tmp_path)]) == 0
    again = json.loads((tmp_path / "metrics.json").read_text())
    assert again["scores"] == metrics["scores"]
    assert again["best_val_oIoU"] == metrics["best_val_oIoU"]
    # Other frozen weights under the same trained ones would go unnoticed.
    other = ["--weights", "random", "--seed", "5"]
    assert main([*arguments, "--epochs", "3", "--resume", "auto", *other]) == 2
    assert "other frozen weights" in capsys.readouterr().err
    # So would moments that are another optimizer's.
    assert main([*arguments, "--epochs", "3", "--resume", "auto", "--set", "optim.muon=None"]) == 2
    assert "another optimizer" in capsys.readouterr().err


def test_predict_draws_every_expression(trained, shapes_root, tmp_path, capsys):
    picture = next((shapes_root / "images" / "refshapes").glob("*.jpg"))
    out = tmp_path / "overlay.png"
    arguments = ["predict", str(picture), "the circle", "red star on the left"]
    weights = ["--weights", str(trained / BEST), "--out", str(out), "--masks", str(tmp_path)]
    assert main([*arguments, *weights]) == 0
    drawn = Image.open(out)
    assert drawn.width >= 256
    assert drawn.height > 128  # the legend is below the picture
    masks = sorted(tmp_path.glob(f"{picture.stem}_*.png"))
    assert len(masks) == 2
    assert Image.open(masks[0]).size == Image.open(picture).size
    assert "'the circle'" in capsys.readouterr().out


def test_odd_pictures_work_and_broken_ones_are_named(trained, tmp_path, capsys):
    weights = ["--weights", str(trained / BEST), "--out", str(tmp_path / "o.png")]
    grey = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60), np.uint8))
    grey.save(tmp_path / "grey.png")
    grey.convert("CMYK").save(tmp_path / "cmyk.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    grey.convert("RGB").save(tmp_path / "turned.jpg", exif=exif)
    for name in ("grey.png", "cmyk.jpg", "turned.jpg"):
        assert main(["predict", str(tmp_path / name), "the circle", *weights]) == 0
    (tmp_path / "o.png").unlink()
    whole = (tmp_path / "cmyk.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.jpg").touch()
    for name in ("cut.jpg", "empty.jpg", "absent.jpg"):
        assert main(["predict", str(tmp_path / name), "the circle", *weights]) == 2
        assert name in capsys.readouterr().err
    assert main(["predict", str(tmp_path / "grey.png"), " ", *weights]) == 2
    assert "empty" in capsys.readouterr().err
    assert not (tmp_path / "o.png").exists()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--splitBy", "google"], "google"),
        (["--refer_data_root", "/nowhere"], "/nowhere"),
        (["--img_size", "100"], "multiple of 64"),
        (["--token_length", "99"], "outside 3 to 77"),
        (["--set", "data.sise=3"], "data.sise"),
        (["--unet_mode", "thawed"], "frozen, finetune, lora"),
        (["--precision", "fp8"], "fp32 or bf16"),
        (["--resume", "absent.pth"], "absent.pth"),
        (["--backbone", "sd99"], "refshapes_tiny_128"),
    ],
)
def test_bad_options_are_one_clear_line(train_arguments, tmp_path, capsys, extra, message):
    assert main([*train_arguments, "--logdir", str(tmp_path / "run"), *extra]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_scripts_refuse_bad_calls_and_pass_options_on(repo):
    for script, arguments in (("train.sh", ["refcoco"]), ("train.sh", ["refcoco", "x", "all"])):
        run = subprocess.run(["bash", str(repo / script), *arguments], capture_output=True)
        assert run.returncode == 2
    assert not (Path.cwd() / "x").exists()


def test_wrong_split_and_wrong_token_length(trained, shapes_root, tmp_path, capsys):
    arguments = [
        "test", "--dataset", "refshapes", "--backbone", "tiny", "--device", "cpu",
        "--checkpoint", str(trained / BEST), "--refer_data_root", str(shapes_root),
        "--workers", "0", "--logdir", str(tmp_path / "run"),
    ]  # fmt: skip
    assert main([*arguments, "--split", "testC"]) == 2
    assert "testA" in capsys.readouterr().err
    assert main([*arguments, "--token_length", "40"]) == 2
    assert "token_length 16, but 40" in capsys.readouterr().err


def test_a_released_file_is_scored(released_file, shapes_root, tmp_path, capsys):
    """test.sh's way: a released-format .pth, its CLIP from a folder, its token length checked."""
    from transformers import CLIPTextConfig, CLIPTextModel

    CLIPTextModel(
        CLIPTextConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
        )
    ).save_pretrained(tmp_path / "clip")
    arguments = [
        "test", "--dataset", "refshapes", "--backbone", "tiny", "--device", "cpu",
        "--checkpoint", str(released_file), "--refer_data_root", str(shapes_root), "--workers", "0",
        "--logdir", str(tmp_path / "run"), "--num_heads", "4", "--text", str(tmp_path / "clip"),
    ]  # fmt: skip
    assert main([*arguments, "--token_length", "12"]) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["protocol"]["resolution"] == "128x128"
    assert main([*arguments, "--token_length", "16"]) == 2
    assert "token_length 12, but 16" in capsys.readouterr().err
    # Without a reachable CLIP the message tells where it can come from.
    assert main([*arguments[:-2], "--token_length", "12"]) == 2
    assert "clip-vit-large-patch14" in capsys.readouterr().err


def test_a_folder_is_tested_at_the_size_it_was_trained_at(trained, shapes_root, tmp_path):
    arguments = [
        "test", "--dataset", "refshapes", "--backbone", "tiny", "--device", "cpu", "--checkpoint",
        str(trained / BEST), "--refer_data_root", str(shapes_root), "--workers", "0",
        "--logdir", str(tmp_path),
    ]  # fmt: skip
    assert main(arguments) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["protocol"]["resolution"] == "64x64"


def test_options_that_would_be_ignored_are_refused(trained, released_file, tmp_path, capsys):
    Image.new("RGB", (64, 64)).save(tmp_path / "p.png")
    predict = ["predict", str(tmp_path / "p.png"), "a cat", "--out", str(tmp_path / "o.png")]
    assert main([*predict, "--weights", str(trained / BEST), "--text", "x"]) == 2
    assert "--text is for a released" in capsys.readouterr().err
    assert main([*predict, "--weights", str(released_file), "--sd", "x"]) == 2
    assert "--sd is for a checkpoint folder" in capsys.readouterr().err
    assert not (tmp_path / "o.png").exists()


def test_shapes_command_refuses_in_one_line(tmp_path, capsys):
    assert main(["shapes", str(tmp_path), "--train", "1", "--size", "32"]) == 2
    assert "size is 32" in capsys.readouterr().err
    (tmp_path / "images" / "refshapes").mkdir(parents=True)
    (tmp_path / "images" / "refshapes" / "mine.jpg").touch()
    assert main(["shapes", str(tmp_path), "--train", "1"]) == 2
    assert "choose another folder" in capsys.readouterr().err
    assert (tmp_path / "images" / "refshapes" / "mine.jpg").exists()


def test_a_package_that_is_not_installed_is_named(train_arguments, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "xformers", None)  # as if it were not there
    monkeypatch.setitem(sys.modules, "xformers.ops", None)
    run = [*train_arguments, "--logdir", str(tmp_path), "--attention", "xformers"]
    assert main(run) == 2
    assert "pip install -e '.[xformers]'" in capsys.readouterr().err
