"""What to tell a person whose model or tokenizer cannot be loaded."""

import os


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
    login = ""
    if any(word in str(error).lower() for word in ("gated", "401", "403", "restricted")):
        login = (
            "\nIts owner restricts access: ask for it on the model's page, then run "
            "`hf auth login` with a token of the account that was let in"
        )
    return (
        f"the {what} {path_or_id!r} is neither a folder nor in the local Hugging Face cache: "
        f"{first_line}\nDownload it where there is a network (`hf download {path_or_id} "
        f"--local-dir models/{path_or_id.split('/')[-1]}`) and give that folder as "
        f"{setting}{login}"
    )
