"""`ablate sample`: prompts, the responses that training would see, and their scores."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from ablate.cli.usage import LEVELS, STORE, Usage
from ablate.cli.words import several
from ablate.config import legality
from ablate.config.compose import compose
from ablate.errors import ConfigError
from ablate.printed import fixed

if TYPE_CHECKING:
    from ablate.stages.graph import Stage
    from ablate.store.stages import StageStore

USAGE = Usage(
    "ablate sample [factor=level …] [setting=value …] [-cd DIR]",
    "Prints training prompts, the responses that training would see, and their scores.",
    words=(("factor=level", "as for a run: dataset, base_model, sampler, judge …"), STORE, LEVELS),
    examples=(
        "ablate sample",
        "ablate sample dataset=sums base_model=small",
        "ablate sample dataset=local dataset.path=prefs.jsonl",
        "ablate data local dataset.path=prefs.jsonl      # the file alone, without a model",
    ),
    notes="What is needed and not in the store is computed first, and kept for runs that need the "
    "same: the SFT policy, its responses (or a file's, in the model's tokens) and their labels. "
    "What only training needs (objective, reward, num_responses) is not asked for.",
)
PROMPTS_SHOWN = 6
ANSWERS_SHOWN = 3


def main(argv: Sequence[str]) -> int:
    """Prints some responses; takes the same factor=level words as a run (say dataset=sums)."""
    words, folders = USAGE.overrides(argv)
    for word in words:
        if "=" not in word and not word.startswith("~"):
            raise ConfigError(f"'{word}' is not of the form factor=level (usage: {USAGE})")
    run = compose(words, folders)
    legality.check_sampling(run)

    from ablate.cli.progress import open_display
    from ablate.cli.run import quiet_libraries
    from ablate.launch.sweep import layout_of
    from ablate.stages.execute import Execution
    from ablate.stages.graph import plan_labels
    from ablate.stages.preflight import check_sampling
    from ablate.store.layout import check_writable
    from ablate.store.stages import StageStore
    from ablate.store.tables import read_table

    check_sampling(run)
    layout = layout_of(run)
    check_writable(layout, run.runtime.min_free_mb)
    quiet_libraries()
    console = Console()
    labels_stage = plan_labels(run, layout)
    store = StageStore(layout)
    told = _to_make(labels_stage, store)
    if told:
        console.print(f"[dim]{told}[/]", highlight=False, soft_wrap=True)
    with open_display(console) as display:
        execution = Execution(store, display)
        pool = read_table(execution.ensure(labels_stage.inputs["pool"]) / "pool.parquet")
        labels = read_table(execution.ensure(labels_stage) / "labels.parquet")
    console.print()
    if "clean" in labels:
        labels = labels.assign(label=labels["clean"])
    table = pool.merge(labels, on=["prompt_id", "index"])
    for _, rows in list(table.groupby("prompt_id", sort=False))[:PROMPTS_SHOWN]:
        # what a person wrote is no markup
        console.print(Text(rows["prompt"].iloc[0], style="bold"))
        for row in rows.head(ANSWERS_SHOWN).itertuples():
            console.print(Text(f"  {fixed(row.label, 2):>6}  {row.response}"))
    spread = table.groupby("prompt_id")["label"]
    given = labels_stage.params["source"] == "given"
    console.print(
        f"\n{len(table)} {_origin(labels_stage)} to {spread.ngroups} prompts: mean "
        f"{'score in the dataset' if given else 'judge score'} "
        f"{fixed(table['label'].mean(), 2)}, standard deviation within prompts "
        f"{fixed(spread.std().mean(), 2)}, mean of the best {fixed(spread.max().mean(), 2)}",
        highlight=False,
    )
    return 0


def _to_make(labels: "Stage", store: "StageStore") -> str:
    """What has to be computed first, and that it is kept; nothing where all is in the store."""
    lacking = [s for s in labels.walk() if not store.exists(s.name, s.identity)]
    if not lacking:
        return ""
    parts = []
    for stage in lacking:
        model = stage.run.base_model
        trained = f" (base_model={model.name}, {several(model.sft.steps, 'step')} of training)"
        parts.append(stage.title + (trained if stage.name == "sft" else ""))
    return (
        f"first computed, and kept in {store.layout.root} for runs that need the same: "
        + ", ".join(parts)
    )


def _origin(labels: "Stage") -> str:
    """Whose responses they are: a pool that is sampled has sampling among its parameters."""
    if "pool" in labels.inputs["pool"].params:
        return "answers of the SFT policy"
    return "responses of the dataset"
