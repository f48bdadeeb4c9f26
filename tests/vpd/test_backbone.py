"""The backbone: contract of the pyramid, sizes, modes, and diffusers' own forward as a witness."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers.models.resnet import ResnetBlock2D

from vpd import ConfigError, DiffusionBackbone, TextError, light
from vpd.attention import KERNELS
from vpd.weights import random_components
from vpd.zoo import ZOO


@pytest.fixture(scope="module")
def tiny() -> DiffusionBackbone:
    return DiffusionBackbone.from_name("tiny", "random", token_length=16).eval()


@pytest.mark.parametrize("size", [(64, 64), (128, 128), (128, 192), (320, 64)])
def test_pyramid_contract_at_any_size(tiny, size):
    latent = tiny.encode_image(torch.rand(2, 3, *size) * 2 - 1)
    with torch.no_grad():
        pyramid = tiny(latent, tiny.encode_text(["the left giraffe", "a dog"]))
    for level, feature in enumerate(pyramid.joined()):
        stride = tiny.strides[level]
        cells = (size[0] // stride, size[1] // stride)
        assert feature.shape == (2, tiny.channels[level], *cells)
    assert set(pyramid.maps) == {1, 2}
    for values in pyramid.maps.values():
        assert torch.allclose(values.sum(1), torch.ones_like(values.sum(1)), atol=1e-5)
        assert values.min() >= 0


def test_features_equal_diffusers_own_forward(tiny):
    """Hooks on the modules that diffusers' own forward runs see the same features."""
    torch.manual_seed(0)
    latent, text = torch.randn(2, 8, 16, 16), torch.randn(2, 16, 64)
    unet = tiny.unet
    seen = {}

    def keep(name):
        def hook(module, inputs, output):
            seen[name] = output[0] if isinstance(output, tuple) else output

        return hook

    modules = {
        3: unet.up_blocks[0].resnets[0],
        2: unet.up_blocks[1].attentions[0],
        1: unet.up_blocks[2].attentions[0],
        0: unet.up_blocks[3].resnets[1],
    }
    handles = [m.register_forward_hook(keep(n)) for n, m in modules.items()]
    with torch.no_grad():
        unet(latent, 1, tiny.adapter(text))
        expected = dict(seen)
        found = tiny(latent, text)
    for handle in handles:
        handle.remove()
    for level, feature in enumerate(found.features):
        # Values reach 8; which kernels sum, and in what order, is the machine's affair.
        torch.testing.assert_close(feature, expected[level], atol=1e-4, rtol=0)


def test_maps_equal_a_plain_softmax(tiny):
    """The level-2 map is the mean over layers and heads of softmax(q k^T / sqrt(d))."""
    torch.manual_seed(1)
    latent, text = torch.randn(1, 8, 16, 16), torch.randn(1, 16, 64)
    context = tiny.adapter(text)
    layers = [
        *(t.transformer_blocks[0].attn2 for t in tiny.unet.up_blocks[1].attentions),
        *(t.transformer_blocks[0].attn2 for t in tiny.unet.down_blocks[2].attentions),
    ]
    queries = []
    handles = [
        layer.to_q.register_forward_hook(lambda m, i, output: queries.append(output))
        for layer in layers
    ]
    with torch.no_grad():
        found = tiny(latent, text).maps[2]
        for handle in handles:
            handle.remove()
        total = torch.zeros_like(found)
        # Hooks fire in run order: down layers come before up layers.
        order = [*layers[-1:], *layers[:-1]]
        for layer, query in zip(order, queries, strict=True):
            key = layer.to_k(context)
            for q, k in zip(query.chunk(layer.heads, -1), key.chunk(layer.heads, -1), strict=True):
                weights = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1)
                total += weights.transpose(1, 2).unflatten(2, found.shape[-2:]) / layer.heads
    assert torch.allclose(found, total / len(layers), atol=1e-6)


def test_maps_are_handed_over_and_not_kept(tiny):
    """A forgotten map would hold its memory, or that of a whole graph, until the next pass."""
    with torch.no_grad():
        tiny(torch.randn(1, 8, 8, 8), torch.randn(1, 16, 64))
    for processors in tiny.features.map_layers.values():
        for processor in processors:
            assert processor.map is None
            with pytest.raises(RuntimeError, match="run the layer first"):
                processor.take()


