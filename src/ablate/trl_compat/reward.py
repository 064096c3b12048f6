"""TRL's RewardTrainer on token ids: Bradley–Terry as TRL has it, or regression on scores."""

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
    others hold all chosen and then all rejected sequences and go to TRL's Bradley–Terry loss.
    With several processes a batch has `weights` (float[examples], 0 for fillers), and the loss is
    the mean over the examples of all processes' batches that weigh something.
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
    ) -> None:
        check_version()
        super().__init__(
            model=model,
            args=RewardConfig(**arguments, max_length=None),
            data_collator=collator,
            train_dataset=self.positions(num_positions),
            processing_class=tokenizer,
            callbacks=callbacks,
        )
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
        scores, weights = output.logits.squeeze(-1).float(), inputs["weights"]
        real = weights > 0
        if "labels" in inputs:
            losses = (scores - inputs["labels"]).square()
            shown, targets = scores.detach()[real], inputs["labels"][real]
        else:
            chosen, rejected = torch.chunk(scores, 2)
            losses = -torch.nn.functional.logsigmoid(chosen - rejected)
            shown = torch.stack([chosen, rejected], dim=1).detach()[real]
            targets = None
        # DDP averages gradients over processes, while the denominator counts all their examples
        everywhere = self.accelerator.reduce(weights.sum(), reduction="sum")
        loss = (losses * weights).sum() / everywhere * self.accelerator.num_processes
        rows = real.repeat(len(ids) // len(weights))
        self._note(shown, targets, int((attention.sum(dim=1) * rows).sum()))
        return loss

    def _note(self, scores: torch.Tensor, targets: torch.Tensor | None, tokens: int) -> None:
        """Metrics of all processes' examples: `scores` float[n, 2] compared, or float[n]."""
        from accelerate.utils import gather_object

        mine = (scores.cpu(), None if targets is None else targets.cpu(), tokens)
        pieces = gather_object([mine])
        scores = torch.cat([piece[0] for piece in pieces])
        metrics = self._metrics["train"]
        metrics["mean_reward"].append(float(scores.mean()))
        if targets is not None:
            metrics["correlation"].append(
                correlation(scores, torch.cat([piece[1] for piece in pieces]))
            )
            return
        self._total_train_tokens += sum(piece[2] for piece in pieces)
        metrics["num_tokens"] = [self._total_train_tokens]
        gap = scores[:, 0] - scores[:, 1]
        metrics["min_reward"].append(float(scores.min()))
        metrics["max_reward"].append(float(scores.max()))
        metrics["accuracy"].append(float((gap > 0).float().mean()))
        metrics["margin"].append(float(gap.mean()))

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """The scores are called `labels`, but they are no tokens to be counted."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        return batches, None


def correlation(scores: torch.Tensor, targets: torch.Tensor) -> float:
    """Pearson's correlation of two float[R]; 0 where one of them does not vary."""
    centred, wanted = scores - scores.mean(), targets - targets.mean()
    return float((centred * wanted).sum() / (centred.norm() * wanted.norm()).clamp(min=1e-12))


def classifier_from_causal(path: str, *, pad_token_id: int, seed: int, **kwargs: Any) -> Any:
    """A sequence classifier with one output on the weights of a causal model.

    The new head is drawn from `seed`; the warnings that it is new and that the language-model
    head is gone, both meant, are kept back by TRL's own filter.
    """
    from transformers import AutoModelForSequenceClassification
    from trl.trainer.reward_trainer import suppress_seqcls_warning

    with torch.random.fork_rng(devices=[]), suppress_seqcls_warning(), quiet():
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(
            path, num_labels=1, pad_token_id=pad_token_id, **kwargs
        )
    return model
