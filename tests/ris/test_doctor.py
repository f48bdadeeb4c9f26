"""`ris doctor` and `ris zoo`: what is here is found, what is missing comes with its cure."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from refer.catalog import DATASETS
from ris import doctor
from ris.cli import main
from ris.commands.doctor import listed
from vpd.zoo import ZOO


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hub cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def put(cache: Path, repo_id: str, *files: str) -> None:
    """Files of a repository as the Hub's client keeps them."""
    folder = cache / f"models--{repo_id.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text("abc")
    for name in files:
        path = folder / "snapshots" / "abc" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_weights_are_found_in_the_cache_once_whole(cache):
    sd15 = ZOO["sd15"]
    assert doctor.backbone(ZOO["tiny"]).ok
    nothing = doctor.backbone(sd15)
    assert nothing.ok is None
    assert f"hf download {sd15.weights}" in nothing.cure
    put(cache, sd15.weights, "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.bin")  # fmt: skip
    part = doctor.backbone(sd15)
    assert part.ok is None
    assert "text_encoder not in" in part.seen
    put(cache, sd15.weights, "text_encoder/model.safetensors")
    assert doctor.backbone(sd15).ok
    assert [f.name for f in doctor.weights() if not f.ok] == ["sd21", "clip"]
    put(cache, "openai/clip-vit-large-patch14", "model.safetensors")
    assert [f.name for f in doctor.weights() if not f.ok] == ["sd21"]


def test_missing_embedded_weights_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr("vpd.zoo.EMBEDDED_FOLDER", tmp_path)
    found = doctor.backbone(ZOO["tiny"])
    assert found.ok is False
    assert "lacks unet/, vae/, text_encoder/" in found.seen
    assert "pretrain_tiny" in found.cure


def test_data_sets_are_found_part_by_part(tmp_path):
    def said(name: str) -> doctor.Finding:
        return next(f for f in doctor.data_sets(tmp_path) if f.name == name)

    for row in DATASETS.values():
        assert said(row.name).ok is None
        assert said(row.name).cure == row.cure
    (tmp_path / "refcoco").mkdir()
    assert "no refs file" in said("refcoco").seen
    (tmp_path / "refcoco" / "refs(unc).p").touch()
    assert "no instances.json" in said("refcoco").seen
    (tmp_path / "refcoco" / "instances.json").touch()
    half = said("refcoco")
    assert half.ok is False
    assert "COCO train2014" in half.cure
    place = tmp_path / "train2014"
    place.mkdir()
    (place / "a.jpg").touch()
    assert said("refcoco").ok
    assert "splitBy unc" in said("refcoco").seen
    assert said("refcoco+").ok is None


def test_generated_data_is_found(shapes_root):
    found = {finding.name for finding in doctor.data_sets(shapes_root) if finding.ok}
    assert "refshapes" in found


def test_versions_outside_the_range_are_to_be_mended(monkeypatch):
    monkeypatch.setattr(doctor, "requires", lambda name: ["numpy>=99", "nowhere-at-all>=1",
                                                          'peft>=1; extra == "lora"'])  # fmt: skip
    found = {finding.name: finding for finding in doctor.versions()}
    assert set(found) == {"python", "vpd-ris", "numpy", "nowhere-at-all"}
    assert "outside >=99" in found["numpy"].seen
    assert found["nowhere-at-all"].seen == "not installed"
    assert found["nowhere-at-all"].cure == 'run: pip install "nowhere-at-all>=1"'


def test_kernels_and_devices():
    found = {finding.name: finding.ok for finding in doctor.kernels()}
    assert found["sdpa"]
    assert found["eager"]
    assert "xformers" in found
    names = [finding.name for finding in doctor.devices()]
    assert names[:2] == ["cpu", "bf16 on the CPU"]
    assert len(names) > 2


def test_half_precision_is_advised_where_it_is_fast():
    """Not by the processor's flags: some with bfloat16 are slower in it than in float32."""
    fast, slow = doctor.half_precision(2.3), doctor.half_precision(0.5)
    assert fast.ok
    assert not fast.cure
    assert slow.ok is None
    assert "0.5 times" in slow.seen
    assert "fp32" in slow.cure
    assert 0.001 < doctor.speed_of_half(64, seconds=0.01) < 1000


def test_a_cure_stands_below_what_it_mends():
    text = listed([doctor.Finding("a", None, "not here", "do this")])
    assert text.splitlines()[1].strip() == "cure: do this"


def test_the_commands_print_it(cache, tmp_path, capsys):
    assert main(["doctor", "--refer_data_root", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    for word in ("python", "torch", "diffusers", "mmsegmentation", "sdpa", "refcocog", "sd21"):
        assert word in text
    assert main(["zoo"]) == 0
    text = capsys.readouterr().out
    for row in ZOO.values():
        assert row.weights in text


def test_a_package_that_does_not_load_hides_nothing_else(cache, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "vpd.attention", None)
    assert main(["doctor", "--refer_data_root", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "(cannot look)" in text
    assert "refcocog" in text
    assert "sd21" in text


def test_without_torch_the_doctor_still_looks(repo, tmp_path):
    import subprocess

    code = (
        "import sys; sys.modules['torch'] = None; from ris.cli import main; "
        f"raise SystemExit(main(['doctor', '--refer_data_root', {str(tmp_path)!r}]))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=repo, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "torch" in run.stdout
    assert "refcocog" in run.stdout


def test_the_commands_help_does_not_wait_for_torch(repo):
    import subprocess

    code = "import sys, ris.cli; ris.cli.parser(); assert 'torch' not in sys.modules"
    run = subprocess.run([sys.executable, "-c", code], cwd=repo, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
