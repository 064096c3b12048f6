"""The preference trainer: any objective over groups of K responses, exact over the global batch."""

from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from ablate.groups import PromptGroup
from ablate.objectives import Objective, ObjectiveState, response_scales, token_scales
from ablate.training.collate import SIDE_TEXTS, prompt_group, real_prompts, real_sequences
from ablate.training.source import GroupSource
from ablate.training.token_kl import token_logps_and_kl
from ablate.trl_compat.dpo import GroupTrainer
from ablate.trl_compat.fused_head import token_logps, token_values


class RPOTrainer(GroupTrainer):
    """TRL's DPOTrainer with groups in place of pairs and an objective in place of its losses.

    Groups come from a source, which may draw them from the policy as it stands.

    The loss is Σ per_prompt / (usable prompts of the global batch), over micro-batches and
    processes. Objectives that couple the prompts of a batch train by two passes: log-probs of the
    whole batch without gradient, ∂loss/∂log π there, then Σ (∂loss/∂log π)·log π by micro-batch.
    What an objective remembers (`objective_state`) is updated once per step on the global batch,
    so that every process holds the same.

    Legend: B prompts and K responses of a micro-batch, R present responses, T tokens.
    """

    def __init__(
        self,
        model: Any,
        arguments: dict[str, Any],
        *,
        objective: Objective,
        source: GroupSource,
        reference: Any = None,
        **others: Any,
    ) -> None:
        self.source = source
        self.objective = objective
        self.objective_state = ObjectiveState(objective)
        #: frozen model, for objectives that need its whole distributions
        self.reference = reference
        self.last_grad_norm: float | None = None
        #: loss of the global batch where it comes from the first of two passes
        self.window_loss: Tensor | None = None
        #: the step's micro-batches as the objective saw them, without gradient
        self._seen: list[PromptGroup] = []
        self._metrics_seen: list[dict[str, float]] = []
        self._share = 1.0
        self._tokens: Tensor | int = 0
        self._last_inputs: dict[str, Tensor] | None = None
        head = ("log_sum_sq_probs",) if objective.needs.log_sum_sq else ()
        super().__init__(model, arguments, head_outputs=head, **others)

    # -- one optimizer step ----------------------------------------------------------------

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Tensor]], Tensor | None]:
        """The micro-batches of one step and the number of usable prompts of the global batch."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, None
        self.source.begin(self.state.global_step, self)
        places = [batch["index"].tolist() for batch in batches]
        batches = [dict(self._prepare_inputs(self.source.batch(place))) for place in places]
        self.window_loss = None
        for batch in batches:
            self._add_mismatched(batch)
        alone = len(batches) == 1 and self.accelerator.num_processes == 1
        if self.objective.batch_coupled and not alone:
            return batches, self._couple(batches)
        if self.objective.stateful:
            # which prompts are left out depends on the policy: the batch counts its own
            return batches, None
        usable = torch.stack([self._usable(batch).sum() for batch in batches]).sum()
        return batches, self._total(usable)

    def _usable(self, batch: dict[str, Tensor]) -> Tensor:
        """bool[B]: which prompts have something to compare; does not depend on the policy."""
        shape, device = batch["mask"].shape, batch["mask"].device
        needs, computed = self.objective.needs, {}
        tokens = torch.zeros(*shape, int(batch["lengths"].max()), device=device)
        for name, wanted in (("token_logps", needs.tokens), ("token_kl", needs.token_kl)):
            if wanted:
                computed[name] = tokens
        if needs.log_sum_sq:
            computed["log_sum_sq"] = torch.zeros(shape, device=device)
        for name in SIDE_TEXTS:
            if f"{name}_row" in batch:
                computed[f"{name}_logps"] = torch.zeros(shape[0], device=device)
        grid = torch.zeros(shape, device=device)
        return self.objective.usable(prompt_group(batch, grid, **computed))

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
            local = [self._group(self.model_wrapped, batch) for batch in batches]
        pieces, mine = self._gathered(local)
        whole = _concatenate(pieces)
        state = self.objective_state.update(whole)
        output = self.objective(whole, state)
        by_token = self.objective.needs.tokens
        scales = (token_scales if by_token else response_scales)(self.objective, whole, state)
        start = mine
        for batch in batches:
            rows, columns = int(real_prompts(batch).sum()), batch["mask"].shape[1]
            batch["scales"] = scales[start : start + rows, :columns]
            if by_token:
                batch["scales"] = batch["scales"][..., : int(batch["lengths"].max())]
            start += rows
        self.window_loss = output.loss.detach()
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
        group = self._group(model, inputs)
        processes = self.accelerator.num_processes
        counted = _row_lengths(inputs["completion_mask"]) * real_sequences(inputs)
        self._tokens += counted.sum()
        self._last_inputs = inputs
        self._seen.append(_detached(group))
        if not group.num_prompts:
            # nothing but fillers: no loss, yet the other processes wait for this one's backward
            return group.policy_logps.sum() + self._window_share()
        if "scales" in inputs and self.window_loss is not None:
            logps = group.policy_logps if group.token_logps is None else group.token_logps
            surrogate = (inputs["scales"].to(logps.dtype) * logps).sum() * processes
            # the value is this micro-batch's share of the loss, the gradient the surrogate's
            return surrogate - surrogate.detach() + self._window_share()
        if self.objective.stateful:
            self.objective_state.update(self._seen[-1])
        output = self.objective(group, self.objective_state.values)
        self._metrics_seen.append(output.metrics)
        if self.objective.batch_coupled:
            # alone in its step: this micro-batch is the global batch, aggregated as the slot says
            return output.loss
        total = self.num_items_in_batch
        usable = output.usable.sum() if total is None else total
        # DDP averages gradients over processes, while the denominator counts all their prompts
        return output.per_prompt.sum() / usable.clamp(min=1) * processes

    def _window_share(self) -> Tensor | float:
        """This micro-batch's share of the loss that the first of two passes found."""
        return 0.0 if self.window_loss is None else self.window_loss * self._share

    def _group(self, model: Any, batch: dict[str, Tensor]) -> PromptGroup:
        """The micro-batch with all that the objective needs to know of the policy."""
        needs, computed = self.objective.needs, {}
        ids, shown = batch["input_ids"], batch["completion_mask"]
        if needs.token_kl:
            values, divergence = token_logps_and_kl(model, self.reference, ids, shown)
            computed["token_kl"] = self._token_grid(batch, divergence)
        elif needs.log_sum_sq:
            values, squares = token_values(model, ids, shown, ("log_probs", "log_sum_sq_probs"))
            computed["log_sum_sq"] = self._to_grid(batch, squares.sum(dim=1))
        else:
            values = self._row_logps(model, batch, "")
        if needs.tokens:
            computed["token_logps"] = self._token_grid(batch, values)
        sums = values.sum(dim=1)
        for name in SIDE_TEXTS:
            if f"{name}_row" in batch:
                computed[f"{name}_logps"] = sums[batch[f"{name}_row"]]
        return prompt_group(batch, self._to_grid(batch, sums), **computed)

    @staticmethod
    def _row_logps(model: Any, batch: dict[str, Tensor], prefix: str) -> Tensor:
        """float32[R, L - 1]."""
        return token_logps(model, batch[f"{prefix}input_ids"], batch[f"{prefix}completion_mask"])

    @staticmethod
    def _to_grid(batch: dict[str, Tensor], values: Tensor) -> Tensor:
        """[R, ...] → [B, K]; responses that are absent hold 0, further rows are left out."""
        flat = values.new_zeros(batch["mask"].numel())
        cell = batch["cell"]
        return flat.index_put((cell,), values[: len(cell)]).view(batch["mask"].shape)

    @staticmethod
    def _token_grid(batch: dict[str, Tensor], values: Tensor) -> Tensor:
        """[R, L - 1] with the prompt in front → [B, K, T] from the response's first token."""
        count = len(batch["cell"])
        values, shown = values[:count], batch["completion_mask"][:count, 1:]
        length = int(batch["lengths"].max())
        first = shown.int().argmax(dim=1, keepdim=True)
        place = first + torch.arange(length, device=shown.device)
        inside = place < shown.shape[1]
        place = place.clamp(max=shown.shape[1] - 1)
        rows = values.gather(1, place) * (inside & shown.gather(1, place))
        flat = values.new_zeros(batch["mask"].numel(), length)
        return flat.index_put((batch["cell"],), rows).view(*batch["mask"].shape, length)

    # -- interruption ----------------------------------------------------------------------

    def own_state(self) -> dict[str, Any]:
        """Plain data that continues this training beside what transformers saves."""
        tokens = self._tokens.tolist() if isinstance(self._tokens, Tensor) else self._tokens
        return {
            "objective": self.objective_state.state_dict(),
            "tokens": self._shares(tokens),
            "source": self.source.state(),
        }

    def load_own_state(self, state: dict[str, Any]) -> None:
        """Takes up what `own_state` gave."""
        self.objective_state.load_state_dict(state["objective"])
        shares = state["tokens"]
        place = self.accelerator.process_index
        self._tokens = shares[place] if place < len(shares) else 0
        self.source.load_state(state["source"])

    def _shares(self, number: int) -> list[int]:
        """A number of each process."""
        if self.accelerator.num_processes == 1:
            return [number]
        from accelerate.utils import gather_object

        shares: list[int] = gather_object([number])
        return shares

    # -- step metrics ----------------------------------------------------------------------

    def step_metrics(self) -> dict[str, float]:
        """Metrics of the global batch whose gradient is ready; judge-free, of any micro-batching.

        Beside the objective's own: `log_ratio` is the mean of log π/π_ref over the responses
        (for fresh responses an estimate of KL(π ‖ π_ref)), `kl_ref_policy` the estimate of
        KL(π_ref ‖ π) from them (π/π_ref − 1 − log π/π_ref: unbiased for responses drawn from the
        reference, never negative), `reward` the mean of their training rewards, `length` their
        mean number of tokens, `tokens` those of all prompts and responses so far, without padding
        (a prompt counts once for each of its responses).
        """
        seen, metrics = self._seen, self._metrics_seen
        self._seen, self._metrics_seen = [], []
        if not seen:
            return {}
        whole = _concatenate(self._gathered(seen)[0])
        own = metrics[0] if len(metrics) == 1 and len(seen) == 1 else None
        if own is None or self.accelerator.num_processes > 1:
            with torch.no_grad():
                own = self.objective(whole, self.objective_state.values).metrics
        device = whole.policy_logps.device
        tokens = torch.as_tensor(self._tokens, dtype=torch.float64, device=device)
        return {
            "prompts": float(whole.num_prompts),
            **_response_metrics(whole),
            **{name: value for name, value in own.items() if name != "loss"},
            "tokens": self._total(tokens).item(),
        }

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Keep the norm: it is checked before the optimizer takes the step."""
        norm = super()._get_grad_norm(model, grad_norm)
        self.last_grad_norm = float(norm)
        return self.last_grad_norm

    def probe(self) -> str | None:
        """What is wrong with the weights as they are now, or None.

        Loss and gradient of the last micro-batch once more: weights that an update has blown up
        may be finite and still give neither (sharded models: the loss alone is tried).
        """
        assert self._last_inputs is not None
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        # a replica's forward outside its wrapper starts no reduction that would wait for an end
        model = self.model_wrapped if sharded else self.accelerator.unwrap_model(self.model)
        with self.compute_loss_context_manager(), torch.set_grad_enabled(not sharded):
            group = self._group(model, self._last_inputs)
            if group.num_prompts:
                loss = self.objective(group, self.objective_state.values).loss
            else:
                loss = group.policy_logps.sum()
        good = torch.isfinite(loss.detach())
        if not sharded:
            parameters = [p for p in model.parameters() if p.requires_grad]
            for gradient in torch.autograd.grad(loss, parameters, allow_unused=True):
                if gradient is not None:
                    good = good & torch.isfinite(gradient).all()
        # every process must come to the same verdict
        bad = self._total((~good).to(torch.float32).reshape(()))
        return None if bad.item() == 0 else "loss and gradient are no longer finite"

    def step_loss(self) -> float:
        """Loss of the global batch whose gradient is ready, averaged over processes."""
        return float(self.accelerator.reduce(self._tr_loss.clone(), reduction="mean"))

    def _total(self, count: Tensor) -> Tensor:
        total: Tensor = self.accelerator.reduce(count, reduction="sum")
        return total


def _row_lengths(completion: Tensor) -> Tensor:
    """int[R]: tokens of each row up to its response's end, from bool[R, L]."""
    places = torch.arange(1, completion.shape[1] + 1, device=completion.device)
    return (completion * places).amax(dim=1)


