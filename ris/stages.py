"""A training that begins with the weights of an earlier stage's checkpoint folder."""

from __future__ import annotations

from pathlib import Path

from ris.cards import whole_card
from ris.errors import CheckpointError
from ris.frozen import PRETRAINED, fingerprint, frozen_names, has_no_home
from ris.models import VPDRefer
from vpd import files
from vpd.soundness import unsound


def start_from(model: VPDRefer, path: str | Path) -> str:
    """Give `model` the weights of the checkpoint folder of an earlier stage, by name; the rest of
    it stays as it is built (a mask head, say, that the stage before had not). Returns in words what
    was taken and what was not.

    Weights of the text-to-image model that the earlier stage trained and this one does not are
    saved with this one's own from then on.

    Raises CheckpointError if shapes differ, if no weight of the head is met, if the earlier stage
    trained LoRA's weights and this one has none, or if the frozen weights that are not in the
    folder are others here.
    """
    card = whole_card(path)
    state = files.tensors(files.load(Path(path) / "model.safetensors"))
    own = model.state_dict()
    met = [name for name in state if name in own]
    differing = [
        f"{name} {tuple(state[name].shape)} for {tuple(own[name].shape)}"
        for name in met
        if state[name].shape != own[name].shape
    ]
    if odd := unsound(state, own):
        raise CheckpointError(
            f"{path}/model.safetensors cannot begin this run: {'; '.join(odd[:5])}; give the "
            "folder of a training that went well"
        )
    length = card.backbone.options["token_length"]
    if length != model.backbone.token_length:
        raise CheckpointError(
            f"{path} was trained with token_length {length}, this run has "
            f"{model.backbone.token_length}; the maps of every token are input channels of the "
            f"head, so all stages need one length: pass --token_length {length}"
        )
    if differing or not any(name.startswith("head.") for name in met):
        what = f"other shapes: {', '.join(differing[:5])}" if differing else "no weight of the head"
        raise CheckpointError(
            f"{path} ({card.head}) cannot begin this run ({model.head_config}): {what}; "
            "give both stages the same head settings, answers apart"
        )
    if any(".lora_" in name for name in state.keys() - own.keys()):
        raise CheckpointError(
            f"{path} was trained with --unet_mode lora, and this run's UNet "
            f"({model.backbone.unet_mode}) has no place for what was learned; pass --unet_mode lora"
        )
    elsewhere = {n: own[n] for n in own if n.startswith(PRETRAINED) and n not in state}
    frozen = card.frozen
    if frozen and fingerprint(elsewhere) != frozen.fingerprint:
        raise CheckpointError(
            f"{path} was trained on the frozen weights of {frozen.source}; this run's, of "
            f"{model.backbone.source}, are others; give both stages the same --weights"
        )
    model.load_state_dict({name: state[name] for name in met}, strict=False)
    if not has_no_home(model):
        model.tuned = frozen_names(model) & state.keys()
    fresh = [name for name, _ in model.named_parameters() if name.startswith("head.")]
    fresh = [name for name in fresh if name not in state]
    left = [name for name in state if name not in own]
    return (
        f"{len(met)} tensors taken; {len(fresh)} of the head begin anew"
        f"{f' ({_some(fresh)})' if fresh else ''}; {len(left)} not used"
        f"{f' ({_some(left)})' if left else ''}"
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if names[3:] else "")
