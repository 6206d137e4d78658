# SPDX-License-Identifier: Apache-2.0
"""Values that a page is not to carry out of the run directory: a report is handed on more freely than a config."""

from __future__ import annotations

import re

HIDDEN = "(hidden)"

# A name with one of the usual words in it, then `: value` (YAML) or `=value` (command lines, KEY=VALUE lists).
_NAMED = re.compile(
    r"""(?ix) ( [\w.-]* (?: (?:api|access|private|secret)_?key | (?<![a-z])token(?![a-z]) | secret | passw(?:or)?d
    | credential ) [\w.-]* ["']? \s* [:=] [ \t]* )
    (?! null\b | ["']{2} ) ( "[^"\n]*" | '[^'\n]*' | [^\s,}"']+ )"""
)
_IN_URL = re.compile(r"(\w+://)[^/@\s]+@")  # user:password@host


def without_secrets(text: str) -> str:
    """The text with the values of keys, tokens, secrets and passwords, told by their names, replaced."""
    return _IN_URL.sub(rf"\1{HIDDEN}@", _NAMED.sub(rf"\1{HIDDEN}", text))
