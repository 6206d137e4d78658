# SPDX-License-Identifier: Apache-2.0
"""What differs between two tags of one model, whatever their layouts: parameters, copy by copy, and numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gaff.checkpoint.compare import Comparison, Difference, compare, shared_elements
from gaff.checkpoint.file_numbers import FileNumbers, gathered, read_numbers
from gaff.checkpoint.layout.layout import Layout
from gaff.checkpoint.layout.read import read_layout
from gaff.checkpoint.masters import findings
from gaff.errors import InputError

SCHEMA = "gaff.diff/1"
_OF_LAYOUT = ("ds_version", "dp_world_size", "mp_world_size")  # told with the tag, and no difference by themselves


def diff_tags(tag_a: Path, tag_b: Path, *patterns: str) -> dict[str, Any]:
    """Everything that differs between two tags, ready for JSON.

    Args:
        tag_a, tag_b: tag directories, in any layouts.
        patterns: the parameters to compare, as :meth:`Layout.named` takes them; all when none.

    Raises:
        CheckpointError: one is incomplete, damaged or of a layout that is not handled.
        InputError: neither has such a parameter.
    """
    a, b = read_layout(tag_a), read_layout(tag_b)
    names = _named(a, b, patterns)
    shared = [name for name in names if name in a.parameters and name in b.parameters]
    found = compare(a, b, [name for name in shared if shared_elements(a, b, name)])
    numbers = _numbers(read_numbers(tag_a), read_numbers(tag_b))
    parameters = {name: _of_parameter(a, b, name, found) for name in shared}
    only_in_a, only_in_b = ([n for n in names if n not in other.parameters] for other in (b, a))
    equal = (
        not only_in_a
        and not only_in_b
        and all(parameter["equal"] for parameter in parameters.values())
        and all(number["equal"] for number in numbers)
    )
    return {
        "schema": SCHEMA,
        "a": _described(a),
        "b": _described(b),
        "equal": equal,
        "findings": findings(a, b, found),
        "layers": _by_layer(found),
        "parameters": parameters,
        "only_in_a": only_in_a,
        "only_in_b": only_in_b,
        "numbers": numbers,
    }


def layer_of(name: str) -> str:
    """The part of the model that a parameter belongs to, numbered as in the names of files and parameters."""
    layer, _, rest = name.partition(".")
    if layer == "0":
        return "embedding"
    if rest.startswith("final_linear."):
        return "head"
    return "norm" if rest.startswith("norm.") else f"layer {layer}"


def _named(a: Layout, b: Layout, patterns: tuple[str, ...]) -> list[str]:
    """The parameters to compare, in the order of A's model, then what only B has."""
    every = list(dict.fromkeys([*a.parameters, *b.parameters]))
    if not patterns:
        return every
    wanted: set[str] = set()
    for pattern in patterns:
        found = {name for tag in (a, b) for name in _matching(tag, pattern)}
        wanted |= found or set(a.named(pattern))  # which says that there is none
    return [name for name in every if name in wanted]


def _matching(tag: Layout, pattern: str) -> tuple[str, ...]:
    try:
        return tag.named(pattern)
    except InputError:
        return ()


def _described(tag: Layout) -> dict[str, Any]:
    return {
        "checkpoint": str(tag.path),
        "iteration": tag.iteration,
        "topology": vars(tag.topology),
        "zero_stage": tag.zero_stage,
        "precision": tag.model_dtype,
        "deepspeed": tag.deepspeed_version,
    }


def _of_parameter(a: Layout, b: Layout, name: str, found: Comparison) -> dict[str, Any]:
    shapes = [list(tag.parameters[name].shape) for tag in (a, b)]
    states = [set(tag.states(name)) for tag in (a, b)]
    differences = found.differences.get(name, {})
    only_in_a, only_in_b = sorted(states[0] - states[1]), sorted(states[1] - states[0])
    equal = shapes[0] == shapes[1] and not only_in_a and not only_in_b
    return {
        "equal": equal and not any(difference.different for difference in differences.values()),
        "shape_a": shapes[0],
        "shape_b": shapes[1],
        "copies": {kind: numbers_of(difference) for kind, difference in differences.items()},
        "only_in_a": only_in_a,
        "only_in_b": only_in_b,
    }


def numbers_of(difference: Difference) -> dict[str, Any]:
    """A difference, ready for JSON: what it counts, the largest, the relative L2 norm, the share of elements."""
    return {
        "elements": difference.numel,
        "different": difference.different,
        "max": difference.maximum,
        "relative": difference.relative,
        "share": difference.share,
    }


def _by_layer(found: Comparison) -> dict[str, dict[str, Any]]:
    sums: dict[str, dict[str, Difference]] = {}
    for name, kinds in found.differences.items():
        layer = sums.setdefault(layer_of(name), {})
        for kind, difference in kinds.items():
            layer[kind] = layer.get(kind, Difference()) + difference
    return {layer: {kind: numbers_of(d) for kind, d in kinds.items()} for layer, kinds in sums.items()}


def _numbers(a: list[FileNumbers], b: list[FileNumbers]) -> list[dict[str, Any]]:
    """All numbers and random states: of A, of B, and whether they are equal."""
    values_a, values_b = gathered(a), gathered(b)
    names = [name for name in dict.fromkeys([*values_a, *values_b]) if name not in _OF_LAYOUT]
    found = [
        {"name": name, "a": _plain(one), "b": _plain(other), "equal": one == other}
        for name in names
        for one, other in [(values_a.get(name), values_b.get(name))]
    ]
    return found + _random_states(a, b)


def _plain(values: tuple[Any, ...] | None) -> Any:
    """One value where there is one only."""
    if values is None:
        return None
    return values[0] if len(values) == 1 else list(values)


def _random_states(a: list[FileNumbers], b: list[FileNumbers]) -> list[dict[str, Any]]:
    """Random states of the ranks that both tags have, told as digests of the first; equal when all are."""
    mine, others = ({one.rank: one.random for one in numbers if one.random} for numbers in (a, b))
    ranks = [rank for rank in mine if rank in others]
    names = dict.fromkeys(name for rank in ranks for name in (*mine[rank], *others[rank]))
    return [
        {
            "name": name,
            "a": mine[ranks[0]].get(name),
            "b": others[ranks[0]].get(name),
            "equal": all(mine[rank].get(name) == others[rank].get(name) for rank in ranks),
        }
        for name in names
    ]
