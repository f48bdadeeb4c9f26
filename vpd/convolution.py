"""3x3 convolutions with fewer multiplications, for float32 inference on a CPU.

Shapes: B items, C input and O output channels, H W cells of the output, h = H / 2, w = W / 2 tiles.

On a CPU a Stable Diffusion pass is bound by arithmetic, so that fewer multiplications are the only
way on. Two exact rewrites, equal to the direct convolution within float32 rounding:
- tiles of 2 x 2 outputs from 4 x 4 inputs with 16 products in place of 36 (Winograd 1980; Lavin and
  Gray 2016, F(2x2, 3x3)); its rounding error is that of the direct sum;
- "double every cell, then convolve" as four 2 x 2 convolutions, one for each place within a cell:
  16 products in place of 36 (Shi et al. 2016).
Both keep the weights in a second form, 16/9 of their size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

MIN_CHANNELS = 128  # fewer leave too little arithmetic in a tile to pay for cutting it out

# Rows: what each of the 4 products of a tile's side takes from the kernel's 3 weights.
_FILTER = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))


class _Derived:
    """A tensor made from a weight, made anew when the weight has changed."""

    def __init__(self) -> None:
        self.key: tuple[int, int] | None = None
        self.value: Any = None

    def of(self, weight: Tensor, make: Any) -> Any:
        # Tensors made in inference mode count no changes; nor are they trained.
        key = (weight.data_ptr(), -1 if weight.is_inference() else weight._version)
        if self.key != key:
            with torch.no_grad():
                self.value = make(weight.detach())
            self.key = key
        return self.value


class WinogradConv2d(nn.Conv2d):
    """`nn.Conv2d` that takes the short way where it may; parameters and state dict are the same."""

    derived: _Derived

    def prepare(self) -> Tensor:
        """The transformed weights float32 [16, O, C]."""
        found: Tensor = self.derived.of(self.weight, winograd_weights)
        return found

    def forward(self, input: Tensor) -> Tensor:
        if _usable(input, self.weight) and not (input.shape[-2] % 2 or input.shape[-1] % 2):
            return winograd(input, self.prepare(), self.bias)
        return super().forward(input)


class SubpixelUpsample2D(Upsample2D):
    """diffusers' nearest upsampling with convolution, without forming the upsampled map."""

    derived: _Derived

    def prepare(self) -> tuple[Tensor, ...]:
        """Four kernels [O, C, 2, 2]: of the upper left, upper right, lower left, lower right."""
        found: tuple[Tensor, ...] = self.derived.of(self.conv.weight, phase_weights)
        return found

    def forward(
        self, hidden_states: Tensor, output_size: int | None = None, *args: Any, **options: Any
    ) -> Tensor:
        if output_size is None and _usable(hidden_states, self.conv.weight):
            return upsample_conv(hidden_states, self.prepare(), self.conv.bias)
        found: Tensor = super().forward(hidden_states, output_size, *args, **options)
        return found


def install(*modules: nn.Module) -> int:
    """Give every fitting convolution and upsampler below `modules` its short way, in place.

    Fitting: 3x3, stride 1, padded by 1, `MIN_CHANNELS` on both sides. It is taken in float32 on a
    CPU without gradient and autocast; anything else runs as before. Returns how many there are.
    """
    changed = 0
    inside: set[nn.Module] = set()
    for module in modules:
        for part in module.modules():
            # Classes are compared exactly: a subclass may compute something else.
            if type(part) is Upsample2D and _plain_upsampler(part):
                inside.add(part.get_submodule("conv"))
                part.__class__ = SubpixelUpsample2D
            elif type(part) is nn.Conv2d and part not in inside and _fits(part):
                part.__class__ = WinogradConv2d
            else:
                continue
            object.__setattr__(part, "derived", _Derived())
            changed += 1
    return changed


def prepare(*modules: nn.Module) -> None:
    """Make the second form of the weights now and not in the first pass."""
    for part in installed(*modules):
        part.prepare()


def installed(*modules: nn.Module) -> Iterator[WinogradConv2d | SubpixelUpsample2D]:
    """The parts that `install` changed."""
    for module in modules:
        for part in module.modules():
            if isinstance(part, WinogradConv2d | SubpixelUpsample2D):
                yield part


def winograd_weights(weight: Tensor) -> Tensor:
    """[O, C, 3, 3] -> [16, O, C]."""
    side = weight.new_tensor(_FILTER)
    return torch.einsum("ai,ocij,bj->aboc", side, weight, side).flatten(0, 1).contiguous()


