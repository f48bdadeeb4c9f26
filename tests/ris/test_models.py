"""The system: heads by config, losses, prediction in batches, caches, the blind option."""

from __future__ import annotations

import math

import pytest
import torch

from ris.errors import OptionError
from ris.heads import VPDDecoder, build_head
from ris.heads.word_layers import WordLayers
from ris.losses import MaskLoss, WeightedCrossEntropy
from ris.models import VPDRefer
from vpd import DiffusionBackbone

CHANNELS = (32, 64 + 8, 96 + 8, 128)


@pytest.fixture(scope="module")
def model() -> VPDRefer:
    torch.manual_seed(0)
    backbone = DiffusionBackbone.from_name("tiny", "random", token_length=8)
    return VPDRefer(backbone, sentence_batch=2).eval()


def pyramid(batch: int = 2) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(batch, c, 16 >> level, 24 >> level) for level, c in enumerate(CHANNELS)]


@pytest.mark.parametrize(
    "config",
    [
        {"type": "VPDDecoder"},
        {"type": "VPDDecoder", "channels": 24},
        {"type": "mmseg.UPerHead", "channels": 16, "pool_scales": (1, 2)},
        {"type": "mmseg.SegformerHead", "channels": 16},
        {"type": "mmseg.FPNHead", "channels": 16, "feature_strides": (8, 16, 32, 64)},
        {"type": "mmseg.FCNHead", "channels": 16, "in_index": 0, "num_convs": 1},
    ],
)
def test_every_head_keeps_the_contract(config):
    """Pyramid in, two-channel logits at the finest level out, and every weight learns."""
    head = build_head(config, CHANNELS)
    logits = head(pyramid())
    assert logits.shape == (2, 2, 16, 24)
    logits.square().mean().backward()
    silent = [
        name
        for name, parameter in head.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    ]
    assert not silent


def test_subpixel_logits_are_the_plain_heads_at_finer_places():
    """4 logits a cell along each side: every fourth is one channel of the last convolution."""
    torch.manual_seed(0)
    head = build_head({"type": "VPDDecoder", "channels": 24, "subpixel": 4}, CHANNELS).eval()
    seen = []
    head.conv1_1.register_forward_hook(lambda m, i, output: seen.append(output))
    with torch.no_grad():
        logits = head(pyramid())
    assert logits.shape == (2, 2, 64, 96)
    (cells,) = seen
    for row in range(4):
        for column in range(4):
            for label in range(2):
                channel = cells[:, label * 16 + row * 4 + column]
                assert torch.equal(logits[:, label, row::4, column::4], channel)


def test_the_word_decoder_adds_what_the_words_say_of_each_cell():
    """Against attention written out cell by cell; the decoder behind it is the plain one."""
    torch.manual_seed(0)
    config = {"type": "WordDecoder", "channels": 24, "word_channels": 8, "subpixel": 2}
    head = build_head(config, CHANNELS, text_channels=12).eval()
    levels, text = pyramid(), torch.randn(2, 5, 12)
    seen = []
    head.decoder.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    logits = head(levels, text)
    assert logits.shape == (2, 2, 32, 48)
    logits.square().mean().backward()
    assert all(parameter.grad is not None for parameter in head.parameters())
    for number, (level, fused, words) in enumerate(zip(levels, seen[0], head.words, strict=True)):
        assert torch.equal(fused[:, : CHANNELS[number]], level)
        row, column = level.shape[-2] - 1, 0
        query = words.query.weight[:, :, 0, 0] @ level[1, :, row, column] + words.query.bias
        weights = torch.softmax(words.key(text[1]) @ query / 8**0.5, dim=0)
        expected = weights @ words.value(text[1])
        assert torch.allclose(fused[1, CHANNELS[number] :, row, column], expected, atol=1e-5)


