"""The command line: a first word that is a subcommand, or else a run or a sweep."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from ablate.cli.commands import COMMANDS
from ablate.errors import AblateError

INTERRUPTED = 130


def run(argv: Sequence[str]) -> int:
    """Runs a command line; returns the exit code.

    Mistakes end in one message and a code other than 0; `ABLATE_DEBUG=1` shows the traceback.
    """
    # Hydra would format errors in its own way otherwise
    os.environ["HYDRA_FULL_ERROR"] = "1"
    signal.signal(signal.SIGTERM, _terminate)
    debug = os.environ.get("ABLATE_DEBUG", "") not in ("", "0")
    try:
        return _command(argv)(argv)
    except AblateError as error:
        if debug:
            raise
        _say(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        # a second Ctrl-C must not cut the clean end short
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _say("interrupted; stages that were finished are kept, nothing is half-written")
        return INTERRUPTED
    except BrokenPipeError:
        # the reader of our output went away (`ablate ls | head`)
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            raise
        _say(f"unexpected {type(error).__name__}: {error}\nABLATE_DEBUG=1 shows the traceback")
        return 1


def _command(argv: Sequence[str]) -> Callable[[Sequence[str]], int]:
    """The function for the first word; what is no subcommand is a run or a sweep."""
    if argv and argv[0] in COMMANDS:
        module, function = COMMANDS[argv[0]][0].split(":")
        command: Callable[[Sequence[str]], int] = getattr(import_module(module), function)
        return lambda words: command(words[1:])
    from ablate.cli.run import main

    return main


def _say(message: str) -> None:
    first, *rest = message.splitlines() or [""]
    print(f"ablate: {first}", file=sys.stderr)
    for line in rest:
        print(f"        {line}", file=sys.stderr)


def _terminate(signum: int, frame: object) -> None:
    """SIGTERM ends like Ctrl-C, so that private folders and claims are removed."""
    raise KeyboardInterrupt
