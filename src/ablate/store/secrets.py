"""Keys and passwords in texts that are about to be written down: replaced by asterisks."""

import re

HIDDEN = "***"

#: shapes of keys that services hand out
_KEYS = re.compile(
    r"\b(?:sk|rk|pk)-[\w-]{16,}|\bhf_\w{16,}|\bgh[pousr]_\w{20,}|\bgithub_pat_\w{20,}"
    r"|\bglpat-[\w-]{16,}|\bxox[abprs]-[\w-]{10,}|\bAKIA[0-9A-Z]{16}\b|\bwandb_v1_\w{16,}"
)
#: `//user:password@host`, and `//token@host`
_ADDRESS = re.compile(r"(//)[^/\s@'\"]+(@)")
#: `api_key=…`, `--password …`, `Authorization: Bearer …`; never `api_key_env=NAME`
_NAME = r"(?:api[_-]?key|password|passwd|secret|access[_-]?token|auth[_-]?token)"
_NAMED = re.compile(
    rf"({_NAME}\s*[=:]\s*|--{_NAME}\s+|bearer\s+)('[^']*'|\"[^\"]*\"|[^\s'\"&,;]+)", re.IGNORECASE
)


def scrub(text: str) -> str:
    """The text without what looks like a key, a password or a token."""
    text = _KEYS.sub(HIDDEN, text)
    text = _ADDRESS.sub(rf"\1{HIDDEN}\2", text)
    return _NAMED.sub(rf"\1{HIDDEN}", text)
