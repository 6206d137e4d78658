# SPDX-License-Identifier: Apache-2.0
"""A job of Grid Engine, seen from inside.  Verified with Grid Engine 8.1.9; qsub(1), queue_conf(5), sge_status(5)."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gaff.cluster.asking import Answer, ask, insist
from gaff.cluster.job import HANDED, SCRIPT, Cause
from gaff.cluster.sge import complaint, job_number
from gaff.cluster.sge_programs import command, is_away, job_facts, job_states
from gaff.errors import EXIT_RESUMABLE, GaffError, Problem

EXIT_PUT_BACK = 99  # has a job queued again, unless h_rt is over; qsub(1), and measured
STARTED = "GAFF_JOB_STARTED"  # set by slurm/gaff.sge: when it began, in seconds since the epoch

_ASK_S = 10.0
_PATIENCE_S = 600.0  # as for Slurm: a run of weeks must not end because a qmaster was away for some minutes
_LAST_S = 2.0  # what ends later than so long before h_rt may be ended by it
_SKEW_S = 60.0  # between the clocks of execution host and qmaster
_WALLTIME = re.compile(r"^#\$.*\bh_rt=([\d:]+)", re.MULTILINE)
_NO_NAME = re.compile(r"[^\w.%+-]+", re.ASCII)


@dataclass(frozen=True)
class SgeJob:
    """See :class:`gaff.cluster.job.Job`."""

    id: str
    restarts: int
    nodes: tuple[str, ...]
    slots: int
    environ: Mapping[str, str] = field(repr=False)
    scheduler: str = "Grid Engine"
    _killers: list[str] = field(default_factory=list, repr=False, compare=False)  # signals ahead of h_rt's SIGKILL

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> SgeJob | None:
        """From the variables that Grid Engine sets; None outside of a job.

        ``RESTARTED`` is 0 or 1, however often the job was started.  Others set a ``JOB_ID`` too.
        """
        number, task = environ.get("JOB_ID", ""), environ.get("SGE_TASK_ID")
        if not number.isdecimal() or task is None:
            return None
        hosts = _hosts(environ)
        nodes = tuple(hosts) or tuple(filter(None, [environ.get("HOSTNAME")]))
        slots = next(iter(hosts.values()), _number(environ, "NSLOTS", 1))
        own = f"{number}.{task}" if task.isdecimal() else number
        return cls(own, _number(environ, "RESTARTED", 0), nodes, slots, environ)

    @property
    def script(self) -> Path | None:
        named = self.environ.get(SCRIPT)
        return Path(named) if named else None

    def seconds_left(self, patience_s: float = 0.0) -> float | None:
        """Until ``h_rt`` is over, negative after it: with ``-notify`` SIGUSR2 comes then, and SIGKILL some time later.

        Where the qmaster does not answer, by the directives of the job's script and its own word of when it began.
        """
        facts = job_facts(self._number, self._task, patience_s)
        walltime_s = self._written_walltime_s() if facts is None else facts.walltime_s
        told = (facts.started if facts else None, _number(self.environ, STARTED, 0))
        began = min((moment for moment in told if moment), default=None)  # of two clocks, for the safe side
        return began + walltime_s - time.time() if began and walltime_s else None

    @property
    def notice_s(self) -> float | None:
        """The seconds between SIGUSR2 and SIGKILL: the queue's ``notify``, which the execution host notes."""
        noted = re.search(r"^notify=(\d+)$", self._noted(), re.MULTILINE)
        return float(noted[1]) if noted else None

    def cause(self, signal: str) -> Cause:
        """SIGUSR2 is ``-notify`` ahead of SIGKILL: for ``h_rt``, and for qdel, which shows in the job's state.  SIGUSR1
        is ``-notify`` ahead of SIGSTOP, where a more urgent job takes the queue, or the limit ``s_rt``."""
        state = self._state()
        if state is not None:
            if "d" in state:
                return Cause.CANCELLED
            if not state or "q" in state:
                return Cause.PUT_BACK
            if any(letter in state for letter in "sST"):
                return Cause.PREEMPTED
            if signal == "SIGUSR1":
                return Cause.TIME
        left = self.seconds_left()
        if signal != "SIGUSR2" or (left is not None and left > _SKEW_S) or (left is None and state is None):
            return Cause.UNKNOWN
        self._killers.append(signal)
        return Cause.TIME

    def is_superseded(self) -> bool:
        """By when the job began, as ``qstat`` tells it: ``RESTARTED`` is no count.  An execution host that is lost, and
        not its job, has the job started elsewhere after a while (reschedule_unknown, sge_conf(5))."""
        own = _number(self.environ, STARTED, 0)
        facts = job_facts(self._number, self._task) if own else None
        return bool(facts and facts.started and facts.started > own + _SKEW_S)

    def put_back(self) -> int:
        """By exit code 99, which costs no question; but it means nothing where ``h_rt`` is over or the site forbids it.
        A job that was deleted does not come back, whatever its exit code (measured)."""
        left = self.seconds_left()
        if self._killers or (left is not None and left <= _LAST_S):
            why = "its h_rt is over, and exit code 99 means nothing then"
        elif self._is_forbidden():
            why = "this site gives exit code 99 no meaning (FORBID_RESCHEDULE)"
        else:
            return EXIT_PUT_BACK
        if "d" in (self._state() or ""):
            return EXIT_RESUMABLE
        what = f"Grid Engine does not put job {self.id} back into the queue: {why}"
        raise GaffError(Problem("scheduler-refused", what, "submit the run again"))

    def add_follower(self) -> str:
        """The script as Grid Engine keeps it, with its arguments; what qsub was given besides is in no copy.

        That of an array's task waits for all tasks: Grid Engine holds one by one only between equal arrays.
        """
        if self.script is None:
            what = f"{SCRIPT} does not name the job's script, which a follower is made from"
            raise GaffError(Problem("job-script-unknown", what, f"export {SCRIPT}=$0 in it, as slurm/gaff.sge does"))
        facts = job_facts(self._number, self._task, _PATIENCE_S)
        handed = self.environ.get(HANDED, "")
        words = ["-v", handed] if handed else []
        words += ["-t", f"{self._task}-{self._task}"] if self._task else []
        words += [str(self.script), *(facts.arguments if facts else ())]
        asked = command("qsub", "-terse", "-hold_jid", self._number, *words)
        answer = insist(asked, _PATIENCE_S, is_away)
        if not answer.ok:
            raise _refused("take the job that is to follow", f"qsub -hold_jid {self._number}", answer)
        return job_number(answer.out)

    def drop(self, follower: str) -> None:
        answer = insist(command("qdel", follower), _ASK_S * 3, is_away)
        if not answer.ok and "does not exist" not in f"{answer.out}{answer.err}":
            raise _refused("cancel the job that was to follow", f"qdel {follower}", answer)

    def tell(self, name: str, comment: str) -> bool:
        """In the job's name, of which qstat shows ten characters, and in its context.  Not for an array's task, whose
        name is that of all."""
        if self._task is not None:
            return False
        context = f"gaff={comment.replace(',', ';')}"
        return ask(command("qalter", "-N", _shown(name), "-ac", context, self._number), _ASK_S).ok

    @property
    def _number(self) -> str:
        return self.id.partition(".")[0]

    @property
    def _task(self) -> str | None:
        return self.id.partition(".")[2] or None

    def _state(self) -> str | None:
        """Empty for a job that is not known any more; None where the qmaster does not answer."""
        states = job_states(self._number, self._task, self.environ.get("LOGNAME") or "*")
        return None if states is None else "".join(states)

    def _written_walltime_s(self) -> float | None:
        try:
            script = self.script.read_text(errors="replace") if self.script else ""
        except OSError:
            return None
        written = _WALLTIME.findall(script)
        return _seconds(written[-1]) if written else None

    def _is_forbidden(self) -> bool:
        """A site may give exit code 99 no meaning (FORBID_RESCHEDULE, sge_conf(5)), which the execution host notes."""
        return "forbid_reschedule=1" in self._noted().split()

    def _noted(self) -> str:
        """What the execution host has written down of this job; empty where that is not to be read."""
        try:
            return (Path(self.environ["SGE_JOB_SPOOL_DIR"]) / "config").read_text(errors="replace")
        except (KeyError, OSError):
            return ""


