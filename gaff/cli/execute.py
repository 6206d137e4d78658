# SPDX-License-Identifier: Apache-2.0
"""What ``gaff run`` and ``gaff rehearse`` share: from a checked config to a finished run with its report."""

from __future__ import annotations

import sys
from pathlib import Path

from gaff.errors import InputError
from gaff.plan.checks import check
from gaff.plan.config import Config
from gaff.plan.plan import Plan
from gaff.trainers.contract import Trainer


def check_everything(config: Config, trainer: Trainer) -> None:
    """Raise every problem of config and trainer in one go.

    Raises:
        InputError: there is any.
    """
    problems = [*check(config), *trainer.check(config)]
    if problems:
        raise InputError(problems)


def execute(config: Config, plan: Plan, trainer: Trainer, root: Path) -> None:
    """Do the run, or what is left of it, in run directory ``root``; then write its curve, report and summary.

    The report is also written for a run that was stopped or failed, of what there is.

    Raises:
        GaffError: see :class:`gaff.supervisor.loop.Supervisor`.
    """
    from gaff.report.live import make_view
    from gaff.supervisor.lock import run_lock
    from gaff.supervisor.loop import Supervisor
    from gaff.supervisor.run_directory import open_run, run_directory

    directory = run_directory(root, config)
    directory.root.mkdir(parents=True, exist_ok=True)
    with run_lock(directory.lock):
        run_id = open_run(directory, config, plan.to_json())
        for warning in plan.warnings:
            print(f"gaff: note: {warning}", file=sys.stderr)
        print(f"run directory {directory.root}", flush=True)
        supervisor = Supervisor(config, plan.segments, directory, run_id, trainer, make_view(sys.stdout))
        try:
            supervisor.run()
        finally:
            write_report(directory.root, title=root.name)


def write_report(root: Path, title: str) -> None:
    """Write ``summary.json``, ``loss_curve.png`` and ``report.html`` of what is there; print the summary."""
    from gaff.report.curve import write_curve
    from gaff.report.metrics import load_metrics
    from gaff.report.summary import render_summary, write_summary

    metrics = load_metrics(root)
    if not metrics.points:
        return
    summary = write_summary(root)
    files = write_curve(metrics, root, title)
    print(render_summary(summary))
    for path in files:
        print(f"  {path}")
