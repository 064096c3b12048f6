"""An objective built from its slots: group in, loss and per-prompt losses out."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ablate.config.levels import read_level
from ablate.config.objective import ObjectiveConfig, objective_config
from ablate.config.objective_needs import Needs
from ablate.errors import ConfigError, DataError
from ablate.groups import PromptGroup
from ablate.objectives.auxiliary import auxiliary
from ablate.objectives.given import missing_fields, with_rewards
from ablate.objectives.pairs import best_responses, choose_pairs, counted_pairs
from ablate.objectives.scores import scores
from ablate.objectives.state import State, advanced_state, initial_state
from ablate.objectives.structures import structure_term


@dataclass(frozen=True)
class ObjectiveOutput:
    """What an objective says about a batch of B prompts."""

    #: scalar: mean of `per_prompt` over usable prompts (or what the aggregate slot says);
    #: 0 with zero gradient if there are none
    loss: Tensor
    #: float[B]: 0 where not usable. Summed over micro-batches and divided by the number of usable
    #: prompts of the global batch this gives `loss`, unless the objective is batch-coupled
    per_prompt: Tensor
    #: bool[B]: the prompt has something to compare
    usable: Tensor
    metrics: dict[str, float]


class Objective:
    """A pure function of a `PromptGroup`, composed as its config says."""

    def __init__(self, config: ObjectiveConfig) -> None:
        self.config = config
        #: the objectives mixed in, by label
        self.mixed = {label: Objective(part) for label, part in config.mix.items()}
        self._own = Objective(config.own) if self.mixed else self

    def __repr__(self) -> str:
        return f"Objective({self.config.name}: {self.config.formula})"

    @property
    def name(self) -> str:
        """Name of the level."""
        return self.config.name

    @property
    def needs(self) -> Needs:
        """What a group must carry."""
        return self.config.needs

    @property
    def batch_coupled(self) -> bool:
        """True where micro-batches cannot be summed: train by `response_scales` instead."""
        return self.config.batch_coupled

    @property
    def log_z(self) -> str:
        """`cancels`, `baseline` or `ignored`: what becomes of β log Z(x)."""
        return self.config.what_becomes_of_log_z

    @property
    def stateful(self) -> bool:
        """True where the loss depends on earlier batches: see `ablate.objectives.state`."""
        return self.config.stateful

    def initial_state(self) -> State:
        """The state before the first batch; empty for an objective that remembers nothing."""
        state = initial_state(self.config)
        for label, part in self.mixed.items():
            state |= {f"{label}/{name}": value for name, value in part.initial_state().items()}
        return state

    def advanced_state(self, state: State, group: PromptGroup) -> State:
        """The state after a global batch, which is the one that the batch's loss uses."""
        self.check(group)
        own = {name: value for name, value in state.items() if "/" not in name}
        after = advanced_state(self.config, own, with_rewards(self.config, group))
        for label, part in self.mixed.items():
            advanced = part.advanced_state(_part_state(state, label), group)
            after |= {f"{label}/{name}": value for name, value in advanced.items()}
        return after

    def __call__(self, group: PromptGroup, state: State | None = None) -> ObjectiveOutput:
        """Loss of a batch. Raises `DataError` naming whatever the group lacks.

        `state` is what `advanced_state` gave for this batch; without it the batch is taken to be
        the first.
        """
        self.check(group)
        if state is None:
            state = self.advanced_state(self.initial_state(), group) if self.stateful else {}
        return self._evaluate(group, state)

    def _evaluate(self, group: PromptGroup, state: State, measured: bool = True) -> ObjectiveOutput:
        if self.mixed:
            return self._mixture(group, state)
        return self._alone(group, state, measured)

    def _alone(self, group: PromptGroup, state: State, measured: bool = True) -> ObjectiveOutput:
        """The loss of this objective's own slots; not `measured`: with no metric but the loss."""
        group = with_rewards(self.config, group)
        values = scores(self.config, group)
        term = structure_term(self.config, group, values, state)
        total = term.per_prompt + auxiliary(self.config, group, values)
        per_prompt = torch.where(term.usable, total, torch.zeros_like(total))
        count = term.usable.sum()
        loss = _aggregate(self.config, per_prompt, term.usable)
        if not measured:
            return ObjectiveOutput(loss, per_prompt, term.usable, {"loss": float(loss.detach())})
        metrics = {
            "loss": loss.detach(),
            "usable": count,
            "unusable": group.num_prompts - count,
            "ties": term.ties,
            **_ordering(group, values.detach()),
            **term.metrics,
        }
        numbers = _numbers(metrics, values.dtype) | {
            name: value for name, value in state.items() if "/" not in name
        }
        return ObjectiveOutput(loss, per_prompt, term.usable, numbers)

    def _mixture(self, group: PromptGroup, state: State) -> ObjectiveOutput:
        """The weighted sum over the prompts that all parts can use."""
        parts = {"own": self._own, **self.mixed}
        states = {label: _part_state(state, label) for label in self.mixed}
        states["own"] = {name: value for name, value in state.items() if "/" not in name}
        outputs = {
            label: part._evaluate(group, states[label], measured=label == "own")
            for label, part in parts.items()
        }
        metrics = outputs["own"].metrics
        usable = torch.stack([output.usable for output in outputs.values()]).all(dim=0)
        if any(bool((output.usable != usable).any()) for output in outputs.values()):
            narrow = replace(group, mask=group.present & usable[:, None])
            for label, part in parts.items():
                outputs[label] = part._narrowed(outputs[label], usable, narrow, states[label])
            count = float(usable.sum())
            metrics |= {"usable": count, "unusable": group.num_prompts - count}
        weights = {"own": 1.0, **self.config.mix_weights}
        losses = [weights[label] * output.loss for label, output in outputs.items()]
        each = [weights[label] * output.per_prompt for label, output in outputs.items()]
        loss, per_prompt = torch.stack(losses).sum(), torch.stack(each).sum(dim=0)
        shares = torch.stack([loss, *(output.loss for output in outputs.values())]).detach()
        names = ["loss", *(f"{label}/loss" for label in outputs)]
        metrics |= dict(zip(names, shares.tolist(), strict=True))
        return ObjectiveOutput(loss, per_prompt, usable, metrics)

    def _narrowed(
        self, output: ObjectiveOutput, usable: Tensor, group: PromptGroup, state: State
    ) -> ObjectiveOutput:
        """The output over fewer prompts: computed again only where prompts are coupled."""
        if self.batch_coupled or self.mixed:
            return self._evaluate(group, state, measured=False)
        per_prompt = torch.where(usable, output.per_prompt, torch.zeros_like(output.per_prompt))
        loss = _aggregate(self.config, per_prompt, usable)
        return ObjectiveOutput(loss, per_prompt, usable, output.metrics)

    def usable(self, group: PromptGroup, state: State | None = None) -> Tensor:
        """bool[B]: prompts with something to compare (two responses present, not all tied).

        With a `state` also those that it leaves out; without one these count as usable.
        """
        self.check(group)
        with torch.no_grad():
            known = with_rewards(self.config, group)
            own = state or {**initial_state(self.config), "reach": torch.inf}
            usable = structure_term(self.config, known, scores(self.config, known), own).usable
            for label, part in self.mixed.items():
                usable = usable & part.usable(group, _part_state(state, label) if state else None)
        return usable

    def used(self, group: PromptGroup) -> Tensor:
        """bool[B, K]: responses whose log-probs enter the loss; `policy_logps` is not read.

        With a pairing, a trainer need not run the model over the others.
        """
        self.check(group)
        used = self._used(with_rewards(self.config, group))
        for part in self.mixed.values():
            used = used | part.used(group)
        return used

    def _used(self, group: PromptGroup) -> Tensor:
        if self.config.pairing is None:
            return group.present
        pairs = choose_pairs(self.config.pairing, group)
        counted = counted_pairs(self.config, pairs)
        chosen = torch.zeros_like(group.present, dtype=torch.int64)
        for index in (pairs.better, pairs.worse):
            chosen = chosen.scatter_add(1, index, counted.to(torch.int64))
        used = chosen > 0
        if self.config.aux:
            used = used | (best_responses(group) & counted.any(dim=1, keepdim=True))
        if self.config.weight == "lambda_rank":
            # the rank of a response among all enters the weight of its pairs
            used = used | (group.present & counted.any(dim=1, keepdim=True))
        return used

    def check(self, group: PromptGroup) -> None:
        """Raise `DataError` naming the fields that this objective needs and the group lacks."""
        for config in self.config.parts:
            missing = missing_fields(config, group)
            if missing:
                raise DataError(f"Objective '{self.name}' needs {', '.join(missing)} in its group.")


