"""`ablate objectives`: every preference objective with its formula, needs and defaults."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ablate.cli.objective_facts import Facts, NotOffered, all_facts, facts, not_offered
from ablate.cli.objective_page import show_page
from ablate.cli.usage import LEVELS, Usage
from ablate.cli.words import several
from ablate.errors import ConfigError

USAGE = Usage(
    "ablate objectives [LEVEL] [--format table|md] [--into FILE] [-cd DIR]",
    "Lists the preference objectives with formula, needs and defaults, or shows one in full.",
    words=(
        ("LEVEL", "one objective: its slots, parameters, file, and how to use it"),
        ("--format table|md", "of the list: for the screen, or a GitHub table"),
        ("--into FILE", "put the GitHub table between the marker lines of a file"),
        LEVELS,
    ),
    examples=("ablate objectives", "ablate objectives simpo", "ablate objectives --format md"),
)
#: columns of a table that needs this much room; narrower screens stack them
WIDE = 170
BEGIN = "<!-- begin: ablate objectives -->"
END = "<!-- end: ablate objectives -->"

NOT_OFFERED = "Not verified, not offered"
LEGEND = (
    "K responses y_k per prompt x; r reward; w the better and l the worse response of a pair; "
    "Δ better minus worse. s = log π(y|x), summed over tokens; h = s - s_ref, the log-ratio to the "
    "reference; βh is the implicit reward; a bar divides by the number of tokens.",
    "RPO reading: the distance D, the target and the score that make the loss an instance of "
    "reward-aware preference optimization (arXiv 2502.00203).",
    "Defaults: the parameters that the level sets, with their source; `beta` is objective.beta on "
    "the command line.",
    "Python only: no run can give what the objective needs; `ablate objectives LEVEL` says what.",
    "RPO, PRO, SPO, TPO, APO and VPO are each the name of several methods: go by title and arXiv "
    "id.",
)


def main(argv: Sequence[str]) -> int:
    """Prints all levels or one; reads YAML files only."""
    USAGE.show_if_asked(argv)
    args = _parse(argv)
    console = Console()
    if args.level is not None:
        if args.format != "table" or args.into:
            raise ConfigError(f"--format and --into are for the whole list (usage: {USAGE})")
        show_page(console, facts(args.level, args.config_dir))
        return 0
    found, missing = all_facts(args.config_dir), not_offered()
    if args.into:
        insert(Path(args.into), markdown(found, missing))
        console.print(
            f"{several(len(found), 'objective')} written into {args.into}", highlight=False
        )
    elif args.format == "md":
        print(markdown(found, missing))
    else:
        show_list(console, found, missing)
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    flags = argparse.ArgumentParser(prog="ablate objectives", add_help=False, allow_abbrev=False)
    flags.add_argument("level", nargs="?")
    flags.add_argument("--format", choices=["table", "md"], default="table")
    flags.add_argument("--into")
    flags.add_argument("-cd", "--config-dir", action="append", default=[])

    def refuse(message: str) -> Any:
        raise ConfigError(f"{message} (usage: {USAGE})")

    flags.error = refuse  # type: ignore[method-assign]
    args = flags.parse_args(list(argv))
    for folder in args.config_dir:
        if not Path(folder).is_dir():
            raise ConfigError(f"the configuration folder {folder} does not exist")
    return args


def show_list(console: Console, found: list[Facts], missing: list[NotOffered]) -> None:
    """A table where there is room for its columns, else a short paragraph per level."""
    if console.width >= WIDE:
        console.print(_table(found))
    else:
        for item in found:
            console.print(_paragraph(item))
    console.print()
    for line in LEGEND:
        console.print(Text(line, style="dim"))
    if missing:
        console.print(f"\n[bold]{NOT_OFFERED}[/]")
        table = Table.grid(padding=(0, 2))
        for row in missing:
            arxiv = f"arXiv {row.arxiv}" if row.arxiv else ""
            table.add_row(Text(f"  {row.name}"), Text(arxiv), Text(row.reason, style="dim"))
        console.print(table)
    console.print(
        f"\n{several(len(found), 'objective')}; `ablate objectives LEVEL` shows one in full"
    )


def _paragraph(item: Facts) -> Table:
    title = Text.assemble((_label(item), "bold"), f"  {item.config.title}")
    body = Table.grid(padding=(0, 1))
    body.add_column(no_wrap=True, style="dim", min_width=10)
    body.add_column(overflow="fold")
    body.add_row("  loss", Text(item.config.formula))
    body.add_row("  RPO", Text(item.config.rpo_reading))
    body.add_row("  needs", Text(", ".join(item.needs())))
    body.add_row("  defaults", Text(", ".join(item.default_words(with_sources=True))))
    body.add_row("  source", Text(f"{item.arxiv}; formula read in {item.verified}"))
    whole = Table.grid()
    whole.add_row(title)
    whole.add_row(body)
    return whole


def _label(item: Facts) -> str:
    return item.name if item.blocked is None else f"{item.name} (Python only)"


def _table(found: list[Facts]) -> Table:
    table = Table(header_style="bold", box=None, pad_edge=False, padding=(0, 2, 1, 0), expand=True)
    for heading, share in (("level", 10), ("title, arXiv", 16), ("loss", 24), ("RPO reading", 20),
                           ("needs", 10), ("defaults", 18), ("formula read in", 10)):  # fmt: skip
        table.add_column(heading, ratio=share, overflow="fold")
    for item in found:
        table.add_row(
            Text(_label(item), style="bold"),
            Text(f"{item.config.title}\n{item.arxiv}"),
            Text(item.config.formula),
            Text(item.config.rpo_reading),
            Text(", ".join(item.needs())),
            Text(", ".join(item.default_words(with_sources=True))),
            Text(item.verified),
        )
    return table


def markdown(found: list[Facts], missing: list[NotOffered]) -> str:
    """The list as a GitHub table, its legend below, and what is not offered."""
    rows = ["| level | title | arXiv | loss | RPO reading | needs | defaults | formula read in |"]
    rows.append("|---" * 8 + "|")
    for item in found:
        rows.append(
            _row(
                f"`{item.name}`{_label(item).removeprefix(item.name)}",
                item.config.title,
                _link(item.config.arxiv),
                f"`{item.config.formula}`",
                item.config.rpo_reading,
                ", ".join(item.needs()),
                ", ".join(item.default_words(with_sources=True)),
                item.verified,
            )
        )
    rows += ["", *(f"- {line}" for line in LEGEND)]
    if missing:
        rows += ["", f"## {NOT_OFFERED}", "", "| name | arXiv | reason |", "|---" * 3 + "|"]
        rows += [_row(row.name, _link(row.arxiv), row.reason) for row in missing]
    return "\n".join(rows)


def _row(*cells: str) -> str:
    """A line of a GitHub table; a bar inside a cell would begin another one."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _link(arxiv: str | None) -> str:
    return f"[{arxiv}](https://arxiv.org/abs/{arxiv})" if arxiv else "none"


def insert(path: Path, text: str) -> None:
    """Replaces what stands between the two marker lines of a file.

    Raises:
        ConfigError: no such file, or not exactly one of each marker in their order.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    head, begin, rest = content.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in tail:
        raise ConfigError(f"{path} must hold the line {BEGIN} and below it the line {END}, once")
    path.write_text(f"{head}{BEGIN}\n{text}\n{END}{tail}", encoding="utf-8")