def test_word_layers_compare_all_cells_and_know_them_by_place_and_content_alone():
    torch.manual_seed(0)
    layers = WordLayers(16, 12, layers=2, grid=4).eval()
    cells, text = torch.randn(2, 16, 4, 4), torch.randn(2, 5, 12)
    with torch.no_grad():
        found = layers(cells, text)
        assert not torch.allclose(found, layers(cells, text.flip(0)), atol=1e-3)
        changed = cells.clone()
        changed[0, :, 3, 3] = torch.randn(16)
        moved = (layers(changed, text) - found).abs().amax(dim=1)
        assert (moved[0] > 1e-5).all()  # the far corner too
        assert (moved[1] < 1e-6).all()  # but no other pair
        # Without places, a shuffled map gives the shuffled answer.
        layers.place.zero_()
        order = torch.randperm(16)
        plain = layers(cells, text).flatten(2)
        shuffled = cells.flatten(2)[:, :, order].unflatten(2, (4, 4))
        assert torch.allclose(layers(shuffled, text).flatten(2), plain[:, :, order], atol=1e-5)


def test_word_layers_take_maps_of_any_size():
    torch.manual_seed(0)
    layers = WordLayers(16, 12, layers=1, grid=4).eval()
    text = torch.randn(1, 5, 12)
    with torch.no_grad():
        layers.place.zero_()
        layers.place[..., 2:] = 3.0  # the right half
        found = layers(torch.zeros(1, 16, 16, 24), text)
    assert found.shape == (1, 16, 16, 24)
    # Halves stay halves (but for the seam): each side answers alike, and unlike the other.
    assert torch.allclose(found[..., :9], found[..., :1, :1].expand(-1, -1, 16, 9), atol=1e-5)
    assert not torch.allclose(found[..., 0], found[..., -1], atol=1e-2)


def test_the_word_decoder_with_layers_trains_all_of_them():
    torch.manual_seed(0)
    config = {"type": "WordDecoder", "channels": 24, "word_channels": 8, "subpixel": 2, "layers": 2}
    head = build_head(config, CHANNELS, text_channels=12)
    head(pyramid(), torch.randn(2, 5, 12)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in head.parameters())
    two = head.layers.layers
    assert not torch.equal(two[0].linear[0].weight, two[1].linear[0].weight)


def test_unknown_heads_and_arguments_are_named():
    with pytest.raises(
        OptionError, match=r"VPDDecoder, WordDecoder, GRESHead, RefTRHead, PhrasePixelHead, mmseg\."
    ):
        build_head({"type": "Decoder"}, CHANNELS)
    with pytest.raises(OptionError, match=r"mmseg\.UPerHeadd is unknown"):
        build_head({"type": "mmseg.UPerHeadd"}, CHANNELS)
    with pytest.raises(OptionError, match="cannot be built"):
        build_head({"type": "VPDDecoder", "depth": 3}, CHANNELS)


