"""Which TRL this code was written for, and a check that it is the one installed."""

from importlib.metadata import PackageNotFoundError, version

from ablate.errors import AblateError

#: the minor version whose private methods are overridden in this package
SUPPORTED_TRL = "1.16"


class TRLVersionError(AblateError):
    """The installed TRL is not the one whose internals this code overrides."""


def check_version() -> None:
    """Raise `TRLVersionError` unless TRL 1.16.x is installed."""
    try:
        installed = version("trl")
    except PackageNotFoundError:
        raise TRLVersionError(
            f"trl is not installed; install trl~={SUPPORTED_TRL}.0 into this environment"
        ) from None
    if installed.split(".")[:2] != SUPPORTED_TRL.split("."):
        raise TRLVersionError(
            f"trl {installed} is installed, but the trainers override private methods of trl "
            f"{SUPPORTED_TRL}.x; install trl~={SUPPORTED_TRL}.0, or port ablate.trl_compat and run "
            "tests/trl_compat"
        )
