"""Identity of models that ablate did not make: by content of a folder, by commit of a hub id."""

from functools import partial
from pathlib import Path
from typing import Any

from ablate.config.model import BaseModelConfig
from ablate.errors import ModelError
from ablate.store.files import checksum
from ablate.store.layout import Layout
from ablate.store.memory import remembered

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

    from ablate.models.missing import offline_help

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


def classifier_content(path: str, layout: Layout) -> dict[str, Any]:
    """The content of a sequence classifier's folder or hub id (plain data)."""
    return _content(path, None, layout, False)


def _content(path: str, revision: str | None, layout: Layout, code: bool) -> dict[str, Any]:
    folder = Path(path).expanduser()
    if folder.is_dir():
        return {"files": _digests(folder, layout, (*WANTED, ".py") if code else WANTED)}
    if path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise ModelError(f"there is no model folder {path}")
    return {"hub": path, "commit": _commit(path, revision)}


def _digests(folder: Path, layout: Layout, wanted: tuple[str, ...]) -> dict[str, str]:
    """sha256 of each file; remembered by path, size and time, since weights can be large."""
    paths = sorted(path for path in folder.iterdir() if path.suffix in wanted)
    if not any(path.suffix == ".safetensors" for path in paths):
        raise ModelError(
            f"{folder} holds no .safetensors file; ablate loads weights in that format only "
            "(save the model with model.save_pretrained)"
        )
    result = {}
    for path in paths:
        stat = path.stat()
        key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
        memory = layout.cache / "file_digests.json"
        result[path.name] = remembered(memory, key, partial(checksum, path))
    return result


def _commit(hub_id: str, revision: str | None) -> str:
    """The commit a hub id resolves to: asked of the hub, or of the local cache when offline."""
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    from ablate.models.missing import offline_help

    try:
        if not constants.HF_HUB_OFFLINE:
            commit = HfApi().model_info(hub_id, revision=revision).sha
            if commit:
                return commit
    except (HfHubHTTPError, OSError):
        pass
    try:
        return Path(snapshot_download(hub_id, revision=revision, local_files_only=True)).name
    except (LocalEntryNotFoundError, OSError) as error:
        raise ModelError(offline_help(hub_id, "model", error)) from error