def make_objective(name: str, *, search: Sequence[Path | str] = (), **overrides: Any) -> Objective:
    """The objective of a level in `conf/objective`, with some of its values replaced.

    `search` names further configuration folders (each with a folder `objective`). Raises
    `ConfigError` for an unknown level or field, or a combination without meaning.
    """
    values = read_level("objective", name, search)
    for key in overrides:
        if key not in values:
            close = difflib.get_close_matches(key, values, n=1)
            hint = f" Did you mean '{close[0]}'?" if close else ""
            raise ConfigError(
                f"Objective '{name}' has no field '{key}'.{hint} Fields: {', '.join(values)}."
            )
    return Objective(objective_config({**values, **overrides}))


def _part_state(state: State, label: str) -> State:
    """The state of an objective that is mixed in, under its own names."""
    start = f"{label}/"
    return {name[len(start) :]: value for name, value in state.items() if name.startswith(start)}


def _aggregate(config: ObjectiveConfig, per_prompt: Tensor, usable: Tensor) -> Tensor:
    """Scalar loss of float[B] losses, by the mean or -b·log mean exp(-loss/b) (2407.07880)."""
    count = usable.sum().clamp(min=1)
    if config.aggregate != "log_mean_exp":
        return per_prompt.sum() / count
    assert config.aggregate_beta is not None
    # without a usable prompt all of them stand in: their losses are 0 and carry no gradient
    counted = usable | ~usable.any()
    scaled = (-per_prompt / config.aggregate_beta).masked_fill(~counted, -torch.inf)
    mean = torch.logsumexp(scaled, dim=0) - counted.sum().to(per_prompt.dtype).log()
    return -config.aggregate_beta * mean


def _ordering(group: PromptGroup, values: Tensor) -> dict[str, Tensor]:
    """How well scores agree with the known order: over all pairs of unequal responses.

    `accuracy`: share of these pairs that the scores rank rightly; `margin`: their mean score gap.
    """
    order = group.order()
    if order is None:
        return {}
    present = group.present
    better = (order[:, :, None] > order[:, None, :]) & present[:, :, None] & present[:, None, :]
    gap = values[:, :, None] - values[:, None, :]
    count = better.sum().clamp(min=1).to(values.dtype)
    return {
        "accuracy": (better & (gap > 0)).sum() / count,
        "margin": torch.where(better, gap, torch.zeros_like(gap)).sum() / count,
    }


def _numbers(metrics: dict[str, Tensor], dtype: torch.dtype) -> dict[str, float]:
    """Plain floats, moved off the device in one go."""
    stacked = torch.stack([value.detach().to(dtype) for value in metrics.values()])
    return dict(zip(metrics, stacked.tolist(), strict=True))
