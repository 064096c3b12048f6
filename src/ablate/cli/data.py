"""`ablate data`: what a dataset holds: counts, lengths, responses per prompt, scores, examples."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ablate.cli.usage import LEVELS, Usage
from ablate.cli.words import several
from ablate.config import legality
from ablate.config.compose import compose
from ablate.config.dataset import GivenConfig, LocalConfig
from ablate.config.levels import level_names
from ablate.config.run import RunConfig
from ablate.datasets import (
    SPLITS,
    LocalDataset,
    PreferenceDataset,
    Prompt,
    label_models,
    open_dataset,
)
from ablate.errors import ConfigError, DataError

USAGE = Usage(
    "ablate data [LEVEL] [setting=value …] [-cd DIR]",
    "Shows what a dataset holds: counts, lengths, scores, what was left out, examples.",
    words=(
        ("LEVEL", "a dataset: a level of the factor, such as lists, local, ultrafeedback"),
        ("setting=value", "as for a run: dataset.path, dataset.labels …, base_model for tokens"),
        LEVELS,
    ),
    examples=(
        "ablate data",
        "ablate data local dataset.path=prefs.jsonl",
        "ablate data hh_rlhf dataset.path=~/hh-rlhf base_model=hf base_model.path=/models/mine",
    ),
)
#: prompts of a world that are drawn to be measured; of other datasets all are
DRAWN = 256
EXAMPLES = 3
#: rows that cannot be used, of which the reason is told
PROBLEMS = 10
BINS = 10
BAR = 40
SHOWN_CHARACTERS = 400

Texts = list[tuple[Prompt, str, float]]


def main(argv: Sequence[str]) -> int:
    """Prints the facts of one dataset; opens no model and imports no torch."""
    words, folders = _words(argv)
    run = compose(words, folders)
    problems: list[str] = []
    dataset: PreferenceDataset
    if isinstance(run.dataset, LocalConfig):
        dataset = LocalDataset(run.dataset, problems)
    else:
        dataset = open_dataset(run.dataset)
    console = Console()
    console.print(f"[bold]{dataset.name}[/]  {_origin(dataset)}", highlight=False)
    for what, count in dataset.cleaning().items():
        console.print(f"{what}: [yellow]{count:,}[/]", highlight=False)
    _problems(console, problems)
    console.print()
    texts = _texts(dataset)
    console.print(_counts(dataset))
    if not dataset.has_responses:
        console.print(
            f"[dim]responses are sampled ({run.dataset.pool.num_responses} per prompt); below are "
            f"demonstrations and, as scores, what the judge says of them; the first {DRAWN}[/]"
        )
    console.print()
    console.print(_lengths(run, dataset, texts))
    if dataset.has_responses:
        counts = Counter(
            count
            for split in _own_splits(dataset)
            for count in dataset.response_counts(split).values()
        )
        _bars(console, "responses per prompt", {str(k): counts[k] for k in sorted(counts)})
    _bars(console, "scores", _histogram([score for *_, score in texts]))
    _prompt_facts(console, dataset)
    _labels(console, run, dataset)
    _examples(console, texts)
    return 1 if problems else 0


def _problems(console: Console, problems: list[str]) -> None:
    """Rows for which a run would refuse the file: how many, and the first of them."""
    if not problems:
        return
    some = several(len(problems), "row")
    console.print(
        f"[red]{some} cannot be used, and no run takes the file with them; below are the others[/]",
        highlight=False,
    )
    for problem in problems[:PROBLEMS]:
        console.print(Text(f"  {problem}"), highlight=False)
    if len(problems) > PROBLEMS:
        console.print(f"  … and {len(problems) - PROBLEMS:,} more", highlight=False)


def _words(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Overrides, the level as the first of them, and further configuration folders."""
    words: list[str] = []
    given, folders = USAGE.overrides(argv)
    for word in given:
        if "=" in word or word.startswith("~"):
            words.append(word)
        elif any(other.startswith("dataset=") for other in words):
            raise ConfigError(f"'{word}': one dataset at a time (usage: {USAGE})")
        else:
            known = level_names("dataset", folders)
            if word not in known:
                raise ConfigError(f"there is no dataset '{word}'. Known: {', '.join(known)}")
            words.insert(0, f"dataset={word}")
    return words, folders


