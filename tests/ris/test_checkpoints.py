"""Our own folders: what is saved comes back; what is damaged or contradicts itself is named."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from ris import Predictor, cards, checkpoints, stages
from ris.cli import main
from ris.errors import CheckpointError
from ris.models import VPDRefer
from vpd import DiffusionBackbone, WeightsError
from vpd.text import clip_tokenizer
from vpd.weights import load_components
from vpd.zoo import EMBEDDED_FOLDER, ZOO


def system(mode: str = "frozen", source: object = "random", **head: object) -> VPDRefer:
    torch.manual_seed(0)
    components = load_components(source, ZOO["tiny"], seed=3)
    backbone = DiffusionBackbone(components, token_length=8, unet_mode=mode, lora_rank=2)
    return VPDRefer(backbone, {"type": "VPDDecoder", **head}).eval()


def answer(model: VPDRefer) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64), ["a cat"])


@pytest.fixture(scope="module")
def sd_folder(tmp_path_factory):
    """A diffusers folder with the tiny shapes, as a user would have Stable Diffusion."""
    from diffusers import AutoencoderKL

    path = tmp_path_factory.mktemp("sd")
    parts = load_components("random", ZOO["tiny"], seed=3)
    parts.unet.save_pretrained(path / "unet")
    AutoencoderKL(**ZOO["tiny"].vae).save_pretrained(path / "vae")
    parts.text_encoder.save_pretrained(path / "text_encoder")
    parts.tokenizer.save_pretrained(path / "tokenizer")
    return path


@pytest.mark.parametrize("mode", ["frozen", "finetune", "lora"])
def test_a_random_backbone_is_saved_whole(tmp_path, mode):
    model = system(mode)
    checkpoints.save(model, tmp_path / "model", image_size=64)
    again = checkpoints.load(tmp_path / "model")
    assert torch.equal(answer(model), answer(again))
    assert again.backbone.unet_mode == mode


@pytest.mark.parametrize("mode", ["frozen", "finetune", "lora"])
def test_frozen_weights_stay_at_their_source(tmp_path, sd_folder, mode):
    model = system(mode, sd_folder)
    checkpoints.save(model, tmp_path / "model")
    again = checkpoints.load(tmp_path / "model")
    assert torch.equal(answer(model), answer(again))
    with safe_open(tmp_path / "model" / "model.safetensors", "pt") as file:
        saved = set(file.keys())
    assert not [name for name in saved if name.startswith(("backbone.vae", "backbone.text_enc"))]
    unet = [name for name in saved if name.startswith("backbone.unet.")]
    assert bool(unet) == (mode != "frozen")
    assert all("lora" in name for name in unet) == (mode != "finetune")


def test_other_frozen_weights_are_refused(tmp_path, sd_folder):
    import shutil

    checkpoints.save(system("frozen", sd_folder), tmp_path / "model")
    other = tmp_path / "other"
    shutil.copytree(sd_folder, other)
    load_components("random", ZOO["tiny"], seed=4).unet.save_pretrained(other / "unet")
    with pytest.raises(CheckpointError, match=r"those in .*other are others"):
        checkpoints.load(tmp_path / "model", weights_source=other)


def test_saving_again_replaces_and_leaves_nothing_beside(tmp_path):
    checkpoints.save(system(), tmp_path / "model", epoch=1)
    checkpoints.save(system(), tmp_path / "model", epoch=2)
    assert cards.read_config(tmp_path / "model")["info"] == {"epoch": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_failed_save_keeps_the_old_one(tmp_path, monkeypatch):
    checkpoints.save(system(), tmp_path / "model", epoch=1)

    def full(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(CheckpointError, match="No space"):
        checkpoints.save(system(), tmp_path / "model", epoch=2)
    assert cards.read_config(tmp_path / "model")["info"] == {"epoch": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_damage_is_named(tmp_path):
    checkpoints.save(system(), tmp_path / "model")
    folder = tmp_path / "model"
    with pytest.raises(CheckpointError, match="token_length 8, but 40"):
        checkpoints.load(folder, token_length=40)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:1000])
    with pytest.raises(WeightsError, match="truncated"):
        checkpoints.load(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "model.safetensors").write_bytes(weights)
    config["head"]["channels"] = 8
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="wrong shapes: head"):
        checkpoints.load(folder)
    odd = config["backbone"]["options"] | {"shape": 3}
    for card, said in (
        ({k: v for k, v in config.items() if k != "head"}, "lacks head"),
        (config | {"backbone": {"unet": {}}}, "lacks backbone vae, text, options"),
        (config | {"backbone": config["backbone"] | {"options": odd}}, "not know: shape"),
        (config | {"format": "vpd-ris 2"}, "format 'vpd-ris 2', not 'vpd-ris 1'"),
    ):
        (folder / "config.json").write_text(json.dumps(card))
        with pytest.raises(CheckpointError, match=said):
            checkpoints.load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoints.load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match="nothing at nowhere; give a folder"):
        checkpoints.load("nowhere")
    with pytest.raises(CheckpointError, match="text-to-image model and no segmenter"):
        checkpoints.load(EMBEDDED_FOLDER)
    with pytest.raises(CheckpointError, match="no checkpoint folder"):
        checkpoints.load(folder)


def test_convert_to_the_released_layout_and_back(tmp_path, released_file, capsys):
    """Folder -> .pth -> the same tensors; a released file -> folder keeps them too."""
    from ris.released import load_released

    text = tmp_path / "text"
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    CLIPTextModel(
        CLIPTextConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
        )
    ).save_pretrained(text)
    heads = ["--num_heads", "4"]
    arguments = ["convert", str(released_file), str(tmp_path / "folder"), "--text", str(text)]
    assert main([*arguments, *heads]) == 0
    capsys.readouterr()
    assert main(["convert", str(tmp_path / "folder"), str(tmp_path / "back.pth")]) == 0
    assert "load it with --num_heads 4" in capsys.readouterr().out
    one = load_released(released_file, {"num_heads": 4}).state_dict()
    two = load_released(tmp_path / "back.pth", {"num_heads": 4}).state_dict()
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert main(["convert", str(tmp_path / "folder"), str(tmp_path / "back.pth")]) == 2


def test_what_was_trained_with_checkpointing_is_loaded_without(tmp_path):
    """It is of no use without gradients, and would forbid compiled blocks."""
    backbone = DiffusionBackbone.from_name("tiny", "random", token_length=8, checkpointing="light")
    checkpoints.save(VPDRefer(backbone, {"type": "VPDDecoder", "channels": 16}), tmp_path)
    found = checkpoints.load(tmp_path, compiled=True)
    assert found.backbone.features.checkpointing is False


def test_a_later_stage_keeps_what_an_earlier_one_has_tuned(tmp_path, sd_folder):
    """Fine-tuned first, frozen then: the UNet is no longer the source's, and goes on with the
    rest."""
    first = system("finetune", sd_folder)
    with torch.no_grad():
        for parameter in first.backbone.unet.parameters():
            if parameter.requires_grad:  # two layers behind the features never are
                parameter.add_(0.01 * torch.randn_like(parameter))
    checkpoints.save(first, tmp_path / "first")
    second = system("frozen", sd_folder)
    stages.start_from(second, tmp_path / "first")
    assert torch.equal(answer(first), answer(second))
    checkpoints.save(second, tmp_path / "second")
    again = checkpoints.load(tmp_path / "second")
    assert torch.equal(answer(again), answer(second))
    with safe_open(tmp_path / "second" / "model.safetensors", "pt") as file:
        names = list(file.keys())
    assert any(name.startswith("backbone.unet.") for name in names)
    assert not any(name.startswith("backbone.vae.") for name in names)


def test_a_later_stage_without_a_place_for_lora_is_refused(tmp_path, sd_folder):
    checkpoints.save(system("lora", sd_folder), tmp_path / "first")
    with pytest.raises(CheckpointError, match="pass --unet_mode lora"):
        stages.start_from(system("frozen", sd_folder), tmp_path / "first")
    stages.start_from(system("lora", sd_folder), tmp_path / "first")


def test_a_whole_folder_pads_as_its_source_does(tmp_path, sd_folder):
    """Stable Diffusion 2.x pads with "!"; a padded place is a token like any other to the UNet."""
    import shutil

    folder = tmp_path / "sd2"
    shutil.copytree(sd_folder, folder)
    parts = load_components(folder, ZOO["tiny"])
    parts.tokenizer.pad_token = "!"
    parts.tokenizer.save_pretrained(folder / "tokenizer")
    model = system("frozen", folder)
    assert model.backbone.tokenizer.pad_token_id == 0
    assert not torch.equal(answer(model), answer(system("frozen", sd_folder)))
    Predictor(model, 64, "cpu").save_pretrained(tmp_path / "whole", whole=True)
    shutil.rmtree(folder)
    again = checkpoints.load(tmp_path / "whole")
    assert torch.equal(answer(again), answer(model))
    assert again.backbone.tokenizer.pad_token_id == 0
    assert clip_tokenizer().pad_token_id == 49407  # that of all other models is as it was


def test_a_head_of_mmsegmentation_begins_as_the_stage_before_left_it(tmp_path, train_arguments):
    """Its own initial values are drawn before, not over what was read."""
    head = "model.head={'type':'mmseg.UPerHead','channels':8}"
    first = [*train_arguments, "--logdir", str(tmp_path / "1"), "--epochs", "1"]
    assert main([*first, "--output-dir", str(tmp_path), "--set", head]) == 0
    folder = tmp_path / "model_best_refshapes"
    second = [*train_arguments, "--logdir", str(tmp_path / "2"), "--epochs", "1", "--init"]
    second += [str(folder), "--output-dir", str(tmp_path / "2"), "--lr", "1e-12"]
    assert main([*second, "--set", head, "optim.weight_decay=0"]) == 0
    before, behind = (
        load_file(place / "model.safetensors") for place in (folder, tmp_path / "2" / folder.name)
    )
    name = next(name for name in before if name.endswith("conv_seg.weight"))
    assert torch.allclose(before[name], behind[name], atol=1e-6)


def test_another_runs_score_is_none_to_beat(tmp_path, train_arguments, capsys):
    """Runs share a folder for their best weights unless told otherwise."""
    out = ["--output-dir", str(tmp_path)]
    run = [*train_arguments, *out, "--epochs", "1", "--logdir"]
    assert main([*run, str(tmp_path / "a")]) == 0
    card = tmp_path / "model_best_refshapes" / "config.json"
    content = json.loads(card.read_text())
    content["info"]["val_oIoU"] = 99.0
    card.write_text(json.dumps(content))
    capsys.readouterr()
    # One that begins anew; and one that is resumed and has never been validated.
    assert main([*run, str(tmp_path / "b")]) == 0
    own = json.loads((tmp_path / "b" / "metrics.json").read_text())["best_val_oIoU"]
    assert own < 99
    assert cards.read_config(card.parent)["info"]["val_oIoU"] == own
    assert "weights of another run" in capsys.readouterr().out
    card.write_text(json.dumps(content))
    more = [*train_arguments, *out, "--epochs", "2", "--resume", "auto", "--logdir"]
    assert main([*more, str(tmp_path / "b")]) == 0
    assert json.loads((tmp_path / "b" / "metrics.json").read_text())["best_val_oIoU"] < 99


def test_convert_says_what_the_released_layout_does_not(tmp_path, capsys):
    checkpoints.save(system(), tmp_path / "folder", image_size=64)
    assert main(["convert", str(tmp_path / "folder"), str(tmp_path / "small.pth")]) == 0
    said = capsys.readouterr().out
    assert "pictures are of 64, and 512 is taken" in said
    assert "--num_heads 4" in said
    model = system()
    model.ignore_sentence = True
    checkpoints.save(model, tmp_path / "deaf")
    assert main(["convert", str(tmp_path / "deaf"), str(tmp_path / "deaf.pth")]) == 2
    assert "ignore_sentence=True; save a folder instead" in capsys.readouterr().err
    assert not (tmp_path / "deaf.pth").exists()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--img_size", "64", "--tolerance", "0.001"], "--img_size, --tolerance: for ONNX only"),
        (["--sentences", "a", "b"], "--to onnx"),
        (["--num_heads", "3"], "--num_heads is for a released .pth"),
        (["--num_heads", "8"], "--num_heads is for a released .pth"),
        (["--text", "x"], "--text is for a released .pth"),
    ],
)
@pytest.mark.parametrize("target", ["new", "new.pth"])
def test_options_that_convert_would_ignore_are_refused(tmp_path, capsys, extra, message, target):
    (tmp_path / "folder").mkdir()  # refused before anything is read of it
    assert main(["convert", str(tmp_path / "folder"), str(tmp_path / target), *extra]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / target).exists()


def test_a_number_of_heads_is_one_or_more(tmp_path, released_file, capsys):
    arguments = ["convert", str(released_file), str(tmp_path / "new"), "--num_heads", "0"]
    assert main(arguments) == 2
    assert "--num_heads is 0; want 1 or more" in capsys.readouterr().err
