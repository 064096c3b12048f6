"""`ablate sample`: prompts, the responses that training would see, and their scores."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from ablate.config import legality
from ablate.config.compose import compose
from ablate.errors import ConfigError

if TYPE_CHECKING:
    from ablate.stages.graph import Stage

PROMPTS_SHOWN = 6
ANSWERS_SHOWN = 3


def main(argv: Sequence[str]) -> int:
    """Prints some responses; takes the same factor=level words as a run (say dataset=sums)."""
    for word in argv:
        if word.startswith("-"):
            raise ConfigError("usage: ablate sample [factor=level …]")
    run = compose(list(argv))
    legality.check(run)

    from ablate.cli.progress import StageBars
    from ablate.cli.run import quiet_libraries
    from ablate.launch.sweep import layout_of
    from ablate.stages.execute import Execution
    from ablate.stages.graph import plan
    from ablate.stages.preflight import check_data
    from ablate.store.layout import check_writable
    from ablate.store.stages import StageStore
    from ablate.store.tables import read_table

    check_data(run)
    layout = layout_of(run)
    check_writable(layout, run.runtime.min_free_mb)
    quiet_libraries()
    console = Console()
    labels_stage = next(s for s in plan(run, layout).stages() if s.name == "labels")
    with StageBars(console) as bars:
        execution = Execution(StageStore(layout), bars)
        pool = read_table(execution.ensure(labels_stage.inputs["pool"]) / "pool.parquet")
        labels = read_table(execution.ensure(labels_stage) / "labels.parquet")
    console.print()
    if "clean" in labels:
        labels = labels.assign(label=labels["clean"])
    table = pool.merge(labels, on=["prompt_id", "index"])
    for _, rows in list(table.groupby("prompt_id", sort=False))[:PROMPTS_SHOWN]:
        console.print(f"[bold]{rows['prompt'].iloc[0]}[/]", highlight=False)
        for row in rows.head(ANSWERS_SHOWN).itertuples():
            console.print(f"  {row.label:6.2f}  {row.response}", highlight=False)
    spread = table.groupby("prompt_id")["label"]
    given = labels_stage.params["source"] == "given"
    console.print(
        f"\n{len(table)} {_origin(labels_stage)} to {spread.ngroups} prompts: mean "
        f"{'score in the dataset' if given else 'judge score'} "
        f"{table['label'].mean():.2f}, standard deviation within prompts "
        f"{spread.std().mean():.2f}, mean of the best {spread.max().mean():.2f}",
        highlight=False,
    )
    return 0


def _origin(labels: "Stage") -> str:
    """Whose responses they are: a pool that is sampled has sampling among its parameters."""
    if "pool" in labels.inputs["pool"].params:
        return "answers of the SFT policy"
    return "responses of the dataset"
