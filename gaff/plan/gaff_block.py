# SPDX-License-Identifier: Apache-2.0
"""The raw ``gaff:`` block -> :class:`GaffSettings`, or every problem in it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from gaff.errors import Location, Problem
from gaff.plan.gaff_values import EXAMPLES, PARSERS, Bad, Unknown, describe
from gaff.plan.settings import GaffSettings, InitSpec, WatchSettings

Place = Callable[[str], Location | None]


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


def dump_block(settings: GaffSettings) -> dict[str, Any]:
    """The block that :func:`parse_block` reads back to equal settings.  Defaults are left out, reset_every never is."""
    block: dict[str, Any] = {}
    for item in fields(settings):
        value = getattr(settings, item.name)
        if item.default is not MISSING and value == item.default:
            continue
        if item.name == "reset_every" and value is None:
            value = "never"
        if item.name == "environment":
            value = dict(value)
        elif isinstance(value, tuple) and len(value) == 1:
            value = value[0]
        block[item.name] = _plain(value)
    return block


def _plain(value: Any) -> Any:
    """A value as YAML would have it."""
    if isinstance(value, InitSpec):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {
            item.name: "never" if plain is None else plain
            for item in fields(value)
            if (plain := _plain(getattr(value, item.name))) != _plain(item.default)
        }
    if isinstance(value, tuple):
        return list(value)
    return value


def _refused_key(key: str, where: Place) -> Problem | None:
    known = [item.name for item in fields(GaffSettings)]
    if key in known:
        return None
    return _unknown("gaff", key, known, where)


def _unknown(block: str, key: str, known: Sequence[str], where: Place) -> Problem:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    remedy = f"did you mean `{near[0]}`? else remove it" if near else f"remove it; keys are {', '.join(known)}"
    what = f"`{block}.{key}` is not a key of the {block.rpartition('.')[2]} block"
    return Problem("unknown-gaff-key", what, remedy, where(f"{block}.{key}"))


def _convert(key: str, value: Any, values: dict[str, Any], where: Place) -> Problem | None:
    try:
        values[key] = PARSERS[key](value)
    except Unknown as unknown:
        return _unknown(f"gaff.{key}", unknown.key, unknown.known, where)
    except Bad as expected:
        place, name = where(f"gaff.{key}"), f"gaff.{key}"
        if expected.inside is not None:
            place = where(f"gaff.{key}.{expected.inside}") or place
            name += f".{expected.inside}" if isinstance(expected.inside, str) else ""
            value = _inside(value, expected.inside)
        what = f"`{name}` must be {expected}, not {describe(value)}"
        return Problem("gaff-value", what, f"write `{key}: {_example(key, expected.inside)}`, for example", place)
    return None


def _example(key: str, inside: int | str | None) -> str:
    """Of a key, or, in the block with many keys, of the one inside."""
    if key != "watch" or not isinstance(inside, str):
        return EXAMPLES[key]
    default = getattr(WatchSettings(), inside)
    return f"{{{inside}: {f'{default:g}' if isinstance(default, float) else default}}}"


def _inside(value: Any, key: int | str) -> Any:
    """An item of a list or a block, whose keys may be written with hyphens."""
    return value[key] if isinstance(key, int) or key in value else value[key.replace("_", "-")]
