# SPDX-License-Identifier: Apache-2.0
"""Runs made by hand for the page."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import numpy as np
import pytest

from gaff.plan.schedule import Reset
from gaff.report.analysis.analyse import analyse
from gaff.report.analysis.measures import Analysis, Boundary
from gaff.report.metrics.run_metrics import RunMetrics
from gaff.report.metrics.series import Floats, series
from gaff.report.page.reported import ConfigChange, HealthEvent, ReportedRun, Row
from gaff.report.summary import summary_of
from gaff.trainers.contract import ValidationLogged

MakeRun = Callable[..., ReportedRun]


def losses_of(iterations: int, every: int) -> Floats:
    """A spike at each reset that heals faster and faster, and a little noise."""
    place = np.arange(iterations)
    segment, since = place // every, place % every
    spike = np.where(segment > 0, 2.0 * np.exp(-since / (every * (0.05 + 0.2 / (1 + segment)))), 0.0)
    noise = np.random.default_rng(3).normal(0, 0.02, iterations)
    falling: Floats = 2.5 + 5.0 * np.exp(-place / every) + spike + noise
    return falling


@pytest.fixture
def make_run() -> MakeRun:
    """A run of so many iterations, with a reset after every so many, and whatever else is given."""

    def make(iterations: int = 600, every: int = 100, losses: Floats | None = None, **other: Any) -> ReportedRun:
        lines = series(
            iteration=np.arange(1, iterations + 1),
            loss=losses_of(iterations, every) if losses is None else losses,
            not_finite=np.zeros(iterations, bool) if losses is None else ~np.isfinite(losses),
            learning_rate=1e-3 * np.cos(np.linspace(0, 1.5, iterations)),
            ms_per_iteration=np.full(iterations, 120.0),
            segment=np.arange(iterations) // every + 1,
            elapsed_s=np.full(iterations, 0.12),
        )
        numbers = range(1, (iterations - 1) // every + 1)
        resets = tuple(Reset(number, number * every) for number in numbers)
        validations = (ValidationLogged(every, 2.9, "validation"), ValidationLogged(None, 2.6, "test"))
        metrics = RunMetrics(lines, resets, validations, (), iterations, 1)
        found = analyse(metrics, ())
        boundaries = tuple(
            Boundary(reset.iteration, reset.number, None, 3.0, 0.5, 0.25 * reset.number, 12.0, None) for reset in resets
        )
        analysis = Analysis(**{**vars(found), "boundaries": boundaries})
        given: dict[str, Any] = {"title": "a run", "source": "runs/a", **other}
        return ReportedRun(metrics=metrics, analysis=analysis, summary=summary_of(metrics, (), analysis), **given)

    return make


HOSTILE = "</script><script>window.broken=1</script><img src=x onerror=window.broken=2>&amp; $title ${curve} \u2028"


@pytest.fixture
def full_run(make_run: MakeRun) -> ReportedRun:
    """A run that has everything, all its texts hostile."""
    when = datetime(2026, 11, 21, 8, tzinfo=timezone.utc)
    return make_run(
        title=HOSTILE,
        source=HOSTILE,
        config=f"train_iters: 600\ncomment: {HOSTILE}\n",
        changes=(ConfigChange(HOSTILE, HOSTILE, HOSTILE, HOSTILE),),
        environment=(Row(HOSTILE, HOSTILE),),
        provenance=(Row("run", HOSTILE),),
        health=(HealthEvent(when, "trouble", HOSTILE, HOSTILE), HealthEvent(None, "note", "stop asked", "SIGTERM")),
        notes=(HOSTILE,),
    )
