"""What to tell a person whose model or tokenizer cannot be loaded."""

import os
from pathlib import Path

from ablate.errors import ModelError

#: files of weights that are pickles
PICKLES = (".bin", ".pt", ".pth", ".ckpt")


def offline_help(
    path_or_id: str, what: str, error: Exception, setting: str = "base_model.path"
) -> str:
    """What to tell a person whose model or tokenizer cannot be loaded.

    Args:
        setting: the field of the configuration that named it.
    """
    first_line = (str(error).strip() or repr(error)).splitlines()[0]
    if os.path.isdir(path_or_id):
        return f"the {what} in {path_or_id} cannot be loaded: {first_line}"
    return (
        f"the {what} {path_or_id!r} is neither a folder nor in the local Hugging Face cache: "
        f"{first_line}\nDownload it where there is a network (`hf download {path_or_id} "
        f"--local-dir models/{path_or_id.split('/')[-1]}`) and give that folder as "
        f"{setting}. A model whose owner restricts access also needs permission, asked for on its "
        "page, and `hf auth login` there"
    )


def check_safetensors(path: str | Path) -> None:
    """Raise a ModelError for a folder without safetensors: loading a pickle executes it."""
    if any(Path(path).glob("*.safetensors")):
        return
    if not (Path(path) / "config.json").exists():
        raise ModelError(f"{path} is no model folder: it holds no config.json")
    pickles = sorted(file.name for file in Path(path).iterdir() if file.suffix in PICKLES)
    found = ""
    if pickles:
        found = f" (its weights are in {pickles[0]}, a pickle, which runs any code when loaded)"
    raise ModelError(
        f"{path} holds no .safetensors file, the only format of weights that ablate loads{found}. "
        "Take a revision that has one or, where you trust the files, convert them once in "
        f"Python: transformers.AutoModelForCausalLM.from_pretrained('{path}')"
        ".save_pretrained('converted') (a reward model: AutoModelForSequenceClassification), and "
        "copy the tokenizer's files there"
    )
