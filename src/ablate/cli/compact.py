"""`ablate compact`: the store's records and tables once more, in few large files that read fast."""

from collections.abc import Sequence
from pathlib import Path

from ablate.cli.store_flags import Flags, take_results_dir, tell_damaged
from ablate.cli.words import several
from ablate.datasets.base import SPLITS
from ablate.errors import ConfigError
from ablate.results import TABLES, Damaged, load_study
from ablate.results.compact import compact
from ablate.results.sweeps import copy_sweeps
from ablate.store.layout import Layout
from ablate.store.sweeps import closed_sweeps

EXAMPLES = (
    "ablate compact",
    "ablate compact --sweep quick --to shared/quick     # a copy to hand on, which stands alone",
    "ablate report --sweep quick results_dir=shared/quick",
)
NOTES = (
    "Tables and reports then read those files; runs that finish later are read beside them, and "
    "compacting again takes them in. Nothing is removed from the store."
)


def main(argv: Sequence[str]) -> int:
    """Compacts; 3 where damaged records had to be left out."""
    layout, words = take_results_dir(argv)
    flags = Flags(
        "compact", "Puts the store's records and tables into few large files, which read fast.",
        EXAMPLES, NOTES,
    )  # fmt: skip
    flags.add_argument(
        "--to", type=Path, metavar="DIR", help="write a copy that stands alone there"
    )
    flags.add_argument("--sweep", action="append", default=[], metavar="NAME", help="with --to")
    flags.add_argument(
        "--without", nargs="+", default=[], metavar="TABLE", choices=[t[:-8] for t in TABLES],
        help="tables to leave out of the copy: eval, pairs, train, curve",
    )  # fmt: skip
    flags.add_argument(
        "--split", nargs="+", metavar="NAME", choices=SPLITS,
        help="answers and pairs of these splits alone; the records keep what was measured on all",
    )  # fmt: skip
    flags.add_argument(
        "--small", action="store_true",
        help="single precision, and of tuned sweeps the tables of the runs that report",
    )  # fmt: skip
    args = flags.parse_args(words)
    if args.to is None and (args.sweep or args.without or args.split or args.small):
        raise ConfigError(
            "--sweep, --without, --split, --small need --to: a store is compacted whole"
        )
    tables = [name for name in TABLES if name[:-8] not in args.without]
    target, ids, whole = None, None, None
    if args.to is not None:
        target = Layout(args.to.expanduser())
        if target.root.resolve() == layout.root.resolve():
            raise ConfigError(f"--to {args.to} is the store itself; leave --to out to compact it")
        if args.sweep:
            studies = [load_study(layout.root, name) for name in args.sweep]
            ids = [str(i) for study in studies if len(study.frame) for i in study.frame["id"]]
            if args.small:
                made = [study.reported for study in studies]
                whole = {str(i) for frame in made if len(frame) for i in frame["id"]}
    done = compact(
        layout, tables, target=target, ids=ids, whole=whole, splits=args.split, single=args.small
    )
    if target is not None:
        copy_sweeps(layout, target, args.sweep or None)
        closed = closed_sweeps(layout)
        if closed and not args.sweep:
            told = several(len(closed), "private sweep")
            print(f"not in the copy: {told} of other accounts")
    print(f"{several(done.runs, 'run')} in {done.bytes / 2**20:.1f} MB: {done.folder}")
    return tell_damaged([Damaged(identity, reason) for identity, reason in done.damaged])
