# SPDX-License-Identifier: Apache-2.0
"""Grid Engine, seen from a login node: directives, ``qsub -w v``, ``qsub``, ``qstat``.

Verified with Grid Engine 8.1.9; qsub(1), qstat(1).
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

from gaff.cluster.asking import Answer, ask, insist
from gaff.cluster.profile import ClusterProfile, SchedulerName
from gaff.cluster.refusals import refusal
from gaff.cluster.request import JobRequest
from gaff.cluster.sge_programs import is_away, job_states
from gaff.cluster.times import clock_time
from gaff.errors import GaffError, InputError, Location, Problem

_PATIENCE_S = 90.0  # with a qmaster that is away, before a submission is given up
_MOST_WORDS = 3  # lines of a refusal: -w v names every host that would not do
_REMEDY = "mend it, or give another value with --job KEY=VALUE"
_FOREIGN = ("qos", "constraint", "reservation")
_NO_PATH = re.compile(r"[,$\"'\\\n]")  # in a path after -o these mean something, quoted or not
_NOISE = re.compile(r"^(Unable to run job: |verification: (no|found) suitable queue.*|Exiting\.)")
_REQUEST = re.compile(r"^(Job \d+ )\(-l [^)]*\) ")  # a refusal quotes all that was asked for, also what is to be had


class GridEngine:
    """See :class:`gaff.cluster.request.Scheduler`."""

    name: SchedulerName = "sge"
    title = "Grid Engine"
    template = "gaff.sge"
    directive = "#$"

    def missing(self) -> str | None:
        return next((name for name in ("qsub", "qstat") if shutil.which(name) is None), None)

    def directives(self, request: JobRequest) -> list[str]:
        """``-v`` is not among them: the names that are handed over stand on qsub's command line.

        Raises:
            InputError: the profile asks for what Grid Engine does not have, or a path for what it cannot write.
        """
        profile = request.profile
        _refuse_foreign(profile)
        log = "$JOB_ID.$TASK_ID.log" if request.array else "$JOB_ID.log"
        return [
            f"-N {request.name}",
            "-S /bin/bash",
            f"-wd {_path(request.directory)}",
            f"-o {_path(request.logs, log, host=True)}",
            "-j y",
            *(words for _, words in _asked(profile)),
            "-notify",
            "-r n" if profile.resubmit == "follower" else "-r y",
            *([f"-t 1-{len(request.runs)}"] if request.array else []),
            *profile.options,
        ]

    def task_number(self) -> tuple[str, int]:
        return "SGE_TASK_ID", 1

    def task(self, job: str, number: int) -> str:
        return f"{job}.{number}"

    def check(self, script: Path, request: JobRequest) -> str | None:
        """``-w v`` plays the scheduling through on an empty cluster; when the job would start it does not say."""
        self._qsub(["-w", "v", str(script)], request)
        return None

    def submit(self, script: Path, request: JobRequest) -> str:
        words = ["-terse"]
        if request.handed:
            words += ["-v", ",".join(request.handed)]
        return job_number(self._qsub([*words, str(script)], request).out)

    def state(self, job: str) -> str | None:
        number, _, task = job.partition(".")
        states = job_states(number, task or None)
        return None if states is None else ", ".join(dict.fromkeys(states))

    def _qsub(self, words: list[str], request: JobRequest) -> Answer:
        answer = insist(["qsub", *words], _PATIENCE_S, is_away)
        if answer.ok:
            return answer
        if is_away(answer):
            what = f"Grid Engine's qmaster does not answer ({answer.words})"
            raise GaffError(Problem("scheduler-away", what, "give the same command again when `qstat` answers"))
        raise InputError(_alone(request.profile) or refusal(self.title, complaint(answer), request.profile))


def job_number(said: str) -> str:
    """The number in what ``qsub -terse`` says: ``7``, for an array ``7.1-3:1``."""
    return said.splitlines()[-1].partition(".")[0] if said else ""


def complaint(answer: Answer) -> str:
    """What a program complained of, without what it says each time."""
    lines = [_REQUEST.sub(r"\1", _NOISE.sub("", line.strip())) for line in (answer.err or answer.out).splitlines()]
    told = list(dict.fromkeys(line for line in lines if line))
    more = [f"and {len(told) - _MOST_WORDS} more"] if len(told) > _MOST_WORDS else []
    return "; ".join([*told[:_MOST_WORDS], *more]) or answer.words


def _asked(profile: ClusterProfile) -> Iterator[tuple[str, str]]:
    """Keys of the profile and what they ask for: GPUs are counted by the job, as the seed paper's cluster does."""
    if profile.partition:
        yield "partition", f"-q {profile.partition}"
    if profile.account:
        yield "account", f"-P {profile.account}"
    if profile.gpus_per_node:
        yield "gpus_per_node", f"-l {profile.gres}={profile.gpus_per_node}"
    if profile.cpus_per_node:
        yield "cpus_per_node", f"-pe {profile.parallel_environment} {profile.cpus_per_node}"
    memory = (profile.memory or "0").upper().rstrip("B")
    if memory.rstrip("KMGT").strip("0."):
        yield "memory", f"-l mem={memory}"
    yield "time", f"-l h_rt={clock_time(profile.seconds)}"


