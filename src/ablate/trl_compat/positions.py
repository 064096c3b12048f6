"""What our trainers on TRL share: a dataset of positions, and an end that gives the model back."""

from typing import Any

from datasets import Dataset

from ablate.trl_compat import fused_head
from ablate.trl_compat.quiet import QuietTrainer


class PositionsTrainer(QuietTrainer):
    """Mixed in before a TRL trainer whose collator looks examples up by their position."""

    @staticmethod
    def positions(count: int) -> Dataset:
        """The dataset of a trainer: `count` positions in the order of presentation."""
        return Dataset.from_dict({"index": list(range(count))})

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["index"]

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: transformers walks over all parameters for it at every micro-batch."""
        return 0

    def own_state(self) -> dict[str, Any]:
        """Plain data that continues this training beside what transformers saves: TRL's counter."""
        return {"tokens": getattr(self, "_total_train_tokens", 0)}

    def load_own_state(self, state: dict[str, Any]) -> None:
        """Takes up what `own_state` gave."""
        self._total_train_tokens = state["tokens"]

    def release(self) -> None:
        """Give the model back as it came: no autocast wrapper, no fused head, gradients freed."""
        trainer: Any = self
        base = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
        fused_head.detach(base)
        base.zero_grad(set_to_none=True)
        base.eval()
