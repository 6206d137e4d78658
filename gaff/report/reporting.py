# SPDX-License-Identifier: Apache-2.0
"""The files of a report: page, pictures, tables and summary, of a run directory or of logs alone."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gaff.files import write_durably
from gaff.report.analysis.analyse import analyse
from gaff.report.analysis.measures import Analysis
from gaff.report.analysis.recovery import PERCENTAGES
from gaff.report.metrics.gather import metrics_of
from gaff.report.metrics.run_metrics import RunMetrics
from gaff.report.page.reported import ReportedRun
from gaff.report.summary import SUMMARY_NAME, summary_of
from gaff.report.tables import METRICS_NAME, RESETS_NAME, metrics_csv, resets_csv
from gaff.supervisor.journal import read_entries

PAGE_NAME = "report.html"


@dataclass(frozen=True)
class Places:
    """Where each file of a report goes."""

    page: Path
    summary: Path
    pictures: Mapping[str, Path]
    metrics: Path
    resets: Path


def inside(run_dir: Path) -> Places:
    """In the run directory, under the names that every run has."""
    return Places(
        page=run_dir / PAGE_NAME,
        summary=run_dir / SUMMARY_NAME,
        pictures={kind: run_dir / f"loss_curve.{kind}" for kind in ("png", "svg")},
        metrics=run_dir / METRICS_NAME,
        resets=run_dir / RESETS_NAME,
    )


def beside(page: Path) -> Places:
    """Beside a page of any name: its name with other endings."""
    return Places(
        page=page,
        summary=page.with_suffix(".json"),
        pictures={kind: page.with_suffix(f".{kind}") for kind in ("png", "svg")},
        metrics=page.with_name(f"{page.stem}-{METRICS_NAME}"),
        resets=page.with_name(f"{page.stem}-{RESETS_NAME}"),
    )


def report_of_run(run_dir: Path, title: str, percentages: Sequence[float] = PERCENTAGES) -> ReportedRun:
    """What there is to report of a run, finished or not.  Writes nothing."""
    from gaff.report.page.collect import reported_run

    entries = read_entries(run_dir)
    metrics = metrics_of(run_dir, entries)
    analysis = analyse(metrics, entries, percentages)
    return reported_run(run_dir, title, metrics, analysis, summary_of(metrics, entries, analysis), entries)


def report_of_logs(
    metrics: RunMetrics, title: str, source: str, percentages: Sequence[float] = PERCENTAGES
) -> ReportedRun:
    """What there is to report of an imported log."""
    analysis: Analysis = analyse(metrics, (), percentages)
    return ReportedRun(title, source, metrics, analysis, summary_of(metrics, (), analysis))


def write_files(run: ReportedRun, places: Places, *, series: bool = True) -> list[Path]:
    """Write all of it.  Returns the files, the page first; nothing but the summary where no loss is logged yet.

    Args:
        run: what is reported.
        places: where it goes.
        series: whether every line goes into a CSV, which is 100 MB for a million of them.

    Raises:
        OSError: a file cannot be written.
    """
    from gaff.report.figure.curve import loss_curve
    from gaff.report.page.build import page

    _write_json(places.summary, run.summary)
    if not len(run.metrics.curve[0]):
        return [places.summary]
    write_durably(places.page, page(run).encode())
    pictures = loss_curve(run.metrics, run.analysis.recoveries, run.title)
    for name, picture in pictures.items():
        write_durably(places.pictures[name.rpartition(".")[2]], picture)
    write_durably(places.resets, resets_csv(run.analysis).encode())
    files = [places.page, *places.pictures.values(), places.resets, places.summary]
    if series:
        _write_pieces(places.metrics, metrics_csv(run.metrics.series))
        files.insert(3, places.metrics)
    return files


def _write_json(path: Path, value: Any) -> None:
    write_durably(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def _write_pieces(path: Path, pieces: Iterable[str]) -> None:
    """A file too big to be held in memory.  It is there whole or not at all."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    with open(unfinished, "w", encoding="utf-8") as file:
        file.writelines(pieces)
    os.replace(unfinished, path)