def _alone(profile: ClusterProfile) -> Problem | None:
    """The key that is refused also when nothing else is asked for; None where it is all of them together.

    What Grid Engine says of a whole job seldom tells: of GPUs that no host has, that the parallel environment has no
    slots.
    """
    if not _verified("").ok:  # at this site no job goes without some option
        return None
    for key, words in (*_asked(profile), *(("options", words) for words in profile.options)):
        answer = _verified(words)
        if answer.ok or is_away(answer):
            continue
        told = complaint(answer)
        if "unknown resource" in told and key == "gpus_per_node":
            key = "gres"
        elif "parallel environment" in told and key == "cpus_per_node":
            key = "parallel_environment"
        what = f"Grid Engine does not take the job with `{words}` ({told})"
        return Problem("scheduler-refused", what, _REMEDY, profile.where(key))
    return None


def _verified(words: str) -> Answer:
    try:
        options = shlex.split(words)
    except ValueError:  # a quote without its end
        options = words.split()
    return ask(["qsub", "-w", "v", *options, "-b", "y", "true"])


def _refuse_foreign(profile: ClusterProfile) -> None:
    problems = [
        Problem(
            "profile-foreign",
            f"Grid Engine has no `{key}`",
            "remove it, or write the site's own way under `options`",
            profile.where(key),
        )
        for key in _FOREIGN
        if getattr(profile, key) is not None
    ]
    if profile.exclusive and "exclusive" in profile.places:
        remedy = "remove it, or write the site's resource for whole nodes under `options`"
        problems.append(
            Problem("profile-foreign", "Grid Engine has no `exclusive`", remedy, profile.where("exclusive"))
        )
    if profile.nodes > 1:
        what = f"`nodes: {profile.nodes}` is not to be had on Grid Engine, where GAFF runs on one node"
        problems.append(Problem("nodes-unsupported", what, "write nodes: 1", profile.where("nodes")))
    if problems:
        raise InputError(problems)


def _path(directory: Path, name: str = "", host: bool = False) -> str:
    """A path as one word of a directive; what ends at a colon would be a host's name, unless there is an empty one."""
    text = f"{directory}/{name}" if name else str(directory)
    if _NO_PATH.search(str(directory)):
        what = "Grid Engine takes no path with a comma, a quote, a backslash or $"
        raise InputError(Problem("path-unusable", what, "use another directory", Location(str(directory))))
    text = f":{text}" if host and ":" in text else text
    return f'"{text}"' if re.search(r"\s", text) else text
