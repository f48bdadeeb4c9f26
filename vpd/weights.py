"""Where a backbone's parts come from: a diffusers folder or Hub id, an LDM file, a released VPD
file, or random numbers.

Every source ends as the same `Components`; `backbone.py` does not know which one it was.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from vpd import files, infer, keys, loaders, untrained
from vpd.errors import WeightsError
from vpd.soundness import named
from vpd.text import clip_tokenizer
from vpd.zoo import EMBEDDED, EMBEDDED_FOLDER, Zoo

# The source of parts that can be found nowhere else: whoever saves them saves all. So do those that
# were drawn at random ("random:<seed>").
INSIDE = "random (all weights inside; from {})"
FILE_SUFFIXES = (".ckpt", ".pth", ".pt", ".bin", ".safetensors")


@dataclass
class Components:
    """The parts of a text-to-image model that a feature extractor uses.

    text_encoder is None where the source has none (released VPD files keep only the rest).
    """

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel | None
    tokenizer: CLIPTokenizer
    source: str


def load_components(source: str | Path | None, zoo: Zoo, *, seed: int = 0) -> Components:
    """Load from `source`; None takes the zoo's own weights.

    source: a diffusers folder or Hub id; an LDM `.ckpt` or `.safetensors`; a released VPD `.pth`;
        `random` for weights drawn from `seed`; `embedded:tiny-t2i` for those of the repository.

    Raises:
        WeightsError: names the file or folder, what is wrong with it, and the cure.
    """
    source = zoo.weights if source is None else source
    if str(source) == "random":
        return random_components(zoo, seed)
    if str(source) == EMBEDDED:
        if not EMBEDDED_FOLDER.is_dir():
            raise WeightsError(
                f"the embedded backbone is not at {EMBEDDED_FOLDER}; use a clone of the repository "
                "with its checkpoints/, train it (python tools/pretrain_tiny.py), or pass "
                "--weights random"
            )
        return replace(from_diffusers(EMBEDDED_FOLDER), source=EMBEDDED)
    path = Path(source)
    if path.suffix in FILE_SUFFIXES:
        path = path.resolve()
        state = named(files.tensors(files.load(path), "model", "state_dict"), path)
        if is_released(state):
            return from_released(state, str(path))
        if any(key.startswith("model.diffusion_model.") for key in state):
            return from_ldm(state, str(path))
        sample = ", ".join(list(state)[:3]) or "no tensors"
        raise WeightsError(
            f"{path} is neither a Stable Diffusion 1.x checkpoint (model.diffusion_model.*) nor a "
            f"released VPD one (unet.unet.diffusion_model.*); it holds {sample}"
        )
    return from_diffusers(source)


def from_diffusers(source: str | Path) -> Components:
    """From a diffusers folder, or a Hub id when no such folder exists.

    Raises:
        WeightsError: the folder lacks a part, or the id cannot be fetched.
    """
    folder = Path(source)
    # A saved model names its source: a folder by its whole path, wherever it is loaded from.
    where = str(folder.resolve()) if folder.is_dir() else str(source)
    if folder.is_dir():
        for part in ("unet", "vae", "text_encoder", "tokenizer"):
            if not (folder / part).is_dir():
                raise WeightsError(
                    f"{folder} is no diffusers folder: {part}/ is missing; expected unet/, vae/, "
                    "text_encoder/ and tokenizer/, as a Stable Diffusion repository has them"
                )
    elif where.count("/") != 1 or where.startswith((".", "/", "~")):
        raise WeightsError(
            f"weights {where!r} are neither a folder, nor a file ending in "
            f"{', '.join(FILE_SUFFIXES)}, nor a Hub id of the form owner/name"
        )
    try:
        options = {"variant": _variant(folder), "torch_dtype": torch.float32}
        unet = loaders.whole(UNet2DConditionModel, where, "unet", **options)
        vae = loaders.whole(AutoencoderKL, where, "vae", **options)
        with loaders.quietly(folder):
            text_encoder = loaders.text_encoder(
                where, subfolder="text_encoder", variant=options["variant"]
            )
        tokenizer = CLIPTokenizer.from_pretrained(where, subfolder="tokenizer")
    except WeightsError:
        raise
    except Exception as error:  # the loaders raise a dozen types; each becomes one that says where
        cure = (
            "check that the download is complete"
            if folder.is_dir()
            else "no such folder exists here, and the Hub gave nothing (offline or gated?); "
            "download the repository and pass its folder"
        )
        raise WeightsError(f"cannot load {where!r}: {loaders.reason_of(error)}; {cure}") from error
    return Components(unet, encoder_only(vae), text_encoder, tokenizer, where)


def _variant(folder: Path) -> str | None:
    """`fp16` when the folder ships half-precision files only."""
    found = [path.name for path in (folder / "unet").glob("diffusion_pytorch_model*")]
    return "fp16" if found and all(".fp16." in name for name in found) else None


def from_ldm(state: Mapping[str, Tensor], where: str, *, num_heads: int = 8) -> Components:
    """From the tensors of a CompVis Stable Diffusion 1.x checkpoint."""
    unet = ldm_unet(_under(state, "model.diffusion_model."), where, num_heads)
    first_stage = {
        key: value
        for key, value in _under(state, "first_stage_model.").items()
        if not key.startswith(("decoder.", "loss."))
    }
    text_encoder = from_ldm_text(state, where)
    return Components(unet, ldm_vae(first_stage, where), text_encoder, clip_tokenizer(), where)


def from_ldm_text(state: Mapping[str, Tensor], where: str) -> CLIPTextModel | None:
    """The CLIP text encoder in a Stable Diffusion 1.x checkpoint; None where it has none."""
    text_state = _under(state, "cond_stage_model.transformer.text_model.")
    text_state.pop("embeddings.position_ids", None)
    if not text_state:
        return None
    with loaders.building("text encoder", where):
        encoder = loaders.empty(
            CLIPTextModel, CLIPTextConfig(**infer.text_config(text_state, where))
        )
    shapes = {key: tuple(value.shape) for key, value in encoder.state_dict().items()}
    identity = [(key.rsplit(".", 1)[0],) * 2 for key in shapes]
    return _fill(encoder, keys.translate(text_state, shapes, identity, what="text", where=where))


def is_released(state: Mapping[str, Any]) -> bool:
    """Whether `state` has the layout of the released VPD referring-segmentation files."""
    return any(key.startswith("unet.unet.diffusion_model.") for key in state)


def from_released(state: Mapping[str, Tensor], where: str, *, num_heads: int = 8) -> Components:
    """UNet and VAE of a released VPD file; its text encoder is not in it."""
    unet = ldm_unet(_under(state, "unet.unet.diffusion_model."), where, num_heads)
    vae = ldm_vae(_under(state, "encoder_vq."), where)
    return Components(unet, vae, None, clip_tokenizer(), where)


def ldm_unet(state: Mapping[str, Tensor], where: str, num_heads: int) -> UNet2DConditionModel:
    """A UNet from LDM-named tensors, its architecture read off their shapes."""
    with loaders.building("UNet", where):
        unet = loaders.empty(UNet2DConditionModel, **infer.unet_config(state, num_heads, where))
    shapes = {key: tuple(value.shape) for key, value in unet.state_dict().items()}
    return _fill(unet, keys.translate(state, shapes, unet_key_map(unet), what="UNet", where=where))


def ldm_vae(state: Mapping[str, Tensor], where: str) -> AutoencoderKL:
    """A KL autoencoder without decoder from LDM-named tensors."""
    with loaders.building("VAE", where):
        vae = encoder_only(loaders.empty(AutoencoderKL, **infer.vae_config(state, where)))
    shapes = {key: tuple(value.shape) for key, value in vae.state_dict().items()}
    return _fill(vae, keys.translate(state, shapes, vae_key_map(vae), what="VAE", where=where))


def unet_key_map(unet: UNet2DConditionModel) -> list[tuple[str, str]]:
    """(LDM prefix, diffusers prefix) pairs of this UNet."""
    attention = [hasattr(block, "attentions") for block in unet.down_blocks]
    return keys.unet_prefixes(attention, unet.config.layers_per_block)


def vae_key_map(vae: AutoencoderKL) -> list[tuple[str, str]]:
    """(LDM prefix, diffusers prefix) pairs of this VAE's encoder."""
    return keys.vae_prefixes(len(vae.config.block_out_channels), vae.config.layers_per_block)