def test_a_refused_head_says_what_it_takes():
    """Not the channels of every level, which nobody gave."""
    with pytest.raises(OptionError, match=r"depth=3: .*; it takes channels, word") as caught:
        build_head({"type": "WordDecoder", "depth": 3}, CHANNELS, text_channels=12)
    assert len(str(caught.value)) < 300
    for entry in ({"channels": 6, "layers": 1}, {"channels": -1}, {"channels": "x"}):
        with pytest.raises(OptionError, match="head WordDecoder cannot be built with channels="):
            build_head({"type": "WordDecoder", **entry}, CHANNELS, text_channels=12)
    with pytest.raises(OptionError, match="layers is 65; want 64 at most"):
        build_head({"type": "WordDecoder", "layers": 65}, CHANNELS, text_channels=12)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"loss_decode": {"type": "os.makedirs", "name": "made"}}, "loss_decode"),
        ({"loss_decode": {"type": "CrossEntropyLoss", "class_weight": "w.pkl"}}, "loss_decode"),
        ({"norm_cfg": {"type": "os.makedirs", "name": "made"}}, "'os.makedirs'"),
        ({"norm_cfg": {"type": "antigravity"}}, "'antigravity'"),
        ({"norm_cfg": {"type": ["BN"]}}, "'BN'"),
        ({"act_cfg": {"type": "ReLU", "_scope_": "os"}}, "_scope_"),
        ({"init_cfg": [{"type": "Pretrained", "checkpoint": "x.pth"}]}, "init_cfg"),
        ({"type": "mmseg.os.makedirs", "name": "made"}, r"mmseg\.os\.makedirs is unknown"),
    ],
)
def test_a_config_of_a_head_runs_nothing_but_registered_parts(entry, said, tmp_path, monkeypatch):
    """A checkpoint's config.json comes from whoever made the checkpoint."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match=said):
        build_head({"type": "mmseg.FCNHead", "channels": 8, "in_index": 0, **entry}, CHANNELS)
    assert not list(tmp_path.iterdir())


def test_the_mmseg_stand_in_leaves_again():
    import sys

    build_head({"type": "mmseg.FCNHead", "channels": 8, "in_index": 0}, CHANNELS)
    assert "mmcv._ext" not in sys.modules


def test_decoder_fuses_coarse_to_fine_as_written():
    """The first fusion by hand: upsample with aligned corners, coarse before fine."""
    head = VPDDecoder(CHANNELS).eval()
    seen = []
    head.conv1_4.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    levels = pyramid()
    head(levels)
    up = torch.nn.functional.interpolate(
        levels[3], size=levels[2].shape[-2:], mode="bilinear", align_corners=True
    )
    assert torch.equal(seen[0], torch.cat([up, levels[2]], dim=1))


def test_loss_is_the_weighted_mean_by_hand():
    logits = torch.tensor([[[[2.0, 0.0]], [[0.0, 1.0]]]])  # two pixels
    mask = torch.tensor([[[0, 1]]], dtype=torch.uint8)
    log = torch.log_softmax(logits, dim=1)
    expected = -(0.9 * log[0, 0, 0, 0] + 1.1 * log[0, 1, 0, 1]) / (0.9 + 1.1)
    assert torch.allclose(WeightedCrossEntropy()(logits, mask), expected)


def test_dice_is_added_by_hand_and_not_at_all_unless_asked():
    logits = torch.tensor([[[[2.0, 0.0]], [[0.0, 1.0]]], [[[0.0, 0.0]], [[0.0, 3.0]]]])
    mask = torch.tensor([[[0, 1]], [[0, 0]]], dtype=torch.uint8)
    published = WeightedCrossEntropy()(logits, mask)
    assert torch.equal(MaskLoss()(logits, mask), published)
    shares = [(1 / (1 + math.exp(2)), 1 / (1 + math.exp(-1))), (0.5, 1 / (1 + math.exp(-3)))]
    first = 1 - (2 * shares[0][1] + 1) / (sum(shares[0]) + 1 + 1)
    second = 1 - 1 / (sum(shares[1]) + 1)  # nothing is referred to
    expected = published + 0.5 * (first + second) / 2
    assert torch.allclose(MaskLoss(dice=0.5)(logits, mask), expected)
    with pytest.raises(OptionError, match="dice_weight"):
        MaskLoss(dice=-1)


def test_prediction_does_not_depend_on_the_batch(model):
    image = torch.rand(2, 3, 64, 64) * 2 - 1
    text = ["a cat", "the left dog", "a bird", "two cars", "the sky"]
    index = torch.tensor([0, 0, 1, 1, 0])
    latent = model.backbone.encode_image(image)
    together = model.predict(latent, text, (64, 64), index)
    for row, (sentence, picture) in enumerate(zip(text, index, strict=True)):
        alone = model.predict(latent[picture][None], [sentence], (64, 64))
        assert (together[row] == alone[0]).float().mean() > 0.999


def test_a_picture_is_encoded_once_for_all_its_sentences(model, monkeypatch):
    calls = []
    encode = model.backbone.encode_image
    monkeypatch.setattr(
        model.backbone, "encode_image", lambda image: calls.append(len(image)) or encode(image)
    )
    masks = model(
        torch.rand(1, 3, 64, 64) * 2 - 1,
        ["a", "b", "c", "d", "e"],
        mode="predict",
        picture_index=torch.zeros(5, dtype=torch.long),
    )
    assert masks.shape == (5, 64, 64)
    assert calls == [1]


def test_cached_latents_give_the_same_loss():
    torch.manual_seed(0)
    backbone = DiffusionBackbone.from_name("tiny", "random", token_length=8)
    plain, cached = VPDRefer(backbone), VPDRefer(backbone, latent_cache_mb=1)
    cached.load_state_dict(plain.state_dict())
    image = torch.rand(2, 3, 64, 64) * 2 - 1
    mask = torch.ones(2, 64, 64, dtype=torch.uint8)
    losses = []
    for system in (plain, cached, cached):
        system.eval()
        loss = system(image, ["a", "b"], mask, mode="loss", picture=["7", "9"])["loss"]
        losses.append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    assert losses[2] == losses[1]
    assert set(cached.latents.by_name) == {"7", "9"}


def test_pictures_of_one_id_keep_their_own_latents():
    """Data sets of a mixture number their pictures each for itself; paths tell them apart."""
    torch.manual_seed(0)
    cached = VPDRefer(
        DiffusionBackbone.from_name("tiny", "random", token_length=8), latent_cache_mb=64
    ).eval()
    image, mask = torch.randn(2, 3, 64, 64), torch.zeros(2, 64, 64, dtype=torch.uint8)
    with torch.no_grad():
        for _ in range(2):
            cached(image, ["a", "b"], mask, mode="loss", image_id=[5, 5], picture=["x/5", "y/5"])
        for row, name in enumerate(("x/5", "y/5")):
            expected = cached.backbone.encode_image(image[row : row + 1])[0]
            assert torch.equal(cached.latents.by_name[name], expected)


def test_a_full_latent_cache_takes_no_more(model):
    system = VPDRefer(model.backbone, latent_cache_mb=1)
    image, mask = torch.zeros(5, 3, 64, 64), torch.zeros(5, 64, 64, dtype=torch.uint8)
    one = model.backbone.encode_image(image[:1])
    system.latents.in_memory = 3 * one.numel() * one.element_size()
    system(image, list("abcde"), mask, mode="loss", picture=list("12345"))
    assert len(system.latents.by_name) == 3


def test_the_blind_option_ignores_sentences(model):
    blind = VPDRefer(model.backbone, ignore_sentence=True).eval()
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    logits = blind(image.expand(2, -1, -1, -1), ["left dog", "right cat"])
    assert torch.allclose(logits[0], logits[1], atol=1e-6)
    seeing = model(image.expand(2, -1, -1, -1), ["left dog", "right cat"])
    assert not torch.allclose(seeing[0], seeing[1], atol=1e-6)


def test_sentences_without_a_picture_are_refused(model):
    latent = model.backbone.encode_image(torch.zeros(2, 3, 64, 64))
    with pytest.raises(OptionError, match="3 sentences and 2 pictures"):
        model.predict(latent, ["a", "b", "c"], (64, 64))


def test_modes_and_missing_masks_are_named(model):
    image = torch.zeros(1, 3, 64, 64)
    with pytest.raises(OptionError, match="loss, predict or tensor"):
        model(image, ["a"], mode="train")
    with pytest.raises(OptionError, match="needs the masks"):
        model(image, ["a"], mode="loss")


def test_latents_and_texts_on_disk_give_the_same_losses_and_spare_the_encoders(
    model, tmp_path, monkeypatch
):
    image, mask = torch.rand(2, 3, 64, 64) * 2 - 1, torch.zeros(2, 64, 64, dtype=torch.uint8)
    content, texts = [b"1" * 32, b"2" * 32], ["a red thing", "the blue one"]

    def loss(system, content):
        return system(image, texts, mask, mode="loss", picture=["1", "2"], content=content)["loss"]

    plain = loss(VPDRefer(model.backbone, model.head_config, latent_cache_mb=1), None)
    kept = {"cache_dir": str(tmp_path), "latent_cache_mb": 0}
    torch.manual_seed(0)
    model.backbone.texts.forget()
    first = VPDRefer(model.backbone, model.head_config, **kept)
    state = first.state_dict()
    filled = loss(first, content)
    model.backbone.texts.forget()
    second = VPDRefer(model.backbone, model.head_config, **kept)
    second.load_state_dict(state)

    def never(*args, **kwargs):
        raise AssertionError("an encoder ran again")

    monkeypatch.setattr(model.backbone.vae, "encode", never)
    monkeypatch.setattr("vpd.text.encode", never)
    assert torch.equal(loss(second, content), filled)
    assert torch.isfinite(plain)
    model.backbone.texts.on_disk = None
