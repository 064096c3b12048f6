"""Configuration of the SLURM launcher: resources of its jobs and the limits of the site."""

from typing import Any

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError

from ablate.config.base import Node, explain
from ablate.errors import ConfigError
from ablate.store.secrets import holding


class Resources(Node):
    """What a job asks the scheduler for; null leaves it to the site."""

    partition: str | None
    account: str | None
    qos: str | None
    constraint: str | None
    comment: str | None
    exclude: str | None
    gres: str | None
    nodes: PositiveInt
    tasks_per_node: PositiveInt
    gpus_per_node: NonNegativeInt | None
    cpus_per_task: PositiveInt
    mem_gb: PositiveFloat | None
    timeout_min: PositiveInt
    signal_delay_s: PositiveInt
    array_parallelism: PositiveInt
    setup: list[str]
    srun_args: list[str]
    additional_parameters: dict[str, Any]


class SlurmConfig(Resources):
    """The launcher's settings (`hydra.launcher.*`)."""

    max_num_timeout: NonNegativeInt
    max_array_size: PositiveInt | None
    max_submit: PositiveInt | None
    runs_per_job: PositiveInt
    #: other resources by kind of stage (`run` is what completes a run)
    stages: dict[str, dict[str, Any]]
    wait: bool
    poll_seconds: PositiveFloat = Field(le=600)

    def resources(self, kind: str) -> Resources:
        """What a job of a kind of stage, or of `run`, asks for."""
        own = {name: getattr(self, name) for name in Resources.model_fields}
        return Resources.model_validate({**own, **self.stages.get(kind, {})})


def slurm_config(values: dict[str, Any], kinds: list[str]) -> SlurmConfig:
    """The validated settings.

    Args:
        kinds: the names that `stages` may use.

    Raises:
        ConfigError: names every setting that is unknown or out of range, or holds a key.
    """
    try:
        config = SlurmConfig.model_validate(values)
        unknown = sorted(set(config.stages) - set(kinds))
        if unknown:
            raise ConfigError(
                f"hydra.launcher.stages names {', '.join(unknown)}, which is no kind of stage. "
                f"There are {', '.join(kinds)}"
            )
        for kind in config.stages:
            config.resources(kind)
        _check_secrets(config)
    except ValidationError as error:
        raise ConfigError(f"hydra.launcher: {explain(error)}") from None
    return config


def _check_secrets(config: SlurmConfig) -> None:
    """Refuses keys and passwords: these settings stand in the sweep's file and in job scripts."""
    found = list(dict.fromkeys(holding(config.model_dump(mode="json"))))
    if found:
        # the value is not repeated
        raise ConfigError(
            f"hydra.launcher.{', hydra.launcher.'.join(found)} holds what looks like a key or a "
            "password, which would be written into the sweep's file and the job's script. Put it "
            "into a file that only you can read, and let a setup line read that: "
            "hydra.launcher.setup=['source ~/.my_keys']"
        )
