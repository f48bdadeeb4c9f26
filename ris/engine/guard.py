"""An optimizer step that a bad loss cannot spoil, and that never waits for the device.

The gradient's norm says on the device whether the step is sound; a fused optimizer skips the update
by that flag, as it does under a loss scaler. Counts are read when a log line is due.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ris.engine.shard import whole


class GuardedOptimWrapper(OptimWrapper):
    """Autocast on the model's own device, gradient clipping, and steps that are skipped when the
    gradient is not finite.

    mmengine's AmpOptimWrapper refuses CPUs. bfloat16 has float32's range, so no loss scaler.

    Args:
        clip: largest norm of the gradient, or None.
        running: batch norms, whose statistics the forward pass changes; a skipped step leaves them
            as they were.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        device: str,
        dtype: torch.dtype | None,
        clip: float | None = None,
        running: Sequence[nn.Module] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(optimizer, **kwargs)
        self.device, self.dtype, self.clip = device, dtype, clip
        self.norms = list(running)
        self.before = [buffer.clone() for buffer in self.running]
        self.skipped: Tensor | None = None  # steps skipped so far, on the device
        self.streak: Tensor | None = None  # of them without a sound one between
        self.flags: list[Tensor] = []  # of the steps since the last `take_flags`

    @property
    def running(self) -> list[Tensor]:
        """The statistics as they are now: moving a model gives its norms other tensors."""
        found = ((norm.running_mean, norm.running_var) for norm in self.norms)
        return [buffer for pair in found for buffer in pair if isinstance(buffer, Tensor)]

    def step(self, **kwargs: Any) -> None:
        parameters = [
            parameter
            for group in self.optimizer.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        limit = float("inf") if self.clip is None else self.clip
        norm = whole(nn.utils.clip_grad_norm_(parameters, limit))
        bad = (~torch.isfinite(norm)).float()
        self._note(bad)
        if any(isinstance(parameter, DTensor) for parameter in parameters):
            # Sharded parameters and the plain flag cannot meet in one kernel: ask the host.
            if not bad.item():
                self.optimizer.step(**kwargs)
            return
        # What a GradScaler would set: fused optimizers leave everything alone where it is 1.
        self.optimizer.found_inf = bad
        self.optimizer.grad_scale = None
        self.optimizer.step(**kwargs)

    def _note(self, bad: Tensor) -> None:
        """Count a step; one that was skipped leaves the running statistics as they were."""
        if self.skipped is None or self.streak is None:
            self.skipped, self.streak = torch.zeros_like(bad), torch.zeros_like(bad)
        self.skipped += bad
        self.streak.add_(1).mul_(bad)
        self.flags.append(bad)
        for number, buffer in enumerate(self.running):
            old = self.before[number].to(buffer)  # the model may have been moved since
            kept = torch.where(bad > 0, old, buffer)
            buffer.copy_(kept)
            self.before[number] = kept

    def take_flags(self) -> list[bool]:
        """For each step since the last call, whether it was skipped. Waits for the device."""
        flags, self.flags = self.flags, []
        return [flag > 0 for flag in torch.stack(flags).tolist()] if flags else []

    def faults(self) -> dict[str, int]:
        """Steps skipped in all, and in a row until now."""
        return {
            "skipped": int(self.skipped) if self.skipped is not None else 0,
            "streak": int(self.streak) if self.streak is not None else 0,
        }

    def restore_faults(self, counts: dict[str, int]) -> None:
        device = next(p for group in self.optimizer.param_groups for p in group["params"]).device
        self.skipped = torch.tensor(float(counts["skipped"]), device=device)
        self.streak = torch.tensor(float(counts["streak"]), device=device)
        self.before = [buffer.clone() for buffer in self.running]

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device, self.dtype)

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        with super().optim_context(model), self._autocast():
            yield
