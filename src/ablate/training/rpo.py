"""The preference trainer: any objective over groups of K responses, exact over the global batch."""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from ablate.groups import PromptGroup
from ablate.objectives import Objective, response_scales
from ablate.training.groups import prompt_group
from ablate.trl_compat.dpo import GroupTrainer
from ablate.trl_compat.fused_head import token_logps

#: counts that add up over micro-batches; other metrics are averaged by usable prompts
_COUNTS = ("usable", "unusable", "ties")


class RPOTrainer(GroupTrainer):
    """TRL's DPOTrainer with groups in place of pairs and an objective in place of its losses.

    The loss is Σ per_prompt / (usable prompts of the global batch), over micro-batches and
    processes. Objectives that couple the prompts of a batch train by two passes: log-probs of the
    whole batch without gradient, ∂loss/∂log π there, then Σ (∂loss/∂log π)·log π by micro-batch.

    Legend: B prompts and K responses of a micro-batch, R present responses, T tokens.
    """

    def __init__(
        self, model: Any, arguments: dict[str, Any], *, objective: Objective, **others: Any
    ) -> None:
        self.objective = objective
        self.last_grad_norm: float | None = None
        self.window_loss: Tensor | None = None
        self._sums: dict[str, Any] = defaultdict(float)
        self.tokens_seen = 0
        super().__init__(model, arguments, **others)

    # -- one optimizer step ----------------------------------------------------------------

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Tensor]], Tensor | None]:
        """The micro-batches of one step and the number of usable prompts of the global batch."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, None
        batches = [dict(self._prepare_inputs(batch)) for batch in batches]
        self.window_loss = None
        for batch in batches:
            self._add_mismatched(batch)
        alone = len(batches) == 1 and self.accelerator.num_processes == 1
        if self.objective.batch_coupled and not alone:
            return batches, self._couple(batches)
        usable = torch.stack([self._usable(batch).sum() for batch in batches]).sum()
        return batches, self._total(usable)

    def _usable(self, batch: dict[str, Tensor]) -> Tensor:
        """bool[B]: which prompts have something to compare; does not depend on the policy."""
        grid = torch.zeros(batch["mask"].shape, device=batch["mask"].device)
        tokens = self._token_grid(batch, None) if self.objective.needs.tokens else None
        return self.objective.usable(prompt_group(batch, grid, tokens))

    def _add_mismatched(self, batch: dict[str, Tensor]) -> None:
        """Log-probs of (prompt, another prompt's response), without gradient, as [B, K]."""
        if "kl_input_ids" not in batch:
            return
        with torch.no_grad():
            values = self._row_logps(self.model_wrapped, batch, "kl_").sum(dim=1)
        batch["kl_logps"] = self._to_grid(batch, values)

    def _couple(self, batches: list[dict[str, Tensor]]) -> Tensor:
        """First pass: ∂loss/∂log π of the global batch, stored with each micro-batch."""
        with torch.no_grad():
            local = [
                prompt_group(batch, self._logps(self.model_wrapped, batch)[0], None)
                for batch in batches
            ]
        pieces, mine = self._gathered(local)
        whole = _concatenate(pieces)
        output = self.objective(whole)
        scales = response_scales(self.objective, whole)
        start = mine
        for batch in batches:
            rows, columns = batch["mask"].shape
            batch["scales"] = scales[start : start + rows, :columns]
            start += rows
        self.window_loss = output.loss.detach()
        self._coupled_metrics = output.metrics
        self._share = 1 / len(batches)
        return output.usable.sum()

    def _gathered(self, local: list[PromptGroup]) -> tuple[list[PromptGroup], int]:
        """Every process's groups in rank order, and the row at which this process's begin."""
        if self.accelerator.num_processes == 1:
            return local, 0
        from accelerate.utils import gather_object

        gathered: list[list[PromptGroup]] = gather_object([[group.to("cpu") for group in local]])
        device = local[0].policy_logps.device
        before = gathered[: self.accelerator.process_index]
        start = sum(group.num_prompts for groups in before for group in groups)
        return [group.to(device) for groups in gathered for group in groups], start

    # -- loss of one micro-batch -----------------------------------------------------------

    def _compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False
    ) -> Tensor:
        logps, tokens = self._logps(model, inputs)
        if "scales" in inputs and self.window_loss is not None:
            surrogate = (inputs["scales"].to(logps.dtype) * logps).sum()
            # the value is the loss's share, the gradient that of the surrogate
            value = self.window_loss.to(logps.dtype) * self._share
            processes = self.accelerator.num_processes
            self._note(inputs, logps.detach(), self._coupled_metrics, self._share)
            return surrogate * processes - (surrogate * processes).detach() + value
        output = self.objective(prompt_group(inputs, logps, tokens))
        total = self.num_items_in_batch
        usable = output.usable.sum() if total is None else total
        loss = output.per_prompt.sum() / usable.clamp(min=1)
        self._note(inputs, logps.detach(), output.metrics, output.metrics["usable"])
        # DDP averages gradients over processes, while the denominator counts all their prompts
        return loss * self.accelerator.num_processes

    def _logps(self, model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """float32[B, K] log-probs (0 where absent), and [B, K, T] where the objective asks."""
        values = self._row_logps(model, batch, "")
        tokens = self._token_grid(batch, values) if self.objective.needs.tokens else None
        return self._to_grid(batch, values.sum(dim=1)), tokens

    @staticmethod
    def _row_logps(model: Any, batch: dict[str, Tensor], prefix: str) -> Tensor:
        """float32[R, L - 1]."""
        return token_logps(model, batch[f"{prefix}input_ids"], batch[f"{prefix}completion_mask"])

    @staticmethod
    def _to_grid(batch: dict[str, Tensor], values: Tensor) -> Tensor:
        """[R] → [B, K]; responses that are absent hold 0."""
        flat = values.new_zeros(batch["mask"].numel())
        return flat.index_put((batch["cell"],), values).view(batch["mask"].shape)

    @staticmethod
    def _token_grid(batch: dict[str, Tensor], values: Tensor | None) -> Tensor:
        """[R, L - 1] with the prompt in front → [B, K, T] from the response's first token."""
        shown = batch["completion_mask"][:, 1:]
        length = int(batch["lengths"].max())
        if values is None:
            return torch.zeros(*batch["mask"].shape, length, device=shown.device)
        first = shown.int().argmax(dim=1, keepdim=True)
        place = first + torch.arange(length, device=shown.device)
        inside = place < shown.shape[1]
        place = place.clamp(max=shown.shape[1] - 1)
        rows = values.gather(1, place) * (inside & shown.gather(1, place))
        flat = values.new_zeros(batch["mask"].numel(), length)
        return flat.index_put((batch["cell"],), rows).view(*batch["mask"].shape, length)

    # -- step metrics ----------------------------------------------------------------------

    def _note(
        self, batch: dict[str, Tensor], logps: Tensor, metrics: dict[str, float], weight: float
    ) -> None:
        """Add one micro-batch to the step's metrics; only present responses count."""
        sums = self._sums
        for name, value in metrics.items():
            if name == "loss":
                continue
            if name in _COUNTS and "scales" not in batch:
                sums[name] += value
            else:
                sums[f"mean/{name}"] += value * weight
        sums["weight"] += weight
        mask = batch["mask"]
        cells = [mask.sum(), (batch["lengths"] * mask).sum(), (logps * mask).sum()]
        if "ref_logps" in batch:
            ratio = (logps - batch["ref_logps"]) * mask
            cells += [ratio.sum(), (torch.expm1(ratio.clamp(max=30)) - ratio).mul(mask).sum()]
        sums["cells"] = sums["cells"] + torch.stack([cell.float() for cell in cells])
        self.tokens_seen += batch["input_ids"].numel()
        sums["prompts"] += mask.shape[0]

    def step_metrics(self) -> dict[str, float]:
        """Metrics of the step that has just been taken; judge-free. Empties the sums.

        `log_ratio` is the mean of log π/π_ref over the batch's responses, `kl_ref_policy` the
        estimate of KL(π_ref ‖ π) from them (π/π_ref − 1 − log π/π_ref, unbiased for responses
        drawn from the reference, never negative).
        """
        sums, self._sums = self._sums, defaultdict(float)
        if "cells" not in sums:
            return {}
        cells = self.accelerator.reduce(sums["cells"], reduction="sum").tolist()
        count = max(cells[0], 1.0)
        row: dict[str, float] = {"responses": cells[0], "length": cells[1] / count}
        row["logp"] = cells[2] / count
        if len(cells) > 3:
            row["log_ratio"], row["kl_ref_policy"] = cells[3] / count, cells[4] / count
        weight = max(float(sums["weight"]), 1e-12)
        for name, value in sums.items():
            if name.startswith("mean/"):
                row[name.removeprefix("mean/")] = float(value) / weight
            elif name in (*_COUNTS, "prompts"):
                row[name] = float(value)
        row["tokens"] = float(self.tokens_seen)
        return row

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Keep the norm: it is checked before the optimizer takes the step."""
        norm = super()._get_grad_norm(model, grad_norm)
        self.last_grad_norm = float(norm)
        return self.last_grad_norm

    def step_loss(self) -> float:
        """Loss of the global batch whose gradient is ready, averaged over processes."""
        return float(self.accelerator.reduce(self._tr_loss.clone(), reduction="mean"))

    def _total(self, count: Tensor) -> Tensor:
        total: Tensor = self.accelerator.reduce(count, reduction="sum")
        return total


def _concatenate(groups: list[PromptGroup]) -> PromptGroup:
    """One group of all prompts, widened to the largest K."""
    from dataclasses import fields

    width = max(group.num_responses for group in groups)
    wide = [_widen_mismatched(group.pad_to(width), width) for group in groups]
    joined = {
        field.name: torch.cat([getattr(group, field.name) for group in wide])
        for field in fields(PromptGroup)
        if getattr(wide[0], field.name) is not None
    }
    return PromptGroup(**joined)


def _widen_mismatched(group: PromptGroup, width: int) -> PromptGroup:
    if group.kl_logps is None or group.kl_logps.shape[1] == width:
        return group
    from dataclasses import replace

    missing = width - group.kl_logps.shape[1]
    names = ("kl_logps", "kl_ref_logps", "kl_mask")
    grown = {name: torch.nn.functional.pad(getattr(group, name), (0, missing)) for name in names}
    return replace(group, **grown)
