"""TRL's SFTTrainer on token ids that are already there."""

from typing import Any

from datasets import Dataset
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from ablate.trl_compat import fused_head
from ablate.trl_compat.quiet import QuietTrainer, silence
from ablate.trl_compat.version import check_version


class TokenSFTTrainer(QuietTrainer, SFTTrainer):
    """SFTTrainer whose dataset holds positions; the collator looks the examples up.

    TRL computes the loss: mean over the response tokens of the whole accumulated batch.
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
        config = SFTConfig(
            **arguments,
            max_length=None,
            packing=False,
            completion_only_loss=False,
            dataset_kwargs={"skip_prepare_dataset": True},
        )
        super().__init__(
            model=model,
            args=config,
            data_collator=collator,
            train_dataset=Dataset.from_dict({"index": list(range(num_positions))}),
            processing_class=tokenizer,
            callbacks=callbacks,
        )
        silence(self)

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["index"]

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: transformers walks over all parameters for it at every micro-batch."""
        return 0

    def release(self) -> None:
        """Give the model back as it came: no autocast wrapper, no fused head, gradients freed."""
        base = self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        fused_head.detach(base)
        base.zero_grad(set_to_none=True)
        base.eval()
