# SPDX-License-Identifier: Apache-2.0
"""A job of Slurm, seen from inside.  Verified with Slurm 22.05; scontrol(1), sbatch(1)."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from gaff.cluster.asking import Answer, ask, insist
from gaff.cluster.job import CANCELLED, HANDED, SCRIPT, Cause
from gaff.cluster.slurm import is_away, job_number
from gaff.cluster.slurm_environment import clean_environment
from gaff.errors import EXIT_RESUMABLE, GaffError, Problem

_ARGUMENTS = "GAFF_JOB_ARGUMENTS"  # set by slurm/gaff.sbatch: what stood behind it on sbatch's command line
_ASK_S = 10.0
_PATIENCE_S = 600.0  # to be queued again: a run of weeks must not end because a controller was away for some minutes
_AT_WORK = ("RUNNING", "SUSPENDED", "CONFIGURING")  # COMPLETING: its end has begun
_FACT = re.compile(r"(?:^|\s)(\w+)=(\S*)")


@dataclass(frozen=True)
class SlurmJob:
    """See :class:`gaff.cluster.job.Job`."""

    id: str
    restarts: int
    nodes: tuple[str, ...]
    slots: int
    environ: Mapping[str, str] = field(repr=False)
    scheduler: str = "Slurm"

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> SlurmJob | None:
        """From the variables that Slurm sets; None outside of a job.

        Raises:
            GaffError: it has several nodes, and Slurm does not tell which.
        """
        number = environ.get("SLURM_JOB_ID", "")
        if not number.isdecimal():
            return None
        array, task = environ.get("SLURM_ARRAY_JOB_ID", ""), environ.get("SLURM_ARRAY_TASK_ID", "")
        # The bare number may stand for the whole array, whose other tasks are other runs.
        own = f"{array}_{task}" if array.isdecimal() and task.isdecimal() else number
        nodes = _nodes(environ)
        return cls(own, _number(environ, "SLURM_RESTART_COUNT", 0), nodes, _slots(environ, len(nodes)), environ)

    @property
    def script(self) -> Path | None:
        named = self.environ.get(SCRIPT)
        return Path(named) if named else None

    @property
    def notice_s(self) -> float | None:
        return None

    def seconds_left(self, patience_s: float = 0.0) -> float | None:
        """Slurm 22.05 says the end to the second in ``EndTime``; ``squeue -o %L`` rounds a limit that was changed."""
        facts = self._facts(patience_s)
        end = facts.get("EndTime") or self._end_at_start()
        with contextlib.suppress(ValueError):  # "Unknown", "UNLIMITED"
            return datetime.fromisoformat(end).timestamp() - time.time()
        return None

    def cause(self, signal: str) -> Cause:
        facts, is_warning = self._facts(patience_s=0.0), signal in ("SIGUSR1", "SIGUSR2")
        if not facts:  # only a warning is surely no cancellation
            return Cause.TIME if is_warning else Cause.UNKNOWN
        return self._cause(facts, is_warning)

    def _cause(self, facts: Mapping[str, str], is_warning: bool) -> Cause:
        if _number(facts, "Restarts", 0) > self.restarts:
            return Cause.PUT_BACK
        if facts.get("PreemptTime", "None") not in ("None", "Unknown"):
            return Cause.PREEMPTED
        if facts.get("Reason") == "TimeLimit" or (is_warning and facts.get("JobState") in _AT_WORK):
            return Cause.TIME
        return Cause.CANCELLED

    def is_superseded(self) -> bool:
        return _number(self._facts(patience_s=0.0), "Restarts", 0) > self.restarts

    def put_back(self) -> int:
        """Slurm would have a cancelled job rise from the dead as well (measured), so that is asked first."""
        facts = self._facts(patience_s=0.0)
        is_ending = facts.get("JobState", "RUNNING") not in _AT_WORK
        if is_ending and self._cause(facts, is_warning=False) is Cause.CANCELLED:
            what = f"Slurm's job {self.id} was cancelled"
            raise GaffError(Problem(CANCELLED, what, "submit the run again to carry on"))
        answer = insist(["scontrol", "requeue", self.id], _PATIENCE_S, is_away, clean_environment())
        if answer.ok or self.is_superseded():
            return EXIT_RESUMABLE
        raise _refused("put this job back into the queue", f"scontrol requeue {self.id}", answer)

    def add_follower(self) -> str:
        script = self.script
        if script is None:
            what = f"{SCRIPT} does not name the job's script, which a follower is made from"
            raise GaffError(Problem("job-script-unknown", what, f"export {SCRIPT}=$0 in it, as slurm/gaff.sbatch does"))
        handed = self.environ.get(HANDED, "")
        words = ["sbatch", "--parsable", f"--dependency=afterany:{self.id}"]
        words += [f"--export={handed}"] if handed else []
        if "_" in self.id:
            words.append(f"--array={self.id.partition('_')[2]}")
        arguments = self.environ.get(_ARGUMENTS, "").splitlines()  # of a script that was submitted by hand
        answer = insist([*words, str(script), *arguments], _PATIENCE_S, is_away, clean_environment())
        if not answer.ok:
            raise _refused("take the job that is to follow", f"sbatch --dependency=afterany:{self.id}", answer)
        return job_number(answer)

    def drop(self, follower: str) -> None:
        answer = insist(["scancel", follower], _ASK_S * 3, is_away, clean_environment())
        if not answer.ok:
            raise _refused("cancel the job that was to follow", f"scancel {follower}", answer)

    def tell(self, name: str, comment: str) -> bool:
        words = ["scontrol", "update", f"jobid={self.id}", f"name={name}", f"comment={comment}"]
        return ask(words, _ASK_S, clean_environment()).ok

    def _facts(self, patience_s: float) -> dict[str, str]:
        """``scontrol show job``; empty where it does not answer."""
        words = ["scontrol", "show", "job", self.id]
        clean = clean_environment()
        answer = insist(words, patience_s, is_away, clean) if patience_s else ask(words, _ASK_S, clean)
        return dict(_FACT.findall(answer.out)) if answer.ok else {}

    def _end_at_start(self) -> str:
        """Newer versions tell each job when it will end."""
        end = self.environ.get("SLURM_JOB_END_TIME", "")
        return datetime.fromtimestamp(int(end)).isoformat() if end.isdecimal() else ""


def _nodes(environ: Mapping[str, str]) -> tuple[str, ...]:
    listed = environ.get("SLURM_JOB_NODELIST", "")
    if not re.search(r"[\[,]", listed):
        return (listed,) if listed else ()
    answer = ask(["scontrol", "show", "hostnames", listed], _ASK_S, clean_environment())  # without the controller
    if not answer.ok:
        what = f"`scontrol show hostnames {listed}` does not tell the job's nodes ({answer.words})"
        raise GaffError(Problem("nodes-unknown", what, "mend that, or write a hostfile and name it in the config"))
    return tuple(answer.out.split())


def _slots(environ: Mapping[str, str], nodes: int) -> int:
    """Tasks are ranks where the launcher is Slurm's; a job of one task a node leaves the ranks to its GPUs."""
    tasks = _number(environ, "SLURM_NTASKS", 1)
    per_node = tasks // max(nodes, 1)
    return per_node if per_node > 1 else _number(environ, "SLURM_GPUS_ON_NODE", 1)


def _number(facts: Mapping[str, str], name: str, default: int) -> int:
    text = facts.get(name, "")
    return int(text) if text.isdecimal() else default


def _refused(what: str, command: str, answer: Answer) -> GaffError:
    why = f"Slurm did not {what} ({answer.words})"
    return GaffError(Problem("scheduler-refused", why, f"give `{command}` by hand, or submit the run again"))
