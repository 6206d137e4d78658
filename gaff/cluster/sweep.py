# SPDX-License-Identifier: Apache-2.0
"""Sweeps: one run for each combination of some keys' values, each in its own run directory."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from gaff.errors import InputError, Problem

_MOST = 1000  # tasks; Slurm's MaxArraySize is 1001 unless a site raised it
_VALUE = re.compile(r"[\w.:+-]+")


@dataclass(frozen=True)
class Variant:
    """One run of a sweep.

    Attributes:
        overrides: ``KEY=VALUE``, as after ``-o``.
        name: of its run directory: ``reset_every=500,seed=1``.
    """

    overrides: tuple[str, ...]
    name: str


def variants(sweeps: Sequence[str]) -> tuple[Variant, ...]:
    """All combinations of ``KEY=VALUE,VALUE…``, the last key's values changing fastest; none without a sweep.

    Raises:
        InputError: a sweep is malformed, names a key or value twice, or makes too many runs.
    """
    if not sweeps:
        return ()
    keys: dict[str, list[str]] = {}
    for sweep in sweeps:
        key, equals, listed = (part.strip() for part in sweep.partition("="))
        values = [value.strip() for value in listed.split(",")]
        if not equals or not key or not all(_VALUE.fullmatch(value) for value in values):
            raise _wrong(sweep, "is not of the form KEY=VALUE,VALUE")
        key = key.replace("-", "_")  # as the config takes it
        if key in keys:
            raise _wrong(sweep, "names a key that another sweep has")
        if len(set(values)) < len(values):
            raise _wrong(sweep, "names a value twice")
        keys[key] = values
    short = [key.rpartition(".")[2] for key in keys]
    names = short if len(set(short)) == len(short) else list(keys)
    made = [
        Variant(
            tuple(f"{key}={value}" for key, value in zip(keys, chosen, strict=True)),
            # A colon parts the words of PATH and of a container's mounts.
            ",".join(f"{name}={value.replace(':', '-')}" for name, value in zip(names, chosen, strict=True)),
        )
        for chosen in itertools.product(*keys.values())
    ]
    if len({variant.name for variant in made}) < len(made):
        raise _wrong(sweeps[-1], "makes two runs of one name")
    if len(made) > _MOST:
        raise _wrong(sweeps[-1], f"makes {len(made)} runs with the others, and {_MOST} is the most")
    return tuple(made)


def _wrong(sweep: str, why: str) -> InputError:
    remedy = "write --sweep gaff.reset_every=500,1000,2000"
    return InputError(Problem("sweep", f"`--sweep {sweep}` {why}", remedy))
