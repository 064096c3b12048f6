"""A DPOTrainer without its pairs: groups are looked up when their step begins."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import gather_object
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer
from trl.models import unwrap_model_for_generation
from trl.trainer import dpo_trainer

from ablate.trl_compat import fused_head
from ablate.trl_compat.positions import PositionsTrainer
from ablate.trl_compat.quiet import silence
from ablate.trl_compat.version import check_version

#: what `DPOTrainer` calls or sets and this module overrides or reads; the tests compare it with
#: the installed TRL, so that a changed signature or a vanished name is noticed there
OVERRIDDEN = {
    "_prepare_dataset": ("self", "dataset", "processing_class", "args", "dataset_name"),
    "_precompute_ref_logps": ("self", "dataset", "name", "batch_size"),
    "_set_signature_columns_if_needed": ("self",),
    "compute_loss": ("self", "model", "inputs", "return_outputs", "num_items_in_batch"),
    "_compute_loss": ("self", "model", "inputs", "return_outputs"),
    "log": ("self", "logs", "start_time"),
    "get_batch_samples": ("self", "epoch_iterator", "num_batches", "device"),
    "_get_grad_norm": ("self", "model", "grad_norm"),
    "_send_telemetry": ("self",),
}
#: lines of `DPOTrainer` that this module relies on
SOURCE_MARKERS = (
    'self._metrics = {"train": defaultdict(list), "eval": defaultdict(list)}',
    "hash_module(self.ref_model or self.model) if args.precompute_ref_log_probs else None",
    "args.precompute_ref_log_probs and not self.is_fsdp_enabled",
    "self.ref_model = create_model_from_path(ref_model_path, **ref_model_init_kwargs)",
    "model = get_peft_model(model, peft_config, **get_peft_model_kwargs)",
    "return self._compute_loss(model, inputs, return_outputs)",
    "add_fused_lm_head(self.model.get_base_model() if is_peft_model(self.model) else self.model",
)


class GroupTrainer(PositionsTrainer, DPOTrainer):
    """TRL's DPOTrainer as the frame for objectives over groups of K responses.

    Kept from TRL: peft and accelerate support, the fused LM head, metrics, callbacks, the loop.
    Overridden: everything that knows about chosen and rejected, and everything that would load,
    hash or run a reference model, whose log-probs arrive with the data.

    The dataset holds the positions 0 … n-1, and so do the loader's batches, which may be fetched
    one step ahead: a subclass looks the groups up when their step begins. `_compute_loss`
    of a subclass gets the number of usable prompts of the global batch, so the loss is final:
    transformers must not divide it by the accumulation steps.
    """

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: Any,
        arguments: dict[str, Any],
        *,
        num_positions: int,
        tokenizer: Any,
        callbacks: list[TrainerCallback],
        peft_config: Any = None,
        head_outputs: tuple[str, ...] = (),
    ) -> None:
        check_version()
        config = DPOConfig(**arguments, precompute_ref_log_probs=True, max_length=None)
        with _without_reference():
            super().__init__(
                model=model,
                args=config,
                data_collator=_places,
                train_dataset=self.positions(num_positions),
                processing_class=tokenizer,
                callbacks=callbacks,
                peft_config=peft_config,
            )
        silence(self)
        # TRL's head also computes entropies and top-1 hits, which nothing here reads
        fused_head.attach(self.model, head_outputs)

    def _prepare_dataset(
        self, dataset: Any, processing_class: Any, args: Any, dataset_name: str
    ) -> Any:
        """Prompts and responses are token ids already."""
        return dataset

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        """Reference log-probs come with the groups."""
        return dataset

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> torch.Tensor:
        """TRL's wrapper drops `num_items_in_batch`; here it is the loss's denominator."""
        self.num_items_in_batch = num_items_in_batch
        loss: torch.Tensor = self._compute_loss(model, inputs, return_outputs)
        return loss

    @contextmanager
    def live(self) -> Iterator[Any]:
        """The policy in evaluation mode, without gradients, unwrapped from its processes."""
        with unwrap_model_for_generation(self.model_wrapped, self.accelerator) as model:
            was_training = model.training
            model.eval()
            try:
                with torch.no_grad():
                    yield model
            finally:
                model.train(was_training)

    def divided(
        self, work: Callable[[Sequence[Any]], list[Any]], items: Sequence[Any]
    ) -> list[Any]:
        """`work` on this process's share of the items; every process gets the whole result.

        `work` returns one result per item; results come in the order of the items.
        """
        processes = self.accelerator.num_processes
        mine = work(items[self.accelerator.process_index :: processes])
        if processes == 1:
            return mine
        shares = gather_object([mine])
        return [shares[place % processes][place // processes] for place in range(len(items))]


def _places(examples: list[dict[str, int]]) -> dict[str, torch.Tensor]:
    """A loader's batch: the positions of its examples, int[B]."""
    return {"index": torch.tensor([example["index"] for example in examples])}


@contextmanager
def _without_reference() -> Iterator[None]:
    """Within: DPOTrainer neither loads a reference model nor hashes the policy's weights.

    Where models are sharded it would load a reference to compute its log-probs, which come with
    the groups. The hash names a cache of them, which is never written here; hashing reads every
    weight through the CPU.
    """
    hashing, creating = dpo_trainer.hash_module, dpo_trainer.create_model_from_path
    dpo_trainer.hash_module = lambda module: "not hashed"
    dpo_trainer.create_model_from_path = lambda *args, **kwargs: None
    try:
        yield
    finally:
        dpo_trainer.hash_module, dpo_trainer.create_model_from_path = hashing, creating