def winograd(x: Tensor, weights: Tensor, bias: Tensor | None) -> Tensor:
    """x [B, C, H, W] with even sides, padded by 1 here; weights [16, O, C] -> [B, O, H, W]."""
    batch, channels, height, width = x.shape
    out_channels, h, w = weights.shape[1], height // 2, width // 2
    found = x.new_empty(batch, out_channels, h, 2, w, 2)
    rows = x.new_empty(4, channels, h, width + 2)
    tiles = x.new_empty(4, 4, channels, h, w)
    products = x.new_empty(16, out_channels, h * w)
    for number in range(batch):  # one by one: the tiles take four times a map's memory
        padded = F.pad(x[number], (1, 1, 1, 1))
        _differences(padded[:, 0::2], padded[:, 1::2], rows.unbind(0), dim=1)
        _differences(rows[..., 0::2], rows[..., 1::2], tiles.unbind(1), dim=3)
        torch.bmm(weights, tiles.view(16, channels, h * w), out=products)
        top, upper, lower, bottom = products.view(4, 4, out_channels, h, w).unbind(0)
        for row, side in enumerate((top + (upper + lower), (upper - lower) - bottom)):
            if bias is not None:
                side[1] += bias[:, None, None]  # the one product that both columns take as it is
            left, middle, right, end = side.unbind(0)
            torch.add(left, middle + right, out=found[number, :, :, row, :, 0])
            torch.sub(middle - right, end, out=found[number, :, :, row, :, 1])
    return found.view(batch, out_channels, height, width)


def _differences(even: Tensor, odd: Tensor, out: tuple[Tensor, ...], dim: int) -> None:
    """Four combinations of each run of 4 neighbours along `dim`, runs beginning at every second."""
    count = even.shape[dim] - 1
    first, third = even.narrow(dim, 0, count), even.narrow(dim, 1, count)
    second, fourth = odd.narrow(dim, 0, count), odd.narrow(dim, 1, count)
    torch.sub(first, third, out=out[0])
    torch.add(second, third, out=out[1])
    torch.sub(third, second, out=out[2])
    torch.sub(second, fourth, out=out[3])


def phase_weights(weight: Tensor) -> tuple[Tensor, ...]:
    """[O, C, 3, 3] -> four kernels [O, C, 2, 2]: weights that meet the same doubled cell added."""
    rows = (
        torch.stack([weight[:, :, 0], weight[:, :, 1] + weight[:, :, 2]], dim=2),
        torch.stack([weight[:, :, 0] + weight[:, :, 1], weight[:, :, 2]], dim=2),
    )
    return tuple(
        phase.contiguous()
        for row in rows
        for phase in (
            torch.stack([row[..., 0], row[..., 1] + row[..., 2]], dim=3),
            torch.stack([row[..., 0] + row[..., 1], row[..., 2]], dim=3),
        )
    )


def upsample_conv(x: Tensor, phases: tuple[Tensor, ...], bias: Tensor | None) -> Tensor:
    """x [B, C, H, W] -> [B, O, 2 H, 2 W]."""
    batch, _, height, width = x.shape
    padded = F.pad(x, (1, 1, 1, 1))
    found = x.new_empty(batch, phases[0].shape[0], height, 2, width, 2)
    for number, weight in enumerate(phases):
        row, column = divmod(number, 2)
        part = padded[:, :, row : row + height + 1, column : column + width + 1]
        found[:, :, :, row, :, column] = F.conv2d(part, weight, bias)
    return found.view(batch, -1, 2 * height, 2 * width)


def _usable(x: Tensor, weight: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
    )


def _fits(conv: nn.Conv2d) -> bool:
    return (
        conv.kernel_size == (3, 3)
        and conv.stride == conv.dilation == (1, 1)
        and conv.padding == (1, 1)
        and conv.groups == 1
        and conv.padding_mode == "zeros"
        and min(conv.in_channels, conv.out_channels) >= MIN_CHANNELS
    )


def _plain_upsampler(part: Upsample2D) -> bool:
    conv = getattr(part, "conv", None)
    return (
        part.use_conv
        and part.norm is None
        and not part.use_conv_transpose
        and part.name == "conv"
        and part.interpolate
        and type(conv) is nn.Conv2d
        and _fits(conv)
    )
