"""The short ways compute the convolution that they stand for."""

import copy
import pickle

import pytest
import torch
from diffusers.models.upsampling import Upsample2D
from torch import nn

from vpd import convolution, winograd


def conv(inner: int = 128, outer: int = 130, **options) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(inner, outer, **{"kernel_size": 3, "padding": 1, **options})


def worst(found: torch.Tensor, exact: torch.Tensor) -> float:
    assert found.dtype == torch.float32
    assert found.shape == exact.shape
    return ((found - exact).abs().max() / exact.abs().max()).item()


@pytest.mark.parametrize("bias", [True, False])
# One tile; three items at once; two and one; strips of an item; rows of it, the last ones fewer;
# more tiles side by side than a group has.
@pytest.mark.parametrize("size", [(4, 4), (8, 12), (64, 56), (100, 64), (132, 68), (4, 2052)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_winograd_is_the_convolution_in_float64(bias, size, layout):
    layer = conv(bias=bias)
    x = torch.randn(3, 128, *size).to(memory_format=layout)
    exact = layer.double()(x.double())
    layer.float()
    with torch.no_grad():
        direct = layer(x)
        assert convolution.install(layer) == 1
        found = layer(x)
    # Another order of summation, so other bits: that it differs shows that it ran.
    assert not torch.equal(found, direct)
    assert worst(found, exact) < 5e-6


def test_the_points_were_chosen_for_their_rounding_error(monkeypatch):
    torch.manual_seed(0)
    weight, x = torch.randn(128, 256, 3, 3), torch.randn(1, 256, 32, 32)
    exact = nn.functional.conv2d(x.double(), weight.double(), padding=1)

    def error() -> float:
        return worst(winograd.convolve(x, winograd.transform_weights(weight), None), exact)

    ours = error()
    monkeypatch.setattr(winograd, "A", 1.0)
    monkeypatch.setattr(winograd, "B", 2.0)
    assert 2 * ours < error() < 2e-5


@pytest.mark.parametrize("size", [(4, 4), (3, 5)])
def test_subpixel_upsampling_is_the_upsampled_convolution_in_float64(size):
    torch.manual_seed(0)
    layer = Upsample2D(128, use_conv=True, out_channels=130)
    x = torch.randn(2, 128, *size)
    exact = layer.double()(x.double())
    layer.float()
    assert convolution.install(layer) == 1
    assert type(layer.conv) is nn.Conv2d  # its convolution is not changed a second time
    with torch.inference_mode():
        assert worst(layer(x), exact) < 1e-6
        assert layer(x, output_size=(9, 9)).shape[-2:] == (9, 9)  # the ordinary way


@pytest.mark.parametrize(
    "layer",
    [
        conv(stride=2),
        conv(padding=0),
        conv(dilation=2),
        conv(groups=2),
        conv(kernel_size=1, padding=0),
        conv(inner=64),
        conv(padding_mode="reflect"),
        Upsample2D(128, use_conv=False),
        Upsample2D(128, use_conv_transpose=True),
    ],
)
def test_what_does_not_fit_is_left_alone(layer):
    before = type(layer)
    assert convolution.install(layer) == 0
    assert type(layer) is before


def test_where_it_may_not_be_taken_the_bits_are_the_ordinary_ones():
    layer, plain = conv(), conv()
    convolution.install(layer)
    x = torch.randn(1, 128, 4, 4)
    assert torch.equal(layer(x), plain(x))  # with a gradient
    with torch.no_grad():
        for shape in ((1, 128, 6, 4), (1, 128, 4, 6), (128, 4, 4), (0, 128, 4, 4)):
            other = torch.randn(*shape)
            assert torch.equal(layer(other), plain(other))
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(layer(x), plain(x))
        assert torch.equal(layer.double()(x.double()), plain.double()(x.double()))


def test_a_compiled_layer_convolves_directly_at_every_batch_size():
    layer, plain = conv(), conv()
    convolution.install(layer)
    compiled = torch.compile(layer, backend="aot_eager")
    with torch.no_grad():
        for batch in (4, 3, 2):
            x = torch.randn(batch, 128, 8, 8)
            assert torch.equal(compiled(x), plain(x))


def test_memory_that_is_used_again_brings_no_old_weights():
    layer = conv(256, 512)
    convolution.install(layer)
    x = torch.randn(1, 256, 4, 4)
    with torch.no_grad():
        layer(x)
        layer.bfloat16()
        layer.float()  # other values, perhaps where the first ones lay
        fresh = conv(256, 512)
        fresh.load_state_dict(layer.state_dict())
        assert worst(layer(x), fresh(x)) < 1e-5


def test_a_copy_does_not_carry_the_second_form():
    layer = conv()
    convolution.install(layer)
    x = torch.randn(1, 128, 4, 4)
    with torch.no_grad():
        found = layer(x)
        for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            assert other.derived.value is None
            assert torch.equal(other(x), found)


def test_new_weights_are_noticed_and_the_state_dict_is_the_same():
    layer, other = conv(), conv()
    keys = list(layer.state_dict())
    convolution.install(layer)
    convolution.prepare(layer)
    assert list(layer.state_dict()) == keys
    x = torch.randn(1, 128, 4, 4)
    with torch.no_grad():
        layer(x)
        for change in (
            lambda one: one.weight.mul_(2),
            lambda one: setattr(one.weight, "data", torch.ones_like(one.weight)),
            lambda one: one.load_state_dict({"weight": one.weight * 3, "bias": one.bias}),
        ):
            change(layer), change(other)
            assert worst(layer(x), other(x)) < 1e-5
