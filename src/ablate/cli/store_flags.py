"""Flags of subcommands that read the store: `results_dir=DIR` as a word, errors as messages."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from ablate.cli.store_words import default_results_dir
from ablate.cli.usage import STORE, in_lines
from ablate.errors import ConfigError, StoreError
from ablate.results import Damaged
from ablate.store.layout import Layout

#: exit code of a command that did its work without some damaged records
SOME_DAMAGED = 3


class Flags(argparse.ArgumentParser):
    """A parser whose mistakes are one message, and whose help has the form of all others."""

    def __init__(
        self, name: str, sentence: str, examples: Sequence[str] = (), notes: str = ""
    ) -> None:
        super().__init__(
            prog=f"ablate {name}",
            description="\n\n".join([sentence, *([in_lines(notes)] if notes else [])]),
            epilog="\n".join(["examples:", *(f"  {example}" for example in examples)]),
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            add_help=False,
        )
        self.add_argument("-h", "--help", action="help", help="show this help and stop")
        word, told = STORE
        self.add_argument_group("words", f"{word:22}{told}")

    def error(self, message: str) -> Any:
        raise ConfigError(f"{message} (see {self.prog} --help)")


def take_results_dir(argv: Sequence[str]) -> tuple[Layout, list[str]]:
    """The store and the remaining words.

    Raises:
        StoreError: no such folder.
    """
    given = [word.partition("=")[2] for word in argv if word.startswith("results_dir=")]
    words = [word for word in argv if not word.startswith("results_dir=")]
    layout = Layout(Path(given[-1] if given else default_results_dir()).expanduser())
    if not layout.root.is_dir() and not {"-h", "--help"} & set(words):
        raise StoreError(
            f"there is no results folder {layout.root.resolve()}; "
            "run `ablate` first, or name another with results_dir=DIR"
        )
    return layout, words


def tell_damaged(damaged: Sequence[Damaged]) -> int:
    """Names damaged records on standard error; the exit code that they ask for."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    for item in damaged:
        console.print(f"[red]damaged[/] {item}")
    return SOME_DAMAGED if damaged else 0
