# SPDX-License-Identifier: Apache-2.0
"""The loop over segments: look where the run stands, make the reset that is due, train the next segment, look again.

It keeps no state of its own between the turns: each turn begins with the checkpoint directory, so a run that was killed
at any point is carried on by the same code that would have gone on.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from gaff import __version__
from gaff.checkpoint.surgery.learning_rate import RestartRequest, restart_lr
from gaff.checkpoint.surgery.perform import Result, finish_interrupted
from gaff.checkpoint.surgery.reset import ResetRequest, reset
from gaff.checkpoint.tag import tag_name
from gaff.errors import GaffError, InputError, Interrupted, Location, Problem
from gaff.files import make_directory_durably
from gaff.plan.config import Config
from gaff.plan.schedule import Reset, Segment
from gaff.supervisor import progress
from gaff.supervisor.child import RUN_ID, Child, clean_up, end_leftovers
from gaff.supervisor.failures import Ended, failure
from gaff.supervisor.follow import follow
from gaff.supervisor.journal import Journal
from gaff.supervisor.observer import Observer
from gaff.supervisor.ports import ReservedPort, reserve_port
from gaff.supervisor.run_directory import RunDirectory
from gaff.supervisor.signals import Signals
from gaff.supervisor.watch import Watch
from gaff.trainers.contract import Launch, SegmentRequest, Trainer


class Supervisor:
    """One run.  ``run()`` does all that is left of it.

    Args:
        config: checked already.
        segments: the whole plan, also what is done.
        directory, run_id: an opened run directory, whose lock the caller holds.
        trainer: checked already.
        observer: is told what happens.
    """

    def __init__(
        self,
        config: Config,
        segments: tuple[Segment, ...],
        directory: RunDirectory,
        run_id: str,
        trainer: Trainer,
        observer: Observer,
    ) -> None:
        self.config = config
        self.segments = segments
        self.directory = directory
        self.run_id = run_id
        self.trainer = trainer
        self.observer = observer
        self.journal = Journal(directory.journal)
        self.signals = Signals()

    def run(self) -> None:
        """Train and reset until ``train_iters``.

        Raises:
            Interrupted: a signal came, or the trainer was killed; the same command carries on.
            GaffError: the trainer or a checkpoint failed.
        """
        with self.signals.caught():
            outcome = "failed"
            try:
                self._start()
                while (segment := self._next_segment()) is not None:
                    self._train(segment)
                self.journal.write("run_finished", iteration=self.segments[-1].stop)
                outcome = "finished"
            except Interrupted as error:
                self.journal.write("run_interrupted", why=str(error))
                outcome = "interrupted"
                raise
            except GaffError as error:
                self.journal.write("run_failed", why=str(error))
                raise
            finally:
                self.observer.close(outcome)

    def _start(self) -> None:
        if RUN_ID in os.environ:
            what = f"{RUN_ID} is set in this shell, and GAFF ends every process that has it when that run is cleared up"
            raise InputError(Problem("marked-shell", what, f"unset {RUN_ID}"))
        self._end_leftovers()
        done = progress.judge(self.directory.save).iteration
        self.journal.write(
            "run_started",
            run_id=self.run_id,
            gaff=__version__,
            trainer=self.trainer.name,
            command=sys.argv,
            resume_iteration=done,
            train_iters=self.segments[-1].stop,
            log_interval=self.config.get("log_interval"),
        )
        self.observer.run_started(self.segments, self.segments[-1].stop, done)

    def _end_leftovers(self) -> None:
        """End what a guardian that was killed left behind, before anything else is launched."""
        left_behind = end_leftovers(self.run_id)
        if left_behind:
            self.journal.write("leftovers_killed", processes=left_behind)
            self.observer.message(f"ended {len(left_behind)} processes that were left behind")

    def _next_segment(self) -> Segment | None:
        """One turn's judgement: distrust what is not whole, make the reset that is due, choose what to train."""
        save = self.directory.save
        now = progress.judge(save)
        for iteration, why in now.untrusted.items():
            self._set_aside(iteration, why)
        progress.mend_latest(save, now.iteration)
        if now.iteration:
            self._finish_surgery(save / tag_name(now.iteration))
        missed = progress.missed_reset(save, self.segments, now.iteration)
        if missed:
            raise _missed(save, missed)
        due = progress.reset_due(self.segments, now.iteration)
        if due:
            self._reset(due)
        if self.signals.name:
            raise self._interrupted(now.iteration)
        segment = progress.segment_after(self.segments, now.iteration)
        if segment is None and now.iteration > self.segments[-1].stop:
            what = f"`save` holds iteration {now.iteration}, beyond train_iters {self.segments[-1].stop}"
            raise GaffError(Problem("beyond-the-end", what, "use another run directory", Location(str(save))))
        return segment

    def _set_aside(self, iteration: int, why: str) -> None:
        self.journal.write("tag_set_aside", iteration=iteration, why=why)
        place = progress.set_aside(self.directory.save, iteration)
        self.observer.message(f"{tag_name(iteration)} {why}: set aside as {place.name}, an earlier tag is used")

    def _finish_surgery(self, tag: Path) -> None:
        """Whatever was begun in the tag to train on from, by a run or by hand, and cut short."""
        record = finish_interrupted(tag)
        if record is not None:
            self.journal.write("surgery_finished", tag=tag.name, kind=record.operation.kind)
            self.observer.message(f"{tag.name}: the {record.operation.kind} that was cut short is finished")

    def _reset(self, due: Reset) -> None:
        """Forget, and begin the learning rate anew where the config says so; each unless it is done already."""
        tag = self.directory.save / tag_name(due.iteration)
        since = progress.operations_since(tag, due)
        if not since:
            self._forget(tag, due)
        restarts = self.config.gaff.lr_schedule == "restart"
        if restarts and "restart-lr" not in since:
            self._restart_schedule(tag, due)
        by_hand = since[1:] if restarts and since[:1] == ["restart-lr"] else since
        if by_hand:
            self.journal.write("operated_by_hand", reset=due.number, iteration=due.iteration, operations=by_hand)
            self.observer.message(
                f"{tag.name}: after reset {due.number} came {', '.join(by_hand)} by hand: left as it is"
            )

    def _forget(self, tag: Path, due: Reset) -> None:
        settings = self.config.gaff
        request = ResetRequest(
            number=due.number,
            seed=settings.seed,
            init=settings.init,
            moments=settings.moments,
            parameters=settings.parameters,
            save_forgotten=settings.save_forgotten,
        )
        self.journal.write("reset_begun", reset=due.number, iteration=due.iteration)
        self.observer.reset_started(due)
        began = time.monotonic()
        result = reset(tag, request)
        self._report_reset(due, result, time.monotonic() - began)

    def _restart_schedule(self, tag: Path, due: Reset) -> None:
        result = restart_lr(tag, RestartRequest())
        about = result.operation.about
        self.journal.write(
            "schedule_restarted",
            reset=due.number,
            iteration=due.iteration,
            already_done=result.already_done,
            lr_before=about["lr_before"],
            lr_after=about["lr_after"],
        )
        self.observer.message(f"{tag.name}: the learning rate's warm-up and decay begin anew")

    def _report_reset(self, due: Reset, result: Result, seconds: float) -> None:
        operation = result.operation
        self.journal.write(
            "reset_done",
            reset=due.number,
            iteration=due.iteration,
            already_done=result.already_done,
            copies=len(operation.edits),
            bytes=operation.bytes_changed,
            seconds=round(seconds, 4),
            forgotten=dict(operation.about["forgotten"]),
        )
        self.observer.reset_done(due, seconds, len(operation.edits), operation.bytes_changed)

    def _train(self, segment: Segment) -> None:
        """Launch the trainer from the newest tag to the segment's end, and demand the checkpoint there."""
        start = progress.judge(self.directory.save).iteration
        folder = self.directory.segment(segment.number)
        make_directory_durably(folder)
        attempt = self.directory.attempts(segment.number) + 1
        log = folder / f"attempt-{attempt}.log"
        with self._reserved_port() as port:
            request = SegmentRequest(start, segment.stop, self.directory.save, folder, port.number, self.run_id)
            launch = self.trainer.prepare(self.config, request)
            self.journal.write(
                "segment_launched",
                segment=segment.number,
                attempt=attempt,
                start=start,
                stop=segment.stop,
                log=str(log.relative_to(self.directory.root)),
                command=list(launch.argv),
            )
            self.observer.segment_started(segment, attempt)
            watch = Watch(start, self.config.gaff.watch.silence_minutes, self.config.get("log_interval"))
            began = time.monotonic()
            code = self._run(launch, log, watch)
        if watch.hung:
            self.journal.write(
                "trainer_silent", minutes=watch.silence_minutes, iteration=watch.iteration, ranks=watch.ranks_asked
            )
        self.journal.write(
            "segment_exited", segment=segment.number, returncode=code, seconds=round(time.monotonic() - began, 3)
        )
        self._demand_checkpoint(segment, code, watch, log)

    def _reserved_port(self) -> ReservedPort:
        fixed = self.trainer.fixed_port(self.config)
        wish = self.config.get("master_port") if fixed is None else fixed
        return reserve_port(self.run_id, wish, fixed=fixed is not None)

    def _run(self, launch: Launch, log: Path, watch: Watch) -> int:
        """One launch from its first process to the end of its last.  Returns the trainer's exit code."""
        clean_up(launch)
        try:
            with Child(launch, log, self.run_id) as child:
                return follow(
                    child, watch, tell=self.observer.event, message=self.observer.message, signals=self.signals
                )
        finally:
            clean_up(launch)
            self._end_leftovers()

    def _demand_checkpoint(self, segment: Segment, code: int, watch: Watch, log: Path) -> None:
        now = progress.judge(self.directory.save)
        if now.iteration == segment.stop:
            if code:
                self.observer.message(f"the trainer exited with {code}, but its checkpoint is whole")
            self.journal.write("segment_done", segment=segment.number, iteration=segment.stop)
            self.observer.segment_finished(segment)
            return
        if self.signals.name:
            raise self._interrupted(now.iteration)
        raise failure(Ended(code, segment.stop, now.iteration, self.directory.save, log), watch)

    def _interrupted(self, iteration: int) -> Interrupted:
        what = f"stopped by {self.signals.name}; iteration {iteration} is safe"
        return Interrupted(Problem("interrupted", what, "run the same command again to carry on"))


def _missed(save: Path, missed: Reset) -> GaffError:
    what = f"carries no reset {missed.number}, yet later checkpoints are there, so the run went on without it"
    remedy = "use a fresh run directory, or move the later tags away to train them again"
    where = Location(str(save / tag_name(missed.iteration)))
    return GaffError(Problem("reset-missed", what, remedy, where))
