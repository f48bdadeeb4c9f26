"""Pre-training: what it reads, that it resumes exactly, and what it leaves behind."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from torch import nn

from refer.shapes import generate
from vpd.errors import ConfigError, WeightsError
from vpd.pretrain import CaptionedPictures, Plan, save_pipeline, train_denoiser
from vpd.pretrain.autoencoder import encode_all, normalise_latents, train_autoencoder
from vpd.pretrain.denoiser import tokens
from vpd.pretrain.loop import run
from vpd.pretrain.pipeline import draw, pipeline
from vpd.text import clip_tokenizer
from vpd.weights import load_components, random_components
from vpd.zoo import named


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shapes")
    generate(root, train=12, val=4, test_a=2, test_b=2, size=64, workers=1, extras=True,
             progress=False)  # fmt: skip
    return root


@pytest.fixture(scope="module")
def data(root: Path) -> CaptionedPictures:
    return CaptionedPictures.read(
        root / "images/refshapes", root / "refshapes/captions.json", progress=False
    )


def tiny_vae() -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(**named("tiny").vae)


def test_only_train_pictures_and_captions_are_read(root, tmp_path):
    """It works where nothing but those files exists, and they are what the split says."""
    content = json.loads((root / "refshapes/captions.json").read_text())
    (tmp_path / "captions.json").write_text(json.dumps(content))
    train = [image for image in content["images"] if image["split"] == "train"]
    for image in train:
        name = image["file_name"]
        (tmp_path / name).write_bytes((root / "images/refshapes" / name).read_bytes())
    data = CaptionedPictures.read(tmp_path, tmp_path / "captions.json", progress=False)
    assert data.pictures.shape == (len(train), 3, 64, 64)
    ids = {image["id"] for image in train}
    expected = [c["caption"] for c in content["annotations"] if c["image_id"] in ids]
    assert sorted(text for texts in data.captions for text in texts) == sorted(expected)


def test_the_digest_is_of_captions_and_pictures(root, data, tmp_path):
    images, captions = tmp_path / "images", tmp_path / "captions.json"
    shutil.copytree(root / "images/refshapes", images)
    content = (root / "refshapes/captions.json").read_text()
    captions.write_text(content)
    last = [one for one in json.loads(content)["images"] if one["split"] == "train"][-1]

    def read() -> str:
        return CaptionedPictures.read(images, captions, progress=False).sha256

    assert read() == data.sha256
    captions.write_text(content + "\n")
    assert read() != data.sha256
    captions.write_text(content)
    with open(images / last["file_name"], "ab") as file:
        file.write(b"\0")
    assert read() != data.sha256


@pytest.mark.parametrize("damage", ["broken", "missing", "size", "no caption", "no split"])
def test_bad_pictures_are_named(root, tmp_path, damage):
    from PIL import Image

    content = json.loads((root / "refshapes/captions.json").read_text())
    first = content["images"][0]
    for image in content["images"]:
        source = root / "images/refshapes" / image["file_name"]
        (tmp_path / image["file_name"]).write_bytes(source.read_bytes())
    victim = tmp_path / first["file_name"]
    split = "train"
    if damage == "broken":
        victim.write_bytes(b"no picture")
    elif damage == "missing":
        victim.unlink()
    elif damage == "size":
        Image.new("RGB", (32, 48)).save(victim)
    elif damage == "no caption":
        kept = [c for c in content["annotations"] if c["image_id"] != first["id"]]
        content["annotations"] = kept
    else:
        split = "minival"
    (tmp_path / "captions.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError) as error:
        CaptionedPictures.read(tmp_path, tmp_path / "captions.json", split, progress=False)
    assert (split if damage == "no split" else "refshapes_") in str(error.value)


def linear_run(folder: Path, plan: Plan, fail_at: int | None = None) -> tuple[nn.Linear, object]:
    torch.manual_seed(1)
    model = nn.Linear(3, 1)
    calls = []

    def loss(generator: torch.Generator) -> torch.Tensor:
        if fail_at is not None and len(calls) == fail_at:
            raise KeyboardInterrupt
        calls.append(1)
        return model(torch.randn(8, 3, generator=generator)).square().mean()

    return model, run("part", model, plan, loss, folder, progress=False)


def test_an_interrupted_run_goes_on_as_if_it_had_not_stopped(tmp_path):
    plan = Plan(steps=20, batch=8, lr=0.1, warmup=4, log_every=1, save_every=100, precision="fp32")
    whole, report = linear_run(tmp_path / "whole", plan)
    with pytest.raises(KeyboardInterrupt):
        linear_run(tmp_path / "part", plan, fail_at=7)
    again, resumed = linear_run(tmp_path / "part", plan)
    assert torch.equal(whole.weight, again.weight)
    assert resumed.losses == report.losses
    assert resumed.steps == 20
    done, _ = linear_run(tmp_path / "part", plan, fail_at=0)  # nothing is left to do
    assert torch.equal(whole.weight, done.weight)


def test_a_state_of_another_plan_or_damaged_is_refused(tmp_path):
    plan = Plan(steps=3, batch=8, lr=0.1, precision="fp32")
    linear_run(tmp_path, plan)
    with pytest.raises(WeightsError, match="another plan"):
        linear_run(tmp_path, Plan(steps=4, batch=8, lr=0.1, precision="fp32"))
    (tmp_path / "part.pt").write_bytes((tmp_path / "part.pt").read_bytes()[:400])
    with pytest.raises(WeightsError, match="damaged"):
        linear_run(tmp_path, plan)


def test_normalised_latents_decode_to_the_same_picture(data):
    vae = tiny_vae()
    x = data.pictures[:4]
    with torch.no_grad():
        before = vae.decode(encode_all(vae, x)).sample
    noise_before = vae.encode(x.float() / 127.5 - 1).latent_dist.std
    raw = encode_all(vae, data.pictures)
    normalise_latents(vae, raw)
    latents = encode_all(vae, data.pictures)
    assert torch.allclose(latents.mean(dim=(0, 2, 3)), torch.zeros(8), atol=0.02)
    assert torch.allclose(latents.std(dim=(0, 2, 3)), torch.ones(8), atol=0.02)
    assert vae.config.scaling_factor == 1.0
    with torch.no_grad():
        after = vae.decode(encode_all(vae, x)).sample
        noise = vae.encode(x.float() / 127.5 - 1).latent_dist.std
    assert (before - after).abs().max() < 0.05 * before.abs().max()  # encode_all may use bfloat16
    scale = raw.std(dim=(0, 2, 3))[None, :, None, None]
    assert torch.allclose(noise * scale, noise_before, rtol=0.1)


def test_the_autoencoder_learns(data, tmp_path):
    vae = tiny_vae()
    plan = Plan(steps=30, batch=4, lr=3e-3, warmup=2, log_every=5, ema=0.9,
                options={"crop": 32, "kl": 1e-6})  # fmt: skip
    report = train_autoencoder(vae, data, plan, tmp_path, progress=False)
    assert report.losses[-1][1] < 0.8 * report.losses[0][1]


def test_captions_keep_to_their_picture():
    captions = [["red"], ["a blue star", "star"], ["the left ring"]]
    ids, first, counts = tokens(clip_tokenizer(), captions, 8)
    decode = clip_tokenizer().decode
    for picture, texts in enumerate(captions):
        rows = ids[first[picture] : first[picture] + counts[picture]]
        assert [decode(row, skip_special_tokens=True) for row in rows] == texts


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A pipeline after a few steps, its report, and the folder it was saved to."""
    folder = tmp_path_factory.mktemp("pretrain")
    parts = random_components(named("tiny"), 0)
    vae = tiny_vae()
    parts.tokenizer = copy.deepcopy(parts.tokenizer)
    parts.tokenizer.model_max_length = 16
    plan = Plan(steps=24, batch=8, lr=1e-3, warmup=2, log_every=6, sample_every=12,
                options={"lengths": (8, 16), "dropout": 0.5, "snr_gamma": 5.0})  # fmt: skip
    drawn: list[int] = []
    report = train_denoiser(
        parts.unet, parts.text_encoder, parts.tokenizer, encode_all(vae, data.pictures),
        data.captions, plan, folder, sample=drawn.append, progress=False,
    )  # fmt: skip
    assert drawn == [12, 24]
    pipe = pipeline(vae, parts.text_encoder, parts.tokenizer, parts.unet)
    save_pipeline(pipe, folder / "saved")
    return pipe, report, folder / "saved"


