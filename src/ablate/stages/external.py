"""Identity of models that ablate did not make: by content of a folder, by commit of a hub id."""

from functools import partial
from pathlib import Path
from typing import Any

from ablate.config.judge import Classifier
from ablate.config.levels import read_level
from ablate.config.model import BaseModelConfig
from ablate.errors import ModelError
from ablate.models.missing import check_safetensors, offline_help
from ablate.store.files import checksum
from ablate.store.layout import Layout
from ablate.store.memory import remembered

#: raised when the same classifier would give other scores
CLASSIFIER_VERSION = 2
#: fields of a classifier that do not decide its scores, or whose content does in their place
_NO_CONTENT = ("name", "kind", "path", "revision", "batch_tokens")

#: what decides a model's behaviour; weights only as safetensors, because pickles execute
WANTED = (".json", ".safetensors", ".txt", ".model", ".jinja")


def model_content(model: BaseModelConfig, layout: Layout) -> dict[str, Any]:
    """The content of the model that `base_model.path` names (plain data).

    Raises:
        ModelError: no such folder, no such hub id in the local cache, or no safetensors in it.
    """
    if model.path is None:
        raise ModelError(
            "base_model=hf needs base_model.path: a folder with a saved model, or a hub id"
        )
    content = _content(model.path, model.revision, layout, model.trust_remote_code)
    return {**content, "remote_code": True} if model.trust_remote_code else content


def model_folder(path: str, content: dict[str, Any]) -> str:
    """The folder that holds just what was identified: of a hub id, the snapshot of its commit."""
    if "hub" not in content:
        return str(Path(path).expanduser())
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    # not what lies beside: repositories hold the same weights in other formats
    patterns = [f"*{suffix}" for suffix in (*WANTED, ".py")]
    try:
        return str(
            snapshot_download(
                content["hub"],
                revision=content["commit"],
                allow_patterns=patterns,
                ignore_patterns=["*/*"],
            )
        )
    except (HfHubHTTPError, OSError) as error:
        raise ModelError(offline_help(content["hub"], "model", error)) from error


def local_folder(path: str, revision: str | None, setting: str) -> str:
    """The folder of a model, or the snapshot of a hub id at the commit it resolves to now.

    Raises:
        ModelError: no such folder, or a hub id that cannot be reached and is not here.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        return str(folder)
    return model_folder(path, _hub(path, revision, setting))


def classifier_content(
    classifier: Classifier, layout: Layout, setting: str = "judge.path"
) -> dict[str, Any]:
    """What decides the scores of a sequence classifier: its files, and how it is used.

    `setting` is what a person gave its path as.
    """
    code = classifier.trust_remote_code
    content = _content(classifier.path, classifier.revision, layout, code, setting)
    use = {k: v for k, v in classifier.identity().items() if k not in _NO_CONTENT}
    return {"content": content, "version": CLASSIFIER_VERSION, **use}


def plain_classifier(path: str, output: int | None) -> Classifier:
    """A classifier that is given by path and output alone, used as the level `judge=hf` says."""
    level = {k: v for k, v in read_level("judge", "hf").items() if k not in ("name", "kind")}
    return Classifier.model_validate({**level, "path": path, "output": output})


def _content(
    path: str,
    revision: str | None,
    layout: Layout,
    code: bool,
    setting: str = "base_model.path",
) -> dict[str, Any]:
    folder = Path(path).expanduser()
    if folder.is_dir():
        return {"files": _digests(folder, layout, (*WANTED, ".py") if code else WANTED)}
    return _hub(path, revision, setting)


def _hub(path: str, revision: str | None, setting: str) -> dict[str, Any]:
    if path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise ModelError(f"there is no model folder {path} ({setting})")
    return {"hub": path, "commit": _commit(path, revision, setting)}


def _digests(folder: Path, layout: Layout, wanted: tuple[str, ...]) -> dict[str, str]:
    """sha256 of each file; remembered by path, size and time, since weights can be large."""
    paths = sorted(path for path in folder.iterdir() if path.suffix in wanted)
    check_safetensors(folder)
    result = {}
    for path in paths:
        stat = path.stat()
        key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
        memory = layout.cache / "file_digests.json"
        content = partial(checksum, path)
        result[path.name] = remembered(memory, key, content, keep=not layout.read_only)
    return result


def _commit(hub_id: str, revision: str | None, setting: str) -> str:
    """The commit a hub id resolves to: asked of the hub, or of the local cache when offline."""
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    reason = ""
    try:
        if not constants.HF_HUB_OFFLINE:
            commit = HfApi().model_info(hub_id, revision=revision).sha
            if commit:
                return commit
    except Exception as error:
        # no network: each HTTP library that the hub's client was built on has errors of its own
        reason = f" ({type(error).__name__})"
    try:
        return Path(snapshot_download(hub_id, revision=revision, local_files_only=True)).name
    except (LocalEntryNotFoundError, OSError) as error:
        message = offline_help(hub_id, "model", error, setting)
        raise ModelError(f"the hub cannot be reached{reason}; {message}") from error
