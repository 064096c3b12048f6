"""Words of the command line: counts with their nouns."""


def several(number: int, what: str) -> str:
    """A count with its noun: `1 thread`, `2 threads`, `4,096 prompts`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