def _hosts(environ: Mapping[str, str]) -> dict[str, int]:
    """The hosts of a parallel environment and the slots on each: ``host slots queue processors``, sge_pe(5)."""
    try:
        lines = Path(environ["PE_HOSTFILE"]).read_text().splitlines()
    except (KeyError, OSError):
        return {}
    words = [line.split() for line in lines]
    return {word[0]: int(word[1]) for word in words if len(word) > 1 and word[1].isdecimal()}


def _seconds(written: str) -> float:
    """Of ``[[HOURS:]MINUTES:]SECONDS``; sge_types(5)."""
    seconds = 0
    for part in written.split(":"):
        seconds = seconds * 60 + int(part or 0)
    return float(seconds)


def _number(facts: Mapping[str, str], name: str, default: int) -> int:
    text = facts.get(name, "")
    return int(text) if text.isdecimal() else default


def _shown(name: str) -> str:
    """A name that Grid Engine takes: neither ``:`` nor a digit in front.  Of ``pythia-70m:40%`` the end goes first."""
    stem, _, progress = name.rpartition(":")
    return _NO_NAME.sub("-", f"at-{progress}-{stem}" if stem else f"gaff-{name}")


def _refused(what: str, command: str, answer: Answer) -> GaffError:
    why = f"Grid Engine did not {what} ({complaint(answer)})"
    return GaffError(Problem("scheduler-refused", why, f"give `{command}` by hand, or submit the run again"))
