"""AdamW for every parameter but the head's matrices, which Muon updates.

Source: Muon (Jordan et al. 2024), torch's own implementation. It makes a matrix's update
orthogonal, so that no direction of its gradient drowns the others. It is meant for linear layers:
norms, biases, embeddings, convolutions and whatever is pre-trained stay with AdamW.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ris.errors import OptionError


def matrices(model: nn.Module) -> list[nn.Parameter]:
    """Trained weights [rows, columns] of the head's linear and attention layers; often none.

    Raises OptionError if they are shared out over processes.
    """
    layers = [
        layer
        for path, layer in model.named_modules()
        if path.split(".")[0] == "head" and isinstance(layer, nn.Linear | nn.MultiheadAttention)
    ]
    found = {
        id(weight): weight
        for layer in layers
        for weight in layer.parameters()
        if weight.ndim == 2 and weight.requires_grad
    }
    if any(isinstance(weight, DTensor) for weight in found.values()):
        raise OptionError(
            "Muon needs whole matrices: --set optim.muon=None leaves them to AdamW, or "
            "survival.shard=False keeps them whole"
        )
    return list(found.values())


class MuonAdamW(torch.optim.Optimizer):
    """One optimizer to whoever saves, schedules or guards it; torch's two inside.

    Args:
        groups: AdamW's parameters.
        matrices: groups of Muon's, [rows, columns] each.
        rate: Muon's learning rate.
        options: AdamW's.

    Attributes:
        found_inf: a step changes nothing where this is 1, as with fused optimizers.
        grad_scale: of AdamW; None.
    """

    found_inf: Tensor | None = None
    grad_scale: Tensor | None = None

    def __init__(
        self,
        groups: list[dict[str, Any]],
        matrices: list[dict[str, Any]],
        rate: float,
        **options: Any,
    ) -> None:
        self.adamw = torch.optim.AdamW(groups, **options)
        self.muon = torch.optim.Muon(matrices, lr=rate)
        for group in self.muon.param_groups:
            group["muon"] = True
        every = [*self.adamw.param_groups, *self.muon.param_groups]
        super().__init__(every, {"lr": self.adamw.defaults["lr"]})  # mmengine reads it here

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        # Loading a state replaces groups and state, so they are handed on at every step.
        for inner, own in ((self.adamw, False), (self.muon, True)):
            inner.state = self.state
            inner.param_groups = [g for g in self.param_groups if bool(g.get("muon")) == own]
        vars(self.adamw).update(found_inf=self.found_inf, grad_scale=self.grad_scale)
        self.adamw.step(closure)
        moving = [p for g in self.muon.param_groups for p in g["params"] if p.grad is not None]
        # Muon knows no such flag: what must not change is put back.
        bad = self.found_inf
        changing = [] if bad is None else [t for p in moving for t in self._of(p)]
        before = [tensor.clone() for tensor in changing]
        self.muon.step()
        if bad is not None:
            for tensor, old in zip(changing, before, strict=True):
                tensor.copy_(torch.where(bad > 0, old, tensor))

    def _of(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """What a step of Muon changes: the matrix and its momentum."""
        state = self.state[matrix]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(matrix)
        return matrix, state["momentum_buffer"]
