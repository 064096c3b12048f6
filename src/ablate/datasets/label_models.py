"""Label models: how what annotators say differs from the clean score, with exact pair marginals.

Four steps, each switched off by its neutral value, in this order:

1. **Annotators.** Each prompt goes to one group, drawn in proportion to the shares. A group's
   utility is the clean score plus what it likes beside quality.
2. **Length bias.** S·b·(length − mean)/L is added, in characters, where S and L are the standard
   deviations of score and length within prompts. `b` is thus the number of standard deviations of
   score that one standard deviation of length buys.
3. **Temperature.** T·G is added, G a standard Gumbel variable less its mean: rankings follow
   Plackett-Luce and P(i before j) = σ((u_i − u_j)/T) for every two responses (Bradley-Terry).
4. **Flips.** With probability 2ε the distinct labels of a prompt change places by a uniformly
   random permutation: of any two responses with unequal labels the order is then reversed with
   probability 2ε · ½ = ε exactly, and equal labels stay equal.

S, L and the mean length are taken over the first `REFERENCE` responses of every prompt, and every
draw is keyed by (seed, prompt, text of the response) or by (seed, prompt): which of two responses
is better depends neither on how many there are nor on their order.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ablate.config.dataset import Annotator, Labels
from ablate.datasets.draws import unit_hash

#: responses of a prompt that decide the units of length and score
REFERENCE = 4
_EULER = 0.5772156649015329

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Labelled:
    """Labels of R responses, and what they are made of.

    `utilities` holds each annotator group's own, before temperature and flips; `annotator` the
    group that each response's prompt went to (empty without groups); `per_character` what one
    character more is worth by the length bias.
    """

    label: Floats
    utilities: dict[str, Floats]
    annotator: list[str]
    per_character: float


def label(
    config: Labels,
    seed: int,
    prompts: Sequence[str],
    index: Sequence[int],
    responses: Sequence[str],
    scores: Floats,
    nuisance: Callable[[str], int],
) -> Labelled:
    """Labels of R responses; rows of one prompt need not stand together.

    Args:
        prompts: the prompt's id of each response.
        index: the place of each response in its pool.
        scores: float[R], the clean scores.
        nuisance: counts a response's words for show; called only if an annotator likes them.
    """
    # sums in one order, so that the order of the rows does not move the last digit
    order = sorted(range(len(scores)), key=lambda row: (prompts[row], index[row]))
    made = _label(
        config,
        seed,
        [prompts[row] for row in order],
        np.array([index[row] for row in order]),
        [responses[row] for row in order],
        scores[order],
        nuisance,
    )
    back = np.argsort(order)
    return Labelled(
        made.label[back],
        {name: utility[back] for name, utility in made.utilities.items()},
        [made.annotator[row] for row in back.tolist()],
        made.per_character,
    )


def _label(
    config: Labels,
    seed: int,
    prompts: Sequence[str],
    index: NDArray[np.int64],
    responses: Sequence[str],
    scores: Floats,
    nuisance: Callable[[str], int],
) -> Labelled:
    reference = index < REFERENCE
    lengths = np.array([len(text) for text in responses], dtype=np.float64)
    unit = within_sd(scores[reference], _of(prompts, reference))
    long, per_length = _standard(lengths, reference, prompts)
    common = unit * config.length_bias * long
    utilities, who = {}, [""] * len(scores)
    utility = scores + common
    if config.annotators:
        likes_show = any(group.nuisance for group in config.annotators)
        show = np.array([nuisance(text) if likes_show else 0 for text in responses], dtype=float)
        shown, _ = _standard(show, reference, prompts)
        for group in config.annotators:
            own = group.length * long + group.nuisance * shown
            own = own + group.taste * _taste(group, prompts, responses)
            utilities[group.name] = scores + common + unit * own
        who = [drawn_annotator(config.annotators, seed, prompt) for prompt in prompts]
        utility = np.array([utilities[name][row] for row, name in enumerate(who)])
    if config.temperature:
        draws = [
            unit_hash("temperature", seed, p, r) for p, r in zip(prompts, responses, strict=True)
        ]
        utility = utility + config.temperature * (gumbel(np.array(draws)) - _EULER)
    if config.flip_rate:
        utility = _flipped(config.flip_rate, seed, prompts, responses, utility)
    return Labelled(utility, utilities, who, float(unit * config.length_bias * per_length))


def drawn_annotator(groups: Sequence[Annotator], seed: int, prompt: str) -> str:
    """The group that a prompt goes to, drawn in proportion to the shares."""
    left = unit_hash("annotator", seed, prompt) * sum(group.share for group in groups)
    for group in groups:
        left -= group.share
        if left < 0:
            return group.name
    return groups[-1].name


def within_sd(values: Floats, prompts: Sequence[str]) -> float:
    """Pooled standard deviation within prompts: sqrt(Σ squares / Σ (n − 1)); 0 without spread."""
    squares, freedom = 0.0, 0
    for rows in _rows(prompts).values():
        if len(rows) > 1:
            squares += float(np.var(values[rows])) * len(rows)
            freedom += len(rows) - 1
    return float(np.sqrt(squares / freedom)) if freedom else 0.0


def gumbel(uniform: Floats) -> Floats:
    """Standard Gumbel variables of numbers in [0, 1)."""
    # half a step of the hash's grid: 0 would be minus infinity
    return -np.log(-np.log(np.minimum(uniform + 2.0**-57, 1 - 2.0**-53)))


def _standard(
    values: Floats, reference: NDArray[np.bool_], prompts: Sequence[str]
) -> tuple[Floats, float]:
    """Values less their mean in standard deviations within prompts, and 1 over that deviation."""
    sd = within_sd(values[reference], _of(prompts, reference))
    if sd == 0:
        return np.zeros_like(values), 0.0
    return (values - values[reference].mean()) / sd, 1 / sd


def _taste(group: Annotator, prompts: Sequence[str], responses: Sequence[str]) -> Floats:
    """A standard normal draw of its own for every response: what nobody else can explain.

    It belongs to the group's name, not to a seed: the same people like the same things.
    """
    if not group.taste:
        return np.zeros(len(responses))
    pairs = [
        (unit_hash("taste", group.name, p, r), unit_hash("taste2", group.name, p, r))
        for p, r in zip(prompts, responses, strict=True)
    ]
    first, second = np.array(pairs).T
    # Box and Muller
    return np.sqrt(-2 * np.log(1 - first)) * np.cos(2 * np.pi * second)


def _flipped(
    rate: float, seed: int, prompts: Sequence[str], responses: Sequence[str], labels: Floats
) -> Floats:
    """Labels of which the distinct ones of a prompt change places, in a share of prompts."""
    result = labels.copy()
    for prompt, rows in _rows(prompts).items():
        if unit_hash("flip", seed, prompt) >= 2 * rate:
            continue
        # each label goes by the first response that has it: which of two labels comes out higher
        # does not depend on which others there are
        first: dict[float, str] = {}
        for row in rows:
            first.setdefault(float(labels[row]), responses[row])
        values = sorted(first)
        order = sorted(values, key=lambda value: unit_hash("place", seed, prompt, first[value]))
        place = dict(zip(order, values, strict=True))
        result[rows] = [place[float(value)] for value in labels[rows]]
    return result


def _rows(prompts: Sequence[str]) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for row, prompt in enumerate(prompts):
        rows.setdefault(prompt, []).append(row)
    return rows


def _of(prompts: Sequence[str], chosen: NDArray[np.bool_]) -> list[str]:
    return [prompt for prompt, keep in zip(prompts, chosen, strict=True) if keep]
