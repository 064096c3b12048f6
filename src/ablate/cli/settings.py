"""The settings of a recorded run against those of the level files: which are not defaults."""

from typing import Any

from ablate.cli.help import FACTORS
from ablate.config.compose import CONFIG_NAME, hydra_session, readable_errors, without_hydra
from ablate.config.levels import level_names
from ablate.config.overrides import normalize
from ablate.config.run import validate
from ablate.errors import AblateError
from ablate.store import records

#: the place of a run is told by its record's path
PLACE = "results_dir"
#: in place of a default where there is none
ASKED = "to be given"


def levels_of(config: dict[str, Any]) -> dict[str, str]:
    """Factor → level of a run, as they are typed."""
    return {
        factor: str(config[factor]["name"] if "name" in config[factor] else config[factor]["k"])
        for factor in FACTORS
        if factor in config
    }


def changed(config: dict[str, Any]) -> dict[str, tuple[Any, Any]] | None:
    """Setting → value of the run and default, where these differ; None where it cannot be said.

    The default is what the run's own levels say, as their files are now. A level that has no file
    here (it lay in a folder of the user's) is no default: all its settings count as changed.
    """
    known = {f: level for f, level in levels_of(config).items() if level in level_names(f)}
    try:
        composed, asked = _composed(known, config)
    except AblateError:
        return None
    usual = dict(records.flat(composed)) | dict.fromkeys(asked, ASKED)
    own = {
        factor
        for factor, level in levels_of(config).items()
        if factor not in known and factor != "num_responses"
    }
    found = {}
    for path, value in records.flat(config):
        default = None if path.partition(".")[0] in own else usual.get(path)
        if path != PLACE and value != default:
            found[path] = (value, default)
    return found


def _composed(levels: dict[str, str], config: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The configuration of these levels, validated; and what must be given, taken from the run."""
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    words = normalize([f"{factor}={level}" for factor, level in levels.items()])
    with hydra_session() as hydra, readable_errors():
        composed = hydra.compose_config(
            config_name=CONFIG_NAME,
            overrides=words,
            run_mode=RunMode.RUN,
            with_log_configuration=False,
        )
        plain = OmegaConf.to_container(without_hydra(composed), resolve=True)
        assert isinstance(plain, dict)
        usual = {str(key): value for key, value in plain.items()}
    given = dict(records.flat(config))
    asked = [path for path, value in records.flat(usual) if value == "???"]
    for path in asked:
        _put(usual, path, given.get(path))
    return dict(validate(usual).model_dump(mode="json")), asked


def _put(node: dict[str, Any], path: str, value: Any) -> None:
    """Plain data: what a record holds is no text to resolve."""
    *parents, last = path.split(".")
    for parent in parents:
        node = node[parent]
    node[last] = value
