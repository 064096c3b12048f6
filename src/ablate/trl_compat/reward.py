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
    with `preference_tau`, to that of a general preference model.
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
        centred = (scores - scores.mean()).detach()
        spread = centred.norm() * (targets - targets.mean()).norm()
        correlation = (centred * (targets - targets.mean())).sum() / spread.clamp(min=1e-12)
        self._metrics["train"]["correlation"].append(float(correlation))
        self._metrics["train"]["mean_reward"].append(float(scores.detach().mean()))
        return (loss, output) if return_outputs else loss

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
        return batches, None


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
