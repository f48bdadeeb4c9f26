"""The key maps between CompVis (LDM) names, as Stable Diffusion files and the released VPD files
use them, and diffusers names.

One table of module prefixes a model, read in both directions. Built from the diffusers config, so
other widths and depths map as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from torch import Tensor

from vpd.errors import WeightsError

_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_VAE_ATTENTION = {
    "norm": "group_norm",
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "proj_out": "to_out.0",
}


def _resnet(ldm: str, ours: str) -> Iterator[tuple[str, str]]:
    for theirs, mine in _RESNET.items():
        yield f"{ldm}.{theirs}", f"{ours}.{mine}"


def unet_prefixes(attention: Sequence[bool], layers: int) -> list[tuple[str, str]]:
    """(LDM prefix, diffusers prefix) pairs of a UNet with `layers` layers a level.

    attention: for each level of the way down, whether it has attention.
    """
    levels = len(attention)
    pairs = [
        ("time_embed.0", "time_embedding.linear_1"),
        ("time_embed.2", "time_embedding.linear_2"),
        ("input_blocks.0.0", "conv_in"),
        ("out.0", "conv_norm_out"),
        ("out.2", "conv_out"),
        ("middle_block.1", "mid_block.attentions.0"),
        *_resnet("middle_block.0", "mid_block.resnets.0"),
        *_resnet("middle_block.2", "mid_block.resnets.1"),
    ]
    number = 1
    for level in range(levels):
        for layer in range(layers):
            pairs += _resnet(f"input_blocks.{number}.0", f"down_blocks.{level}.resnets.{layer}")
            pairs.append((f"input_blocks.{number}.1", f"down_blocks.{level}.attentions.{layer}"))
            number += 1
        if level < levels - 1:
            pairs.append(
                (f"input_blocks.{number}.0.op", f"down_blocks.{level}.downsamplers.0.conv")
            )
            number += 1
    number = 0
    for level in range(levels):
        for layer in range(layers + 1):
            pairs += _resnet(f"output_blocks.{number}.0", f"up_blocks.{level}.resnets.{layer}")
            pairs.append((f"output_blocks.{number}.1", f"up_blocks.{level}.attentions.{layer}"))
            if layer == layers and level < levels - 1:
                # The upsampler follows the attention where there is one, else the residual block.
                slot = 2 if attention[levels - 1 - level] else 1
                pairs.append(
                    (
                        f"output_blocks.{number}.{slot}.conv",
                        f"up_blocks.{level}.upsamplers.0.conv",
                    )
                )
            number += 1
    return pairs


def vae_prefixes(levels: int, layers: int) -> list[tuple[str, str]]:
    """(LDM prefix, diffusers prefix) pairs of a KL autoencoder's encoder half."""
    pairs = [
        (name, name)
        for name in ("encoder.conv_in", "encoder.conv_out", "quant_conv", "post_quant_conv")
    ]
    pairs.append(("encoder.norm_out", "encoder.conv_norm_out"))

    def resnet(ldm: str, ours: str) -> Iterator[tuple[str, str]]:
        for name in ("norm1", "conv1", "norm2", "conv2"):
            yield f"{ldm}.{name}", f"{ours}.{name}"
        yield f"{ldm}.nin_shortcut", f"{ours}.conv_shortcut"

    for level in range(levels):
        for layer in range(layers):
            pairs += resnet(
                f"encoder.down.{level}.block.{layer}",
                f"encoder.down_blocks.{level}.resnets.{layer}",
            )
        pairs.append(
            (
                f"encoder.down.{level}.downsample.conv",
                f"encoder.down_blocks.{level}.downsamplers.0.conv",
            )
        )
    for number in (1, 2):
        pairs += resnet(f"encoder.mid.block_{number}", f"encoder.mid_block.resnets.{number - 1}")
    for theirs, mine in _VAE_ATTENTION.items():
        pairs.append((f"encoder.mid.attn_1.{theirs}", f"encoder.mid_block.attentions.0.{mine}"))
    return pairs


def renamed(keys: Iterable[str], prefixes: Iterable[tuple[str, str]]) -> dict[str, str]:
    """{key: new key} for every key that starts with the old one of an (old, new) prefix pair."""
    table = dict(prefixes)
    result = {}
    for key in keys:
        parts = key.split(".")
        for cut in range(len(parts) - 1, 0, -1):
            new = table.get(".".join(parts[:cut]))
            if new is not None:
                result[key] = ".".join([new, *parts[cut:]])
                break
    return result


def reverse(prefixes: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The same table, read from diffusers to LDM names."""
    return [(new, old) for old, new in prefixes]


def translate(
    state: Mapping[str, Tensor],
    target_shapes: Mapping[str, tuple[int, ...]],
    prefixes: Iterable[tuple[str, str]],
    *,
    what: str,
    where: str,
) -> dict[str, Tensor]:
    """Rename `state` to the names of `target_shapes`; nothing may be missing, left over or misfit.

    A 1 x 1 convolution and a linear layer hold the same numbers: such tensors are reshaped.

    Raises:
        WeightsError: names the first missing, unexpected or misshapen keys, `what` and `where`.
    """
    prefixes = list(prefixes)
    names = renamed(state, prefixes)
    result: dict[str, Tensor] = {}
    bad_shapes = []
    for key, tensor in state.items():
        name = names.get(key)
        if name is None or name not in target_shapes:
            continue
        shape = tuple(target_shapes[name])
        if tuple(tensor.shape) != shape:
            if _without_ones(tensor.shape) != _without_ones(shape):
                bad_shapes.append(f"{key} is {tuple(tensor.shape)}, expected {shape}")
                continue
            tensor = tensor.reshape(shape)
        result[name] = tensor
    unexpected = [key for key in state if names.get(key) not in target_shapes]
    absent = [name for name in target_shapes if name not in result and name not in names.values()]
    missing = list(renamed(absent, reverse(prefixes)).values())
    if bad_shapes or unexpected or missing:
        raise WeightsError(
            f"{where}: the {what} weights do not fit; "
            + "; ".join(
                f"{label}: {', '.join(items[:5])}"
                + (f" and {len(items) - 5} more" if len(items) > 5 else "")
                for label, items in (
                    ("missing keys", missing),
                    ("unexpected keys", unexpected),
                    ("wrong shapes", bad_shapes),
                )
                if items
            )
        )
    return result


def _without_ones(shape: Iterable[int]) -> list[int]:
    """`shape` without trailing ones: [C, C, 1, 1] and [C, C] hold the same matrix."""
    dims = list(shape)
    while len(dims) > 2 and dims[-1] == 1:
        dims.pop()
    return dims
