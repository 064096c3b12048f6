"""The level files of each factor, read without Hydra: names, contents and one-line summaries."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ablate.errors import ConfigError, did_you_mean


def conf_dir() -> Path:
    """The folder that holds one folder of level files per factor."""
    return Path(__file__).resolve().parent.parent / "conf"


def level_names(group: str, search: Sequence[Path | str] = ()) -> list[str]:
    """Names of all levels of a factor, sorted; files that begin with `_` are no levels.

    `search` holds further configuration folders, which come before the shipped one.
    """
    names = {
        path.stem
        for folder in _folders(search)
        for path in (folder / group).glob("*.yaml")
        if not path.name.startswith("_")
    }
    return sorted(
        names, key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name)
    )


def level_path(group: str, name: str, search: Sequence[Path | str] = ()) -> Path:
    """The file of a level. Raises `ConfigError` listing the known levels if there is none."""
    for folder in _folders(search):
        path = folder / group / f"{name}.yaml"
        if path.is_file():
            return path
    known = level_names(group, search)
    if not known:
        raise ConfigError(f"There is no factor '{group}' with level files in {conf_dir()}.")
    hint = did_you_mean(name, known)
    raise ConfigError(f"Unknown {group} '{name}'.{hint} Known levels: {', '.join(known)}.")


def read_level(group: str, name: str, search: Sequence[Path | str] = ()) -> dict[str, Any]:
    """Content of a level file as plain data, its `defaults:` list of sibling files merged in.

    An entry `level@a.b` puts the level under the key a.b, as Hydra does; an entry that chooses a
    level of another factor (`override /factor: level`) is passed over.
    """
    return _plain(_read(group, name, search, seen=()))


def level_summary(group: str, name: str, search: Sequence[Path | str] = ()) -> str:
    """The first sentence of the comment that begins a level file and says what the level is."""
    words: list[str] = []
    for line in level_path(group, name, search).read_text(encoding="utf-8").splitlines():
        text = line.strip()
        if text.startswith("# @package"):
            continue
        if not text.startswith("#"):
            if words:
                break
            continue
        words.append(text.lstrip("#").strip())
        if words[-1].endswith("."):
            break
    first, stop, _ = " ".join(words).partition(". ")
    return first + stop.strip()


def _folders(search: Sequence[Path | str]) -> list[Path]:
    return [*(Path(folder) for folder in search), conf_dir()]


def _read(group: str, name: str, search: Sequence[Path | str], seen: tuple[str, ...]) -> DictConfig:
    if name in seen:
        raise ConfigError(f"The defaults of {group} '{seen[0]}' include '{name}' in a circle.")
    path = level_path(group, name, search)
    try:
        content, entries = _load(path, path.stat().st_mtime_ns)
    except (OmegaConfBaseException, YAMLError, OSError) as error:
        raise ConfigError(f"Cannot read {path}: {error}") from error
    if entries is None:
        return content
    if "_self_" not in entries:
        raise ConfigError(f"The defaults list in {path} must name _self_.")
    parts: list[DictConfig] = []
    for entry in entries:
        if entry == "_self_":
            parts.append(content)
        elif isinstance(entry, str) and "/" not in entry:
            level, _, package = entry.partition("@")
            part = _read(group, level, search, (*seen, name))
            for key in reversed(package.split(".") if package else []):
                part = OmegaConf.create({key: part})
            parts.append(part)
        elif not _chooses_elsewhere(entry):
            raise ConfigError(
                f"The defaults list in {path} may name files of the same folder only, "
                f"not {entry!r}."
            )
    merged = OmegaConf.merge(*parts)
    assert isinstance(merged, DictConfig)
    return merged


def _chooses_elsewhere(entry: Any) -> bool:
    """True for `override /factor…: level`, which says nothing of this factor."""
    return isinstance(entry, DictConfig) and all(str(key).startswith("override /") for key in entry)


@lru_cache(maxsize=256)
def _load(path: Path, changed: int) -> tuple[DictConfig, Any]:
    """Keys and values of a file, and its defaults list apart; never changed by who gets them.

    Levels share base files, so that listing a factor would parse these once for each level.
    `changed` is the file's time stamp.
    """
    content = OmegaConf.load(path)
    if not isinstance(content, DictConfig):
        raise ConfigError(f"{path} must hold keys and values.")
    return content, content.pop("defaults", None)


def _plain(config: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(config)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}
