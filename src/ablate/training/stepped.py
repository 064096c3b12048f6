"""A trainer whose steps are cut into micro-batches here, and begun again where memory runs out."""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from accelerate import DistributedType
from torch import Tensor

from ablate.errors import MemoryShort
from ablate.models.sharing import attending
from ablate.training.budget import Budget, forget
from ablate.training.source import GroupSource
from ablate.trl_compat.dpo import GroupTrainer
from ablate.trl_compat.fused_head import base_of

#: micro-batches of a step, and the number of usable prompts of the global batch where it is known
Step = tuple[list[dict[str, Tensor]], Tensor | None]


class SteppedTrainer(GroupTrainer):
    """Cuts a step's prompts by a budget of tokens; below it, a step is one batch.

    Where memory runs out, the step is begun again with half the budget.
    """

    def __init__(
        self,
        model: Any,
        arguments: dict[str, Any],
        *,
        source: GroupSource,
        budget: Budget,
        **others: Any,
    ) -> None:
        self.source, self.budget = source, budget
        #: positions of this process's prompts of the step, and what a new attempt begins from
        self._places: list[int] = []
        self._before: Any = None
        super().__init__(model, arguments, **others)

    @abstractmethod
    def _prepared(self, batches: list[dict[str, Tensor]]) -> Tensor | None:
        """Completes a step's micro-batches before their losses; the number of usable prompts."""

    @abstractmethod
    def _memory(self) -> Any:
        """A copy of what a step changes beside gradients."""

    @abstractmethod
    def _restore(self, memory: Any) -> None:
        """Takes up what `_memory` gave."""

    @contextmanager
    def live(self) -> Iterator[Any]:
        """As TRL unwraps it, with attention that generates."""
        now = base_of(self.accelerator.unwrap_model(self.model)).config._attn_implementation
        kind = "sdpa" if now == "flex_attention" else None
        with super().live() as model, attending(model, kind):
            yield model

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], Tensor | None]:
        """All of a step's micro-batches, and the number of usable prompts of the global batch.

        The trainer's last batch of the step holds them; those before it are empty.
        """
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, None
        self.source.begin(self.state.global_step, self)
        self._places = [place for batch in batches for place in batch["index"].tolist()]
        self._before = self._memory()
        parts, total = self._micro_batches()
        return [*({"parts": []} for _ in batches[1:]), {"parts": parts}], total

    def _micro_batches(self) -> Step:
        """The step's micro-batches within the budget, ready for their losses."""
        while True:
            try:
                parts = self.budget.split(self._places, self.source.extent, self.source.packed)
                batches = [
                    dict(self._prepare_inputs(self.source.batch(part)))
                    for part in self._agreed(parts)
                ]
                return batches, self._prepared(batches)
            except RuntimeError as error:
                self._make_room(error)
            self._begin_again()

    def _agreed(self, parts: list[list[int]]) -> list[list[int]]:
        """As many micro-batches as every other process has, where models are sharded.

        A pass gathers every process's shards, so all must make the same number of passes.
        """
        if not (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            return parts
        mine = torch.tensor([len(parts)], device=self.accelerator.device)
        most = int(self.accelerator.gather(mine).max())
        parts = [list(part) for part in parts]
        while len(parts) < most:
            largest = max(range(len(parts)), key=lambda number: len(parts[number]))
            whole = parts[largest]
            if len(whole) == 1:
                # a position beyond the last is a filler, which weighs nothing
                parts.append([self.source.filler])
                continue
            half = len(whole) // 2
            parts[largest : largest + 1] = [whole[:half], whole[half:]]
        return parts

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """Loss and gradient of a step's micro-batches; gradients are exchanged with the last."""
        parts, total = inputs["parts"], num_items_in_batch
        if not parts:
            return torch.zeros((), device=self.args.device)
        while True:
            try:
                loss = torch.zeros((), device=self.args.device)
                for number, part in enumerate(parts, start=1):
                    with self._kept_back(model, number < len(parts)):
                        loss += super().training_step(model, part, total)
                return loss
            except RuntimeError as error:
                self._make_room(error)
            self._begin_again()
            parts, total = self._micro_batches()

    def _kept_back(self, model: Any, wanted: bool) -> AbstractContextManager[None]:
        """Within: gradients are added up and not yet exchanged between processes."""
        if not wanted or self.accelerator.distributed_type == DistributedType.DEEPSPEED:
            return nullcontext()
        kept: AbstractContextManager[None] = self.accelerator.no_sync(model)
        return kept

    def _make_room(self, error: RuntimeError) -> None:
        """Halves the budget where memory ran out; raises any other error again.

        Raises:
            MemoryShort: one of several processes cannot begin a step again, because the others
                wait for its gradients: whoever started them has to.
        """
        if not self.budget.found:
            self.budget.explain(error)
            raise error
        self.budget.halve(error)
        if self.accelerator.num_processes > 1:
            raise MemoryShort(self.budget.state()) from error

    def _begin_again(self) -> None:
        """Undoes what a failed attempt at a step left."""
        self.model.zero_grad(set_to_none=True)
        self._restore(self._before)
        forget()
