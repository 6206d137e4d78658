# SPDX-License-Identifier: Apache-2.0
"""GPT-NeoX keys by type: the value, else GPT-NeoX's default; a mistyped value counts as not given.

Checks and estimates read through these, so that one wrong value gives one problem (from
:mod:`gaff.plan.check_types`), not a crash in every rule that looks at it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from gaff.plan.config import Config
from gaff.plan.neox_keys import BOOLEAN, DEFAULTS, INSIDE, INTEGER, KINDS, LIST, MAPPING, NUMBER, TEXT, Kind


def fits(value: object, kind: Kind) -> bool:
    """Whether GPT-NeoX takes the value for a key of this kind: types are compared exactly, but ints pass for floats."""
    exact = type(value)
    if kind == INTEGER:
        return exact is int
    if kind == NUMBER:
        return exact in (int, float)
    if kind == BOOLEAN:
        return exact is bool
    if kind == TEXT:
        return exact is str
    if kind == LIST:
        return exact is list
    return exact is dict if kind == MAPPING else True


def mistyped(neox: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """(dotted key, what it must be, its value) for every value of GPT-NeoX keys that nothing can be done with.

    These are values of another kind than the key's, and numbers that no trainer can use, wherever they stand.
    """
    useless = dict(_useless_numbers(neox))
    yield from ((key, "a finite number of at most 64 bits", value) for key, value in useless.items())
    for table in (KINDS, INSIDE):
        for key, kind in table.items():
            value = _look_up(neox, key)
            if value is not None and key not in useless and not fits(value, kind):
                yield key, kind, value


def _useless_numbers(neox: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of all numbers that are not finite or need more than 64 bits."""
    seen: set[int] = set()  # what an alias repeats is looked at once

    def walk(value: Any, dotted: str) -> Iterator[tuple[str, Any]]:
        if not isinstance(value, (Mapping, list)):
            if not _usable(value):
                yield dotted, value
        elif id(value) not in seen:
            seen.add(id(value))
            for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
                yield from walk(item, f"{dotted}.{key}" if dotted else str(key))

    return walk(neox, "")


def _usable(value: object) -> bool:
    return math.isfinite(value) if isinstance(value, float) else not isinstance(value, int) or abs(value) < 2**63


def _look_up(neox: Mapping[str, Any], key: str) -> Any:
    value: Any = neox
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _value(config: Config, key: str, kind: Kind) -> Any:
    value = config.get(key, DEFAULTS.get(key))
    return value if fits(value, kind) and _usable(value) else None


def integer(config: Config, key: str) -> int | None:
    value: int | None = _value(config, key, INTEGER)
    return value


def number(config: Config, key: str) -> float | None:
    value: float | None = _value(config, key, NUMBER)
    return value


def flag(config: Config, key: str) -> bool:
    return _value(config, key, BOOLEAN) is True


def text(config: Config, key: str) -> str | None:
    value: str | None = _value(config, key, TEXT)
    return value


def word(config: Config, key: str) -> str:
    """A text key in lower case; empty when not given."""
    return (text(config, key) or "").lower()


def items(config: Config, key: str) -> list[Any]:
    value: list[Any] | None = _value(config, key, LIST)
    return value or []


def mapping(config: Config, key: str) -> Mapping[str, Any]:
    value: Mapping[str, Any] | None = _value(config, key, MAPPING)
    return value or {}


def at_least(config: Config, key: str, minimum: int) -> int:
    """An integer key, raised to ``minimum`` where it is smaller, missing or mistyped."""
    return max(minimum, integer(config, key) or 0)


def tensor_parallel(config: Config) -> int:
    return at_least(config, "model_parallel_size", 1)


def pipeline(config: Config) -> int:
    """``pipe_parallel_size``; 0 is GPT-NeoX's sequential model without DeepSpeed's pipeline engine."""
    return at_least(config, "pipe_parallel_size", 0)


def zero_stage(config: Config) -> int:
    """The ZeRO stage.  GPT-NeoX takes 0 when there is no ``zero_optimization`` block."""
    return at_least(config, "zero_optimization.stage", 0)


def precision(config: Config) -> str:
    """fp32, fp16 or bfloat16, derived as GPT-NeoX does: the key, else an enabled ``fp16`` or ``bf16`` block."""
    given = word(config, "precision")
    if given:
        return given
    if flag(config, "fp16.enabled"):
        return "fp16"
    return "bfloat16" if flag(config, "bf16.enabled") else "fp32"
