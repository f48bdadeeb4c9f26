"""What commands refuse, when, and in which words; nothing half done is left behind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from ris import saving
from ris.cli import main
from ris.commands import zoo
from ris.commands.listing import many_pictures
from ris.errors import OptionError


@pytest.fixture
def picture(tmp_path: Path) -> str:
    Image.new("RGB", (64, 48), "red").save(tmp_path / "a.png")
    return str(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--out", "o.jpg"], "name one so: o.jpg.png"),
        (["--dtype", "float8"], "float8"),
        (["--trade", "int4=True"], "'int4' is unknown"),
        (["--wieghts", "w"], "--wieghts: did you mean --weights?"),
    ],
)
def test_an_option_is_refused_before_weights_are_looked_for(
    picture, tmp_path, monkeypatch, capsys, options, said
):
    monkeypatch.chdir(tmp_path)
    weights = [] if "--wieghts" in options else ["--weights", "absent"]
    try:
        code = main(["predict", picture, "it", *weights, *options])
    except SystemExit as left:
        code = left.code
    assert code == 2
    err = capsys.readouterr().err
    assert said in err
    assert "absent" not in err


@pytest.mark.parametrize("address", ["ftp://server/a.jpg", "file:///etc/passwd"])
def test_only_http_is_fetched(address, capsys):
    assert main(["predict", address, "it", "--weights", "absent"]) == 2
    said = capsys.readouterr().err
    assert f"{address}: pictures are fetched by http:// or https:// only" in said


@pytest.mark.parametrize("command", ["train", "test"])
def test_a_log_folder_that_is_a_file_is_named(shapes_root, trained, tmp_path, capsys, command):
    (tmp_path / "log").write_text("")
    arguments = [
        command, "--dataset", "refshapes", "--backbone", "tiny", "--device", "cpu",
        "--refer_data_root", str(shapes_root), "--img_size", "64", "--workers", "0",
        "--logdir", str(tmp_path / "log"),
    ]  # fmt: skip
    if command == "test":
        arguments += ["--checkpoint", str(trained / "best/model_best_refshapes")]
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert str(tmp_path / "log") in said
    assert "name another place" in said


def test_a_picture_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionError, match=r"file/o\.png cannot be written: .*another place"):
        saving.save_png(Image.new("RGB", (4, 4)), tmp_path / "file" / "o.png")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("refer.files.os.replace", full)
    with pytest.raises(OptionError, match=r"o\.png cannot be written: No space left"):
        saving.save_png(Image.new("RGB", (4, 4)), tmp_path / "o.png")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_pictures_of_kinds_that_are_not_read_are_counted(tmp_path, picture, capsys):
    (tmp_path / "b.HEIC").write_bytes(b"x")
    assert [path.name for path in many_pictures(str(tmp_path))] == ["a.png"]
    assert "1 pictures of" in capsys.readouterr().err


def test_a_port_that_is_none_is_refused_before_weights_are_read(capsys):
    pytest.importorskip("gradio")
    assert main(["app", "--weights", "absent", "--port", "99999"]) == 2
    assert "--port is 99999; want 1 to 65535" in capsys.readouterr().err


def test_a_full_gpu_is_answered_with_what_takes_less(monkeypatch, capsys):
    def full(arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(zoo, "run", full)
    assert main(["zoo"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("ris zoo: error: CUDA out of memory")
    assert "what takes less: a smaller --img_size" in said
    assert "Traceback" not in said
