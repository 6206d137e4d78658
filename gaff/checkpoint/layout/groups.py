# SPDX-License-Identifier: Apache-2.0
"""Which parameters an optimizer group holds, where the file only says how many and of which shapes.

GPT-NeoX puts parameters with weight decay into the first group and norms and biases into the second, both in the
model's order (``megatron/model/utils.py``); all into one where there is no weight decay.  muP splits both further by
how their sizes grow with the model's width (``mup.optim``), which is the same for a parameter in all layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

Shape = tuple[int, ...]
_NAMES = {"weight_decay_params": False, "no_weight_decay_params": True}


@dataclass(frozen=True)
class Group:
    """What a file says of an optimizer group: its name, and its parameters' shapes in order, None where unknown."""

    name: str
    shapes: tuple[Shape | None, ...]


def is_spared(name: str) -> bool:
    """Whether a parameter is spared weight decay: biases, and all that norms have."""
    *_, module, last = name.split(".")
    return last == "bias" or module.endswith("norm")


def by_decay(names: Sequence[str], groups: int) -> list[list[str]]:
    """``names`` as GPT-NeoX groups them."""
    if groups == 1:
        return [list(names)]
    return [[n for n in names if not is_spared(n)], [n for n in names if is_spared(n)]]


def assigned(names: Sequence[str], shapes: Mapping[str, Shape], groups: Sequence[Group]) -> list[list[str]] | None:
    """The parameters of each group, in order; None where that cannot be told, or can be told in two ways.

    Args:
        names: the parameters, in the model's order.
        shapes: of each.
        groups: as the file has them.
    """
    if len(groups) <= 2:
        found = by_decay(names, len(groups))
        return found if _fits(found, shapes, groups) else None
    ways = list(_ways(names, shapes, groups))
    return ways[0] if len(ways) == 1 else None


def _ways(names: Sequence[str], shapes: Mapping[str, Shape], groups: Sequence[Group]) -> Iterator[list[list[str]]]:
    """Every way to give each kind of parameter a group of its own weight decay, so that all shapes fit."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(name.partition(".")[2], []).append(name)
    room = [{shape: group.shapes.count(shape) for shape in set(group.shapes)} for group in groups]
    listed = list(kinds.items())

    def choose(chosen: list[int]) -> Iterator[list[int]]:
        if len(chosen) == len(listed):
            yield chosen
            return
        kind, members = listed[len(chosen)]
        shape = shapes[members[0]]
        for number, group in enumerate(groups):
            if _NAMES.get(group.name) == is_spared(kind) and room[number].get(shape, 0) >= len(members):
                room[number][shape] -= len(members)
                yield from choose([*chosen, number])
                room[number][shape] += len(members)

    for chosen in choose([]):
        of_kind = {kind: number for (kind, _), number in zip(listed, chosen, strict=True)}
        found = [[n for n in names if of_kind[n.partition(".")[2]] == number] for number in range(len(groups))]
        if _fits(found, shapes, groups):
            yield found


def _fits(found: Sequence[Sequence[str]], shapes: Mapping[str, Shape], groups: Sequence[Group]) -> bool:
    return all(
        len(members) == len(group.shapes)
        and all(held in (None, shapes[name]) for name, held in zip(members, group.shapes, strict=True))
        for members, group in zip(found, groups, strict=True)
    )
