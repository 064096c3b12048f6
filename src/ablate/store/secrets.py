"""Keys and passwords in texts that are about to be written down: replaced by asterisks."""

import functools
import re
from collections.abc import Iterator
from typing import Any

HIDDEN = "***"

#: shapes of keys that services hand out
_KEYS = re.compile(
    r"\b(?:sk|rk|pk)-[\w-]{16,}|\bhf_\w{16,}|\bgh[pousr]_\w{20,}|\bgithub_pat_\w{20,}"
    r"|\bglpat-[\w-]{16,}|\bxox[abprs]-[\w-]{10,}|\bA[KS]IA[0-9A-Z]{16}\b|\bwandb_v1_\w{16,}"
    r"|\bAIza[\w-]{30,}|\bya29\.[\w-]{20,}|\bnvapi-[\w-]{16,}|\bgsk_\w{16,}|\bxai-\w{20,}"
    r"|\bpypi-[\w-]{40,}|\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]+"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----(?:.*?-----END [A-Z ]*PRIVATE KEY-----)?",
    re.DOTALL,
)
#: `//user:password@host`, and `//token@host`
_ADDRESS = re.compile(r"(//)[^/\s@'\"]+(@)")
#: what follows a name: never a reference such as $HF_TOKEN or $(cat key), which tells nothing
_VALUE = (
    r"(?!\\?[\"']?[$`]|(?:null|none|true|false)\b)"
    r"(?:\\?'[^']+'|\\?\"[^\"]+\"|[^\s'\"&,;)}\]\\]+)"
)
#: an equals sign or colon; names in JSON and in dictionaries end with a quote before it
_IS = r"\\?[\"']?\s*[=:]\s*"
#: names of keys: `api_key=…`, `--password …`, `Authorization: Bearer …`; not `api_key_env=NAME`,
#: and of what ends with `token` only what is none of a tokenizer's (`pad_token`, `max_token`)
_NAME = (
    r"(?:(?:api|access|secret|private|account|subscription)[_-]?key|password|passwd|passphrase"
    r"|secret|credentials?"
    r"|(?:access|auth|api|bearer|refresh|session|security|private|hf|hub|hugging_?face|wandb"
    r"|git(?:hub|lab)|service)[_-]?token)"
)
_NAMED = re.compile(
    rf"({_NAME}{_IS}|--{_NAME}\s+|--token[\s=]+|[?&](?:token|key|sig|signature)=|x-amz-\w+{_IS}"
    rf"|\\?[\"']token\\?[\"']\s*:\s*(?=\\?[\"'])|\btoken\s*=\s*(?=[\"']?[\w.-]{{16}})"
    rf"|\bauthorization{_IS}(?:(?:basic|token|bearer)\s+)?|\bbearer\s+)({_VALUE})",
    re.IGNORECASE,
)
#: variables of an environment: `HF_TOKEN=…`, and `MY_KEY=…` where what follows is long
_VARIABLE = re.compile(
    r"(\b(?!(?:PAD|EOS|BOS|UNK|MASK|SEP|CLS|MAX|NUM|PER)_)[A-Z][A-Z0-9_]*_"
    rf"(?:(?:TOKEN|SECRET|PASSWORD|PASS){_IS}|KEY{_IS}(?=[\"']?\S{{12}})))({_VALUE})"
)


def scrub(text: str) -> str:
    """The text without what looks like a key, a password or a token."""
    text = _KEYS.sub(HIDDEN, text)
    text = _ADDRESS.sub(rf"\1{HIDDEN}\2", text)
    text = _NAMED.sub(rf"\1{HIDDEN}", text)
    return _VARIABLE.sub(rf"\1{HIDDEN}", text)


def holding(values: Any, path: str = "") -> Iterator[str]:
    """Dotted names of the settings in plain data that hold what `scrub` would hide."""
    if isinstance(values, dict):
        for name, value in values.items():
            yield from holding(value, f"{path}.{name}".lstrip("."))
    elif isinstance(values, list):
        for value in values:
            yield from holding(value, path)
    elif isinstance(values, str) and (
        _hides(values) or _hides(f"{path.rpartition('.')[2]}={values}")
    ):
        yield path


@functools.lru_cache(maxsize=8192)
def _hides(text: str) -> bool:
    """Whether there is something to hide; a thousand runs hold mostly the same words."""
    return scrub(text) != text
