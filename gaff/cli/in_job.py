# SPDX-License-Identifier: Apache-2.0
"""``gaff run`` inside a job of Slurm or Grid Engine: all its nodes, and how it goes on when its time is over."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gaff import __version__
from gaff.cli.execute import held
from gaff.cli.output import note, say
from gaff.cluster.job import CANCELLED, Cause
from gaff.errors import EXIT_RESUMABLE, GaffError, InputError, Interrupted
from gaff.plan.config import Config, load_config
from gaff.plan.typed import text
from gaff.report import format as fmt

if TYPE_CHECKING:
    from gaff.cluster.job import Job
    from gaff.supervisor.lock import Lock
    from gaff.supervisor.resubmission import Mode, Resubmission
    from gaff.supervisor.walltime import Deadline

_MAKE_WAY_S = 600.0  # the earlier start looks once a minute whether it is one
_LOOK_S = 5.0


def spread(config: Config, paths: Sequence[Path], overrides: Sequence[str], job: Job, root: Path) -> Config:
    """A config whose ranks run on all nodes of the job; as it is where that is one, or where it names a hostfile.

    Args:
        config: read from ``paths`` with ``overrides``.
        root: the run directory, in which the hostfile is written.
    """
    from gaff.cluster.allocation import launch_overrides

    more = launch_overrides(job, text(config, "hostfile") is not None, text(config, "launcher"), root)
    return load_config(paths, [*overrides, *more]) if more else config


@contextmanager
def held_by_job(root: Path, job: Job) -> Iterator[Lock]:
    """Hold the run directory while the block runs, also where an earlier start of the same job has not let go yet.

    Raises:
        InputError: another job, or somebody else, is at work in it; or the earlier start does not end.
    """
    until = time.monotonic() + _MAKE_WAY_S
    with ExitStack() as stack:
        told = False
        while True:
            try:
                lock = stack.enter_context(held(root))
                break
            except InputError as error:
                is_earlier = error.problems[0].id == "run-locked" and _is_of_earlier_start(root, job)
                if not is_earlier or time.monotonic() > until:
                    raise
            if not told:
                note(f"gaff: an earlier start of {job.scheduler}'s job {job.id} is still at work here: waiting for it.")
                told = True
            time.sleep(_LOOK_S)
        yield lock


def _is_of_earlier_start(root: Path, job: Job) -> bool:
    from gaff.supervisor.journal import read_entries

    started = [entry for entry in read_entries(root) if entry.event == "run_started"]
    return job.restarts > 0 and bool(started) and started[-1].text("job") == job.id


def run_in_job(
    job: Job,
    mode: Mode,
    root: Path,
    train_iters: int,
    deadline: Deadline | None,
    work: Callable[[bool, Callable[[], str | None]], None],
) -> Callable[[], int] | None:
    """Do the run, and arrange how it goes on.  The run directory is held.

    Args:
        job: this one.
        mode: how it goes on when its time is over.
        root: the run directory.
        train_iters: the run's last iteration.
        deadline: the end of its time, as far as it is known.
        work: does what is left of the run; is given whether the job is for this run alone, and what tells why it must
            make way for another start of the job.

    Returns:
        What is to be done last of all, when the run directory is free again: it returns the exit code.  None where the
        run is finished.

    Raises:
        GaffError: the run failed, was stopped by a person, or makes no progress.
    """
    from gaff.cluster.sentinel import sentinel
    from gaff.cluster.vigil import Vigil
    from gaff.supervisor.resubmission import Resubmission

    for warning in (signal.SIGUSR1, signal.SIGUSR2):  # may come before or after the supervisor hears it, and would kill
        signal.signal(warning, lambda number, frame: None)  # not SIG_IGN, which the trainer would inherit
    say(_describe(job, deadline))
    queue = Resubmission(job, mode, root.absolute())
    goes_on = False
    is_submitted = mode != "never" or job.script is not None  # else somebody's shell in a job, with other work
    with sentinel(job if is_submitted else None), Vigil(job) as vigil:
        try:
            queue.begin(_is_done(root, train_iters))
            work(is_submitted, lambda: vigil.lost)
            return None
        except Interrupted as error:
            ended: list[int] = []  # SIGTERM from here on; it would kill a job that is about to be put back
            signal.signal(signal.SIGTERM, lambda number, frame: ended.append(number))
            goes_on = queue.wanted(error)
            if not goes_on:
                raise
            for problem in error.problems:
                note(f"gaff: {problem}")
            return lambda: _go_on(queue, ended)
        finally:
            try:
                queue.end(goes_on)
            except (GaffError, OSError) as error:  # a full disk, say, must not keep the job from coming back
                note(f"gaff: {error}")


def _go_on(queue: Resubmission, ended: Sequence[int]) -> int:
    """The last act of a job.  Slurm ends one that puts itself back with SIGTERM, which must not cut that short."""
    job = queue.job
    if ended and job.cause("SIGTERM") is Cause.CANCELLED:
        queue.end(goes_on=False)
        note(f"gaff: {job.scheduler}'s job {job.id} was cancelled: the same command carries on.")
        return EXIT_RESUMABLE
    if queue.mode == "follower":
        note(f"gaff: the run goes on in the job that waits behind {job.scheduler}'s {job.id}.")
        return EXIT_RESUMABLE
    try:
        code = job.put_back()
    except GaffError as error:  # a site may forbid it
        for problem in error.problems:
            note(f"gaff: {problem}")
        if error.problems[0].id == CANCELLED:
            return EXIT_RESUMABLE
        follower = queue.add_follower()
        note(f"gaff: instead, job {follower} waits behind {job.scheduler}'s job {job.id} and carries the run on.")
        return EXIT_RESUMABLE
    note(f"gaff: {job.scheduler}'s job {job.id} goes back into the queue and carries the run on.")
    return code


def _is_done(root: Path, train_iters: int) -> bool:
    from gaff.supervisor.journal import read_entries

    finished = (entry for entry in read_entries(root) if entry.event == "run_finished")
    return any(entry.number("iteration") == train_iters for entry in finished)


def _describe(job: Job, deadline: Deadline | None) -> str:
    """Who this is, for the first line of the log."""
    parts = [f"GAFF {__version__} in {job.scheduler}'s job {job.id}"]
    parts += [f"restart {job.restarts}"] if job.restarts else []
    parts += [f"on {', '.join(job.nodes)}"] if job.nodes else []
    parts += [f"{fmt.duration(deadline.left_s)} left"] if deadline else ["no end of its time is known"]
    return ", ".join(parts)