def of_shape(layout: str, linear: bool = False, depth: int = 1) -> DiffusionBackbone:
    """The tiny widths with the attention layout of another backbone."""
    zoo = ZOO["tiny"]
    types = {name: ZOO[layout].unet[name] for name in ("down_block_types", "up_block_types")}
    unet = {**zoo.unet, **types, "layers_per_block": 2, "use_linear_projection": linear}
    unet["transformer_layers_per_block"] = depth
    components = random_components(replace(zoo, unet=unet), seed=1)
    return DiffusionBackbone(components, token_length=16).eval()


@pytest.mark.parametrize(
    ("layout", "linear", "depth"),
    [("tiny", False, 1), ("sd15", False, 1), ("sd21", True, 1), ("sd15", False, 2)],
)
def test_pairs_share_a_picture(layout, linear, depth):
    """picture_index gives what repeating the latent gives, through diffusers' own transformers."""
    backbone = of_shape(layout, linear, depth)
    latent = backbone.encode_image(torch.rand(2, 3, 64, 64) * 2 - 1)
    text = backbone.encode_text(["a", "b", "c"])
    index = torch.tensor([1, 0, 1])
    with torch.no_grad():
        shared, repeated = backbone(latent, text, index), backbone(latent[index], text)
    for one, other in zip(shared.joined(), repeated.joined(), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_pairs_share_a_picture_where_no_way_down_reads_words():
    zoo = ZOO["tiny"]
    unet = {**zoo.unet, "down_block_types": ["DownBlock2D"] * 4}
    backbone = DiffusionBackbone(random_components(replace(zoo, unet=unet), 1), token_length=16)
    latent, text = torch.randn(2, 8, 8, 8), torch.randn(2, 16, 64)
    index = torch.tensor([1, 0])
    with torch.no_grad():
        shared, repeated = backbone.eval()(latent, text, index), backbone(latent[index], text)
    for one, other in zip(shared.joined(), repeated.joined(), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_what_no_sentence_changes_runs_once_a_picture():
    """Rows that the modules before the first cross-attention see: pictures, not pairs."""
    backbone = of_shape("sd15")
    rows: dict[str, int] = {}
    block = backbone.unet.down_blocks[0]
    first = block.attentions[0].transformer_blocks[0]
    watched = {"conv_in": backbone.unet.conv_in, "resnet": block.resnets[0],
               "self-attention": first.attn1, "cross-attention": first.attn2}  # fmt: skip
    for name, module in watched.items():
        module.register_forward_hook(
            lambda m, i, output, name=name: rows.__setitem__(name, len(output))
        )
    with torch.no_grad():
        backbone(torch.randn(1, 8, 8, 8), torch.randn(5, 16, 64), torch.zeros(5, dtype=torch.long))
    assert rows == {"conv_in": 1, "resnet": 1, "self-attention": 1, "cross-attention": 5}


def test_kernels_agree_and_unknown_ones_are_refused():
    torch.manual_seed(1)
    latent, text = torch.randn(1, 8, 8, 8), torch.randn(1, 8, 64)
    found = []
    for kernel in ("sdpa", "eager"):
        torch.manual_seed(0)
        backbone = DiffusionBackbone.from_name(
            "tiny", "random", token_length=8, attention_kernel=kernel
        )
        with torch.no_grad():
            found.append(backbone(latent, text).joined())
    for one, other in zip(*found, strict=True):
        # Features of the order of 1, behind some sixty layers: processors differ in how they sum.
        assert torch.allclose(one, other, atol=1e-4)
    with pytest.raises(ConfigError, match=", ".join(KERNELS)):
        DiffusionBackbone.from_name("tiny", "random", token_length=8, attention_kernel="flash")


@pytest.mark.parametrize(
    ("mode", "unet_learns"), [("frozen", False), ("finetune", True), ("lora", True)]
)
def test_unet_modes_decide_what_learns(mode, unet_learns):
    backbone = DiffusionBackbone.from_name(
        "tiny", "random", token_length=8, unet_mode=mode, lora_rank=2
    )
    latent, text = torch.randn(1, 8, 8, 8), torch.randn(1, 8, 64)
    before = {name: value.clone() for name, value in backbone.named_parameters()}
    trained = [p for p in backbone.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1.0)
    for _ in range(2):  # LoRA's second factor starts at zero: its partner moves from step two on
        optimizer.zero_grad()
        sum(f.square().mean() for f in backbone.train()(latent, text).joined()).backward()
        assert all(p.grad is not None for p in trained), "a trained parameter got no gradient"
        optimizer.step()
    moved = {n for n, v in backbone.named_parameters() if not torch.equal(v, before[n])}
    assert "adapter.gamma" in moved
    assert any(name.startswith("unet.") for name in moved) == unet_learns
    assert not any(name.startswith(("vae.", "text_encoder.")) for name in moved)
    if mode == "lora":
        assert all("lora" in name for name in moved if name.startswith("unet."))


@pytest.mark.parametrize("mode", ["frozen", "finetune"])
def test_checkpointing_changes_no_gradient(mode):
    """Not by a bit; and the lighter it is, the more is kept for the backward pass."""
    latent, text = torch.randn(2, 8, 8, 8), torch.randn(3, 8, 64)
    pictures = torch.tensor([0, 1, 1])
    gradients, kept = [], []
    for checkpointing in (False, "light", True):
        torch.manual_seed(0)
        backbone = DiffusionBackbone.from_name(
            "tiny", "random", token_length=8, unet_mode=mode, checkpointing=checkpointing
        )
        weights = {value.untyped_storage().data_ptr() for value in backbone.parameters()}
        held: dict[int, tuple[int, torch.UntypedStorage]] = {}

        def keep(value: torch.Tensor, weights=weights, held=held) -> torch.Tensor:
            storage = value.untyped_storage()
            if storage.data_ptr() not in weights:
                held[storage.data_ptr()] = (storage.nbytes(), storage)
            return value

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
            pyramid = backbone(latent, text, pictures)
        sum(f.square().mean() for f in pyramid.joined()).backward()
        gradients.append({n: p.grad for n, p in backbone.named_parameters() if p.grad is not None})
        kept.append(sum(size for size, _ in held.values()))
    assert kept[0] > 1.3 * kept[1] > 1.3 * kept[2]
    for other in gradients[1:]:
        assert gradients[0].keys() == other.keys()
        assert all(torch.equal(value, other[name]) for name, value in gradients[0].items())


def test_a_light_residual_block_keeps_what_norms_and_convolutions_read():
    """Two maps each; what lies between a norm and its activation is made again."""
    block = ResnetBlock2D(in_channels=32, temb_channels=8).requires_grad_(False)
    hidden, emb = torch.randn(2, 32, 8, 8, requires_grad=True), torch.randn(1, 8)
    kept = {}

    def keep(value: torch.Tensor) -> torch.Tensor:
        kept[value.data_ptr()] = value
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        out = light.residual(block, hidden, emb)
    assert torch.equal(out, block(hidden, emb))
    assert sum(value.shape == hidden.shape for value in kept.values()) == 4


def test_light_checkpointing_leaves_blocks_it_does_not_know_as_they_are(monkeypatch):
    inputs = torch.randn(1, 8, 8, 8), torch.randn(2, 8, 64), torch.tensor([0, 0])
    backbone = DiffusionBackbone.from_name(
        "tiny", "random", token_length=8, unet_mode="finetune", checkpointing="light"
    )
    wanted = backbone(*inputs).features
    block = backbone.unet.mid_block.resnets[0]
    assert light.fits(block)
    block.output_scale_factor = 2.0  # is heeded
    assert not torch.equal(backbone(*inputs).features[0], wanted[0])
    block.output_scale_factor = 1.0
    for change in ({"skip_time_act": True}, {"time_embedding_norm": "scale_shift"}):
        with monkeypatch.context() as changed:
            changed.setattr(block, *next(iter(change.items())))
            assert not light.fits(block)
    attending = backbone.unet.mid_block.attentions[0].transformer_blocks[0]
    assert light.fits(attending)
    with monkeypatch.context() as changed:
        changed.setattr(attending, "norm_type", "ada_norm")
        assert not light.fits(attending)
    assert not light.fits(backbone.unet.conv_in)
    monkeypatch.setattr(light, "fits", lambda module: False)
    monkeypatch.setattr(light, "residual", None)
    monkeypatch.setattr(light, "checkpoint", None)
    assert all(map(torch.equal, backbone(*inputs).features, wanted))


def test_checkpointing_is_refused_where_it_cannot_be():
    for options, said in (
        ({"checkpointing": "heavy"}, "'heavy'; choose one of False, light, True"),
        ({"checkpointing": "light", "compiled": True}, "exclude each other"),
        ({"checkpointing": True, "map_gradient": True}, "map_gradient cannot be kept"),
    ):
        with pytest.raises(ConfigError, match=said):
            DiffusionBackbone.from_name("tiny", "random", token_length=8, **options)


def test_text_is_encoded_once_per_distinct_sentence(tiny):
    calls = []
    handle = tiny.text_encoder.register_forward_hook(lambda m, i, o: calls.append(1))
    first = tiny.encode_text(["one cat", "two dogs", "one cat"])
    again = tiny.encode_text(["two dogs"])
    handle.remove()
    assert len(calls) == 1
    assert torch.equal(first[0], first[2])
    assert torch.equal(first[1], again[0])


def test_bad_input_is_named(tiny):
    with pytest.raises(ConfigError, match="100 x 64"):
        tiny.encode_image(torch.zeros(1, 3, 100, 64))
    with pytest.raises(TextError, match="sentence 1 of 2"):
        tiny.encode_text(["fine", "  "])
    with pytest.raises(ConfigError, match=r"5 tokens.*token_length 16"):
        tiny(torch.zeros(1, 8, 8, 8), torch.zeros(1, 5, 64))
    with pytest.raises(ConfigError, match="frozen, finetune, lora"):
        DiffusionBackbone.from_name("tiny", "random", token_length=8, unet_mode="thawed")
    with pytest.raises(ConfigError, match="sd15, sd21, tiny"):
        DiffusionBackbone.from_name("sd16", token_length=8)
    with pytest.raises(ConfigError, match="timestep 1000"):
        DiffusionBackbone.from_name("tiny", "random", token_length=8, timestep=1000)


def test_the_latent_is_the_posteriors_mode_times_its_factor():
    """1.0 is the published code's; Stable Diffusion's own pipelines have 0.18215."""
    picture = torch.rand(2, 3, 64, 64) * 2 - 1
    for options, factor in (({}, 1.0), ({"latent_scale": 0.18215}, 0.18215)):
        backbone = DiffusionBackbone.from_name("tiny", "random", token_length=8, **options).eval()
        with torch.no_grad():
            moments = backbone.vae.quant_conv(backbone.vae.encoder(picture))
        mean = moments.chunk(2, dim=1)[0]
        assert torch.allclose(backbone.encode_image(picture), mean * factor, rtol=1e-4, atol=1e-6)


def test_timestep_changes_features():
    latent, text = torch.randn(1, 8, 8, 8), torch.randn(1, 8, 64)
    with torch.no_grad():
        one, other = (
            DiffusionBackbone.from_name("tiny", "random", token_length=8, timestep=t)(latent, text)
            for t in (1, 500)
        )
    assert not torch.allclose(one.features[0], other.features[0], atol=1e-3)


def test_compiled_blocks_give_the_same_features_and_maps(monkeypatch):
    """Traced as torch.compile traces, without its code generator, which takes minutes."""
    original = torch.nn.Module.compile
    seen = []

    def traced(module):
        seen.append(type(module).__name__)
        original(module, backend="eager")

    monkeypatch.setattr(torch.nn.Module, "compile", traced)
    plain, compiled = (
        DiffusionBackbone.from_name("tiny", "random", token_length=8, compiled=flag).eval()
        for flag in (False, True)
    )
    assert set(seen) == {"ResnetBlock2D", "BasicTransformerBlock"}
    torch.manual_seed(0)
    latent = torch.randn(1, 8, 8, 8)
    text = plain.encode_text(["a dog", "left"])
    index = torch.zeros(2, dtype=torch.long)
    with torch.no_grad():
        one, two = (model(latent, text, index).joined() for model in (plain, compiled))
    for a, b in zip(one, two, strict=True):
        assert (a - b).abs().max() <= 1e-3 * a.abs().max()
    assert plain.state_dict().keys() == compiled.state_dict().keys()
