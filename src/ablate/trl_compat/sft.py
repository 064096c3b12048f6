"""TRL's SFTTrainer on token ids that are already there."""

from typing import Any

from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from ablate.trl_compat.positions import PositionsTrainer
from ablate.trl_compat.quiet import silence
from ablate.trl_compat.version import check_version


class TokenSFTTrainer(PositionsTrainer, SFTTrainer):
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
        peft_config: Any = None,
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
            train_dataset=self.positions(num_positions),
            processing_class=tokenizer,
            callbacks=callbacks,
            peft_config=peft_config,
        )
        silence(self)
