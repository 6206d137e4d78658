# SPDX-License-Identifier: Apache-2.0
"""Training on from a tag: how far, and what follows when the launch has ended."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field

from gaff.errors import GaffError, Problem
from gaff.supervisor import progress
from gaff.supervisor.endings import interrupted, out_of_time, system_error
from gaff.supervisor.launch import Failed, Stopped, launch, saves_of
from gaff.supervisor.operations import tell_operations_by_hand, tell_reset
from gaff.supervisor.restarts import Restart, Restarts
from gaff.supervisor.run_context import RunContext
from gaff.supervisor.state import Train
from gaff.supervisor.stopping import WALLTIME, stop_asked
from gaff.supervisor.tag_care import TagCare
from gaff.supervisor.walltime import choose_piece

_WAIT_S = 0.1  # how often a wait looks whether it is to end


@dataclass
class Training:
    """All launches of one supervisor.

    Attributes:
        told_resets: numbers of the resets that the journal tells of.
        stuck_at: the iteration at which the call before began and ran out of time, if it did.
        safe: the newest iteration that is known to have a whole checkpoint.
    """

    run: RunContext
    care: TagCare
    told_resets: set[int | None] = field(default_factory=set)
    stuck_at: int | None = None
    safe: int = 0

    def __post_init__(self) -> None:
        self._restarts = Restarts(self.run.config.gaff.watch)

    def train(self, step: Train) -> None:
        """One launch, and what follows on its end."""
        run = self.run
        self.safe = step.start
        self._restarts.reached(step.start)
        due = progress.reset_due(run.segments, step.start)
        if due:
            if due.number not in self.told_resets:
                self.told_resets.add(due.number)
                tell_reset(run, due)
            tell_operations_by_hand(run, due)
        self.stop_where_asked(step.start)
        self.care.prune(step.start)
        self.stop_where_asked(step.start)
        piece = choose_piece(
            step.segment,
            step.start,
            run.pace,
            run.deadline,
            lambda stop: len(saves_of(run, step.start, stop)),
            run.log_interval,
        )
        if piece is None:
            raise self._out_of_time("the end of the walltime is too near for another iteration", step.start)
        outcome = launch(run, step, piece)
        if isinstance(outcome, Stopped) and outcome.reason == WALLTIME:
            raise self._out_of_time(f"stopped by {WALLTIME}", outcome.iteration)
        if isinstance(outcome, Stopped):
            raise interrupted(f"stopped by {outcome.reason}", outcome.iteration, outcome.reason)
        if isinstance(outcome, Failed):
            self.care.examined.discard(outcome.safe)
            self.care.set_spoilt_aside(outcome.finite_until)
            self._restart(outcome)
            return
        self.safe = piece.stop
        self.care.examined.add(piece.stop)  # written and judged under this supervisor's eyes
        if piece.stop == step.segment.stop:
            run.journal.write("segment_done", segment=step.segment.number, iteration=piece.stop, **run.history.losses)
            run.observer.segment_finished(step.segment)
        if piece.goal == "walltime":
            raise interrupted("stopped before the end of the walltime", piece.stop)

    def _out_of_time(self, what: str, iteration: int) -> GaffError:
        run = self.run
        if run.deadline is not None and run.deadline.cut_short:  # says nothing about the time that the job was given
            return interrupted("stopped, for the job's end was moved forward", iteration, run.signals.name)
        return out_of_time(what, iteration, again=iteration == self.stuck_at)

    def _restart(self, failed: Failed) -> None:
        """Wait before the next launch, or end the run.

        Raises:
            GaffError: no further launch is due.
        """
        self.safe = failed.safe
        run, what = self.run, failed.failure
        run.journal.write(
            "trainer_failed",
            id=what.problem.id,
            what=what.problem.what,
            iteration=what.iteration,
            safe=failed.safe,
            log=None if what.problem.where is None else what.problem.where.file,
            lasting=what.course.value,
        )
        follows = self._restarts.after(what, failed.safe)
        if isinstance(follows, GaffError):
            raise follows
        self.stop_where_asked(failed.safe)
        run.journal.write(
            "restart_planned",
            number=follows.number,
            of=follows.of,
            delay_s=follows.delay_s,
            iteration=failed.safe,
        )
        self._tell_restart(what.problem, follows, failed.safe)
        self._wait(follows.delay_s, failed.safe)

    def wait_out(self, error: OSError) -> None:
        """A file system that hangs or is gone says nothing about what lies on it: look again later.

        Raises:
            OSError: there is no hope that it passes by itself.
        """
        follows = self._restarts.after_trouble(error)
        if follows is None:
            raise error
        problem = system_error(error).problems[0]
        with contextlib.suppress(OSError):  # the journal may lie on it
            self.run.warn("system", problem.what, self.safe, where=str(error.filename or ""))
        self._wait(follows.delay_s, self.safe)

    def _tell_restart(self, problem: Problem, follows: Restart, safe: int) -> None:
        run = self.run
        wait = f" in {follows.delay_s:g} s" if follows.delay_s else ""
        told = f"{problem.what}; restart {follows.number} of {follows.of} from iteration {safe}{wait}"
        run.observer.message(told)
        run.observer.waiting()
        run.notifier.tell("warning", told, safe)

    def _wait(self, seconds: float, safe: int) -> None:
        deadline = self.run.deadline
        if deadline is not None and deadline.usable_s <= seconds:
            raise interrupted("the end of the walltime comes before another try", safe)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.stop_where_asked(safe)
            self.run.notifier.tick()
            time.sleep(min(_WAIT_S, seconds))

    def stop_where_asked(self, iteration: int) -> None:
        """Nothing is running: any signal ends the run here, and so does the file ``stop`` in the run directory.

        Raises:
            Interrupted: there was one.
        """
        stop = self.run.directory.stop
        if stop.exists():
            raise interrupted(f"stopped by the file {stop}, which keeps the run from going on", iteration, "stop")
        asked = stop_asked(self.run.signals, self.run.deadline)
        if asked:
            raise interrupted(f"stopped by {asked}", iteration, asked)
