"""Encoders that wait on disk: the same bits, no memory held, nothing damaged ever used."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from vpd import ConfigError, DiffusionBackbone
from vpd.parking import Parking


def frozen(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8)).requires_grad_(False)


def mapped(tensor: torch.Tensor, file: Path) -> bool:
    """Whether the tensor's memory is a view of the file, by the system's own table."""
    at = tensor.data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        low, high = (int(end, 16) for end in line.split()[0].split("-"))
        if low <= at < high:
            return line.endswith(str(file))
    return False


def test_asleep_the_weights_are_views_of_the_file_and_equal(tmp_path):
    layer = frozen()
    picture = torch.randn(1, 3, 9, 9)
    expected, state = layer(picture), {n: v.clone() for n, v in layer.state_dict().items()}
    parking = Parking(layer, "encoder", tmp_path)
    assert parking.nbytes == sum(v.nbytes for v in state.values())
    assert not mapped(layer[0].weight, parking.file)
    parking.sleep()
    assert all(mapped(parameter, parking.file) for parameter in layer.parameters())
    assert all(torch.equal(value, state[name]) for name, value in layer.state_dict().items())
    for _ in range(2):
        parking.wake()
        assert torch.equal(layer(picture), expected)
        parking.sleep()


def test_the_order_of_channels_comes_back(tmp_path):
    layer = frozen().to(memory_format=torch.channels_last)
    strides = layer[0].weight.stride()
    parking = Parking(layer, "encoder", tmp_path)
    parking.sleep()
    assert layer[0].weight.stride() != strides
    parking.wake()
    assert layer[0].weight.stride() == strides


def test_one_file_for_the_same_weights_and_another_for_others(tmp_path):
    first = Parking(frozen(), "encoder", tmp_path)
    made = first.file.stat().st_mtime_ns
    assert Parking(frozen(), "encoder", tmp_path).file == first.file
    assert first.file.stat().st_mtime_ns == made
    assert Parking(frozen(1), "encoder", tmp_path).file != first.file
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("damage", ["cut", "changed", "another"])
def test_a_damaged_file_is_written_anew(tmp_path, damage):
    layer = frozen()
    expected = layer[0].weight.clone()
    file = Parking(layer, "encoder", tmp_path).file
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-9])
    elif damage == "changed":
        save_file({n: v + 1 for n, v in load_file(file).items()}, file)
    else:
        save_file({"0.weight": torch.zeros(2)}, file)
    parking = Parking(layer, "encoder", tmp_path)
    parking.sleep()
    assert torch.equal(layer[0].weight, expected)


def test_what_trains_is_not_parked(tmp_path):
    with pytest.raises(ConfigError, match=r"encoder\.0\.weight trains"):
        Parking(frozen().requires_grad_(True), "encoder", tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file/encoder_.*make room"):
        Parking(frozen(), "encoder", tmp_path / "file")


@pytest.fixture
def backbone() -> DiffusionBackbone:
    return DiffusionBackbone.from_name("tiny", "random", token_length=8)


def test_a_backbone_sleeps_in_training_only_and_wakes_what_is_needed(tmp_path, backbone):
    picture = torch.rand(1, 3, 64, 64) * 2 - 1
    latent, words = backbone.encode_image(picture), backbone.encode_text(["a dog"])
    free = backbone.park(tmp_path)
    parts = {"vae": backbone.vae, "text_encoder": backbone.text_encoder}
    assert free == sum(p.nbytes for part in parts.values() for p in part.parameters())
    assert sorted(path.name.rpartition("_")[0] for path in tmp_path.iterdir()) == sorted(parts)

    def awake() -> list[str]:
        return [name for name, parking in backbone._parking.items() if parking.awake]

    assert not awake()
    weight = next(backbone.vae.parameters())
    assert mapped(weight, backbone._parking["vae"].file)
    backbone.train()(latent, words)
    assert torch.equal(backbone.encode_image(picture), latent)
    assert awake() == ["vae"]
    backbone.eval()(latent, words)
    assert awake() == ["vae"]
    backbone.texts.forget()
    assert torch.equal(backbone.encode_text(["a dog"]), words)
    assert awake() == ["vae", "text_encoder"]
    backbone.train()(latent, words)
    assert not awake()


def test_parked_weights_are_not_moved(tmp_path, backbone):
    backbone.park(tmp_path)
    with pytest.raises(ConfigError, match="stay where they are"):
        backbone.half()
