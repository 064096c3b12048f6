"""The subcommands: their names, where they lie, one line of help each."""

#: subcommand -> (module:function, one line of help); modules are imported when they are called
COMMANDS: dict[str, tuple[str, str]] = {
    "ls": ("ablate.cli.ls:main", "list the runs in the store"),
    "show": ("ablate.cli.show:main", "show one run: result, settings, provenance, answers"),
    "sample": (
        "ablate.cli.sample:main",
        "print prompts, answers of the SFT policy and their judge scores",
    ),
    "data": (
        "ablate.cli.data:main",
        "what a dataset holds: counts, lengths, scores, what was left out, examples",
    ),
    "objectives": (
        "ablate.cli.objectives:main",
        "the preference objectives: formula, needs and defaults; or one in full",
    ),
    "help": ("ablate.cli.help:main", "the factors with their levels, and examples"),
}