def _response_metrics(group: PromptGroup) -> dict[str, float]:
    """Means over the present responses, moved off the device in one go."""
    shown = group.present
    values = {"length": group.lengths, "logp": group.policy_logps}
    if group.ref_logps is not None:
        ratio = torch.where(shown, group.policy_logps - group.ref_logps, 0.0)
        # beyond e^30 the estimate says no more than that it is huge
        values |= {"log_ratio": ratio, "kl_ref_policy": torch.expm1(ratio.clamp(max=30)) - ratio}
    if group.rewards is not None:
        values["reward"] = group.rewards
    count = shown.sum()
    sums = [torch.where(shown, value, 0).sum() for value in values.values() if value is not None]
    means = torch.stack([total.float() / count.clamp(min=1) for total in sums])
    numbers = torch.cat([count.float()[None], means]).tolist()
    return dict(zip(["responses", *values], numbers, strict=True))


def _detached(group: PromptGroup) -> PromptGroup:
    side = tuple(f"{name}_logps" for name in SIDE_TEXTS)
    names = ("policy_logps", "token_logps", "token_kl", "log_sum_sq", *side)
    values = {name: getattr(group, name) for name in names}
    return replace(group, **{n: value.detach() for n, value in values.items() if value is not None})


def _concatenate(groups: list[PromptGroup]) -> PromptGroup:
    """One group of all prompts, widened to the largest K and the longest response."""
    if len(groups) == 1:
        return groups[0]
    width = max(group.num_responses for group in groups)
    wide = [group.pad_to(width) for group in groups]
    joined = {}
    for field in fields(PromptGroup):
        values = [getattr(group, field.name) for group in wide]
        if values[0] is None:
            continue
        if values[0].dim() > 1:
            last = max(value.shape[-1] for value in values)
            values = [pad(value, (0, last - value.shape[-1])) for value in values]
        joined[field.name] = torch.cat(values)
    return PromptGroup(**joined)
