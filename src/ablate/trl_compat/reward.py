"""TRL's RewardTrainer on token ids: Bradley–Terry as TRL has it, regression, preferences."""

from typing import Any

import torch
from transformers import PreTrainedModel, TrainerCallback
from trl import RewardConfig, RewardTrainer

from ablate.trl_compat.positions import PositionsTrainer
from ablate.trl_compat.quiet import quiet, silence
from ablate.trl_compat.version import check_version


class TokenRewardTrainer(PositionsTrainer, RewardTrainer):
    """RewardTrainer whose dataset holds positions; the collator looks the examples up.

    Batches with `labels` (float[R], one score per sequence) are trained by mean squared error;
    others hold all chosen and then all rejected sequences and go to TRL's Bradley–Terry loss, or,
    with `preference_tau`, to that of a general preference model. In micro-batches or on several
    processes a batch has `weights` (float[examples], 0 for fillers), and the loss is the mean over
    the examples of an optimizer step that weigh something.
    """

    def __init__(
        self,
        model: Any,
        arguments: dict[str, Any],
        *,
        collator: Any,
        num_positions: int,
        tokenizer: Any,
        callbacks: list[TrainerCallback],
        preference_tau: float | None = None,
    ) -> None:
        check_version()
        self.preference_tau = preference_tau
        #: what the micro-batches with weights held since the last log, on the CPU
        self._seen: list[dict[str, torch.Tensor]] = []
        self._tokens_seen = 0
        #: examples that weigh something in the present optimizer step, of all processes
        self._examples: torch.Tensor | float = 1.0
        outputs = model.config.num_labels
        # TRL takes classifiers with one output only, and looks for no more than this number
        model.config.num_labels = 1
        try:
            super().__init__(
                model=model,
                args=RewardConfig(**arguments, max_length=None),
                data_collator=collator,
                train_dataset=self.positions(num_positions),
                processing_class=tokenizer,
                callbacks=callbacks,
            )
        finally:
            model.config.num_labels = outputs
        silence(self)

    def _prepare_dataset(
        self, dataset: Any, processing_class: Any, args: Any, dataset_name: str
    ) -> Any:
        """Sequences are token ids already."""
        return dataset

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Mean squared error on scored batches, TRL's own loss on compared ones."""
        if "weights" in inputs:
            return self._weighted(model, inputs)
        if self.preference_tau is not None:
            return self._preference_loss(model, inputs, return_outputs)
        if "labels" not in inputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        targets = inputs["labels"]
        output = model(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
        )
        scores = output.logits.squeeze(-1).float()
        loss = torch.nn.functional.mse_loss(scores, targets)
        self._metrics["train"]["correlation"].append(correlation(scores.detach(), targets))
        self._metrics["train"]["mean_reward"].append(float(scores.detach().mean()))
        return (loss, output) if return_outputs else loss

    def _weighted(self, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """The same losses and metrics over the examples of all processes, by weight."""
        ids, attention = inputs["input_ids"], inputs["attention_mask"]
        output = model(input_ids=ids, attention_mask=attention, use_cache=False)
        values, weights = output.logits.float(), inputs["weights"]
        seen: dict[str, torch.Tensor] = {}
        if "labels" in inputs:
            seen = {"scores": values.squeeze(-1), "targets": inputs["labels"]}
            losses = (seen["scores"] - seen["targets"]).square()
        elif self.preference_tau is not None:
            seen = {"gaps": preference_scores(*values.chunk(2))}
            losses = -torch.nn.functional.logsigmoid(seen["gaps"] / self.preference_tau)
        else:
            chosen, rejected = values.squeeze(-1).chunk(2)
            seen = {"scores": torch.stack([chosen, rejected], dim=1), "gaps": chosen - rejected}
            losses = -torch.nn.functional.logsigmoid(seen["gaps"])
        real = weights > 0
        tokens = attention.sum(dim=1) * real.repeat(len(ids) // len(weights))
        self._seen.append({name: value.detach()[real].cpu() for name, value in seen.items()})
        self._tokens_seen += int(tokens.sum())
        # DDP averages gradients over processes, while the denominator counts all their examples
        loss: torch.Tensor = (losses * weights).sum() / self._examples
        return loss * self.accelerator.num_processes

    def own_state(self) -> dict[str, Any]:
        """With the tokens that each process has seen."""
        from accelerate.utils import gather_object

        return {**super().own_state(), "seen": gather_object([self._tokens_seen])}

    def load_own_state(self, state: dict[str, Any]) -> None:
        super().load_own_state(state)
        place = self.accelerator.process_index
        self._tokens_seen = state["seen"][place] if place < len(state["seen"]) else 0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the metrics of a step in micro-batches or on several processes, of all examples."""
        from accelerate.utils import gather_object

        if self._seen:
            mine, self._seen = self._seen, []
            pieces = gather_object([(mine, self._tokens_seen)])
            seen = [batch for batches, _ in pieces for batch in batches]
            joined = {name: torch.cat([batch[name] for batch in seen]) for name in seen[0]}
            logs |= _metrics(joined)
            if "targets" not in joined:
                logs["num_tokens"] = sum(tokens for _, tokens in pieces)
        super().log(logs, start_time)

    def _preference_loss(
        self, model: Any, inputs: dict[str, torch.Tensor], return_outputs: bool
    ) -> Any:
        """Mean of -log σ(s(chosen, rejected)/tau), arXiv 2410.02197."""
        assert self.preference_tau is not None
        output = model(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
        )
        chosen, rejected = output.logits.float().chunk(2)
        scores = preference_scores(chosen, rejected)
        loss = -torch.nn.functional.logsigmoid(scores / self.preference_tau).mean()
        right = (scores > 0).float() + 0.5 * (scores == 0).float()
        self._metrics["train"]["accuracy"].append(float(right.detach().mean()))
        self._metrics["train"]["margin"].append(float(scores.detach().mean()))
        return (loss, output) if return_outputs else loss

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """The scores are called `labels`, but they are no tokens to be counted."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.loss_is_scaled_for_ga = bool(batches) and "weights" in batches[0]
        if self.loss_is_scaled_for_ga:
            own = torch.stack([batch["weights"].sum() for batch in batches]).sum().to(device)
            self._examples = self.accelerator.reduce(own, reduction="sum")
        return batches, None


def _metrics(seen: dict[str, torch.Tensor]) -> dict[str, float]:
    """As TRL names them, of `scores` float[n] or [n, 2], their `targets` or their `gaps`."""
    metrics: dict[str, float] = {}
    if "scores" in seen:
        metrics["mean_reward"] = float(seen["scores"].mean())
    if "targets" in seen:
        return {**metrics, "correlation": correlation(seen["scores"], seen["targets"])}
    if "scores" in seen:
        metrics["min_reward"] = float(seen["scores"].min())
        metrics["max_reward"] = float(seen["scores"].max())
    gaps = seen["gaps"]
    # a tie counts half where scores are of pairs; equal rewards count as wrong, as TRL has it
    ties = 0.0 if "scores" in seen else 0.5 * float((gaps == 0).float().mean())
    metrics["accuracy"] = float((gaps > 0).float().mean()) + ties
    metrics["margin"] = float(gaps.mean())
    return metrics


def correlation(scores: torch.Tensor, targets: torch.Tensor) -> float:
    """Pearson's correlation of two float[R]; 0 where one of them does not vary."""
    centred, wanted = scores - scores.mean(), targets - targets.mean()
    return float((centred * wanted).sum() / (centred.norm() * wanted.norm()).clamp(min=1e-12))


def preference_scores(left: Any, right: Any) -> Any:
    """s(left beats right) of paired embeddings, the same for tensors and arrays.

    s = vᵀ R w with R made of the skew-symmetric blocks ((0, 1), (-1, 0)): s(v, w) = -s(w, v), and
    three responses may beat each other in a circle.

    Args:
        left, right: float[..., D] that broadcast, D even.
    """
    return (left[..., 0::2] * right[..., 1::2] - left[..., 1::2] * right[..., 0::2]).sum(-1)


def classifier_from_causal(
    path: str, *, pad_token_id: int, seed: int, outputs: int = 1, **kwargs: Any
) -> Any:
    """A sequence classifier with `outputs` outputs on the weights of a causal model.

    The new head is drawn from `seed`; the warnings that it is new and that the language-model
    head is gone, both meant, are kept back by TRL's own filter.
    """
    from transformers import AutoModelForSequenceClassification
    from trl.trainer.reward_trainer import suppress_seqcls_warning

    with torch.random.fork_rng(devices=[]), suppress_seqcls_warning(), quiet():
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(
            path, num_labels=outputs, pad_token_id=pad_token_id, **kwargs
        )
    return model
