"""3x3 convolution by tiles: a quarter of the multiplications (Winograd 1980; Lavin and Gray 2016).

Shapes: B items, C input and O output channels, H W cells, h = H / 4 and w = W / 4 tiles, T tiles of
a group, S tile rows of a strip; 6 x 6 input cells and 4 x 4 output cells of a tile, 36 products.

F(4 x 4, 3 x 3): kernel and inputs are read as polynomials, evaluated at five points and infinity,
multiplied there, and the product's coefficients are found again: 36 products for 16 outputs in
place of 144. The points 0, +-A, +-B decide on the rounding error. With the ones below it stays
under 5e-6 of the largest value; with the usual 1 and 2 it is more than twice as large (both are
tested).

Channels lie innermost, so that evaluation and return are sums of long rows; the result is in
`torch.channels_last`, and what reads it next is spared the change of order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

TILE = 4
A, B = 0.625, 1.5  # exact in binary
GROUP = 512  # tiles of a matrix product: enough for each read of the weights
STRIP = 128  # tiles combined at once: they stay in the processor's cache


def transform_weights(weight: Tensor) -> Tensor:
    """[O, C, 3, 3] -> [36, C, O], four times the size.

    A row is the kernel at a point, over the product of the point's distances to the other ones
    (Lagrange's denominator). Rows of +-A and +-B are also multiplied by their point, which
    `_return` counts on: it saves it a product.
    """
    near, far = 2 * A * (A * A - B * B), 2 * B * (B * B - A * A)  # denominators, by the point
    rows = [[1 / (A * A * B * B), 0.0, 0.0]]
    for point, scale in ((A, near), (-A, -near), (B, far), (-B, -far)):
        rows.append([1 / scale, point / scale, point * point / scale])
    side = torch.tensor([*rows, [0.0, 0.0, 1.0]], dtype=weight.dtype, device=weight.device)
    found = torch.einsum("ai,ocij,bj->abco", side, weight, side)
    return found.flatten(0, 1).contiguous()


def convolve(x: Tensor, weights: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve with padding 1: x [B, C, H, W] -> [B, O, H, W], channels innermost in memory.

    Args:
        x: sides divide by `TILE`; any memory format, channels innermost being the fastest.
        weights: [36, C, O] from `transform_weights`.
        bias: [O].
    """
    batch, channels, height, width = x.shape
    h, w, out_channels = height // TILE, width // TILE, weights.shape[2]
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    found = x.new_empty(batch, height, width, out_channels)
    items = max(1, min(batch, GROUP // (h * w)))  # of a group: whole items, or rows of one
    rows = h if items > 1 else max(1, min(h, GROUP // w))
    strip = max(1, min(rows, STRIP // w))
    values = x.new_empty(36 * items * rows * w * channels)
    products = x.new_empty(36 * items * rows * w * out_channels)
    down = x.new_empty(6, strip, width + 2, channels), x.new_empty(2, strip, width + 2, channels)
    right = x.new_empty(2, 6, strip, w, channels)
    up = x.new_empty(4, 6, strip, w, out_channels), x.new_empty(4, 6, strip, w, out_channels)
    left = x.new_empty(4, 4, strip, w, out_channels)
    for item in range(0, batch, items):
        for row in range(0, h, rows):
            strips = [
                (one, at, min(strip, row + rows - at, h - at))
                for one in range(item, min(item + items, batch))
                for at in range(row, min(row + rows, h), strip)
            ]
            tiles = sum(count for _, _, count in strips) * w
            # Cut anew for a smaller last group, so that each of the 36 is one dense matrix.
            group = values[: 36 * tiles * channels].view(6, 6, tiles, channels)
            start = 0
            for one, at, count in strips:
                cells = [padded[one, TILE * at + i :][::TILE][:count] for i in range(6)]
                rows_met, spare = (part[:, :count] for part in down)
                _evaluate(cells, rows_met.unbind(0), spare)
                cells = [rows_met[:, :, i:][:, :, ::TILE][:, :, :w] for i in range(6)]
                into = group[:, :, start : start + count * w].unflatten(2, (count, w))
                _evaluate(cells, into.unbind(1), right[:, :, :count])
                start += count * w
            result = products[: 36 * tiles * out_channels].view(36, tiles, out_channels)
            torch.bmm(group.view(36, tiles, channels), weights, out=result)
            result = result.view(6, 6, tiles, out_channels)
            start = 0
            for one, at, count in strips:
                part = result[:, :, start : start + count * w].unflatten(2, (count, w))
                rows_left, spare = (part[:, :, :count] for part in up)
                _return(part.unbind(0), rows_left.unbind(0), spare)
                place = found[one, TILE * at : TILE * (at + count)]
                place = place.view(count, TILE, w, TILE, out_channels)
                into = [place[:, :, :, i].transpose(0, 1) for i in range(TILE)]
                _return(rows_left.unbind(1), into, left[:, :, :count])
                if bias is not None:
                    place += bias
                start += count * w
    return found.permute(0, 3, 1, 2)


def _evaluate(cells: Sequence[Tensor], out: Sequence[Tensor], spare: Tensor) -> None:
    """Six neighbours along a side -> their values at 0, A, -A, B, -B and infinity.

    For +-A the polynomial is x (x +- A) (x^2 - B^2): even powers and odd ones are summed apart, and
    serve both signs. spare: two tensors of a value's shape.
    """
    even, odd = spare.unbind(0)
    for point, other, plus, minus in ((A, B, 1, 2), (B, A, 3, 4)):
        torch.add(cells[4], cells[2], alpha=-other * other, out=even)
        torch.add(cells[3], cells[1], alpha=-other * other, out=odd)
        torch.add(even, odd, alpha=point, out=out[plus])
        torch.add(even, odd, alpha=-point, out=out[minus])
    # (x^2 - A^2)(x^2 - B^2), for infinity times x: of `even` and `odd`, which hold x^2 - A^2.
    torch.add(cells[2], cells[0], alpha=-A * A, out=out[0])
    torch.add(even, out[0], alpha=-B * B, out=out[0])
    torch.add(cells[5], cells[3], alpha=-A * A, out=out[5])
    torch.add(out[5], odd, alpha=-B * B, out=out[5])


def _return(values: Sequence[Tensor], out: Sequence[Tensor], spare: Tensor) -> None:
    """Six products -> four neighbours along a side; those at +-A and +-B lack a factor of their
    point, which `transform_weights` has put in. spare: four tensors of an output's shape."""
    near_sum, near_gap, far_sum, far_gap = spare.unbind(0)
    torch.add(values[1], values[2], out=near_sum)
    torch.sub(values[1], values[2], out=near_gap)
    torch.add(values[3], values[4], out=far_sum)
    torch.sub(values[3], values[4], out=far_gap)
    torch.add(values[0], near_gap, alpha=1 / A, out=out[0])
    torch.add(out[0], far_gap, alpha=1 / B, out=out[0])
    torch.add(near_sum, far_sum, out=out[1])
    torch.mul(near_gap, A, out=out[2])
    torch.add(out[2], far_gap, alpha=B, out=out[2])
    torch.add(values[5], near_sum, alpha=A * A, out=out[3])
    torch.add(out[3], far_sum, alpha=B * B, out=out[3])
