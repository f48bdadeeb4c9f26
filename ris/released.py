"""The released VPD checkpoints: reading them into a `VPDRefer`, and writing one back.

Layout (wl-zhao/VPD): {'model': tensors, 'optimizer', 'epoch', 'args', 'lr_scheduler'}, the tensors
under `gamma`, `encoder_vq.*`, `unet.unet.diffusion_model.*`, `text_adapter.fc.*`, `classifier.*`.
CLIP is not in the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor

from refer.files import draft_of
from ris.errors import CheckpointError
from ris.models import VPDRefer
from vpd import DiffusionBackbone, files, keys, weights
from vpd.soundness import named, unsound

_PLAIN = (
    ("text_adapter.fc", "backbone.adapter.fc"),
    ("classifier", "head"),
)
# What a config may say. `num_heads` is read; every other entry is checked against the shapes.
CONFIG_KEYS = (
    "num_heads", "token_length", "model_channels", "channel_mult", "context_dim",
    "num_res_blocks", "attention_resolutions", "vae_ch", "vae_ch_mult", "base_size", "neck_dim",
)  # fmt: skip

# What a loader of the layout takes for granted: neither the shapes nor the file say otherwise.
IMPLIED = {"timestep": 1, "latent_scale": 1.0, "attention_maps": True}
HEADS, SIZE = 8, 512


def load_released(
    path: str | Path,
    config: Mapping[str, Any] | None = None,
    *,
    token_length: int | None = None,
    text: str | Path | None = None,
    **options: Any,
) -> VPDRefer:
    """A `VPDRefer` with the weights of a released-format file, in evaluation mode.

    Widths, depths and the token length are read off the tensor shapes. The number of attention
    heads leaves no trace there: pass `config={'num_heads': n}` where it is not Stable Diffusion
    1.x's 8. Other entries of `CONFIG_KEYS` may be given (a training config, say) and are checked.

    Args:
        path: the `.pth` file.
        config: see above.
        token_length: what the caller expects; an error names both if the file says otherwise.
        text: where CLIP's text encoder comes from (Hub id, folder or LDM checkpoint); None builds
            the model without one, and `forward` then takes text features [B, T, D].
        options: passed on to `DiffusionBackbone` (`unet_mode`, `attention_kernel`, ...).

    Raises:
        CheckpointError: keys missing or unexpected, or a config that contradicts the shapes.
        vpd.WeightsError: the file itself is missing, damaged or hostile.
    """
    state = named(files.tensors(files.load(path), "model"), path)
    where = str(path)
    if not weights.is_released(state):
        raise CheckpointError(
            f"{where} has not the layout of a released VPD file (unet.unet.diffusion_model.*, "
            f"classifier.*); its first keys are {', '.join(list(state)[:3]) or 'none'}"
        )
    config = dict(config or {})
    unknown = sorted(set(config) - set(CONFIG_KEYS))
    if unknown:
        raise CheckpointError(
            f"config entries {', '.join(unknown)} are unknown; use {', '.join(CONFIG_KEYS)}"
        )
    components = weights.from_released(state, where, num_heads=_claimed_heads(config))
    if text is not None:
        components.text_encoder, components.tokenizer = weights.load_text(text)
    rest = {
        key: value
        for key, value in state.items()
        if not key.startswith(("encoder_vq.", "unet.unet.diffusion_model."))
    }
    length, hidden = _head_shape(rest, components.unet.config.block_out_channels, where)
    _check_config(config, components, length, where)
    for expected in (token_length, config.get("token_length")):
        if expected is not None and int(expected) != length:
            raise CheckpointError(
                f"{where} was trained with token_length {length}, but {expected} was asked for; "
                f"pass --token_length {length} (the maps of every token are input channels of the "
                "head, so the length is fixed by the weights)"
            )
    # The file cannot be a home for what is saved from here: it has no text encoder.
    components.source = weights.INSIDE.format(Path(where).name)
    backbone = DiffusionBackbone(components, token_length=length, **options)
    model = VPDRefer(backbone, {"type": "VPDDecoder", "channels": hidden})
    own = {
        key: tuple(value.shape)
        for key, value in model.state_dict().items()
        if key.startswith(("head.", "backbone.adapter."))
    }
    gamma = rest.pop("gamma", None)
    if gamma is None:
        raise CheckpointError(f"{where}: the key gamma (text adapter scale) is missing")
    if (found := tuple(gamma.shape)) != (wanted := own["backbone.adapter.gamma"]):
        raise CheckpointError(f"{where}: the key gamma is {found}, expected {wanted}")
    translated = keys.translate(
        rest,
        {key: shape for key, shape in own.items() if key != "backbone.adapter.gamma"},
        _plain_prefixes(own),
        what="head and text adapter",
        where=where,
    )
    translated["backbone.adapter.gamma"] = gamma
    model.load_state_dict(translated, strict=False)
    filled = model.state_dict()
    if odd := unsound(
        state, {theirs: filled[own] for theirs, own in released_names(model).items()}
    ):
        raise CheckpointError(f"{where} holds what no model can use: {'; '.join(odd[:5])}")
    return model.eval()


def _claimed_heads(config: Mapping[str, Any]) -> int:
    said = config.get("num_heads", HEADS)
    try:
        heads = int(said)
    except (TypeError, ValueError, OverflowError):
        heads = 0
    if heads < 1:
        raise CheckpointError(f"config says num_heads={said!r}; want a whole number, 1 or more")
    return heads


def save_released(model: VPDRefer, path: str | Path) -> None:
    """Write `model` in the released layout: loadable by the published code, and by this one.

    What whoever loads it must know beside the file, `unsaid` tells.

    Raises:
        CheckpointError: the layout has no place for a part of the model (see `released_state`).
    """
    path = Path(path)
    state = {name: value.contiguous().cpu() for name, value in released_state(model).items()}
    content = {"model": state, "epoch": 0, "optimizer": {}, "lr_scheduler": {}}
    with draft_of(path) as draft:
        torch.save(content, draft)


def released_names(model: VPDRefer) -> dict[str, str]:
    """{released name: this model's name} of every tensor that the released layout holds."""
    backbone = model.backbone
    names = {"gamma": "backbone.adapter.gamma"}
    parts = (
        ("encoder_vq", "vae", backbone.vae, weights.vae_key_map(backbone.vae)),
        ("unet.unet.diffusion_model", "unet", backbone.unet, weights.unet_key_map(backbone.unet)),
    )
    for theirs, mine, module, prefixes in parts:
        for own, released in keys.renamed(module.state_dict(), keys.reverse(prefixes)).items():
            names[f"{theirs}.{released}"] = f"backbone.{mine}.{own}"
    for theirs, mine in _PLAIN:
        for own in model.get_submodule(mine).state_dict():
            names[f"{theirs}.{own}"] = f"{mine}.{own}"
    return names


def released_state(model: VPDRefer) -> dict[str, Tensor]:
    """The model's tensors under their released names, on its own device.

    Raises:
        CheckpointError: the head is not the published decoder, there is no place for a part, or a
            setting is not what the layout implies.
    """
    backbone = model.backbone
    head = model.head_config
    extended = head.get("subpixel", 1) != 1 or head.get("input_norm")
    if head.get("type") != "VPDDecoder" or extended:
        raise CheckpointError(
            f"the released layout holds the published decoder only, not {head}; "
            "save a folder instead"
        )
    if backbone.unet_mode == "lora" or not backbone.options["text_adapter"]:
        raise CheckpointError(
            "the released layout has no place for LoRA weights, and needs the text adapter; "
            "save a folder instead"
        )
    if backbone.trade_names:
        raise CheckpointError(
            f"the released layout has no place for trades ({', '.join(backbone.trade_names)}); "
            "load the model without them"
        )
    _check_implied(model)
    own = model.state_dict()
    state = {}
    for released, name in released_names(model).items():
        value = own[name]
        # The VAE's attention projections are 1 x 1 convolutions there, linear layers here.
        conv = released.startswith("encoder_vq.") and ".attn_1." in released and value.ndim == 2
        state[released] = value[:, :, None, None] if conv else value
    return state


def unsaid(model: VPDRefer, image_size: int | tuple[int, ...]) -> list[str]:
    """What a loader of the released file must be told of this model and its size of pictures, since
    it would take something else; for people. Raises CheckpointError as `released_state` does."""
    found = []
    heads = _heads(model)
    if heads != HEADS:
        found.append(
            f"the file does not say that the UNet has {heads} attention heads, and {HEADS} are "
            f"taken: load it with --num_heads {heads} (Python: config={{'num_heads': {heads}}})"
        )
    if image_size not in (SIZE, (SIZE, SIZE)):
        option = f"--img_size {image_size}"
        if not isinstance(image_size, int):
            option = f"--set data.image_size=[{','.join(map(str, image_size))}]"
        found.append(
            f"the file does not say that pictures are of {image_size}, and {SIZE} is taken: give "
            f"ris test {option}; in Python, from_pretrained(..., image_size={image_size})"
        )
    return found


def _heads(model: VPDRefer) -> int:
    """Attention heads of the UNet. Raises CheckpointError where its levels differ."""
    layers = [part for part in model.backbone.unet.modules() if isinstance(part, Attention)]
    heads = {int(layer.heads) for layer in layers}
    if len(heads) != 1:
        raise CheckpointError(
            "the released layout implies one number of attention heads at all levels; this UNet "
            f"has {', '.join(map(str, sorted(heads)))}; save a folder instead"
        )
    return heads.pop()


def _check_implied(model: VPDRefer) -> None:
    """Raise CheckpointError for settings that decide the result and have no place in the file."""
    own = {**model.backbone.options, "ignore_sentence": model.ignore_sentence}
    implied = {**IMPLIED, "ignore_sentence": False}
    other = [name for name, value in implied.items() if own[name] != value]
    if other:
        raise CheckpointError(
            f"the released layout implies {', '.join(f'{n}={implied[n]}' for n in other)}; this "
            f"model has {', '.join(f'{n}={own[n]}' for n in other)}; save a folder instead"
        )
    _heads(model)


def _plain_prefixes(own: Mapping[str, Any]) -> list[tuple[str, str]]:
    pairs = []
    for key in own:
        module = key.rsplit(".", 1)[0]
        for old, new in _PLAIN:
            if module.startswith(new):
                pairs.append((old + module.removeprefix(new), module))
    return pairs


def _head_shape(
    state: Mapping[str, Tensor], widths: tuple[int, ...], where: str
) -> tuple[int, int]:
    """(token length, hidden width) of the published decoder over features of `widths`."""
    try:
        hidden = state["classifier.conv1_1.weight"].shape[1]
        length = state["classifier.conv1_4.weight"].shape[1] - widths[3] - widths[2]
    except KeyError as error:
        raise CheckpointError(f"{where}: the decoder's key {error} is missing") from error
    except IndexError as error:
        raise CheckpointError(f"{where}: the decoder's kernels have too few sides") from error
    if length < 1:
        raise CheckpointError(
            f"{where}: the decoder takes {length} map channels behind UNet widths {widths}; "
            "no token length fits"
        )
    return length, hidden


def _check_config(
    config: Mapping[str, Any], components: weights.Components, length: int, where: str
) -> None:
    """Compare what a config claims with what the shapes say."""
    unet, vae = components.unet.config, components.vae.config
    first, vae_first = unet.block_out_channels[0], vae.block_out_channels[0]
    widths = unet.block_out_channels
    levels = [has.startswith("CrossAttn") for has in unet.down_block_types]
    truth = {
        "model_channels": first,
        "channel_mult": [width // first for width in widths],
        "context_dim": unet.cross_attention_dim,
        "num_res_blocks": unet.layers_per_block,
        "attention_resolutions": sorted(2**level for level, has in enumerate(levels) if has),
        "vae_ch": vae_first,
        "vae_ch_mult": [width // vae_first for width in vae.block_out_channels],
        "neck_dim": [widths[0], widths[1] + length, widths[2] + length, widths[3]],
    }
    for name, value in truth.items():
        claimed = config.get(name, value)
        if name == "attention_resolutions":
            claimed = sorted(claimed)
        if (list(claimed) if isinstance(value, list) else claimed) != value:
            raise CheckpointError(
                f"{where}: config says {name}={config[name]}, its tensors say {value}"
            )
