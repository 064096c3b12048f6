"""The preference trainer: any objective over groups of K responses, exact over the global batch."""

import copy
from typing import Any

import torch
from torch import Tensor

from ablate.groups import PromptGroup
from ablate.objectives import Objective, ObjectiveState, response_scales, token_scales
from ablate.training.collate import SIDE_TEXTS, prompt_group, real_prompts, real_sequences
from ablate.training.scoring import mismatched_logps, scored_group
from ablate.training.seen import concatenate, detached, response_metrics
from ablate.training.stepped import SteppedTrainer
from ablate.trl_compat.fused_head import gather


class RPOTrainer(SteppedTrainer):
    """TRL's DPOTrainer with groups in place of pairs and an objective in place of its losses.

    Groups come from a source, which may draw them from the policy as it stands.

    The loss is Σ per_prompt / (usable prompts of the global batch), over micro-batches and
    processes. Objectives that couple the prompts of a batch train by two passes: log-probs of the
    whole batch without gradient, ∂loss/∂log π there, then Σ (∂loss/∂log π)·log π by micro-batch.
    What an objective remembers (`objective_state`) is updated once per step on the global batch,
    so that every process holds the same.

    Legend: B prompts and K responses of a micro-batch, T tokens.
    """

    def __init__(
        self,
        model: Any,
        arguments: dict[str, Any],
        *,
        objective: Objective,
        reference: Any = None,
        **others: Any,
    ) -> None:
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
        if reference is not None:
            gather(reference)

    # -- one optimizer step ----------------------------------------------------------------

    def _prepared(self, batches: list[dict[str, Tensor]]) -> Tensor | None:
        """See `SteppedTrainer`; batch-coupled objectives make their first pass here."""
        self.window_loss = None
        for batch in batches:
            if "kl_input_ids" in batch:
                packed = self.source.packed
                batch["kl_logps"] = mismatched_logps(self.model_wrapped, batch, packed)
        alone = len(batches) == 1 and self.accelerator.num_processes == 1
        if self.objective.batch_coupled and not alone:
            return self._couple(batches)
        if self.objective.stateful:
            # which prompts are left out depends on the policy: the batch counts its own
            return None
        return self._total(torch.stack([self._usable(batch).sum() for batch in batches]).sum())

    def _memory(self) -> dict[str, Any]:
        tokens = self._tokens
        return {
            "objective": copy.deepcopy(self.objective_state.state_dict()),
            "tokens": tokens.clone() if isinstance(tokens, Tensor) else tokens,
            "seen": (list(self._seen), list(self._metrics_seen)),
        }

    def _restore(self, memory: dict[str, Any]) -> None:
        self.objective_state.load_state_dict(copy.deepcopy(memory["objective"]))
        tokens = memory["tokens"]
        self._tokens = tokens.clone() if isinstance(tokens, Tensor) else tokens
        self._seen, self._metrics_seen = (list(kept) for kept in memory["seen"])

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

    def _couple(self, batches: list[dict[str, Tensor]]) -> Tensor:
        """First pass: ∂loss/∂log π of the global batch, stored with each micro-batch."""
        with torch.no_grad():
            local = [self._group(self.model_wrapped, batch) for batch in batches]
        pieces, mine = self._gathered(local)
        whole = concatenate(pieces)
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
        self._tokens += (inputs["tokens"] * real_sequences(inputs)).sum()
        self._last_inputs = inputs
        self._seen.append(detached(group))
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
        packed = self.source.packed
        return scored_group(model, batch, self.objective, packed, self.reference)

    # -- interruption ----------------------------------------------------------------------

    def own_state(self) -> dict[str, Any]:
        """Plain data that continues this training beside what transformers saves."""
        tokens = self._tokens.tolist() if isinstance(self._tokens, Tensor) else self._tokens
        return {
            "objective": self.objective_state.state_dict(),
            "tokens": self._shares(tokens),
            "source": self.source.state(),
            "budget": self.budget.state(),
        }

    def load_own_state(self, state: dict[str, Any]) -> None:
        """Takes up what `own_state` gave."""
        self.objective_state.load_state_dict(state["objective"])
        shares = state["tokens"]
        place = self.accelerator.process_index
        self._tokens = shares[place] if place < len(shares) else 0
        self.source.load_state(state["source"])
        self.budget.load_state(state["budget"])

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
        whole = concatenate(self._gathered(seen)[0])
        own = metrics[0] if len(metrics) == 1 and len(seen) == 1 else None
        if own is None or self.accelerator.num_processes > 1:
            with torch.no_grad():
                own = self.objective(whole, self.objective_state.values).metrics
        device = whole.policy_logps.device
        tokens = torch.as_tensor(self._tokens, dtype=torch.float64, device=device)
        return {
            "prompts": float(whole.num_prompts),
            **response_metrics(whole),
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
