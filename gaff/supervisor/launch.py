# SPDX-License-Identifier: Apache-2.0
"""One launch of the trainer, from the room on the disk to the checkpoint that it owes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from gaff.checkpoint.completeness import mark_complete, why_unfinished
from gaff.checkpoint.tag import tag_name
from gaff.cluster.job import Job
from gaff.files import make_directory_durably
from gaff.plan.estimates import tags
from gaff.plan.settings import WatchSettings
from gaff.supervisor import progress
from gaff.supervisor.child import Child, clean_up, end_leftovers
from gaff.supervisor.disk import check_room
from gaff.supervisor.endings import confirm_lock
from gaff.supervisor.failures import Ended, Failure, failure
from gaff.supervisor.follow import follow
from gaff.supervisor.ports import ReservedPort, reserve_port
from gaff.supervisor.retention import expect_stop, mark_expected
from gaff.supervisor.run_context import RunContext
from gaff.supervisor.scratch import VARIABLE, make_scratch, remove_scratch
from gaff.supervisor.state import Train
from gaff.supervisor.stopping import Stopping
from gaff.supervisor.walltime import Piece
from gaff.supervisor.watch import Watch
from gaff.supervisor.watchdogs.figures import NotANumber
from gaff.supervisor.watchdogs.watchdogs import Watchdogs
from gaff.trainers.contract import Event, Launch, SegmentRequest

_GOALS = {"measure": "so that its speed is known", "walltime": "which fits before the end of the walltime"}


@dataclass(frozen=True)
class Done:
    """The checkpoint at the piece's stop is there and whole."""


@dataclass(frozen=True)
class Stopped:
    """The launch was ended from outside, for ``reason``; ``iteration`` is the newest that is safe."""

    reason: str
    iteration: int


@dataclass(frozen=True)
class Failed:
    """It did not bring what it owed.

    Attributes:
        failure: why.
        safe: the newest iteration that has a whole checkpoint.
        finite_until: tags beyond it may hold weights that are no numbers; None where nothing speaks for that.
    """

    failure: Failure
    safe: int
    finite_until: int | None = None


Outcome = Done | Stopped | Failed


def saves_of(run: RunContext, start: int, stop: int) -> tuple[int, ...]:
    """The iterations at which a launch from ``start`` to ``stop`` saves, ascending; ``stop`` is the last."""
    wanted = tags(run.config, (), run.segments[-1].stop)
    return tuple(sorted({*(i for i in wanted if (start < i < stop) or (i == 0 == start)), stop}))


def launch(run: RunContext, train: Train, piece: Piece) -> Outcome:
    """Train from the newest tag to the end of the piece.

    Raises:
        GaffError: there is no room for the checkpoint, the run is another supervisor's by now, or something is wrong
            that no other launch would mend.
    """
    segment, start = train.segment, train.start
    saves = saves_of(run, start, piece.stop)
    check_room(run.directory.save, run.config, start, len(saves))
    folder = run.directory.segment(segment.number)
    make_directory_durably(folder)
    attempt = run.directory.attempts(segment.number) + 1
    log = folder / f"attempt-{attempt}.log"
    watched = run.config.gaff.watch
    watch = Watch(start, watched.silence_minutes, run.config.get("log_interval"), watched.on_silence)

    def told(reason: str, waits_for: int | None) -> None:
        run.journal.write("stop_asked", signal=reason, waits_for=waits_for)
        until = "no checkpoint comes in time" if waits_for is None else f"after the checkpoint at iteration {waits_for}"
        run.observer.message(f"stopping: {reason}; {until}")

    stopping = Stopping(
        run.signals, with_notice(watched, run.job), run.pace, saves, run.directory.save, run.deadline, run.lost, told
    )
    with _reserved_port(run) as port:
        request = SegmentRequest(start, piece.stop, run.directory.save, folder, port.number, run.run_id)
        prepared = run.trainer.prepare(run.config, request)
        run.journal.write(
            "segment_launched",
            segment=segment.number,
            attempt=attempt,
            start=start,
            stop=piece.stop,
            goal=piece.goal,
            log=str(log.relative_to(run.directory.root)),
            command=list(prepared.argv),
        )
        run.observer.segment_started(segment, attempt, start)
        if piece.goal in _GOALS:
            run.observer.message(f"it stops after iteration {piece.stop}, {_GOALS[piece.goal]}")
        run.pace.launched(start, piece.stop)
        run.history.launched(start, segment)
        dogs = Watchdogs(run.config, run.history, start, piece.stop, run.directory.save)
        expect_stop(run.directory.save, run.run_id, piece.stop)
        with _ended(prepared, run):
            code = _run(run, train, _with_scratch(prepared, run.run_id), log, watch, stopping, dogs)
    confirm_lock(run)
    outcome = _judge(run, piece, code, watch, stopping, log)
    if isinstance(outcome, Done):
        if code:
            run.observer.message(f"the trainer exited with {code}, but its checkpoint is whole")
        mark_expected(run.directory.save, run.run_id, piece.stop)
    return outcome


