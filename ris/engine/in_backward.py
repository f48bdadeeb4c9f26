"""The optimizer's step inside the backward pass: no gradient lives longer than its own update.

Fine-tuning holds weights, two moments and a gradient of each; here the gradients of a whole network
never stand side by side, which spares a quarter of that.
"""

from __future__ import annotations

from typing import Any

import torch
from mmengine.dist import get_world_size
from torch import Tensor

from ris.engine.guard import GuardedOptimWrapper
from ris.errors import OptionError


class InBackwardOptimWrapper(GuardedOptimWrapper):
    """`GuardedOptimWrapper` that updates each parameter as soon as its gradient is there.

    The same updates, bit for bit, as the ordinary step makes. What needs all gradients at once
    cannot be had: clipping by norm, accumulation, several processes. A loss that is not finite
    leaves everything as it was; a gradient that is not finite though the loss is, spares its own
    parameter and those behind it, not those already updated.

    Raises OptionError where clipping, accumulation or several processes are asked for.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, **options: Any) -> None:
        if options.get("clip") is not None or options.get("accumulative_counts", 1) != 1:
            raise OptionError(
                "optim.in_backward updates a parameter before the other gradients are known: set "
                "optim.clip=None and optim.accumulate=1, or leave in_backward out"
            )
        if get_world_size() > 1:
            raise OptionError(
                "optim.in_backward updates a parameter before its gradient is averaged over the "
                f"{get_world_size()} processes: leave it out; survival.shard saves memory there"
            )
        super().__init__(optimizer, **options)
        self.bad: Tensor | None = None
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.register_post_accumulate_grad_hook(self._update)

    def backward(self, loss: Tensor, **options: Any) -> None:
        self.bad = (~torch.isfinite(loss.detach())).float().reshape(())
        super().backward(loss, **options)

    def _update(self, parameter: Tensor) -> None:
        assert self.bad is not None
        assert parameter.grad is not None
        self.bad = torch.maximum(self.bad, (~torch.isfinite(parameter.grad.sum())).float())
        self.optimizer.found_inf = self.bad
        self.optimizer.grad_scale = None
        # Of all parameters this one alone has a gradient now: the step is its own.
        self.optimizer.step()
        parameter.grad = None

    def step(self, **kwargs: Any) -> None:
        """Nothing is left to update: what was skipped is written down."""
        assert self.bad is not None
        self._note(self.bad)
