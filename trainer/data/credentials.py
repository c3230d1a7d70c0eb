"""Find passwords and API keys in text with the detectors of detect-secrets.

Nothing is verified, so nothing leaves the machine. Each detector gets a few hundred characters around a mark that is
cheap to search for. Obvious non-secrets (a placeholder, a field name, a word) are left out.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detect_secrets.plugins.base import BasePlugin

_BEFORE, _AFTER = 120, 240
# Services by the text without which none of their keys is there; all of it is compared in lower case.
_SERVICES = {
    "accountkey=": "azure_storage_key.AzureStorageKeyDetector",
    "hooks.slack.com": "slack.SlackDetector",
    "discord": "discord.DiscordBotTokenDetector",
    ":aa": "telegram_token.TelegramBotTokenDetector",
    "-us": "mailchimp.MailchimpDetector",
    "sq0csp": "square_oauth.SquareOAuthDetector",
    "twilio": "twilio.TwilioKeyDetector",
    "artifactory": "artifactory.ArtifactoryDetector",
    "cloudant": "cloudant.CloudantDetector",
    "softlayer": "softlayer.SoftlayerDetector",
    "cloud_iam": "ibm_cloud_iam.IbmCloudIamDetector",
}
_URL = "://"
_KEYS = ("api", "auth", "service", "account", "db", "database", "priv", "private", "client")
_WORDS = re.compile(
    rf"passw(?:or)?d|passwort|pwd|db_?pass|secret|contrase[nñ]a|mot de passe|(?:{'|'.join(_KEYS)})_?key", re.IGNORECASE
)
_WORD_MARKS = ("passw", "pwd", "db_pass", "dbpass", "secret", "contrase", "mot de passe")
# `the password is hunter2` and its like, which detect-secrets, made for code, does not read.
_SAID = re.compile(
    r"(?:passw(?:or)?d|passwort|contrase[nñ]a|mot de passe)\s+(?:is|ist|lautet|es|est)[: ]\s*", re.IGNORECASE
)
_PLACEHOLDER = re.compile(
    r"your|example|placeholder|change_?me|redacted|dummy|sample|insert|xxx|\*\*\*|\.\.\.|[<>{}\[\]()]|^\$|_[0-9]+\]?$"
    r"|^(?:pass(?:word|wd)?|pwd|secret|token|api_?key|key|none|null|true|false|string|str|undefined|self\.\w+)$",
    re.IGNORECASE,
)
# What follows the name of a field where it is given a value: nothing else is worth a detector's time.
_KEY_WORD = re.compile(r"key\w{0,40}[\]'\"]{0,2}\s{0,4}(?::|=)")
_GIVEN = re.compile(r"\w{0,40}[\]'\"]{0,2}\s{0,4}(?::|=)")
_LEAST, _MOST = 6, 128


def service_keys(text: str, lowered: str) -> Iterator[tuple[int, int]]:
    """Yield the spans of service keys and webhooks; `lowered` is the text in lower case."""
    for mark, name in _SERVICES.items():
        if mark in lowered:
            yield from _asked(name, text, _windows(lowered, mark))


def passwords(text: str, lowered: str) -> Iterator[tuple[int, int]]:
    """Yield the spans of passwords and secrets: in URLs, after a field named like one, or in a sentence."""
    if _URL in lowered and "@" in lowered:
        yield from _asked("basic_auth.BasicAuthDetector", text, _windows(lowered, _URL))
    if not any(mark in lowered for mark in _WORD_MARKS) and not ("key" in lowered and _KEY_WORD.search(lowered)):
        return
    for match in _WORDS.finditer(text):
        if not _GIVEN.match(text, match.end()):
            continue
        begin, end = _line(text, match.start(), match.end())
        for value, at in _assigned(text[begin:end], match.start() - begin):
            yield begin + at, begin + at + len(value)
    for match in _SAID.finditer(text):
        value = _first_word(text[match.end() : match.end() + _MOST])
        if _is_secret(value):
            at = text.index(value, match.end())
            yield at, at + len(value)


def _assigned(line: str, at: int) -> Iterator[tuple[str, int]]:
    """Yield the values after a field's name in a line, with their positions."""
    from detect_secrets.plugins.keyword import CONFIG_DENYLIST_REGEX_TO_GROUP

    for value in _detector("keyword.KeywordDetector").analyze_string(
        line[at:], denylist_regex_to_group=CONFIG_DENYLIST_REGEX_TO_GROUP
    ):
        word = _first_word(value)
        if _is_secret(word):
            yield word, line.index(word, at)


def _asked(name: str, text: str, windows: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    for begin, end in windows:
        window = text[begin:end]
        for secret in _detector(name).analyze_string(window):
            stripped = secret.strip("\"'=: \t")
            if stripped and not _PLACEHOLDER.search(stripped):
                at = begin + window.index(stripped)
                yield at, at + len(stripped)


def _windows(lowered: str, mark: str) -> Iterator[tuple[int, int]]:
    """Yield the span around each mark; close marks share one."""
    at = lowered.find(mark)
    while at >= 0:
        end = at + len(mark) + _AFTER
        yield max(0, at - _BEFORE), min(len(lowered), end)
        at = lowered.find(mark, end - _AFTER // 2)


def _line(text: str, begin: int, end: int) -> tuple[int, int]:
    """Return the rest of a word's line, as far as a value can reach."""
    newline = text.find("\n", end, end + _AFTER)
    return begin, min(len(text), end + _AFTER) if newline < 0 else newline


def _first_word(value: str) -> str:
    """Return the first word of a value, without punctuation."""
    words = value.split(maxsplit=1)
    return words[0].strip("\"'`").rstrip(".,;:!?\"'`") if words else ""


def _is_secret(value: str) -> bool:
    """Whether a value can be a password: not a placeholder, and letters mixed with digits or symbols."""
    if not _LEAST <= len(value) <= _MOST or _PLACEHOLDER.search(value):
        return False
    return any(one.isalpha() for one in value) and not value.replace("-", "").replace("_", "").isalpha()


@cache
def _detector(name: str) -> "BasePlugin":
    from importlib import import_module

    module, _, kind = name.partition(".")
    detector: BasePlugin = getattr(import_module(f"detect_secrets.plugins.{module}"), kind)()
    return detector
