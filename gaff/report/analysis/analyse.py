# SPDX-License-Identifier: Apache-2.0
"""All measures of a run at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gaff.report.analysis.boundaries import boundaries
from gaff.report.analysis.measures import Analysis, Recovery
from gaff.report.analysis.recovery import PERCENTAGES, recoveries
from gaff.report.analysis.trends import trends
from gaff.report.metrics.run_metrics import RunMetrics
from gaff.supervisor.journal import Entry


def analyse(metrics: RunMetrics, entries: Sequence[Entry], percentages: Sequence[float] = PERCENTAGES) -> Analysis:
    """The measures of a run; ``entries`` is its whole journal, empty where there is none."""
    found = recoveries(*metrics.curve, metrics.resets, percentages)
    recovering = sum(recovery.spent for recovery in found)
    trained = int(metrics.series.iteration[-1]) if len(metrics.series) else 0
    return Analysis(
        recoveries=found,
        trends=trends(found),
        recovering=recovering,
        share=recovering / trained if trained else None,
        recovering_s=_seconds(metrics, found),
        boundaries=boundaries(metrics, entries),
    )


def _seconds(metrics: RunMetrics, found: Sequence[Recovery]) -> float:
    """What the iterations spent recovering took, by the trainer's own clock."""
    lines = metrics.series
    total = np.concatenate([[0.0], np.cumsum(lines.elapsed_s)])
    begins = np.array([recovery.reset.iteration for recovery in found], dtype=np.int64)
    ends = begins + np.array([recovery.spent for recovery in found], dtype=np.int64)
    first, last = (np.searchsorted(lines.iteration, at, side="right") for at in (begins, ends))
    return float((total[last] - total[first]).sum())
