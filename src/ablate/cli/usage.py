"""What `ablate SUBCOMMAND --help` says: the same form for every subcommand."""

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import fill

from ablate.errors import ConfigError

HELP = frozenset({"-h", "--help"})
WIDTH = 98
STORE = ("results_dir=DIR", "another store than the default one")
LEVELS = ("-cd DIR", "a folder with levels of your own, laid out like conf/")


def in_lines(notes: str) -> str:
    """A text broken into lines of a common width."""
    return fill(notes, WIDTH, break_on_hyphens=False)


@dataclass(frozen=True)
class Usage:
    """A subcommand's usage line, what it does in one sentence, its words and flags, examples."""

    line: str
    sentence: str
    #: word or flag, and what it means
    words: tuple[tuple[str, str], ...] = ()
    examples: tuple[str, ...] = ()
    #: what else is to be known
    notes: str = ""

    def __str__(self) -> str:
        return self.line

    def text(self) -> str:
        """The help, in the form that argparse gives to the other subcommands."""
        flags = [("-h, --help", "show this help and stop")]
        flags += [item for item in self.words if item[0].startswith("-")]
        words = [item for item in self.words if not item[0].startswith("-")]
        parts = [f"usage: {self.line}", self.sentence]
        parts += [in_lines(self.notes)] if self.notes else []
        for title, items in (("options:", flags), ("words:", words)):
            parts.append("\n".join([title, *(f"  {word:22}{told}" for word, told in items)]))
        parts.append("\n".join(["examples:", *(f"  {example}" for example in self.examples)]))
        return "\n\n".join(parts)

    def show_if_asked(self, argv: Sequence[str]) -> None:
        """Prints the help and ends the command where it was asked for."""
        if HELP & set(argv):
            print(self.text())
            raise SystemExit(0)

    def overrides(self, argv: Sequence[str]) -> tuple[list[str], list[str]]:
        """Words, of which settings are checked by who composes them, and configuration folders.

        Raises:
            ConfigError: any other flag.
        """
        self.show_if_asked(argv)
        words, folders, rest = [], [], list(argv)
        while rest:
            word = rest.pop(0)
            if word in ("-cd", "--config-dir") and rest:
                folders.append(rest.pop(0))
            elif word.startswith("-"):
                name = self.line.split()[1]
                raise ConfigError(f"{name} takes no flag {word} (usage: {self.line})")
            else:
                words.append(word)
        return words, folders
