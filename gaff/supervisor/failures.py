# SPDX-License-Identifier: Apache-2.0
"""The error of a segment that ended without the checkpoint that was asked of it: one sentence, and what to do."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path

from gaff.checkpoint.completeness import why_unfinished
from gaff.checkpoint.tag import tag_name
from gaff.errors import GaffError, Interrupted, Location, Problem, TrainerError
from gaff.supervisor.watch import Watch
from gaff.trainers.fault import Weight
from gaff.trainers.faults import explain, weigh
from gaff.trainers.hangs import Finding

_AGAIN = "run the same command again to carry on"
_READ_THE_LOG = "read the log, mend the cause, and run the same command again"
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


def failure(ended: Ended, watch: Watch) -> GaffError:
    """What to raise.  :class:`Interrupted` where the same command carries on, else :class:`TrainerError`."""
    if watch.fatal:
        what, where = watch.fatal, Location(str(ended.log), watch.fatal_line)
        return TrainerError(Problem("wrong-start", what, "read the log; nothing was overwritten", where))
    if watch.finding:
        return _hung(ended, watch, watch.finding)
    killer = killed_by(ended.code)
    if killer:
        return _killed(ended, watch, f"the trainer was killed by {killer}")
    silent = watch.error is None or weigh(watch.error.message) is Weight.HINT
    if ended.code == 0 and watch.iteration > watch.start and silent and not watch.stopped:
        # GPT-NeoX's deepy.py returns 0 when the launcher below it is killed (contract, section 1.6).
        return _killed(ended, watch, f"the trainer's launcher was killed after iteration {watch.iteration}")
    return _no_checkpoint(ended, watch)


def killed_by(code: int) -> str | None:
    """The signal that ended the trainer, from its own exit code, a shell's, or that of GPT-NeoX's launcher.

    deepy.py passes on a killed rank's -9 and -15 as exit codes 247 and 241.  Signals that a process sends itself when
    it crashes are no killers.
    """
    number = {137: 9, 143: 15, 247: 9, 241: 15}.get(code, -code if code < 0 else 0)
    return signal.Signals(number).name if number in _KILLERS else None


def _killed(ended: Ended, watch: Watch, what: str) -> Interrupted:
    error = watch.error
    known = error is not None and weigh(error.message) is Weight.CAUSE
    advice = explain(error.message) if error and known else None
    remedy = f"{advice}; then {_AGAIN}" if advice else _AGAIN
    said = _said(watch) if known else ""
    where = Location(str(ended.log), watch.error_line)
    return Interrupted(Problem("trainer-killed", f"{what}{said}{_safe(ended)}", remedy, where, watch.detail()))


def _hung(ended: Ended, watch: Watch, finding: Finding) -> TrainerError:
    since = f"after iteration {watch.iteration}" if watch.iteration > watch.start else "before its first iteration"
    minutes = f"{watch.silence_minutes:g} minute{'' if watch.silence_minutes == 1 else 's'}"
    what = f"{since} the trainer said nothing for {minutes} and was ended: {finding.standing}{_safe(ended)}"
    where = Location(str(ended.log))
    return TrainerError(Problem("trainer-silent", what, finding.remedy, where, finding.lines[:_MAX_PLACES]))


def _safe(ended: Ended) -> str:
    return "" if ended.safe is None else f"; iteration {ended.safe} is safe"


def _no_checkpoint(ended: Ended, watch: Watch) -> TrainerError:
    tag = ended.save / tag_name(ended.stop)
    state = (why_unfinished(tag, ended.stop) or "is whole") if tag.is_dir() else "is not there"
    idle = " without having trained" if ended.code == 0 and watch.iteration == watch.start else ""
    what = f"the trainer exited with {ended.code}{idle} and {tag.name} {state}{_said(watch)}"
    remedy = (explain(watch.error.message) if watch.error else None) or _READ_THE_LOG
    where = Location(str(ended.log), watch.error_line)
    return TrainerError(Problem("no-checkpoint-written", what, remedy, where, watch.detail()))


def _said(watch: Watch) -> str:
    if watch.error is None:
        return ""
    message = watch.error.message
    shown = message if len(message) <= _MAX_SAID else message[: _MAX_SAID - 1] + "…"
    alone = weigh(message) is Weight.CONSEQUENCE
    return f", as a rank lost its peers and none said why: {shown}" if alone else f", saying: {shown}"
