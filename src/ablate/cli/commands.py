"""The subcommands: their names, where they lie, one line of help each."""

#: subcommand -> (module:function, one line of help); modules are imported when they are called
COMMANDS: dict[str, tuple[str, str]] = {
    "ls": ("ablate.cli.ls:main", "list the runs in the store"),
    "show": ("ablate.cli.show:main", "show one run: result, settings, provenance, answers"),
    "plan": (
        "ablate.cli.plan:main",
        "what a command line would run, what is in the store, what it would cost; writes nothing",
    ),
    "table": (
        "ablate.cli.table_command:main",
        "a tested table of finished runs: --rows objective --cols num_responses --baseline dpo",
    ),
    "report": (
        "ablate.cli.report:main",
        "one self-contained HTML file of a study: tables, figures, answers to read",
    ),
    "compare": (
        "ablate.cli.compare:main",
        "two runs or cells paired by prompt, and where they differ most",
    ),
    "effects": (
        "ablate.cli.effects:main",
        "which factor matters over a grid: main effects and interactions, with a figure",
    ),
    "compact": (
        "ablate.cli.compact:main",
        "the store's records and tables in few large files: fast tables of many runs",
    ),
    "sample": (
        "ablate.cli.sample:main",
        "print prompts, responses of the SFT policy or the dataset, and their scores",
    ),
    "data": (
        "ablate.cli.data:main",
        "what a dataset holds: counts, lengths, scores, what was left out, examples",
    ),
    "objectives": (
        "ablate.cli.objectives:main",
        "the preference objectives: formula, needs and defaults; or one in full",
    ),
    "status": ("ablate.cli.status:main", "how the runs of a sweep stand"),
    "retry": ("ablate.cli.retry:main", "runs of a sweep that failed or were lost, once more"),
    "cancel": ("ablate.cli.cancel:main", "stop what is left of a sweep, on SLURM or here"),
    "logs": ("ablate.cli.logs:main", "what a run of a sweep printed"),
    "cache": ("ablate.cli.cache:main", "sizes and users of the store's stages; prune them"),
    "help": ("ablate.cli.help:main", "the factors with their levels, and examples"),
}
