# SPDX-License-Identifier: Apache-2.0
"""The raw ``gaff:`` block -> :class:`GaffSettings`, or every problem in it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, fields
from typing import Any, get_args

from gaff.errors import Location, Problem
from gaff.plan.settings import NICKNAMES, SCALES, GaffSettings, InitSpec, Moments, TrainerName, usable_scale

Place = Callable[[str], Location | None]

#: Keys and values that GAFF's design knows and this version does not have yet.
_NOT_YET_KEYS = ("watch",)
_NOT_YET_VALUES: Mapping[str, tuple[str, ...]] = {"lr_schedule": ("restart",)}
_ONLY_VALUE = {"lr_schedule": "continue", "keep": "all"}


class _Bad(Exception):
    """What was expected instead; becomes a :class:`Problem` with its place.

    Attributes:
        index: of the item that is meant, in a list.
    """

    def __init__(self, expected: str, index: int | None = None) -> None:
        super().__init__(expected)
        self.index = index


def parse_block(block: Any, where: Place, refused: Collection[str] = ()) -> tuple[GaffSettings | None, list[Problem]]:
    """Check and convert the block.

    Args:
        block: what the YAML says under ``gaff``; None when there is no block.
        where: dotted key -> its place.
        refused: dotted keys whose values were refused already, and are not spoken of again.

    Returns:
        The settings, None when there is any problem; and all the problems.
    """
    if block is not None and not isinstance(block, Mapping):
        what = f"`gaff:` must be a block of keys, not {describe(block)}"
        return None, [Problem("gaff-block", what, "write the keys below it, indented", where("gaff"))]
    given = {str(key).replace("-", "_"): value for key, value in (block or {}).items()}
    problems: list[Problem] = []
    values: dict[str, Any] = {}
    for key, value in given.items():
        if f"gaff.{key}" in refused:
            continue
        problem = _refused_key(key, where) or _convert(key, value, values, where)
        if problem:
            problems.append(problem)
    if "reset_every" not in given:
        problems.append(
            Problem(
                "reset-every-missing",
                "`gaff.reset_every` is missing",
                "give the iterations between two resets, or `never` for the baseline",
                where("gaff"),
            )
        )
    unusable = problems or "reset_every" not in values
    return (None if unusable else GaffSettings(**values)), problems


def parse_init(text: str) -> InitSpec:
    """An ``init`` given on a command line.

    Raises:
        ValueError: it is none; the message says what was expected.
    """
    try:
        return _init(text)
    except _Bad as expected:
        raise ValueError(f"must be {expected}") from None


def dump_block(settings: GaffSettings) -> dict[str, Any]:
    """The block that :func:`parse_block` reads back to equal settings.  Defaults are left out, reset_every never is."""
    block: dict[str, Any] = {}
    for item in fields(settings):
        value = getattr(settings, item.name)
        if item.default is not MISSING and value == item.default:
            continue
        if item.name == "reset_every" and value is None:
            value = "never"
        if isinstance(value, tuple):
            value = value[0] if len(value) == 1 else list(value)
        block[item.name] = str(value) if isinstance(value, InitSpec) else value
    return block


def describe(value: object) -> str:
    """A value as a person would name it: its kind and itself."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return f"the true/false value `{str(value).lower()}`"
    if isinstance(value, (int, float)):
        return f"the number `{value}`"
    if isinstance(value, str):
        return f"the text `{value}`"
    return "a list" if isinstance(value, (list, tuple)) else "a mapping" if isinstance(value, Mapping) else repr(value)


def _refused_key(key: str, where: Place) -> Problem | None:
    known = [item.name for item in fields(GaffSettings)]
    if key in known:
        return None
    place = where(f"gaff.{key}")
    if key in _NOT_YET_KEYS:
        return Problem("not-in-this-version", f"`gaff.{key}` is not in this version", "remove it", place)
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    remedy = f"did you mean `{near[0]}`? else remove it" if near else f"remove it; keys are {', '.join(known)}"
    return Problem("unknown-gaff-key", f"`gaff.{key}` is not a key of the gaff block", remedy, place)


