# SPDX-License-Identifier: Apache-2.0
"""The runs of a comparison, each with its name, config, series and analysis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gaff.errors import InputError, Location, Problem
from gaff.plan.config import Config, load_config
from gaff.plan.estimates import batch
from gaff.report.analysis.analyse import analyse
from gaff.report.analysis.measures import Analysis
from gaff.report.compare.names import distinct_names
from gaff.report.metrics.gather import metrics_of
from gaff.report.metrics.run_metrics import RunMetrics
from gaff.report.summary import summary_of
from gaff.supervisor.journal import JOURNAL_NAME, read_entries

_ENDS = ("run_finished", "run_interrupted", "run_failed")


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """One run.

    Attributes:
        name: what it is called in the comparison.
        path: its directory, as it was given.
        metrics, analysis: its series and what they say.
        summary: as of :func:`gaff.report.summary.summary_of`.
        config: the effective one; None where it cannot be read.
        is_finished: whether the journal ends with the run's end.
        restarts: automatic ones, of the whole run.
    """

    name: str
    path: Path
    metrics: RunMetrics
    analysis: Analysis
    summary: Mapping[str, Any]
    config: Config | None
    is_finished: bool
    restarts: int

    @property
    def done(self) -> int:
        """The last iteration trained."""
        return int(self.summary["iterations"]["done"])

    @cached_property
    def reset_every(self) -> int | None:
        """k; None for a baseline.  Without a config, as its resets tell: None where they are not evenly apart."""
        if self.config is not None:
            return self.config.gaff.reset_every
        marks = [reset.iteration for reset in self.metrics.resets]
        gaps = set(np.diff(marks).tolist()) if len(marks) > 1 else set(marks)
        return gaps.pop() if len(gaps) == 1 else None

    @property
    def is_baseline(self) -> bool:
        """Whether it is trained without resets."""
        return not self.metrics.resets and self.reset_every is None

    @cached_property
    def tokens_per_iteration(self) -> int | None:
        """As the config says it; None where it does not."""
        found = None if self.config is None else batch(self.config)
        return None if found is None else found.tokens


def read_runs(paths: Sequence[Path], names: Sequence[str] = ()) -> list[ComparedRun]:
    """The runs in these directories, in this order.  Writes nothing.

    Args:
        names: one for each; none means that they are called by their directories.

    Raises:
        InputError: a directory is no run, there are less than two, one is given twice, or the names do not fit.
    """
    _check(paths)
    given = _given_names(names, len(paths)) if names else distinct_names(paths)
    return [_read(path, name) for path, name in zip(paths, given, strict=True)]


def _check(paths: Sequence[Path]) -> None:
    problems = []
    for path in paths:
        if not (path / JOURNAL_NAME).is_file():
            what = f"this is no run directory: it has no {JOURNAL_NAME}"
            problems.append(Problem("no-run", what, "name the directory of a run", Location(str(path))))
    seen: dict[Path, Path] = {}
    for path in paths:
        if (whole := path.resolve()) in seen:
            what = f"this run is given twice, the first time as {seen[whole]}"
            problems.append(Problem("run-twice", what, "name each run once", Location(str(path))))
        seen.setdefault(whole, path)
    if not problems and len(paths) < 2:
        problems.append(
            Problem("one-run", "a comparison needs at least two runs", "name another one, or use gaff report")
        )
    if problems:
        raise InputError(problems)


def _given_names(names: Sequence[str], count: int) -> list[str]:
    stripped = [name.strip() for name in names]
    if len(stripped) != count or len(set(stripped)) != count or not all(stripped):
        what = f"--names has {len(set(filter(None, stripped)))} different names for {count} runs"
        raise InputError(Problem("names", what, "give each run a name of its own, as --names baseline,k50,k100"))
    return stripped


def _read(path: Path, name: str) -> ComparedRun:
    entries = read_entries(path)
    metrics = metrics_of(path, entries)
    analysis = analyse(metrics, entries)
    ends = [entry.event for entry in entries if entry.event in (*_ENDS, "run_started")]
    return ComparedRun(
        name=name,
        path=path,
        metrics=metrics,
        analysis=analysis,
        summary=summary_of(metrics, entries, analysis),
        config=_config(path),
        is_finished=bool(ends) and ends[-1] == "run_finished",
        restarts=sum(entry.event == "restart_planned" for entry in entries),
    )


def _config(run_dir: Path) -> Config | None:
    try:
        return load_config([run_dir / "config.yml"])
    except (InputError, OSError):  # lost, or of a GAFF with other keys: what needs it is left out
        return None
