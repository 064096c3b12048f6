"""One objective on the screen in full: slots and what else they take, parameters, its file."""

from rich.console import Console
from rich.padding import Padding
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from ablate.cli.objective_facts import (
    GROUP,
    LOG_Z,
    Facts,
    choices,
    plain,
    slots,
    unused,
)
from ablate.config.levels import conf_dir, read_level


def show_page(console: Console, item: Facts) -> None:
    """Prints everything that the level's files say, and how to use it."""
    config = item.config
    console.print(Text.assemble((item.name, "bold"), "  ", config.title))
    console.print(Text(item.summary, style="dim"))
    console.print()
    head = _grid()
    head.add_row("paper", Text(item.arxiv))
    head.add_row("loss", Text(config.formula))
    head.add_row("RPO reading", Text(config.rpo_reading))
    head.add_row("β log Z(x)", Text(LOG_Z.get(config.log_z, config.log_z)))
    head.add_row("needs", Text(", ".join(item.needs())))
    head.add_row("verified in", Text(item.verified))
    console.print(head)

    console.print("\n[bold]slots[/]  [dim]bold: other than in most levels[/]")
    console.print(_slots(item))
    console.print("\n[bold]parameters[/]")
    console.print(_parameters(item))

    console.print("\n[bold]file[/] ", end="")
    console.print(Text(str(item.path)), soft_wrap=True)
    # to be copied: no line is broken, none is filled with spaces
    code = item.path.read_text(encoding="utf-8").rstrip()
    yaml = Syntax(code, "yaml", theme="ansi_light", background_color="default")
    console.print(yaml.highlight(code), soft_wrap=True, end="")
    console.print("\n[bold]use[/]")
    if item.blocked is not None:
        console.print(Padding(Text(f"in Python only: {item.blocked}"), (0, 0, 0, 2)))
    for line in _uses(item):
        # to be copied, so not broken into lines
        console.print(Text(f"  {line}"), soft_wrap=True)


def _uses(item: Facts) -> list[str]:
    """Commands, where a run can serve the level, and two lines of Python."""
    name = item.name
    beta = item.config.beta
    change = f" {GROUP}.beta={plain(3 * beta)}" if beta else ""
    value = f", beta={plain(beta)}"
    folder = item.path.parent.parent
    own = folder != conf_dir()
    found = f" --config-dir {folder}" if own else ""
    lines = []
    if item.blocked is None:
        other = "dpo" if name != "dpo" else "rpo_bwd"
        lines = [
            f"ablate {GROUP}={name}{change}{found}",
            f"ablate {GROUP}={other},{name} seed=0,1,2 -m{found}",
        ]
    search = f', search=["{folder}"]' if own else ""
    return [
        *lines,
        "from ablate.objectives import PromptGroup, make_objective",
        f'make_objective("{name}"{value}{search})(group).loss',
    ]


def _slots(item: Facts) -> Table:
    usual = read_level(GROUP, "_base")
    table = _grid()
    table.add_column(style="dim", overflow="fold")
    for name in slots():
        value = plain(getattr(item.config, name))
        others = [choice for choice in choices(name) if choice != value]
        changed = name in usual and value != plain(usual[name])
        table.add_row(f"  {name}", Text(value, "bold" if changed else ""), ", ".join(others))
    return table


def _parameters(item: Facts) -> Table:
    table = _grid()
    for name, value in item.defaults.items():
        source = item.sources.get(name)
        table.add_row(f"  {name}", Text.assemble(plain(value), (f"  {source or ''}", "dim")))
    empty = [f"{name} ({owner})" if owner else name for name, owner in unused(item.config).items()]
    table.add_row("  not used", Text(", ".join(empty), style="dim"))
    return table


def _grid() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    return table
