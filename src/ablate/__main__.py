"""`python -m ablate` and the console script `ablate`."""

import sys


def main() -> None:
    """Runs the command line and exits with its code."""
    try:
        from ablate.cli.main import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        # before or after the command line had its own say
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