def with_notice(watched: WatchSettings, job: Job | None) -> WatchSettings:
    """No checkpoint is waited for longer than half of what the scheduler leaves; the rest is for the trainer's end."""
    notice_s = None if job is None else job.notice_s
    if notice_s is None:
        return watched
    return replace(watched, warning_seconds=min(watched.warning_seconds, notice_s / 2))


def _with_scratch(prepared: Launch, run_id: str) -> Launch:
    """The launch with a place of its own for temporary files, where all of it runs on this machine."""
    scratch = None if prepared.clean_up else make_scratch(run_id)
    if scratch is None or VARIABLE in prepared.env:
        return prepared
    return replace(prepared, env={**prepared.env, VARIABLE: str(scratch)})


def _reserved_port(run: RunContext) -> ReservedPort:
    fixed = run.trainer.fixed_port(run.config)
    wish = run.config.get("master_port") if fixed is None else fixed
    return reserve_port(run.run_id, wish, fixed=fixed is not None)


@contextmanager
def _ended(prepared: Launch, run: RunContext) -> Iterator[None]:
    """Nothing of a launch is there before the block, nor after it."""
    clean_up(prepared)
    try:
        yield
    finally:
        clean_up(prepared)
        end_what_is_left(run)


def _run(
    run: RunContext, train: Train, prepared: Launch, log: Path, watch: Watch, stopping: Stopping, dogs: Watchdogs
) -> int:
    """Start the trainer and follow it to its end, which is told at once.  Returns its exit code."""

    def tell(event: Event) -> None:
        run.pace.see(event)
        run.observer.event(event)

    began = time.monotonic()
    with Child(prepared, log, run.run_id) as child:
        code = follow(
            child,
            watch,
            tell=tell,
            message=run.observer.message,
            verdict=stopping.verdict,
            watchdogs=dogs,
            alarm=run.alarm,
            tick=run.notifier.tick,
        )
    if watch.stopped and code == 0:
        run.pace.ended()
    _journal_end(run, train, code, time.monotonic() - began, watch)
    return code


def end_what_is_left(run: RunContext) -> None:
    """End what a guardian that was killed left behind, and remove its temporary files, before anything is launched."""
    left_behind = end_leftovers(run.run_id)
    remove_scratch(run.run_id)
    if left_behind:
        run.journal.write("leftovers_killed", processes=left_behind)
        many = "a process that was" if len(left_behind) == 1 else f"{len(left_behind)} processes that were"
        run.observer.message(f"ended {many} left behind")


def _judge(run: RunContext, piece: Piece, code: int, watch: Watch, stopping: Stopping, log: Path) -> Outcome:
    """What became of the launch, by the checkpoint directory; the log only tells why."""
    save = run.directory.save
    if watch.stopped and code == 0:
        _believe_the_end(save / tag_name(piece.stop), piece.stop)
    safe = progress.judge(save).iteration
    if safe == piece.stop and not _is_spoilt(watch):
        return Done()
    if stopping.reason and not _is_spoilt(watch):  # else the next supervisor would go on from such weights
        return Stopped(stopping.reason, safe)
    spoilt = watch.alarm.facts.get("finite_until") if watch.alarm and _is_spoilt(watch) else None
    finite_until = None if spoilt is None else int(spoilt)
    safe = safe if finite_until is None else max((i for i in progress.tags(save) if i <= finite_until), default=0)
    return Failed(failure(Ended(code, piece.stop, safe, save, log), watch), safe, finite_until)


def _is_spoilt(watch: Watch) -> bool:
    """Whether the loss was no number: a checkpoint with such weights is none, however whole."""
    return watch.alarm is not None and watch.alarm.id == NotANumber.id


def _believe_the_end(tag: Path, iteration: int) -> None:
    """Trust a tag whose file times alone speak against it, as when the clock was set back while it was written.

    GPT-NeoX says that it exits only after the barrier behind which every rank has saved (contract, section 1.4).
    """
    if tag.is_dir() and why_unfinished(tag, iteration, trust_times=False) is None:
        mark_complete(tag)


def _journal_end(run: RunContext, train: Train, code: int, seconds: float, watch: Watch) -> None:
    if watch.hung:
        run.journal.write(
            "trainer_silent", minutes=watch.silence_minutes, iteration=watch.iteration, ranks=watch.ranks_asked
        )
    speed = run.pace.iteration_s
    run.journal.write(
        "segment_exited",
        segment=train.segment.number,
        returncode=code,
        seconds=round(seconds, 3),
        iteration=watch.iteration,
        ms_per_iteration=None if speed is None else round(speed * 1000, 3),
        mean_ms=None if run.pace.mean_s is None else round(run.pace.mean_s * 1000, 3),
        start_s=_rounded(run.pace.start_s),
        end_s=_rounded(run.pace.end_s),
        first_line_s=_rounded(run.pace.first_line_s),
        last_line_s=_rounded(run.pace.since_last_line_s),
    )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
