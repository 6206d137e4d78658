# SPDX-License-Identifier: Apache-2.0
"""What the curves of several runs are laid along: iterations, tokens or hours of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gaff.errors import InputError, Location, Problem
from gaff.report.compare.runs import ComparedRun
from gaff.report.metrics.series import Floats

Align = Literal["iteration", "tokens", "hours"]
ALIGNS: tuple[Align, ...] = ("iteration", "tokens", "hours")


@dataclass(frozen=True)
class Unit:
    """A unit in which numbers up to some size are easily read; ``size`` in the measure's own."""

    name: str
    size: float


_TOKENS = (Unit("billion", 1e9), Unit("million", 1e6), Unit("thousand", 1e3), Unit("", 1.0))
_TIMES = (Unit("h", 3600.0), Unit("min", 60.0), Unit("s", 1.0))


def token_unit(most: float) -> Unit:
    """For numbers of tokens up to ``most``."""
    return next((unit for unit in _TOKENS if most >= unit.size), _TOKENS[-1])


def time_unit(most_s: float) -> Unit:
    """For times up to ``most_s`` seconds."""
    return next((unit for unit in _TIMES if most_s >= unit.size), _TIMES[-1])


def lacking(runs: Sequence[ComparedRun], align: Align) -> list[ComparedRun]:
    """The runs that cannot be laid along it.  Those without any logged loss are not asked."""
    asked = [run for run in runs if len(run.metrics.curve[0])]
    if align == "tokens":
        return [run for run in asked if not run.tokens_per_iteration]
    return [run for run in asked if not positions(run, "hours")[-1] > 0] if align == "hours" else []


def check_align(runs: Sequence[ComparedRun], align: Align) -> None:
    """Raise where runs cannot be laid along it.

    Raises:
        InputError: the tokens of an iteration, or the time it took, are not known of a run.
    """
    told = {
        "tokens": ("config.yml does not tell how many tokens an iteration has", "align by iteration or hours"),
        "hours": ("its logs do not tell how long an iteration took", "align by iteration"),
    }
    if missing := lacking(runs, align):
        what, remedy = told[align]
        raise InputError([Problem("align", what, remedy, Location(str(run.path))) for run in missing])


def positions(run: ComparedRun, align: Align) -> Floats:
    """Where each point of the run's curve lies, shape ``(n,)``: iterations, tokens, or hours of training so far.

    Hours are the trainer's own, of the iterations that the final weights went through: boundaries and what was trained
    in vain are not in them.
    """
    iterations = run.metrics.curve[0]
    if align == "hours":
        hours = np.cumsum(run.metrics.series.elapsed_s)[run.metrics.series.is_right] / 3600
        return hours.astype(np.float64)
    factor = (run.tokens_per_iteration or 0) if align == "tokens" else 1
    return iterations.astype(np.float64) * factor
