# SPDX-License-Identifier: Apache-2.0
"""Values of a cluster profile: one parser for each kind, which takes text, lists and mappings of text."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from gaff.cluster.times import parse_time

Parser = Callable[[Any], Any]
_TOKEN = re.compile(r"[^\s'\"\\`$#;|<>]+")  # what stands on a directive line of a job script as one word
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MEMORY = re.compile(r"\d+[KMGT]?B?", re.IGNORECASE)
_MOST = 1_000_000


class Wrong(Exception):
    """What was expected instead."""


def whole(minimum: int) -> Parser:
    def parse(value: Any) -> int:
        if not isinstance(value, str) or not value.isdecimal() or not minimum <= int(value) <= _MOST:
            raise Wrong(f"a whole number from {minimum} to {_MOST}")
        return int(value)

    return parse


def word(choices: tuple[str, ...]) -> Parser:
    def parse(value: Any) -> str:
        if value not in choices:
            raise Wrong(" or ".join(f"`{choice}`" for choice in choices))
        return str(value)

    return parse


def boolean(value: Any) -> bool:
    if value not in ("true", "false"):
        raise Wrong("true or false")
    return bool(value == "true")


def token(value: Any) -> str:
    if not isinstance(value, str) or not _TOKEN.fullmatch(value):
        raise Wrong("one word, without blanks, quotes and $")
    return value


def features(value: Any) -> str:
    """As :func:`token`, with ``|``: no shell reads a directive line."""
    if not isinstance(value, str) or not _TOKEN.fullmatch(value.replace("|", "&")):
        raise Wrong("node features, as a100|h100, without blanks, quotes and $")
    return value


def line(value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or "\n" in value or "\0" in value:
        raise Wrong("one line of text")
    return value


def lines(value: Any) -> tuple[str, ...]:
    expected = Wrong("a list, each item one line of text")
    if not isinstance(value, list):
        raise expected
    try:
        return tuple(line(item) for item in value)
    except Wrong:
        raise expected from None


def memory(value: Any) -> str:
    if not isinstance(value, str) or not _MEMORY.fullmatch(value):
        raise Wrong("a size such as 480G, or 0")
    return value


def time(value: Any) -> str:
    if not isinstance(value, str):
        raise Wrong(_TIME)
    try:
        parse_time(value)
    except ValueError:
        raise Wrong(_TIME) from None
    return value


_TIME = "a time, as 24:00:00, 2-12, 36h or minutes"


def seconds(value: str) -> float:
    """Of what :func:`time` has taken."""
    return parse_time(value)


def variables(value: Any) -> tuple[tuple[str, str | None], ...]:
    if not isinstance(value, Mapping):
        raise Wrong("a block of variables, as KEY: value")
    for key, item in value.items():
        if not _VARIABLE.fullmatch(key):
            raise Wrong(f"a block of variables, whose names have letters, digits and _ (`{key}` is none)")
        if item is not None and (not isinstance(item, str) or "\n" in item):
            raise Wrong("a block of variables with one line of text each")
    return tuple(value.items())


def block(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise Wrong("a block of keys")
    return value