def encoder_only(vae: AutoencoderKL) -> AutoencoderKL:
    """The same VAE without its decoder, which a feature extractor never runs."""
    vae.decoder = nn.Identity()
    return vae


def random_components(zoo: Zoo, seed: int, *, prepared: bool = True) -> Components:
    """A backbone of the zoo's shapes with weights from `seed`; the global RNG is untouched.

    prepared: initial values that a head can learn from (`vpd.untrained`); False leaves those that
    diffusers and transformers draw.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(**zoo.unet)
        vae = encoder_only(AutoencoderKL(**zoo.vae))
        text_encoder = CLIPTextModel(CLIPTextConfig(**zoo.text))
        if prepared:
            untrained.initialise(unet, vae, text_encoder)
    return Components(unet, vae, text_encoder, clip_tokenizer(), f"random:{seed}")


def empty_components(config: Mapping[str, Any], source: str) -> Components:
    """Parts of the shapes in `config` (`unet`, `vae`, `text`) with CLIP's tokenizer, which pads
    with `pad_token`; their weights follow later. Raises WeightsError naming the part that cannot
    be built."""
    text, text_encoder = config.get("text"), None
    for part in ("unet", "vae", "text"):
        loaders.shallow(config.get(part), part)
    with loaders.building("UNet", "unet"):
        unet = loaders.empty(UNet2DConditionModel.from_config, dict(config["unet"]))
    with loaders.building("VAE", "vae"):
        vae = encoder_only(loaders.empty(AutoencoderKL.from_config, dict(config["vae"])))
    with loaders.building("text encoder", "text"):
        if text:
            text_encoder = loaders.empty(CLIPTextModel, CLIPTextConfig(**text))
    # Stable Diffusion 2.x pads with another token than 1.x. Files of before this was kept say none.
    # A tokenizer of its own: the common one is everybody's in this process.
    tokenizer = copy.deepcopy(clip_tokenizer())
    tokenizer.pad_token = config.get("pad_token") or tokenizer.pad_token
    return Components(unet, vae, text_encoder, tokenizer, source)


def _under(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}


def _fill(model: Any, state: dict[str, Tensor]) -> Any:
    model.load_state_dict(state, strict=True)
    return model


def load_text(source: str | Path) -> tuple[CLIPTextModel, CLIPTokenizer]:
    """CLIP's text encoder and tokenizer from a CLIP Hub id or folder, a diffusers folder, or the
    text half of an LDM Stable Diffusion checkpoint.

    Raises:
        WeightsError: names the source and what is wrong with it.
    """
    path = Path(source)
    if path.suffix in FILE_SUFFIXES:
        state = named(files.tensors(files.load(path), "state_dict"), path)
        part = from_ldm_text(state, str(path))
        if part is None:
            raise WeightsError(f"{path} holds no CLIP text encoder (cond_stage_model.*)")
        return part, clip_tokenizer()
    inner = {"subfolder": "text_encoder"} if (path / "text_encoder").is_dir() else {}
    try:
        with loaders.quietly(path):
            encoder = loaders.text_encoder(str(source), **inner)
    except WeightsError:
        raise
    except Exception as error:  # the loader raises many types; each becomes one that says where
        raise WeightsError(
            f"cannot load a CLIP text encoder from {str(source)!r}: {loaders.reason_of(error)}; "
            "pass a folder with openai/clip-vit-large-patch14, a diffusers folder, or the Stable "
            "Diffusion .ckpt"
        ) from error
    return encoder, clip_tokenizer()
