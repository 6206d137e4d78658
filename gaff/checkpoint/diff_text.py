# SPDX-License-Identifier: Apache-2.0
"""A difference of two tags as a page of text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

_CELL = f"{'max':>8} {'relative':>8} {'share':>6}"


def render_diff(found: Mapping[str, Any], *, every_parameter: bool = False) -> str:
    """What :func:`gaff.checkpoint.diff.diff_tags` found.

    Args:
        found: its result.
        every_parameter: one line a parameter in place of one line a layer, and the numbers that are equal too.
    """
    lines = [f"{letter.upper()}  {_described(found[letter])}" for letter in "ab"]
    lines += [sentence[0].upper() + sentence[1:] + "." for sentence in found["findings"]]
    parameters = found["parameters"]
    if every_parameter:
        lines += _table({name: parameter["copies"] for name, parameter in parameters.items()})
    else:
        lines += _table(found["layers"])
    lines += _one_sided(found)
    lines += _numbers(found["numbers"], every_parameter)
    different = sum(not parameter["equal"] for parameter in parameters.values())
    lines.append("A and B are equal" if found["equal"] else f"{different} of {len(parameters)} parameters differ")
    return "\n".join(lines)


def render_against_all(found: Mapping[str, Any]) -> str:
    """What :func:`gaff.checkpoint.masters.against_all` found; there A is the tag, and B each of the others."""
    lines = [f"A  {found['checkpoint']}  iteration {found['iteration']}"]
    for other in found["tags"]:
        if "error" in other:
            lines.append(f"B  {other['checkpoint']}: {other['error']}")
            continue
        same = f"{other['same_records']} of {found['records']} records of master weights are the same"
        lines.append(f"B  {other['checkpoint']}: {same}")
        lines += [f"   {sentence[0].upper()}{sentence[1:]}." for sentence in other["findings"]]
    if not found["tags"]:
        lines.append("there is no other tag in this save directory")
    elif found["sound"]:
        lines.append("no tag of another iteration has the master weights of A")
    return "\n".join(lines)


def _described(tag: Mapping[str, Any]) -> str:
    topology = tag["topology"]
    split = f"TP {topology['tensor']}, PP {topology['pipeline']}, DP {topology['data']}, ZeRO stage {tag['zero_stage']}"
    return f"{tag['checkpoint']}  iteration {tag['iteration']}, {split}, {tag['precision']}"


def _table(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One line a row and three columns a kind of copy."""
    kinds = list(dict.fromkeys(kind for row in rows.values() for kind in row))
    if not kinds:
        return []
    width = max(map(len, rows))
    lines = [
        " " * width + "".join(f"   {kind:<{len(_CELL)}}" for kind in kinds),
        " " * width + "".join(f"   {_CELL}" for _ in kinds),
        *(f"{name:<{width}}" + "".join(f"   {_cell(row.get(kind))}" for kind in kinds) for name, row in rows.items()),
    ]
    return ["", *(line.rstrip() for line in lines), ""]


def _cell(difference: Mapping[str, Any] | None) -> str:
    if difference is None:
        text = "-"
    elif not difference["different"]:
        text = "equal"
    else:
        numbers = f"{_short(difference['max']):>8} {_short(difference['relative']):>8}"
        text = f"{numbers} {_share(difference['share']):>6}"
    return f"{text:<{len(_CELL)}}"


def _short(value: float) -> str:
    return f"{value:.2g}" if math.isfinite(value) else "inf"


def _share(share: float) -> str:
    """A share that is neither nothing nor all never looks like it."""
    if share < 0.001:
        return "<0.1%"
    return f"{share:.1%}" if share in (0.0, 1.0) else f"{min(share, 0.999):.1%}"


def _one_sided(found: Mapping[str, Any]) -> Iterable[str]:
    for letter in "ab":
        for name in found[f"only_in_{letter}"]:
            yield f"only {letter.upper()} has {name}"
    for name, parameter in found["parameters"].items():
        if parameter["shape_a"] != parameter["shape_b"]:
            yield _shapes(name, parameter)
    for letter in "ab":
        states = {
            state: sum(state in p[f"only_in_{letter}"] for p in found["parameters"].values())
            for state in sorted({s for p in found["parameters"].values() for s in p[f"only_in_{letter}"]})
        }
        for state, count in states.items():
            yield f"only {letter.upper()} has {state}, of {count} of {len(found['parameters'])} parameters"


def _shapes(name: str, parameter: Mapping[str, Any]) -> str:
    a, b = (" x ".join(f"{size:,}" for size in parameter[f"shape_{letter}"]) for letter in "ab")
    compared = "the rows that both have were compared" if parameter["copies"] else "not compared"
    return f"{name} is {a} in A, {b} in B; {compared}"


def _numbers(numbers: Iterable[Mapping[str, Any]], everything: bool) -> list[str]:
    told = [number for number in numbers if everything or not number["equal"]]
    if not told:
        return []
    width = max(len(number["name"]) for number in told)
    return [f"{number['name']:<{width}}   {_values(number)}" for number in told] + [""]


def _values(number: Mapping[str, Any]) -> str:
    if number["name"].endswith(("_rng_state", "_rng_states", "rng_tracker_states")):
        return "equal" if number["equal"] else "different"
    a, b = (_value(number[letter]) for letter in "ab")
    return f"{a} (equal)" if number["equal"] else f"{a}   {b}"


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_value, value))
    return "none" if value is None else f"{value:.10g}" if isinstance(value, (int, float)) else str(value)