def _convert(key: str, value: Any, values: dict[str, Any], where: Place) -> Problem | None:
    try:
        values[key] = _PARSERS[key](value)
    except _Bad as expected:
        place = where(f"gaff.{key}")
        if value in _NOT_YET_VALUES.get(key, ()) or (key == "keep" and isinstance(value, str)):
            what = f"`gaff.{key}: {value}` is not in this version"
            return Problem("not-in-this-version", what, f"write {_ONLY_VALUE[key]}, or remove the key", place)
        if expected.index is not None:
            value, place = value[expected.index], where(f"gaff.{key}.{expected.index}")
        what = f"`gaff.{key}` must be {expected}, not {describe(value)}"
        return Problem("gaff-value", what, f"write `{key}: {_EXAMPLES[key]}`, for example", place)
    return None


def _whole(minimum: int) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise _Bad(f"an integer of at least {minimum}")
        return value

    return parse


def _optional(parse: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else parse(value)


def _reset_every(value: Any) -> int | None:
    if value == "never":
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _Bad("an integer of at least 1, or `never`")
    return value


def _word(choices: tuple[str, ...]) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if not isinstance(value, str) or value not in choices:
            raise _Bad(" or ".join(f"`{choice}`" for choice in choices))
        return value

    return parse


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _Bad("true or false")
    return value


def _path(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise _Bad("a path")
    return value


def _parameters(value: Any) -> tuple[str, ...]:
    expected = f"{', '.join(NICKNAMES)}, a pattern of parameter names, or a list of these"
    if value == []:
        raise _Bad(f"{expected} with at least one")
    listed = value if isinstance(value, list) else [value]
    for index, item in enumerate(listed):
        if not isinstance(item, str) or not (item in NICKNAMES or _may_match_names(item)):
            raise _Bad(expected, index if listed is value else None)
    return tuple(listed)


def _may_match_names(pattern: str) -> bool:
    """Whether a pattern can match ``LAYER.NAME``: a plain word without a dot is a slip of the pen."""
    return any(character in pattern for character in ".*?[")


def _init(value: Any) -> InitSpec:
    expected = _Bad("config, matched, step0, normal:STD, uniform:BOUND or a .safetensors file")
    if not isinstance(value, str):
        raise expected
    if value in ("config", "matched", "step0"):
        return InitSpec(kind=value)  # type: ignore[arg-type]
    if value.endswith(".safetensors"):
        return InitSpec(kind="file", path=value)
    kind, colon, number = value.partition(":")
    if kind not in ("normal", "uniform") or not colon:
        raise expected
    try:
        size = float(number)
    except ValueError:
        raise expected from None
    if not usable_scale(size):
        raise _Bad(f"{kind}: followed by a number {SCALES}")
    return InitSpec(kind="normal" if kind == "normal" else "uniform", value=size)


_PARSERS: Mapping[str, Callable[[Any], Any]] = {
    "reset_every": _reset_every,
    "first_reset": _optional(_whole(1)),
    "last_reset": _optional(_whole(1)),
    "parameters": _parameters,
    "init": _init,
    "moments": _word(get_args(Moments)),
    "lr_schedule": _word((_ONLY_VALUE["lr_schedule"],)),
    "seed": _whole(0),
    "trainer": _word(get_args(TrainerName)),
    "neox_dir": _optional(_path),
    "neox_python": _optional(_path),
    "save_forgotten": _boolean,
    "keep": _word((_ONLY_VALUE["keep"],)),
}

_EXAMPLES: Mapping[str, str] = {
    "reset_every": "1000",
    "first_reset": "1000",
    "last_reset": "50000",
    "parameters": "input_embedding",
    "init": "normal:0.02",
    "moments": "zero",
    "lr_schedule": "continue",
    "seed": "1234",
    "trainer": "auto",
    "neox_dir": "/path/to/gpt-neox",
    "neox_python": "/path/to/venv/bin/python",
    "save_forgotten": "true",
    "keep": "all",
}
