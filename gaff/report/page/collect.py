# SPDX-License-Identifier: Apache-2.0
"""What the page shows, gathered from a run directory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from gaff.report.analysis.measures import Analysis
from gaff.report.metrics.run_metrics import RunMetrics
from gaff.report.page.health import health_events
from gaff.report.page.provenance import environment, provenance
from gaff.report.page.redaction import without_secrets
from gaff.report.page.reported import ConfigChange, ReportedRun
from gaff.supervisor.journal import Entry
from gaff.supervisor.ownership import IDENTITY_NAME

_NOT_GIVEN = "—"


def reported_run(
    run_dir: Path,
    title: str,
    metrics: RunMetrics,
    analysis: Analysis,
    summary: Mapping[str, Any],
    entries: Sequence[Entry],
) -> ReportedRun:
    """The run in ``run_dir``, whose metrics, analysis, summary and journal are read already.  Writes nothing.

    A file that is missing or damaged leaves its part of the page out.  Values of keys, tokens and passwords in the
    config are hidden.
    """
    plan, identity = _object(run_dir / "plan.json"), _object(run_dir / IDENTITY_NAME)
    config = _text(run_dir / "config.yml")
    return ReportedRun(
        title=title,
        source=str(run_dir),
        metrics=metrics,
        analysis=analysis,
        summary=summary,
        config=None if config is None else without_secrets(config),
        changes=tuple(_changes(plan)),
        environment=environment(run_dir, plan, entries),
        provenance=provenance(run_dir, identity, entries),
        health=health_events(entries),
    )


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_text(path) or "")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _changes(plan: Mapping[str, Any]) -> Iterator[ConfigChange]:
    listed = plan.get("changes")
    for change in listed if isinstance(listed, list) else ():
        if isinstance(change, dict) and isinstance(change.get("key"), str):
            given, written = change.get("given"), change.get("written")
            values = written if isinstance(written, list) else [written]
            shown = dict.fromkeys(_word(value) for value in values)
            yield ConfigChange(
                key=change["key"],
                given=without_secrets("" if given is None else _word(given)),
                written=without_secrets(" · ".join(shown)),
                why=str(change.get("why") or ""),
            )


def _word(value: Any) -> str:
    """A value as YAML writes it in a line."""
    if value is None:
        return _NOT_GIVEN
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
    return text.removesuffix("...\n").strip()
