"""A run or a sweep: flags and overrides anywhere on the line, composed by Hydra."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ablate import __version__
from ablate.cli.commands import COMMANDS
from ablate.config import legality
from ablate.config.compose import CONFIG_NAME, compose, hydra_session, readable_errors
from ablate.config.expand import Expansion, expand
from ablate.config.overrides import normalize
from ablate.errors import ConfigError

if TYPE_CHECKING:
    from ablate.stages.graph import RunPlan


def parser() -> argparse.ArgumentParser:
    """Flags with Hydra's names where they exist there."""
    flags = argparse.ArgumentParser(prog="ablate", add_help=False, allow_abbrev=False)
    flags.add_argument("overrides", nargs="*")
    flags.add_argument("-h", "--help", action="store_true")
    flags.add_argument("--version", action="store_true")
    flags.add_argument("-m", "--multirun", action="store_true")
    flags.add_argument("-cd", "--config-dir", action="append", default=[])
    flags.add_argument("-c", "--cfg", choices=["job", "hydra", "all"])
    flags.add_argument("-p", "--package")
    flags.add_argument("--resolve", action="store_true")
    flags.add_argument("-sc", "--shell-completion", action="store_true")
    return flags


def main(argv: Sequence[str]) -> int:
    """Carries out a command line that is no subcommand; returns the exit code."""
    args = _parse(argv)
    if args.help:
        from ablate.cli.help import main as show_help

        return show_help([])
    if args.version:
        print(f"ablate {__version__}")
        return 0
    if args.shell_completion:
        from ablate.cli.completion import complete_shell

        return complete_shell(args.overrides)
    for word in args.overrides:
        _check_word(word)
    words = normalize(args.overrides, args.config_dir)
    if args.cfg is not None:
        with hydra_session(args.config_dir) as hydra, readable_errors(args.config_dir):
            hydra.show_cfg(
                config_name=CONFIG_NAME,
                overrides=words,
                cfg_type=args.cfg,
                package=args.package,
                resolve=args.resolve,
            )
        return 0
    if args.multirun:
        return _sweep(words, args.config_dir)
    if any(word.split("=", 1)[0].lstrip("+") == "sweep" for word in words):
        raise ConfigError("a named sweep is several runs: add -m")
    return _single(words, args.config_dir)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    flags = parser()

    def refuse(message: str) -> Any:
        raise ConfigError(f"{message} (see ablate --help)")

    flags.error = refuse  # type: ignore[method-assign]
    # intermixed: overrides may stand before and after flags
    return flags.parse_intermixed_args(list(argv))


def _check_word(word: str) -> None:
    if "=" in word or word.startswith("~"):
        return
    if word in COMMANDS:
        raise ConfigError(f"'{word}' is a subcommand and must be the first word")
    known = ", ".join(COMMANDS)
    raise ConfigError(
        f"'{word}' is neither a subcommand ({known}) nor of the form factor=level or setting=value"
    )


def _single(words: list[str], config_dirs: list[str]) -> int:
    from rich.console import Console

    from ablate.launch.sweep import layout_of
    from ablate.stages.judging import check_judge
    from ablate.stages.preflight import check_data
    from ablate.stages.tracker import check_tracker
    from ablate.store import records
    from ablate.store.layout import check_writable

    run = compose(words, config_dirs)
    legality.check(run)
    notes = check_data(run)
    check_tracker(run)
    layout = layout_of(run)
    check_writable(layout, run.runtime.min_free_mb)

    from ablate.cli.panel import show_outcome
    from ablate.cli.progress import open_display
    from ablate.stages.complete import complete
    from ablate.stages.graph import plan
    from ablate.stages.team import leads, together

    console = Console(quiet=not leads())
    for note in notes:
        console.print(f"[dim]data: {note}[/]", highlight=False)
    planned = plan(run, layout)
    if run.force is not False or records.latest(layout, planned.identity) is None:
        check_judge(run.judge, run.runtime.device)
    quiet_libraries()
    with open_display(console) as display:
        outcome = together(planned, lambda: complete(planned, layout, display))
    console.print()
    if outcome is not None:
        show_outcome(console, outcome)
    return 0


def _sweep(words: list[str], config_dirs: list[str]) -> int:
    from ablate.stages.team import launched

    if launched():
        raise ConfigError(
            "a sweep starts its own processes: give -m without torchrun or srun, and "
            "runtime.processes=N for several processes per run"
        )
    with hydra_session(config_dirs) as hydra, readable_errors(config_dirs):
        quiet_libraries()
        sweeper, rest = _sweeper(hydra, words)
        outcomes = sweeper.sweep(rest)
    return 1 if any(outcome.status == "failed" for outcome in outcomes) else 0


def _sweeper(hydra: Any, words: list[str]) -> tuple[Any, list[str]]:
    """The sweeper with its launcher, both set up by Hydra's own words; and the other words.

    Raises:
        ConfigError: a launcher's setting that it does not have or take.
    """
    from hydra._internal.callbacks import Callbacks
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.plugins import Plugins
    from hydra.types import HydraContext, RunMode

    for word in words:
        if word.startswith("hydra/sweeper=") and word != "hydra/sweeper=ablate":
            raise ConfigError(f"{word}: only hydra/sweeper=ablate freezes runs before they start")
    parsed = OverridesParser.create().parse_overrides(words)
    split = [(str(word.input_line), word.is_hydra_override()) for word in parsed]
    # not `hydra.multirun`: it composes the words without the alternatives first, and a setting
    # that all alternatives have, but not the default, would be refused
    config = hydra.compose_config(
        config_name=CONFIG_NAME,
        overrides=[text for text, own in split if own],
        run_mode=RunMode.MULTIRUN,
        with_log_configuration=False,
    )
    context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(config))
    sweeper = Plugins.instance().instantiate_sweeper(
        config=config, hydra_context=context, task_function=_no_task
    )
    return sweeper, [text for text, own in split if not own]


def expand_words(argv: Sequence[str]) -> Expansion:
    """The runs that a command line stands for, with or without -m; launches nothing.

    Raises:
        ConfigError: as the command line itself would.
    """
    args = _parse(argv)
    for word in args.overrides:
        _check_word(word)
    words = normalize(args.overrides, args.config_dir)
    words = [word for word in words if not word.lstrip("+").startswith("hydra")]
    with hydra_session(args.config_dir) as hydra, readable_errors(args.config_dir):
        found = expand(hydra.config_loader, words)
    alone = len(found.runs) == 1 and not found.contests
    if not (args.multirun or alone):
        raise ConfigError("several runs: add -m")
    return found


def check_launcher(argv: Sequence[str], plans: Sequence["RunPlan"]) -> None:
    """Refuses what the launcher of a command line would refuse to do with these runs.

    Raises:
        ConfigError: as the command line itself would.
    """
    args = _parse(argv)
    if not args.multirun:
        return
    words = normalize(args.overrides, args.config_dir)
    with hydra_session(args.config_dir) as hydra, readable_errors(args.config_dir):
        sweeper, _ = _sweeper(hydra, words)
        sweeper.check(plans)


def _no_task(config: Any) -> None:
    raise AssertionError("launchers of ablate run frozen files, not composed configurations")


def quiet_libraries() -> None:
    """Keeps the console for our own progress: libraries speak up only when something is wrong."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DATASETS_VERBOSITY", "error")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("WANDB_SILENT", "true")
    if not sys.warnoptions:
        import warnings

        warnings.simplefilter("ignore")
