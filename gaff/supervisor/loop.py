# SPDX-License-Identifier: Apache-2.0
"""The loop over a run's steps: look where it stands, do the one step that follows, look again.

It keeps no state of its own about the run: each turn begins with the checkpoint directory
(:mod:`gaff.supervisor.state`), so a run that was killed at any point is carried on by the same code that would have
gone on.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from dataclasses import dataclass, field
from typing import Literal

from gaff import __version__
from gaff.checkpoint.tag import tag_name
from gaff.checkpoint.verify import why_damaged
from gaff.errors import GaffError, InputError, Interrupted, Location, Problem
from gaff.supervisor import progress, retention
from gaff.supervisor.child import RUN_ID
from gaff.supervisor.journal import read_entries
from gaff.supervisor.launch import Failed, Stopped, end_what_is_left, launch, saves_of
from gaff.supervisor.operations import finish_surgery, forget, restart_schedule, tell_operations_by_hand, tell_reset
from gaff.supervisor.restarts import Restart, Restarts
from gaff.supervisor.run_context import RunContext
from gaff.supervisor.state import (
    Examine,
    FinishDeletion,
    Finished,
    FinishSurgery,
    Forget,
    MendLatest,
    Refuse,
    RestartSchedule,
    SetAside,
    Step,
    Train,
    next_step,
)
from gaff.supervisor.walltime import choose_piece

_WAIT_S = 0.1  # how often a wait looks whether it is to end


@dataclass
class Supervisor:
    """One run.  ``run()`` does all that is left of it."""

    context: RunContext
    _examined: set[int] = field(default_factory=set)
    _tidied: bool = False
    _not_deleted: set[int] = field(default_factory=set)
    _told_resets: set[int | None] = field(default_factory=set)

    def run(self) -> None:
        """Train and reset until ``train_iters``.

        Raises:
            Interrupted: a signal came, the time is over, or the trainer was killed and restarts are left to the user;
                the same command carries on.
            GaffError: the trainer, a checkpoint or the machine failed.
        """
        run = self.context
        with run.signals.caught():
            outcome = "failed"
            try:
                self._go()
                outcome = "finished"
            except Interrupted:
                outcome = "interrupted"
                raise
            finally:
                run.observer.close(outcome)
                run.notifier.close()

    def _go(self) -> None:
        run = self.context
        try:
            self._start()
            iteration = self._steps()
            run.journal.write("run_finished", iteration=iteration)
            run.notifier.tell("finished", f"the run is finished after iteration {iteration}", iteration)
        except Interrupted as error:
            self._end("run_interrupted", "interrupted", error)
            raise
        except GaffError as error:
            self._end("run_failed", "failed", error)
            raise
        except OSError as error:
            failed = _system_error(error)
            self._end("run_failed", "failed", failed)
            raise failed from error

    def _end(self, event: str, notice: Literal["interrupted", "failed"], error: GaffError) -> None:
        """Leave word, as far as a disk that may be full takes it."""
        run = self.context
        with contextlib.suppress(OSError, GaffError):
            run.journal.write(event, why=str(error))
        with contextlib.suppress(OSError, GaffError):
            run.notifier.tell(notice, error.problems[0].what, progress.newest(run.directory.save))

    def _start(self) -> None:
        if RUN_ID in os.environ:
            what = f"{RUN_ID} is set in this shell, and GAFF ends every process that has it when that run is cleared up"
            raise InputError(Problem("marked-shell", what, f"unset {RUN_ID}"))
        run = self.context
        end_what_is_left(run)
        earlier = read_entries(run.directory.root)
        run.pace.seed(earlier)
        run.history.seed(earlier)
        self._told_resets |= {entry.number("reset") for entry in earlier if entry.event == "reset_done"}
        done = progress.judge(run.directory.save).iteration
        retention.mark_expected(run.directory.save, run.run_id, done)
        run.journal.write(
            "run_started",
            run_id=run.run_id,
            gaff=__version__,
            trainer=run.trainer.name,
            command=sys.argv,
            resume_iteration=done,
            train_iters=run.segments[-1].stop,
            log_interval=run.config.get("log_interval"),
            host=socket.gethostname(),
            pid=os.getpid(),
            time_limit_s=None if run.deadline is None else round(run.deadline.left_s),
        )
        run.observer.run_started(run.segments, run.segments[-1].stop, done)

    def _steps(self) -> int:
        """All steps that are left.  Returns the last iteration."""
        run = self.context
        restarts = Restarts(run.config.gaff.watch)
        schedule = run.config.gaff.lr_schedule == "restart"
        while True:
            try:
                step = next_step(
                    run.directory.save,
                    run.segments,
                    restarts_schedule=schedule,
                    examined=self._examined,
                    tidied=self._tidied,
                )
                self._confirm_the_lock()
                if isinstance(step, Finished):
                    self._prune(step.iteration)
                    return step.iteration
                if isinstance(step, Train):
                    self._train(step, restarts)
                else:
                    self._mend(step)
            except OSError as error:
                self._wait_out(error, restarts)

    def _mend(self, step: Step) -> None:
        """One step that trains nothing."""
        run, save = self.context, self.context.directory.save
        if isinstance(step, FinishDeletion):
            self._tidied = True
            self._tell_deletions(retention.finish_deletions(save), "deletion_finished")
        elif isinstance(step, SetAside):
            self._set_aside(step.iteration, step.why)
        elif isinstance(step, MendLatest):
            progress.mend_latest(save, step.iteration)
        elif isinstance(step, FinishSurgery):
            finish_surgery(run, step.iteration)
        elif isinstance(step, Examine):
            why = why_damaged(save / tag_name(step.iteration))
            if why is None:
                self._examined.add(step.iteration)
            else:
                self._give_up(step.iteration, why)
        elif isinstance(step, Forget):
            forget(run, step.reset)
            self._told_resets.add(step.reset.number)
        elif isinstance(step, RestartSchedule):
            restart_schedule(run, step.reset)
        elif isinstance(step, Refuse):
            raise GaffError(step.problem)

    def _give_up(self, iteration: int, why: str) -> None:
        """A tag whose bytes are damaged: its predecessor is used, where there is one."""
        save = self.context.directory.save
        if not any(0 < other < iteration for other in progress.tags(save)):
            raise GaffError(progress.nothing_left(save, iteration, why))
        self._set_aside(iteration, why)

    def _set_aside(self, iteration: int, why: str) -> None:
        run = self.context
        place = progress.set_aside(run.directory.save, iteration)
        run.journal.write("tag_set_aside", iteration=iteration, why=why, place=str(place))
        run.observer.message(f"{tag_name(iteration)} {why}: set aside as {place.name}, an earlier tag is used")

    def _set_spoilt_aside(self, finite_until: int | None) -> None:
        """Tags that may hold weights which are no numbers."""
        if finite_until is not None:
            for iteration in progress.tags(self.context.directory.save):
                if iteration > finite_until:
                    self._set_aside(iteration, "was written when the loss was no finite number")

    def _prune(self, newest: int) -> None:
        """Delete what the config does not keep, now that the newest tag is whole and operated on."""
        run = self.context
        stop = run.segments[-1].stop
        done = retention.prune(
            run.directory.save, run.config, run.run_id, newest, stop, enough=lambda: run.signals.name is not None
        )
        self._tell_deletions(done, "tags_deleted")

    def _tell_deletions(self, done: retention.Deletions, event: str) -> None:
        run = self.context
        if done.deleted:
            run.journal.write(event, iterations=done.deleted)
        for iteration, why in done.left.items():
            if iteration not in self._not_deleted:
                self._not_deleted.add(iteration)
                run.warn("not-deleted", f"{tag_name(iteration)} should be deleted and {why}", iteration)

    def _train(self, step: Train, restarts: Restarts) -> None:
        """One launch, and what follows on its end."""
        run = self.context
        due = progress.reset_due(run.segments, step.start)
        if due:
            if due.number not in self._told_resets:
                self._told_resets.add(due.number)
                tell_reset(run, due)
            tell_operations_by_hand(run, due)
        self._stop_where_asked(step.start)
        self._prune(step.start)
        self._stop_where_asked(step.start)
        piece = choose_piece(
            step.segment,
            step.start,
            run.pace,
            run.deadline,
            lambda stop: len(saves_of(run, step.start, stop)),
            run.log_interval,
        )
        if piece is None:
            raise _interrupted("the end of the walltime is too near for another iteration", step.start)
        outcome = launch(run, step, piece)
        if isinstance(outcome, Stopped):
            raise _interrupted(f"stopped by {outcome.reason}", outcome.iteration)
        if isinstance(outcome, Failed):
            self._examined.discard(outcome.safe)
            self._set_spoilt_aside(outcome.finite_until)
            self._restart(outcome, restarts)
            return
        self._examined.add(piece.stop)  # written and judged under this supervisor's eyes
        if piece.stop == step.segment.stop:
            run.journal.write("segment_done", segment=step.segment.number, iteration=piece.stop, **run.history.losses)
            run.observer.segment_finished(step.segment)
        if piece.goal == "walltime":
            raise _interrupted("stopped before the end of the walltime", piece.stop)

    def _restart(self, failed: Failed, restarts: Restarts) -> None:
        """Wait before the next launch, or end the run.

        Raises:
            GaffError: no further launch is due.
        """
        run, what = self.context, failed.failure
        run.journal.write(
            "trainer_failed",
            id=what.problem.id,
            what=what.problem.what,
            iteration=what.iteration,
            safe=failed.safe,
            log=None if what.problem.where is None else what.problem.where.file,
            lasting=what.course.value,
        )
        follows = restarts.after(what, failed.safe)
        if isinstance(follows, GaffError):
            raise follows
        run.journal.write(
            "restart_planned",
            number=follows.number,
            of=follows.of,
            delay_s=follows.delay_s,
            iteration=failed.safe,
        )
        self._tell_restart(what.problem, follows, failed.safe)
        self._wait(follows.delay_s, failed.safe)

    def _wait_out(self, error: OSError, restarts: Restarts) -> None:
        """A file system that hangs or is gone says nothing about what lies on it: look again later.

        Raises:
            OSError: there is no hope that it passes by itself.
        """
        follows = restarts.after_trouble(error)
        if follows is None:
            raise error
        problem = _system_error(error).problems[0]
        with contextlib.suppress(OSError):  # the journal may lie on it
            self.context.warn("system", problem.what, 0, where=str(error.filename or ""))
        self._wait(follows.delay_s, 0)

    def _tell_restart(self, problem: Problem, follows: Restart, safe: int) -> None:
        run = self.context
        wait = f" in {follows.delay_s:g} s" if follows.delay_s else ""
        told = f"{problem.what}; restart {follows.number} of {follows.of} from iteration {safe}{wait}"
        run.observer.message(told)
        run.notifier.tell("warning", told, safe)

    def _wait(self, seconds: float, safe: int) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._stop_where_asked(safe)
            self.context.notifier.tick()
            time.sleep(min(_WAIT_S, seconds))

    def _stop_where_asked(self, iteration: int) -> None:
        """Nothing is running: any signal ends the run here.

        Raises:
            Interrupted: there was one.
        """
        if self.context.signals.name:
            raise _interrupted(f"stopped by {self.context.signals.name}", iteration)

    def _confirm_the_lock(self) -> None:
        """Before anything is touched.

        Raises:
            GaffError: the run is another supervisor's by now.
        """
        lost = self.context.confirm()
        if lost:
            where = Location(str(self.context.directory.root))
            raise GaffError(Problem("lock-lost", lost, "leave the run to it", where))


def _interrupted(what: str, iteration: int) -> Interrupted:
    safe = f"{what}; iteration {iteration} is safe"
    return Interrupted(Problem("interrupted", safe, "run the same command again to carry on"))


def _system_error(error: OSError) -> GaffError:
    """Trouble of the machine in the supervisor's own work, as a full disk: nothing is lost by it."""
    what = f"the supervisor met `{error.strerror or error}`"
    where = Location(str(error.filename)) if error.filename else None
    return GaffError(Problem("system", what, "mend that, and run the same command again to carry on", where))
