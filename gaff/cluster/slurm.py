# SPDX-License-Identifier: Apache-2.0
"""Slurm, seen from a login node: directives, ``sbatch --test-only``, ``sbatch``, ``squeue``.

Verified with Slurm 22.05; sbatch(1), squeue(1).
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from gaff.cluster.asking import Answer, ask, insist
from gaff.cluster.profile import SchedulerName
from gaff.cluster.refusals import refusal
from gaff.cluster.request import JobRequest
from gaff.cluster.slurm_environment import clean_environment
from gaff.cluster.times import clock_time
from gaff.errors import GaffError, InputError, Problem

_PATIENCE_S = 90.0  # with a controller that is away, before a submission is given up
_AWAY = re.compile(
    r"unable to contact|connection (refused|timed out|reset)|socket timed out|zero bytes|transport endpoint|"
    r"communication (connection )?failure|unexpected message|backup controller|try again later",
    re.IGNORECASE,
)
_STARTS = re.compile(r"to start at (\S+)")
_OVER = (
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"),
    *("REVOKED", "SPECIAL_EXIT", "TIMEOUT"),
)
_MEANS_SOMETHING = re.compile(r"[\s#'\"\\]")  # on a directive line


def job_number(answer: Answer) -> str:
    """What ``sbatch --parsable`` printed: ``ID``, or ``ID;CLUSTER`` where there are several clusters.

    Raises:
        GaffError: it printed nothing, as a wrapper of a site's own may.
    """
    number = answer.out.rpartition("\n")[2].partition(";")[0].strip()
    if not number.isdecimal():
        what = "sbatch took the job and did not print its number"
        raise GaffError(Problem("job-unknown", what, "look for it in `squeue --me`"))
    return number


def is_away(answer: Answer) -> bool:
    """Whether a program of Slurm failed because the controller did not answer."""
    return answer.code is None or bool(_AWAY.search(answer.err))


def _did_not_hear(answer: Answer) -> bool:
    """Whether the controller was away and surely took nothing: an answer that is late may be of a job taken."""
    return is_away(answer) and answer.code is not None and "socket timed out" not in answer.err.lower()


class Slurm:
    """See :class:`gaff.cluster.request.Scheduler`."""

    name: SchedulerName = "slurm"
    title = "Slurm"
    template = "gaff.sbatch"
    directive = "#SBATCH"

    def missing(self) -> str | None:
        return next((name for name in ("sbatch", "squeue", "scontrol") if shutil.which(name) is None), None)

    def directives(self, request: JobRequest) -> list[str]:
        """``--export`` is not among them: the names that are handed over stand on sbatch's command line."""
        profile = request.profile
        log = "%A_%a.log" if request.array else "%j.log"
        return [
            f"--job-name={request.name}",
            f"--chdir={_quoted(str(request.directory))}",
            f"--output={_quoted(_pattern(request.logs / log))}",
            "--open-mode=append",
            *_asked(profile, "partition", "account", "qos", "constraint", "reservation"),
            *_sizes(request),
            f"--time={clock_time(profile.seconds)}",
            f"--signal=B:USR1@{profile.signal_seconds}",
            "--requeue" if profile.resubmit != "follower" else "--no-requeue",
            "--export=NONE",
            *([f"--array=0-{len(request.runs) - 1}"] if request.array else []),
            *profile.options,
        ]

    def task_number(self) -> tuple[str, int]:
        return "SLURM_ARRAY_TASK_ID", 0

    def task(self, job: str, number: int) -> str:
        return f"{job}_{number}"

    def check(self, script: Path, request: JobRequest) -> str | None:
        answer = insist(["sbatch", "--test-only", str(script)], _PATIENCE_S, is_away, clean_environment())
        if not answer.ok:
            if is_away(answer):
                raise _no_answer(answer)
            raise InputError(refusal(self.title, answer.words, request.profile))
        starts = _STARTS.search(answer.err)
        return None if starts is None else f"at {starts[1]} at the latest, as things stand"

    def submit(self, script: Path, request: JobRequest) -> str:
        words = ["sbatch", "--parsable"]
        if request.handed:
            words.append(f"--export={','.join(request.handed)}")
        answer = insist([*words, str(script)], _PATIENCE_S, _did_not_hear, clean_environment())
        if not answer.ok:
            if is_away(answer) and not _did_not_hear(answer):
                what = f"Slurm's controller did not answer in time, and may have taken the job ({answer.words})"
                raise GaffError(Problem("scheduler-unsure", what, "look in `squeue --me` before you submit it again"))
            if is_away(answer):
                raise _no_answer(answer)
            raise InputError(refusal(self.title, answer.words, request.profile))
        return job_number(answer)

    def state(self, job: str) -> str | None:
        answer = ask(["squeue", "-h", "-j", job, "-o", "%T %r"], environment=clean_environment())
        if not answer.ok:
            return "" if "invalid job id" in answer.err.lower() else None
        standing = [line.split(maxsplit=1) for line in answer.out.splitlines() if line.strip()]
        told = [_with_reason(*words) for words in standing if words[0] not in _OVER]
        return ", ".join(dict.fromkeys(told))


def _with_reason(state: str, reason: str = "None") -> str:
    return state.lower() if reason in ("None", "(null)") else f"{state.lower()} ({reason})"


def _asked(profile: object, *keys: str) -> Iterator[str]:
    for key in keys:
        value = getattr(profile, key)
        if value is not None:
            yield f"--{key}={value}"


def _sizes(request: JobRequest) -> Iterator[str]:
    """Tasks are what GPT-NeoX's own launcher starts: one a rank where several nodes take part, else GAFF alone."""
    profile = request.profile
    tasks = profile.slots if profile.nodes > 1 else 1
    yield f"--nodes={profile.nodes}"
    yield f"--ntasks-per-node={tasks}"
    if profile.gpus_per_node:
        yield f"--gres={profile.gres}:{profile.gpus_per_node}"
    if profile.cpus_per_node:
        yield f"--cpus-per-task={max(1, profile.cpus_per_node // tasks)}"
    if profile.memory is not None:
        yield f"--mem={profile.memory}"
    if profile.exclusive:
        yield "--exclusive"


def _quoted(text: str) -> str:
    """A value on a directive line, whose parser knows blanks, comments, quotes and backslashes (measured)."""
    if not _MEANS_SOMETHING.search(text):
        return text
    if "\n" in text:
        what = f"{text!r} has two lines, which no line of a job script can name"
        raise InputError(Problem("path-lines", what, "rename it"))
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _pattern(path: Path) -> str:
    """A path in which sbatch expands only its last part: it doubles what it is to leave alone."""
    return f"{str(path.parent).replace('%', '%%')}/{path.name}"


def _no_answer(answer: Answer) -> GaffError:
    what = f"Slurm's controller does not answer ({answer.words})"
    return GaffError(Problem("scheduler-away", what, "give the same command again when `squeue` answers"))
