# SPDX-License-Identifier: Apache-2.0
"""What ``gaff run`` and ``gaff rehearse`` share: from a checked config to a finished run with its report."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gaff.cli.output import note, say
from gaff.errors import InputError
from gaff.plan.checks import check
from gaff.plan.config import Config
from gaff.plan.plan import Plan
from gaff.trainers.contract import Trainer

if TYPE_CHECKING:
    from gaff.cluster.job import Job
    from gaff.supervisor.lock import Lock
    from gaff.supervisor.walltime import Deadline


def check_everything(config: Config, trainer: Trainer) -> None:
    """Raise every problem of the config, or, when it is sound, of the trainer and the trackers with it.

    Raises:
        InputError: there is any.
    """
    from gaff.report.trackers.offer import tracker_problems

    problems = check(config) or [*trainer.check(config), *tracker_problems(config)]
    if problems:
        raise InputError(problems)


@contextmanager
def held(root: Path) -> Iterator[Lock]:
    """Create run directory ``root``, if need be, and hold its lock while the block runs.

    Raises:
        InputError: it cannot be used, or another process is at work in it.
    """
    from gaff.plan.directories import make_directory
    from gaff.supervisor.lock import LOCK_NAME, run_lock
    from gaff.supervisor.ownership import REMEDY, ROLE
    from gaff.supervisor.run_directory import check_root

    check_root(root)
    make_directory(root.absolute(), ROLE, REMEDY)
    with ExitStack() as stack:
        try:
            lock = stack.enter_context(run_lock(root / LOCK_NAME, lambda text: note(f"gaff: {text}.")))
        except InputError as error:
            raise _with_job(error, root) from None
        yield lock


def _with_job(error: InputError, root: Path) -> InputError:
    """A refusal by the lock that names the job at work too, by which a person finds it in a queue."""
    from gaff.supervisor.journal import read_entries

    first = error.problems[0]
    started = [entry for entry in read_entries(root) if entry.event == "run_started"]
    job = started[-1].text("job") if started else None
    if first.id != "run-locked" or job is None:
        return error
    return InputError(replace(first, what=f"{first.what}, in job {job}"))


def execute(
    config: Config,
    plan: Plan,
    trainer: Trainer,
    root: Path,
    lock: Lock,
    deadline: Deadline | None = None,
    job: Job | None = None,
    is_submitted: bool = False,
    gone: Callable[[], str | None] = lambda: None,
) -> None:
    """Do the run, or what is left of it, in run directory ``root``, which is held; then write its curve and report.

    The report is also written for a run that was stopped or failed, of what there is.

    Args:
        config: checked, as is ``trainer``.
        plan: the config's.
        trainer: trains each segment.
        root: the run directory.
        lock: what it is held by.
        deadline: the end of the walltime; None without.
        job: the scheduler's job that this is; None outside of any.
        is_submitted: whether the job is for this run alone, so that its name and comment may tell how far it is.
        gone: why this process must make way for another, whatever its lock says; None while it need not.

    Raises:
        GaffError: see :class:`gaff.supervisor.loop.Supervisor`.
    """
    from gaff.report.live import make_view
    from gaff.report.metrics.writer import MetricsWriter
    from gaff.report.queue_news import QueueNews
    from gaff.report.several import Several
    from gaff.report.trackers.offer import trackers
    from gaff.supervisor.journal import Journal
    from gaff.supervisor.loop import Supervisor
    from gaff.supervisor.notify import Notifier
    from gaff.supervisor.run_context import RunContext
    from gaff.supervisor.run_directory import open_run, run_directory
    from gaff.supervisor.signals import raised

    directory = run_directory(root, config)
    run_id = open_run(directory, config, plan.to_json())
    for warning in (*plan.warnings, *trainer.warnings(config)):
        note(f"gaff: note: {warning}")
    say(f"run directory {directory.root}")
    journal = Journal(directory.journal)
    if lock.taken_over:
        owner, silent_s = lock.taken_over.owner, round(lock.taken_over.silent_s)
        journal.write("lock_taken_over", host=owner and owner.host, pid=owner and owner.pid, silent_s=silent_s)
    view = make_view(sys.stdout)
    news = [QueueNews(job, directory.root.name)] if job is not None and is_submitted else []

    def notify_failed(why: str) -> None:
        view.message(f"notify failed: {why}")
        journal.write("notify_failed", why=why)

    context = RunContext(
        config=config,
        segments=plan.segments,
        directory=directory,
        run_id=run_id,
        trainer=trainer,
        observer=Several(
            MetricsWriter(directory.root), view, *trackers(config, directory.root, run_id, view.message), *news
        ),
        journal=journal,
        notifier=Notifier(config.gaff.notify, directory.root, notify_failed),
        deadline=deadline,
        job=job,
        lost=lambda: gone() or lock.lost,
        confirm=lock.confirm,
        gone=gone,
    )
    try:
        Supervisor(context).run()
    finally:
        try:
            with raised():
                write_report(directory.root, title=directory.root.name)
        except KeyboardInterrupt:
            note("gaff: note: the report was not finished; `gaff status` tells where the run stands")
        except OSError as error:  # the training is done and safe, whatever becomes of its picture
            note(f"gaff: note: the report cannot be written: {error}")


def write_report(root: Path, title: str) -> None:
    """Write the report of what is there, but for the CSV of every line; print the summary."""
    from gaff.report.reporting import inside, report_of_run, write_files
    from gaff.report.summary import render_summary

    run = report_of_run(root, title)
    if len(run.metrics.series):
        files = write_files(run, inside(root), series=False)
        say("\n".join([render_summary(run.summary), *(f"  {path}" for path in files)]))
