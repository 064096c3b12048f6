"""`ablate --help`: what it does, the factors with their levels, three examples."""

from collections.abc import Sequence
from importlib import import_module

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ablate.cli.commands import COMMANDS
from ablate.cli.usage import HELP
from ablate.config.levels import level_names, level_summary
from ablate.errors import ConfigError

FACTORS = {
    "objective": "what the policy is trained to minimise",
    "num_responses": "K, the responses per prompt that enter the loss",
    "reward": "what training sees of the responses' quality",
    "shaping": "what the length of an answer does to its 0/1 reward",
    "base_model": "the model before preference training",
    "dataset": "prompts, responses and demonstrations",
    "collection": "how often responses are refreshed",
    "sampler": "what draws the responses",
    "judge": "who scores labels and evaluation",
    "evaluation": "which held-out prompts are answered, and how",
    "training": "optimiser, batches, checkpoints",
    "tracker": "where step metrics are mirrored",
}

EXAMPLES = [
    ("ablate", "one run with the defaults: a first result in minutes"),
    ("ablate objective=simpo num_responses=4 objective.beta=2.5", "one level, one setting"),
    (
        "ablate objective=dpo,simpo,rpo_bwd num_responses=2,4 seed=0,1 -m",
        "a sweep: twelve runs, one table",
    ),
    ("ablate data hh_rlhf dataset.path=~/hh-rlhf", "look at a dataset before using it"),
]


def main(argv: Sequence[str]) -> int:
    """Prints the help, or that of the subcommand that is named; always 0.

    Raises:
        ConfigError: no such subcommand.
    """
    words = [word for word in argv if word not in HELP]
    if words and words[0] != "help":
        if words[0] not in COMMANDS or words[1:]:
            raise ConfigError(f"help takes one subcommand: {', '.join(COMMANDS)}")
        module, function = COMMANDS[words[0]][0].split(":")
        return int(getattr(import_module(module), function)(["--help"]))
    console = Console()
    console.print(
        "[bold]ablate[/] — ablation studies of preference optimisation (arXiv 2502.00203)"
    )
    console.print("\nusage: ablate \\[factor=level …] \\[setting=value …] \\[-m]")
    console.print("       ablate SUBCOMMAND …\n")
    console.print("[bold]examples[/]")
    for command, meaning in EXAMPLES:
        console.print(f"  {command}", highlight=False)
        console.print(f"      [dim]{meaning}[/]", highlight=False)
    console.print(
        "\n[bold]subcommands[/] (only as the first word; `ablate SUBCOMMAND --help` tells more)"
    )
    table = _grid()
    for name, (_, meaning) in COMMANDS.items():
        table.add_row(f"  {name}", meaning)
    console.print(table)
    console.print("\n[bold]flags[/] (anywhere)")
    table = _grid()
    for flag, meaning in (
        ("-m, --multirun", "run every combination of comma-separated alternatives"),
        ("--cfg job", "print the composed configuration and stop (--resolve, --package NODE)"),
        ("-cd, --config-dir DIR", "a folder with levels of your own, laid out like conf/"),
        ("-sc install=bash", 'shell completion: eval "$(ablate -sc install=bash)"'),
        ("--version", "the version"),
    ):
        table.add_row(f"  {flag}", meaning)
    console.print(table)
    console.print("\n[bold]factors and their levels[/]")
    for factor, meaning in FACTORS.items():
        console.print(f"\n  [bold]{factor}[/]  [dim]{meaning}[/]", highlight=False)
        table = _grid()
        for level in level_names(factor):
            table.add_row(f"    {level}", escape(level_summary(factor, level)))
        console.print(table)
    console.print(
        "\nEvery setting of a level can be given as factor.setting=value; "
        "`ablate --cfg job` shows them all.\n"
        "seed=3 chooses the seed; force=true trains again; results_dir=DIR chooses the store."
    )
    return 0


def _grid() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, min_width=24)
    table.add_column(style="dim")
    return table