def _origin(dataset: PreferenceDataset) -> str:
    origin = dataset.origin()
    if "hub" in origin:
        return f"{origin['hub']} at commit {origin['commit']}"
    files = origin["files"] if origin else []
    if isinstance(files, dict):
        return ", ".join(f"{name} (sha256 {digest[:12]})" for name, digest in files.items())
    return ", ".join(f"sha256 {digest[:12]}" for digest in files) or "drawn by rule"


def _texts(dataset: PreferenceDataset) -> Texts:
    """Every response with its prompt and score; of a world, demonstrations with the judge's."""
    if not dataset.has_responses:
        return [
            (prompt, text, dataset.judge(prompt, text))
            for prompt, text in dataset.demonstrations()[:DRAWN]
        ]
    found = []
    for split in _own_splits(dataset):
        prompts = {prompt.id: prompt for prompt in dataset.prompts(split)}
        found += [
            (prompts[item.prompt_id], item.text, item.score) for item in dataset.responses(split)
        ]
    return found


def _own_splits(dataset: PreferenceDataset) -> list[str]:
    """Splits with prompts, without `sft` where it only repeats `train`."""
    return [
        split
        for split in SPLITS
        if dataset.num_prompts(split)
        and not (
            split == "sft"
            and dataset.has_responses
            and dataset.prompts("sft") == dataset.prompts("train")
        )
    ]


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="left" if place == 0 else "right")
    return table


def _counts(dataset: PreferenceDataset) -> Table:
    table = _table("split", "prompts", "responses", "per prompt")
    own = _own_splits(dataset)
    for split in SPLITS:
        prompts = dataset.num_prompts(split)
        counts = list(dataset.response_counts(split).values())
        each = ""
        if counts:
            each = (
                f"{min(counts)} to {max(counts)}" if min(counts) < max(counts) else f"{counts[0]}"
            )
        name = f"{split} (as train)" if prompts and split not in own else split
        table.add_row(name, f"{prompts:,}", f"{sum(counts):,}" if counts else "", each)
    return table


def _lengths(run: RunConfig, dataset: PreferenceDataset, texts: Texts) -> Table:
    """Characters and, where a tokenizer is at hand without loading a model, tokens."""
    if dataset.has_responses:
        prompts = [p.text for split in _own_splits(dataset) for p in dataset.prompts(split)]
    else:
        prompts = [p.text for s in _own_splits(dataset) for p in dataset.prompts(s, limit=DRAWN)]
    responses = [text for _, text, _ in texts]
    table = _table("length", "least", "median", "mean", "95 %", "most")
    kinds: list[tuple[str, Callable[[str], int]]] = [("characters", len)]
    counter = _token_counter(run, dataset)
    if counter is not None:
        kinds.append(counter)
    for unit, size in kinds:
        for name, group in (("prompts", prompts), ("responses", responses)):
            if group:
                sizes = np.array([size(text) for text in group])
                low, middle, high, most = np.quantile(sizes, [0, 0.5, 0.95, 1])
                table.add_row(
                    f"{name}, {unit}",
                    f"{low:.0f}",
                    f"{middle:.0f}",
                    f"{sizes.mean():.1f}",
                    f"{high:.0f}",
                    f"{most:.0f}",
                )
    return table


def _token_counter(
    run: RunConfig, dataset: PreferenceDataset
) -> tuple[str, Callable[[str], int]] | None:
    """Tokens of a text without special ones: words, bytes, or by a model folder's tokenizer."""
    model = run.base_model
    if model.kind == "scratch":
        if dataset.vocabulary is not None:
            return "tokens (words)", lambda text: len(text.split())
        return "tokens (bytes)", lambda text: len(text.encode())
    file = Path(model.path or "").expanduser() / "tokenizer.json"
    if not model.path or not file.is_file():
        return None
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    return "tokens", lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def _histogram(values: list[float]) -> dict[str, int]:
    """Counts by value where there are few different ones, else by equal steps."""
    if not values:
        return {}
    different = sorted(set(values))
    if len(different) <= BINS + 1:
        counts = Counter(values)
        return {f"{value:g}": counts[value] for value in different}
    numbers, edges = np.histogram(values, bins=BINS)
    return {
        f"{low:.3g} to {high:.3g}": int(number)
        for number, low, high in zip(numbers, edges, edges[1:], strict=False)
    }


