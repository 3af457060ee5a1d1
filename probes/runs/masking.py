"""Secrets are masked in whatever a run writes or sends: values of keys that look like secrets, wherever they recur."""

from __future__ import annotations

import logging
import os
import re
import traceback
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

MASK = "***"

_SECRET_WORDS = {
    "token", "secret", "secrets", "password", "passwords", "passwd", "passphrase", "pwd", "apikey", "credential",
    "credentials", "auth", "authorization", "bearer", "cookie",
}  # fmt: skip
_KINDS_OF_KEY = {"api", "access", "secret", "private", "ssh", "signing", "encryption", "account"}
"""Before `key`, as in `api_key`."""
_WORDS_BEFORE_TOKEN = {"pad", "eos", "bos", "unk", "mask", "cls", "sep", "start", "end", "stop", "special", "image"}
_WORDS_AFTER_TOKEN = {"id", "ids", "type", "types", "count", "limit", "length", "classification", "embedding"}
"""Beside these, a token is a piece of text: `pad_token`, `token_ids`."""

_LETTERS_TO_RECUR = 6
"""A shorter secret is masked under its key only: replacing every `1` would hide more than it."""

_LETTERS_IN_ENVIRONMENT = 12
"""Likewise of a secret in an environment variable, which may hold words such as `disabled`."""

_SHAPES = re.compile(
    r"\b(hf_|ghp_|gho_|github_pat_|glpat-|sk-|xox[abp]-|AKIA)[A-Za-z0-9_\-]{12,}|(?<=[Bb]earer )[\w.\-~+/=]{8,}"
)
"""Keys of well-known services, whatever they stand under."""
_USER_IN_URL = re.compile(r"(?<=://)([^/\s:@]*):([^/\s@]+)(?=@)")
_NAME = r"(?P<name>[\w.\-]*(?:token|secret|passw|passphrase|pwd|key|credential|auth|bearer|cookie)[\w.\-]*)"
_VALUE = r"""(?P<value>"[^"]*"|'[^']*'|[^\s,;&{}\[\]'"$]+)"""
_ASSIGNMENTS = (
    re.compile(rf"(?P<before>)(?<![\w.\-]){_NAME}(?P<sign>=){_VALUE}", re.IGNORECASE),
    re.compile(rf"""(?P<before>[{{,]\s*["']?){_NAME}(?P<sign>["']?\s*:\s*){_VALUE}""", re.IGNORECASE),
)
"""`NAME=value`, and `NAME: value` within braces only, as a prompt may well say "Password: …"."""


def mask_secrets(config: Any, secrets: Iterable[str] = ()) -> Any:
    """A copy of a config in which every secret is `***`; nothing else changes.

    A value is a secret if its key looks like one (`token`, `api_key`, `password`, …, in any spelling), or if a text
    assigns it to such a name (`HF_TOKEN=abc` in a list of overrides, `https://user:abc@host`). It is then masked
    wherever it recurs in other values, as are secrets in environment variables of the process. References to these
    (`${oc.env:HF_TOKEN}`) are no secrets.

    Args:
        config: Mappings, lists and values, nested at will.
        secrets: Others to mask, found elsewhere.

    Example:
        >>> mask_secrets({"hub": {"token": "abcdefg"}, "tokens_per_batch": 1024, "notes": "with abcdefg"})
        {'hub': {'token': '***'}, 'tokens_per_batch': 1024, 'notes': 'with ***'}
    """
    return _masked(config, frozenset(find_secrets(config).union(secrets)))


def find_secrets(config: Any) -> set[str]:
    """The secrets in a config and in the environment that are long enough to be recognised elsewhere."""
    variables = {name: value for name, value in os.environ.items() if not value.startswith("/")}  # as HF_TOKEN_PATH
    inherited = {secret for secret in _secrets(variables) if len(secret) >= _LETTERS_IN_ENVIRONMENT}
    return inherited | {secret for secret in _secrets(config) if len(secret) >= _LETTERS_TO_RECUR}


def mask_text(text: str, secrets: Iterable[str] = ()) -> str:
    """A text without the given secrets, and without what looks like one.

    Example:
        >>> mask_text("POST https://me:abc@host/?api_key=abc&n=1")
        'POST https://me:***@host/?api_key=***&n=1'
    """
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, MASK)
    text = _SHAPES.sub(MASK, _USER_IN_URL.sub(rf"\1:{MASK}", text))
    for assignment in _ASSIGNMENTS:
        text = assignment.sub(_mask_assignment, text)
    return text


def is_secret_name(name: str) -> bool:
    """Whether the name of a key or of an environment variable says that its value is a secret.

    Example:
        >>> [is_secret_name(name) for name in ("HF_TOKEN", "db.password", "apiKey", "max_tokens", "pad_token")]
        [True, True, True, False, False]
    """
    words = [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]
    for before, word, after in zip(["", *words], words, [*words[1:], ""], strict=False):
        if word == "token" and (before in _WORDS_BEFORE_TOKEN or after in _WORDS_AFTER_TOKEN):
            continue
        if word in _SECRET_WORDS or (word == "key" and before in _KINDS_OF_KEY):
            return True
    return False


class SecretFilter(logging.Filter):
    """Masks secrets in the messages and tracebacks of a log handler.

    Args:
        secrets: Those to mask besides what looks like one.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__()
        self.secrets = frozenset(secrets)

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass, masked."""
        message = record.getMessage()
        masked = mask_text(message, self.secrets)
        if masked != message:
            record.msg, record.args = masked, ()
        if record.exc_info and record.exc_info[0] is not None and not record.exc_text:
            lines = "".join(traceback.format_exception(*record.exc_info)).rstrip()
            record.exc_text = mask_text(lines, self.secrets)
        return True


def _secrets(value: Any, name: str = "", *, below: bool = False) -> Iterator[str]:
    """Every secret in a value; `below` if it stands under a secret name."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _secrets(item, str(key), below=below or is_secret_name(str(key)))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _secrets(item, name, below=below)
    elif below and _can_be_secret(value):
        yield str(value)
    elif isinstance(value, str):
        assigned = (found for assignment in _ASSIGNMENTS for found in assignment.finditer(value))
        yield from (found["value"].strip("\"'") for found in assigned if _assigns_a_secret(found))
        yield from (found[2] for found in _USER_IN_URL.finditer(value))


def _masked(value: Any, secrets: frozenset[str], *, below: bool = False) -> Any:
    if isinstance(value, Mapping):
        return {key: _masked(item, secrets, below=below or is_secret_name(str(key))) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(item, secrets, below=below) for item in value]
    if below and _can_be_secret(value):
        return MASK
    return mask_text(value, secrets) if isinstance(value, str) else value


def _can_be_secret(value: Any) -> bool:
    """Whether a value under a secret name is one: `null`, booleans, missing values and references are not."""
    if isinstance(value, str):
        return value not in {"", "???", MASK} and re.fullmatch(r"\$\{[^,}]*\}", value) is None
    return isinstance(value, int | float) and not isinstance(value, bool)


def _assigns_a_secret(found: re.Match[str]) -> bool:
    value = found["value"].strip("\"'")
    return is_secret_name(found["name"]) and value.lower() not in {"", "null", "none", "true", "false", "???", MASK}


def _mask_assignment(found: re.Match[str]) -> str:
    return f"{found['before']}{found['name']}{found['sign']}{MASK}" if _assigns_a_secret(found) else found[0]
