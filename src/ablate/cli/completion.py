"""Shell completion: Hydra's for factors, levels and settings, ours for the first word."""

import os
from collections.abc import Sequence

from ablate.cli.commands import COMMANDS
from ablate.config.compose import CONFIG_NAME, hydra_session


def complete_shell(words: Sequence[str]) -> int:
    """Answers `-sc install=SHELL`, `-sc uninstall=SHELL` and `-sc query=SHELL`."""
    if any(word.startswith("query=") for word in words):
        typed = os.environ.get("COMP_LINE", "").split(" ")[1:]
        if len(typed) == 1:
            for name in COMMANDS:
                if name.startswith(typed[0]):
                    print(name)
    with hydra_session() as hydra:
        hydra.shell_completion(config_name=CONFIG_NAME, overrides=list(words))
    return 0