def _bars(console: Console, title: str, counts: dict[str, int]) -> None:
    if not counts:
        return
    console.print(f"\n[bold]{title}[/]")
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right")
    table.add_column()
    table.add_column(justify="right")
    most, total = max(counts.values()), sum(counts.values())
    for name, count in counts.items():
        # whatever is there is seen
        length = max(1, round(BAR * count / most)) if count else 0
        table.add_row(f"  {name}", "█" * length, f"{count:,} ({100 * count / total:.1f} %)")
    console.print(table)


def _prompt_facts(console: Console, dataset: PreferenceDataset) -> None:
    """Turns, system messages, sources, gold responses and rationales, where there are any."""
    if not dataset.has_responses:
        return
    splits = _own_splits(dataset)
    prompts = [prompt for split in splits for prompt in dataset.prompts(split)]
    several = [prompt.messages for prompt in prompts if prompt.messages is not None]
    if several:
        system = sum(messages[0]["role"] == "system" for messages in several)
        turns = sum(len([m for m in messages if m["role"] == "user"]) > 1 for messages in several)
        console.print(
            f"\n{turns} of {len(prompts)} prompts have several turns, {system} a system message",
            highlight=False,
        )
    for name, found in (("gold response", dataset.gold), ("rationale", dataset.rationale)):
        number = sum(len(found(split)) for split in splits)
        if number:
            console.print(f"\n{number} of {len(prompts)} prompts have a {name}", highlight=False)
    sources = Counter(prompt.source for prompt in prompts if prompt.source)
    if len(sources) > 1:
        _bars(console, "sources (the largest)", dict(sources.most_common(8)))


def _labels(console: Console, run: RunConfig, dataset: PreferenceDataset) -> None:
    """How far the label model leaves the given order as it is, on the training prompts."""
    labels = run.dataset.labels
    if labels.clean:
        return
    legality_lines = list(legality.label_reasons(run, isinstance(run.dataset, GivenConfig)))
    if legality_lines:
        raise ConfigError("\n".join(legality_lines))
    settings = {key: value for key, value in labels.identity().items() if value}
    console.print(f"\n[bold]label model[/] {settings}", highlight=False)
    given = dataset.responses("train")
    if not given:
        console.print("  applied when the pool is labelled; `ablate show` tells its effect")
        return
    clean = np.array([item.score for item in given])
    prompts = [item.prompt_id for item in given]
    made = label_models.label(
        labels,
        run.seed.value if run.seed.scope == "all" else 0,
        prompts,
        [item.index for item in given],
        [item.text for item in given],
        clean,
        dataset.nuisance_words,
    )
    from ablate.rewards.agreement import pair_accuracy

    agreement = pair_accuracy(made.label, clean, np.array(prompts))
    console.print(
        f"  training labels order {100 * agreement:.1f} % of the untied pairs as the scores do",
        highlight=False,
    )


def _examples(console: Console, texts: Texts) -> None:
    """The first prompts, each with its best and its worst response."""
    groups: dict[str, Texts] = {}
    # training prompts first
    for item in sorted(texts, key=lambda item: item[0].split not in ("train", "sft")):
        groups.setdefault(item[0].id, []).append(item)
    if not groups:
        raise DataError("there is no response to show")
    console.print("\n[bold]examples[/]")
    for group in list(groups.values())[:EXAMPLES]:
        prompt = group[0][0]
        console.print(Text(f"\n{_short(prompt.text)}", style="bold"), highlight=False)
        ranked = sorted(group, key=lambda item: -item[2])
        for item in [ranked[0], ranked[-1]] if len(ranked) > 1 else ranked:
            _, text, score = item
            console.print(Text(f"  {score:8.3g}  {_short(text)}"), highlight=False)


def _short(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]} …"
