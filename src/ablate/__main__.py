"""`python -m ablate` and the console script `ablate`."""

import sys


def main() -> None:
    """Runs the command line and exits with its code."""
    from ablate.cli.main import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
