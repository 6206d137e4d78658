# SPDX-License-Identifier: Apache-2.0
"""All that the report page shows of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gaff.report.analysis.measures import Analysis
from gaff.report.metrics.run_metrics import RunMetrics


@dataclass(frozen=True)
class Row:
    """A fact with its name."""

    label: str
    value: str


@dataclass(frozen=True)
class HealthEvent:
    """Something that a person should know about a run.

    Attributes:
        time: when the journal has it; None where it does not say.
        kind: ``trouble``, ``care`` (it was looked after) or ``note``.
        what: the event's name in the journal, or the warning's.
        text: in words, as the supervisor said it.
    """

    time: datetime | None
    kind: str
    what: str
    text: str


@dataclass(frozen=True)
class ConfigChange:
    """A key that the trainer was given otherwise than the config says, as the plan tells it.

    Attributes:
        given: the user's value, empty where there is none.
        written: what GAFF wrote, in the first, the second and the last segment.
        why: a clause.
    """

    key: str
    given: str
    written: str
    why: str


@dataclass(frozen=True, eq=False)
class ReportedRun:
    """A run as the page shows it.  What is empty or None is left out of the page: an imported log has no journal.

    Attributes:
        title: of the page.
        source: what it was read from.
        summary: as of :func:`gaff.report.summary.summary_of`.
        config: the effective config, YAML.
        health: in the order of the journal.
        notes: sentences for the end of the page.
    """

    title: str
    source: str
    metrics: RunMetrics
    analysis: Analysis
    summary: Mapping[str, Any]
    config: str | None = None
    changes: tuple[ConfigChange, ...] = ()
    environment: tuple[Row, ...] = ()
    provenance: tuple[Row, ...] = ()
    health: tuple[HealthEvent, ...] = ()
    notes: tuple[str, ...] = ()