def test_the_denoiser_learns(trained):
    _, report, _ = trained
    assert report.losses[-1][1] < 0.8 * report.losses[0][1]


def test_plain_diffusers_loads_what_was_saved_and_draws(trained):
    pipe, _, folder = trained
    loaded = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    options = {"size": 64, "steps": 3}
    first, second = draw(loaded, ["a red star", "a blue ring"], **options)
    assert first.size == (64, 64)
    assert first.tobytes() != second.tobytes()
    # Its place among the prompts decides, whatever the batch.
    alone, again = draw(loaded, ["a red star"] * 2, **options, batch=1)
    assert alone.tobytes() != again.tobytes()
    # Half precision on disk; the same pictures up to rounding.
    own = draw(pipe, ["a red star"], **options)[0]
    pairs = zip(first.tobytes(), own.tobytes(), strict=True)
    assert sum(abs(a - b) for a, b in pairs) / len(first.tobytes()) < 3
    assert pipe.unet.dtype == torch.float32


def test_saving_replaces_the_folder_whole(trained, monkeypatch):
    pipe, _, folder = trained
    files = sorted(path.name for path in folder.rglob("*"))

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(pipe, "save_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        save_pipeline(pipe, folder)
    assert sorted(path.name for path in folder.rglob("*")) == files


def test_the_backbone_reads_the_saved_folder(trained):
    _, _, folder = trained
    parts = load_components(folder, named("sd15"))
    assert parts.unet.config.block_out_channels == [64, 96, 96, 96]
    assert all(p.dtype == torch.float32 for p in parts.unet.parameters())
