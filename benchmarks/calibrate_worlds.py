"""Statistics of an SFT model in an embedded world: is there room to improve and a spread to rank?

Trains the small LLaMA of the testbed from scratch on a world's demonstrations and samples from
it; no preference run is looked at. The numbers in docs/worlds.md come from

    python benchmarks/calibrate_worlds.py lists sums
"""

import argparse
import math
import statistics
import time

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import LlamaConfig, LlamaForCausalLM

from ablate.config.dataset import WorldConfig
from ablate.config.levels import read_level
from ablate.datasets import Prompt, World, open_dataset

PAD, BOS, EOS, SEP = range(4)


def build(vocabulary: int, width: int, layers: int, heads: int) -> LlamaForCausalLM:
    """A LLaMA-style model with tied embeddings and random weights."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        # of the order 1/√width: with the usual 0.02 so narrow a model learns far more slowly
        initializer_range=width**-0.5,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    return LlamaForCausalLM(config)


def train(
    model: LlamaForCausalLM, rows: list[tuple[list[int], list[int]]], steps: int, seed: int
) -> float:
    """Next-token training on responses only, AdamW with a cosine schedule; the last loss."""
    draw = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    for step in range(steps):
        rate = min(1.0, (step + 1) / 40) * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.param_groups[0]["lr"] = 3e-3 * rate
        batch = [rows[i] for i in draw.integers(len(rows), size=128)]
        width = max(len(prompt) + len(response) for prompt, response in batch)
        ids = torch.full((128, width), PAD)
        labels = torch.full((128, width), -100)
        for i, (prompt, response) in enumerate(batch):
            end = len(prompt) + len(response)
            ids[i, :end] = torch.tensor(prompt + response)
            labels[i, len(prompt) : end] = torch.tensor(response)
        # padding stands behind the text, where causal attention cannot see it
        loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


@torch.no_grad()
def sample(
    model: LlamaForCausalLM, prompt: list[int], number: int, longest: int
) -> list[list[int]]:
    """`number` responses to one prompt at temperature 1, as token ids."""
    ids = torch.tensor([prompt] * number)
    out = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=longest,
        pad_token_id=PAD,
    )
    return out[:, len(prompt) :].tolist()


def report(title: str, world: World, prompts: list[Prompt], texts: list[list[str]]) -> None:
    """Print what preference training will find: level, spread, ties, headroom, nuisance."""
    scores: NDArray[np.float64] = np.array(
        [[world.judge(p, t) for t in row] for p, row in zip(prompts, texts, strict=True)]
    )
    shown = np.array([[world.nuisance_words(t) for t in row] for row in texts], dtype=float)
    lengths = np.array([[len(t.split()) for t in row] for row in texts], dtype=float)
    full = scores > world.best_score - 1e-9
    number = scores.shape[1]
    equal = sum((scores[:, i] == scores[:, j]).mean() for i in range(number) for j in range(i))
    ties = equal / (number * (number - 1) / 2)

    def within(other: NDArray[np.float64]) -> float:
        a = scores - scores.mean(1, keepdims=True)
        b = other - other.mean(1, keepdims=True)
        return float((a * b).mean() / (a.std() * b.std() + 1e-12))

    print(
        f"{title:16s} mean {scores.mean():.3f}  sd within {scores.std(1, ddof=1).mean():.3f}"
        f"  ties {ties:.3f}  best of {number} {scores.max(1).mean():.3f}"
        f"  worst {scores.min(1).mean():.3f}  full marks {full.mean():.3f}"
        f"  words {lengths.mean():.1f} (longest {lengths.max():.0f})"
        f"  show {shown.mean():.2f}  r(score, show) {within(shown):.3f}"
        f"  r(score, words) {within(lengths):.3f}",
        flush=True,
    )


def calibrate(name: str, options: argparse.Namespace) -> None:
    """Train and sample in one world and print its statistics."""
    config = WorldConfig.model_validate(read_level("dataset", name))
    world = open_dataset(config)
    assert isinstance(world, World)
    assert world.vocabulary is not None
    ids = {word: i + 4 for i, word in enumerate(world.vocabulary)}
    of_id = {i: word for word, i in ids.items()}

    def encode(text: str) -> list[int]:
        return [ids[word] for word in text.split()]

    def decode(row: list[int]) -> str:
        row = row[: row.index(EOS)] if EOS in row else row
        return " ".join(of_id.get(i, "<special>") for i in row)

    demos = world.demonstrations()
    rows = [([BOS, *encode(p.text), SEP], [*encode(r), EOS]) for p, r in demos]
    scores = [world.judge(p, r) for p, r in demos]
    print(f"demonstrations: mean {statistics.mean(scores):.3f}, sd {statistics.pstdev(scores):.3f}")
    torch.manual_seed(options.seed)
    model = build(len(ids) + 4, options.width, options.layers, options.heads)
    start = time.perf_counter()
    loss = train(model, rows, options.steps, options.seed)
    print(f"SFT: {options.steps} steps in {time.perf_counter() - start:.0f} s, loss {loss:.3f}")
    model.eval()
    longest = config.pool.sampling.max_new_tokens
    for split in ("sft", "train", "test", "ood"):
        prompts = world.prompts(split, options.prompts)
        texts = []
        for prompt in prompts:
            out = sample(model, [BOS, *encode(prompt.text), SEP], options.samples, longest)
            texts.append([decode(row) for row in out])
        report(f"{name} {split}", world, prompts, texts)
        if options.show and split in ("test", "ood"):
            for prompt, row in zip(prompts[: options.show], texts, strict=False):
                for text in row[:3]:
                    print(f"    {world.judge(prompt, text):5.2f}  {prompt.text} -> {text}")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("worlds", nargs="+")
    for name, value in (("steps", 400), ("width", 96), ("layers", 3), ("heads", 4), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--show", type=int, default=4)
    options = parser.parse_args()
    for name in options.worlds:
        calibrate(name, options)


if __name__ == "__main__":
    main()
