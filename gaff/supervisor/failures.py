# SPDX-License-Identifier: Apache-2.0
"""A launch that ended without the checkpoint that it owed: one sentence, what to do, and whether to try again."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gaff.checkpoint.completeness import why_unfinished
from gaff.checkpoint.tag import tag_name
from gaff.errors import GaffError, Interrupted, Location, Problem, TrainerError
from gaff.supervisor.watch import Watch
from gaff.supervisor.watchdogs.alarm import Alarm
from gaff.trainers.fault import Course, Weight
from gaff.trainers.faults import course, explain, weigh
from gaff.trainers.hangs import Finding

_AGAIN = "run the same command again to carry on"
_READ_THE_LOG = "read the log, mend the cause, and run the same command again"
_WATCHDOGS = {  # what to do about what a watchdog saw, by its id
    "slow": "see what slows it: the file system, the network, another job on the node; then run the same command again",
    "nan": "lower lr, lengthen warmup, or use bfloat16; or set `gaff: watch: on_nan`",
    "skipped": "lower lr, lengthen warmup, or use bfloat16; or raise `gaff: watch: skipped_in_a_row`",
    "loss-scale": "lower lr, lengthen warmup, or use bfloat16",
    "loss-high": "look at the curve: lower lr, or raise `gaff: watch: high_loss_factor`",
    "checkpoint-late": "read the log, and see that `save` can be written to on every node",
}
_MAX_SAID = 300
_MAX_PLACES = 5
_CRASHES = {signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV}
_KILLERS = set(signal.Signals) - _CRASHES


@dataclass(frozen=True)
class Ended:
    """A launch that is over.

    Attributes:
        code: the trainer's exit code, negative for a signal.
        stop: the iteration that it was to reach.
        safe: the newest iteration that has a whole checkpoint; None where nobody means to keep any.
        save, log: where its checkpoints and its output are.
    """

    code: int
    stop: int
    safe: int | None
    save: Path
    log: Path


@dataclass(frozen=True)
class Failure:
    """What went wrong with a launch.

    Attributes:
        problem: for a person.
        iteration: the last one that it logged; where it started from when it logged none.
        trained: it logged an iteration.
        killed: something outside killed it, and nothing else is known to be wrong.
        course: what becomes of the fault when the same launch is made again.
        final: GAFF ended it, and the run with it (a watchdog's policy, or what no restart may risk).
    """

    problem: Problem
    iteration: int
    trained: bool
    killed: bool = False
    course: Course = Course.UNKNOWN
    final: bool = False

    @property
    def error(self) -> GaffError:
        """What to raise where it is not tried again: :class:`Interrupted` where the same command carries on."""
        resumable = self.killed and self.course is not Course.LASTING  # srun kills the ranks of one that raised
        return Interrupted(self.problem) if resumable else TrainerError(self.problem)

    @property
    def kind(self) -> str:
        """Equal for two failures that are the same fault: its words without the figures in them."""
        return re.sub(r"\d+", "#", self.problem.what)


def failure(ended: Ended, watch: Watch) -> Failure:
    """What to make of a launch that is over."""
    trained = watch.iteration > watch.start

    def failed(problem: Problem, **more: Any) -> Failure:
        return Failure(problem, watch.iteration, trained, **more)

    if watch.fatal:
        what, where = watch.fatal, Location(str(ended.log), watch.fatal_line)
        remedy = "read the log; nothing was overwritten"
        return failed(Problem("wrong-start", what, remedy, where), course=Course.UNKNOWN)
    if watch.alarm:
        return failed(_alarmed(ended, watch.alarm), final=watch.alarm.policy == "stop")
    if watch.finding:
        return failed(_hung(ended, watch, watch.finding), final=watch.on_silence == "stop")
    known = course(watch.error.message) if watch.error else Course.UNKNOWN
    killer = killed_by(ended.code)
    if killer:
        when = f" after iteration {watch.iteration}" if trained else ""
        return failed(_killed(ended, watch, f"the trainer was killed by {killer}{when}"), killed=True, course=known)
    silent = watch.error is None or weigh(watch.error.message) is Weight.HINT
    if ended.code == 0 and trained and silent and not watch.stopped:
        # GPT-NeoX's deepy.py returns 0 when the launcher below it is killed (contract, section 1.6).
        what = f"the trainer's launcher was killed after iteration {watch.iteration}"
        return failed(_killed(ended, watch, what), killed=True, course=known)
    return failed(_no_checkpoint(ended, watch), course=known)


def killed_by(code: int) -> str | None:
    """The signal that ended the trainer, from its own exit code, a shell's, or that of GPT-NeoX's launcher.

    deepy.py passes on a killed rank's -9 and -15 as exit codes 247 and 241.  Signals that a process sends itself when
    it crashes are no killers.
    """
    number = {137: 9, 143: 15, 247: 9, 241: 15}.get(code, -code if code < 0 else 0)
    return signal.Signals(number).name if number in _KILLERS else None


def _alarmed(ended: Ended, alarm: Alarm) -> Problem:
    remedy = _WATCHDOGS.get(alarm.id, _READ_THE_LOG)
    what = f"{alarm.what}, so the trainer was ended{_safe(ended)}"
    return Problem(f"watchdog-{alarm.id}", what, remedy, Location(str(ended.log)))


def _killed(ended: Ended, watch: Watch, what: str) -> Problem:
    error = watch.error
    known = error is not None and weigh(error.message) is Weight.CAUSE
    advice = explain(error.message) if error and known else None
    remedy = f"{advice}; then {_AGAIN}" if advice else _AGAIN
    said = _said(watch) if known else ""
    where = Location(str(ended.log), watch.error_line)
    return Problem("trainer-killed", f"{what}{said}{_safe(ended)}", remedy, where, watch.detail())


def _hung(ended: Ended, watch: Watch, finding: Finding) -> Problem:
    since = f"after iteration {watch.iteration}" if watch.iteration > watch.start else "before its first iteration"
    minutes = f"{watch.silence_minutes:g} minute{'' if watch.silence_minutes == 1 else 's'}"
    what = f"{since} the trainer said nothing for {minutes} and was ended: {finding.standing}{_safe(ended)}"
    where = Location(str(ended.log))
    return Problem("trainer-silent", what, finding.remedy, where, finding.lines[:_MAX_PLACES])


def safe_words(iteration: int) -> str:
    """What is not lost, in a clause: ``iteration`` is the newest that has a whole checkpoint, 0 for none."""
    return f"iteration {iteration} is safe" if iteration else "no checkpoint is written yet"


def _safe(ended: Ended) -> str:
    return "" if ended.safe is None else f"; {safe_words(ended.safe)}"


def _no_checkpoint(ended: Ended, watch: Watch) -> Problem:
    tag = ended.save / tag_name(ended.stop)
    state = (why_unfinished(tag, ended.stop) or "is whole") if tag.is_dir() else "is not there"
    idle = " without having trained" if ended.code == 0 and watch.iteration == watch.start else ""
    what = f"the trainer exited with {ended.code}{idle} and {tag.name} {state}{_said(watch)}"
    remedy = (explain(watch.error.message) if watch.error else None) or _READ_THE_LOG
    where = Location(str(ended.log), watch.error_line)
    return Problem("no-checkpoint-written", what, remedy, where, watch.detail())


def _said(watch: Watch) -> str:
    if watch.error is None:
        return ""
    message = watch.error.message
    shown = message if len(message) <= _MAX_SAID else message[: _MAX_SAID - 1] + "…"
    alone = weigh(message) is Weight.CONSEQUENCE
    return f", as a rank lost its peers and none said why: {shown}" if alone else f", saying: {shown}"
