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
from dataclasses import dataclass
from typing import Literal

from gaff import __version__
from gaff.errors import CheckpointError, GaffError, InputError, Interrupted, Problem
from gaff.files import TROUBLE
from gaff.supervisor import progress, retention
from gaff.supervisor.child import RUN_ID
from gaff.supervisor.endings import confirm_lock, confirm_save, refuse_to_begin_anew, system_error, was_out_of_time
from gaff.supervisor.journal import read_entries
from gaff.supervisor.launch import end_what_is_left
from gaff.supervisor.operations import finish_surgery, forget, restart_schedule
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
from gaff.supervisor.tag_care import TagCare
from gaff.supervisor.training import Training


@dataclass
class Supervisor:
    """One run.  ``run()`` does all that is left of it."""

    context: RunContext

    def __post_init__(self) -> None:
        self._care = TagCare(self.context)
        self._training = Training(self.context, self._care)

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
            failed = system_error(error)
            self._end("run_failed", "failed", failed)
            raise failed from error

    def _end(self, event: str, notice: Literal["interrupted", "failed"], error: GaffError) -> None:
        """Leave word, as far as a disk that may be full takes it."""
        run, safe = self.context, 0
        signal = error.signal if isinstance(error, Interrupted) else None
        with contextlib.suppress(OSError, GaffError):
            safe = progress.judge(run.directory.save).iteration
        with contextlib.suppress(OSError, GaffError):
            run.journal.write(event, why=str(error), iteration=safe, signal=signal)
        with contextlib.suppress(OSError, GaffError):
            run.notifier.tell(notice, error.problems[0].what, safe)

    def _start(self) -> None:
        if RUN_ID in os.environ:
            what = f"{RUN_ID} is set in this shell, and GAFF ends every process that has it when that run is cleared up"
            raise InputError(Problem("marked-shell", what, f"unset {RUN_ID}"))
        run = self.context
        end_what_is_left(run)
        earlier = read_entries(run.directory.root)
        run.pace.seed(earlier)
        run.history.seed(earlier)
        self._training.told_resets |= {entry.number("reset") for entry in earlier if entry.event == "reset_done"}
        done = self._training.safe = progress.judge(run.directory.save).iteration
        if not done:
            refuse_to_begin_anew(run, earlier)
        if was_out_of_time(earlier, done):
            self._training.stuck_at = done
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
            job=None if run.job is None else run.job.id,
        )
        run.observer.run_started(run.segments, run.segments[-1].stop, done)

    def _steps(self) -> int:
        """All steps that are left.  Returns the last iteration."""
        run = self.context
        schedule = run.config.gaff.lr_schedule == "restart"
        while True:
            try:
                step = next_step(
                    run.directory.save,
                    run.segments,
                    restarts_schedule=schedule,
                    examined=self._care.examined,
                    tidied=self._care.tidied,
                )
                confirm_lock(run)
                confirm_save(run)
                if isinstance(step, Finished):
                    self._care.prune(step.iteration)
                    return step.iteration
                if isinstance(step, Train):
                    self._training.train(step)
                else:
                    self._mend(step)
            except OSError as error:
                self._training.wait_out(error)
            except CheckpointError as error:  # surgery says it in a sentence of its own
                if not isinstance(error.__cause__, OSError) or error.__cause__.errno not in TROUBLE:
                    raise
                self._training.wait_out(error.__cause__)

    def _mend(self, step: Step) -> None:
        """One step that trains nothing."""
        run, save = self.context, self.context.directory.save
        if isinstance(step, FinishDeletion):
            self._care.finish_deletions()
        elif isinstance(step, SetAside):
            self._care.set_aside(step.iteration, step.why)
        elif isinstance(step, MendLatest):
            progress.mend_latest(save, step.iteration)
        elif isinstance(step, FinishSurgery):
            finish_surgery(run, step.iteration)
        elif isinstance(step, Examine):
            self._leave_where_asked(step.iteration)
            self._care.examine(step.iteration)
        elif isinstance(step, Forget):
            self._leave_where_asked(step.reset.iteration)
            forget(run, step.reset)
            self._training.told_resets.add(step.reset.number)
        elif isinstance(step, RestartSchedule):
            self._leave_where_asked(step.reset.iteration)
            restart_schedule(run, step.reset)
        elif isinstance(step, Refuse):
            raise GaffError(step.problem)

    def _leave_where_asked(self, iteration: int) -> None:
        """What takes a while is left to the next call where a signal has come."""
        self._training.safe = iteration
        self._training.stop_where_asked(iteration)
