"""Texts as rows of tokens: a prompt once for all its responses, and several prompts in a row."""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

#: (prompt, response) as token ids
Text = tuple[list[int], list[int]]

#: the share of the tokens that may be padding
MAX_PADDING = 0.05
#: how much slower attention's products are than those of a linear layer, per operation
ATTENTION_FACTOR = 2.0


@dataclass(frozen=True)
class Packing:
    """How prompts are shared and packed."""

    #: cost of one pair of query and key, as a share of what a token costs in the linear layers
    pair_cost: float
    #: the length of rows is a multiple of it
    multiple: int = 1

    @classmethod
    def of(cls, config: Any) -> "Packing":
        """For a model whose attention computes whole rows: 4 · its width against 2 · weights."""
        text = config.get_text_config()
        hidden, heads = text.hidden_size, text.num_attention_heads
        head = getattr(text, "head_dim", None) or hidden // heads
        keys = (getattr(text, "num_key_value_heads", None) or heads) * head
        inner = getattr(text, "intermediate_size", None) or 4 * hidden
        weights = 2 * hidden * (heads * head + keys) + 3 * hidden * inner
        return cls(ATTENTION_FACTOR * 4 * heads * head / (2 * weights))


@dataclass(frozen=True)
class Tree:
    """A prompt with responses as branches, which stand one after the other in a row."""

    prompt: list[int]
    #: places in the list of texts
    texts: list[int]
    #: input tokens; the last token of a response is only predicted
    length: int


def trees_of(texts: Sequence[Text], owners: Sequence[int], packing: Packing | None) -> list[Tree]:
    """Texts as trees: those of one owner with the same prompt; without `packing` each its own."""
    if packing is None:
        return [
            Tree(prompt, [place], len(prompt) + len(response) - 1)
            for place, (prompt, response) in enumerate(texts)
        ]
    shared: dict[tuple[int, tuple[int, ...]], list[int]] = {}
    for place, ((prompt, _), owner) in enumerate(zip(texts, owners, strict=True)):
        shared.setdefault((owner, tuple(prompt)), []).append(place)
    trees = []
    for places in shared.values():
        prompt = texts[places[0]][0]
        sizes = [len(texts[place][1]) - 1 for place in places]
        for part in _parts(len(prompt), sizes, packing):
            length = len(prompt) + sum(sizes[index] for index in part)
            trees.append(Tree(prompt, [places[index] for index in part], length))
    return trees


def _parts(prompt: int, sizes: Sequence[int], packing: Packing) -> list[list[int]]:
    """Responses that share one copy of a prompt.

    All of them, unless attention over the long row costs more than further copies of the prompt.
    """
    count = len(sizes)

    def cost(parts: int) -> float:
        length = prompt + sum(sizes) / parts
        return parts * length * (1 + packing.pair_cost * length)

    best = min(range(1, count + 1), key=cost)
    each = -(-count // best)
    return [list(range(start, min(start + each, count))) for start in range(0, count, each)]


def pack(lengths: Sequence[int], packing: Packing) -> list[list[int]]:
    """Rows of items: first fit by length into the shortest rows that waste at most 5 %.

    Little that fits into a single row is filled up to a multiple, which may be more.
    """
    total, longest = sum(lengths), max(lengths)
    count = total // longest
    rows: list[list[int]] = []
    while True:
        # rows of equal length for `count` rows, with a little room to fit
        capacity = max(longest, -(-total // max(count, 1)))
        rows = _first_fit(lengths, capacity + (0 if count <= 1 else capacity // 50))
        width = max(sum(lengths[item] for item in row) for row in rows)
        width = -(-width // packing.multiple) * packing.multiple
        if width * len(rows) * (1 - MAX_PADDING) <= total or len(rows) == 1:
            return rows
        # longer rows fit better, and cost more attention
        count = min(count, len(rows)) - max(1, count // 8)
        if count < 1:
            return [list(range(len(lengths)))]


def _first_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Longest first, each into the fullest row that still has room; items in order within rows."""
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []
    for item in sorted(range(len(lengths)), key=lambda item: (-lengths[item], item)):
        length = lengths[item]
        place = bisect_left(room, (length, -1))
        if place == len(room):
            rows.append([item])
            insort(room, (capacity - length, len(rows) - 1))
        else:
            left, row = room.pop(place)
            rows[row].append(item)
            insort(room, (left - length, row))
    return [sorted(row) for row in rows]


def text_rows(
    texts: Sequence[Text], owners: Sequence[int], pad_id: int, packing: Packing | None
) -> dict[str, Tensor]:
    """The tensors with which a model scores texts.

    Texts of one owner with the same prompt share it: [prompt, response 1, response 2, …], a tree
    whose branches see the prompt and themselves and whose positions go on from the prompt's.
    Without `packing` every text has a row of its own.

    Args:
        owners: the group that each text belongs to.

    Returns:
        Legend: R rows of L tokens, N response tokens of all texts in the texts' order.
        `input_ids`, `position_ids`, `tree` (0: padding) and `branch` (0: prompt) int[R, L];
        `source` int[N]: the place in the flattened rows that predicts a response's token; `target`
        int[N]: that token; `text` and `place` int[N]: whose token it is, and which of its tokens.
    """
    trees = trees_of(texts, owners, packing)
    if packing is None:
        rows = [[tree] for tree in trees]
    else:
        rows = [[trees[n] for n in row] for row in pack([t.length for t in trees], packing)]
    width = max(sum(tree.length for tree in row) for row in rows)
    if packing is not None:
        width = -(-width // packing.multiple) * packing.multiple
    ids = np.full((len(rows), width), pad_id, dtype=np.int64)
    positions, numbers, branches = (np.zeros_like(ids) for _ in range(3))
    counting = np.arange(max(width, 1) + 1)
    sources: list[Any] = [None] * len(texts)
    for line, row in enumerate(rows):
        end = 0
        for number, tree in enumerate(row, start=1):
            start, prompt = end, len(tree.prompt)
            end += prompt
            ids[line, start:end] = tree.prompt
            positions[line, start:end] = counting[:prompt]
            last = line * width + end - 1
            for branch, text in enumerate(tree.texts, start=1):
                response = texts[text][1]
                first, more = end, len(response) - 1
                end += more
                source = np.empty(more + 1, dtype=np.int64)
                source[0] = last
                source[1:] = counting[:more] + (line * width + first)
                sources[text] = source
                if more:
                    ids[line, first:end] = response[:-1]
                    positions[line, first:end] = counting[prompt : prompt + more]
                    branches[line, first:end] = branch
            numbers[line, start:end] = number
    counts = [len(response) for _, response in texts]
    places = np.concatenate([np.arange(count) for count in counts])
    return {
        "input_ids": torch.from_numpy(ids),
        "position_ids": torch.from_numpy(positions),
        "tree": torch.from_numpy(numbers),
        "branch": torch.from_numpy(branches),
        "source": torch.from_numpy(np.concatenate(sources)),
        "target": torch.tensor([token for _, response in texts for token in response]),
        "text": torch.from_numpy(np.repeat(np.arange(len(texts)), counts)),
        "place": torch.from_numpy(places),
    }
