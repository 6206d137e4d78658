# SPDX-License-Identifier: Apache-2.0
"""What Grid Engine's programs say.  Verified with Grid Engine 8.1.9; qstat(1), sge_status(5)."""

from __future__ import annotations

import os
import re
import shutil
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gaff.cluster.asking import ONCE_S, Answer, ask

_PAUSE_S = 5.0
_NOT_FOUND = 127  # the shell's exit code
_AWAY = re.compile(
    r"unable to send message to qmaster|commlib error|got (send|select|read|receive) error|connection (refused|reset)|"
    r"timed? ?out|cannot contact qmaster|unable to contact qmaster",
    re.IGNORECASE,
)
_FOR_EVER_S = 1e10  # a walltime of INFINITY is the largest number there is


def command(name: str, *words: str, environ: Mapping[str, str] = os.environ) -> list[str]:
    """One of Grid Engine's programs with its arguments.

    It is on PATH, which need not be so in a job, or where Grid Engine itself is.  It must not hear what ``-notify``
    sends, which comes to all processes of the job's group, or a follower is not submitted.
    """
    root, architecture = environ.get("SGE_ROOT"), environ.get("SGE_ARCH") or environ.get("ARC")
    places = [environ.get("SGE_BINARY_PATH"), f"{root}/bin/{architecture}" if root and architecture else None]
    found = [shutil.which(name), *(shutil.which(name, path=place) for place in places if place)]
    return ["sh", "-c", 'trap "" USR1 USR2; exec "$@"', "sh", next((path for path in found if path), name), *words]


def is_away(answer: Answer) -> bool:
    """Whether a program failed because the qmaster did not answer."""
    return answer.code is None or bool(_AWAY.search(answer.err))


@dataclass(frozen=True)
class JobFacts:
    """What ``qstat -j`` knows of a job that runs.

    Attributes:
        started: when this run of it began, in seconds since the epoch; None while it is being queued again.
        walltime_s: the ``h_rt`` that was asked for, in seconds; None for none.
        arguments: of its script.
    """

    started: float | None
    walltime_s: float | None
    arguments: tuple[str, ...]


def job_facts(number: str, task: str | None, patience_s: float = 0.0) -> JobFacts | None:
    """Ask for one job or array task; None where the qmaster does not answer, or knows no such job."""
    root = _xml(command("qstat", "-xml", "-j", number), patience_s)
    element = None if root is None else root.find("djob_info/element")
    if element is None:
        return None
    tasks = {item.findtext("JAT_task_number"): item for item in element.iterfind("JB_ja_tasks/ulong_sublist")}
    own = tasks.get(task or "1")
    started = _seconds(None if own is None else own.findtext("JAT_start_time"))
    requests = element.iterfind("JB_hard_resource_list/qstat_l_requests")
    asked = {item.findtext("CE_name"): item.findtext("CE_doubleval") for item in requests}
    arguments = tuple(item.text or "" for item in element.iterfind("JB_job_args/element/ST_name"))
    return JobFacts(started, _seconds(asked.get("h_rt")), arguments)


def job_states(number: str, task: str | None, user: str = "*", patience_s: float = 0.0) -> list[str] | None:
    """The states of a job, or of one array task, as ``qstat`` writes them: ``r``, ``qw``, ``dr``, ``Rq``.

    Returns:
        Several for an array, none for a job that is not known (any more); None where the qmaster does not answer.
    """
    root = _xml(command("qstat", "-xml", "-g", "d", "-u", user), patience_s)
    if root is None:
        return None
    return [
        item.findtext("state", "")
        for item in root.iter("job_list")
        if item.findtext("JB_job_number") == number and task in (None, item.findtext("tasks"))
    ]


def _xml(words: Sequence[str], patience_s: float) -> ElementTree.Element | None:
    """A qmaster that is away shows in the text alone: qstat's exit code is 0, and the XML has no end."""
    until = time.monotonic() + patience_s
    while True:
        answer = ask(words, ONCE_S)
        if answer.ok and not is_away(answer):
            try:
                return ElementTree.fromstring(answer.out)
            except ElementTree.ParseError:
                return None
        if answer.code == _NOT_FOUND or time.monotonic() + _PAUSE_S >= until:
            return None
        time.sleep(_PAUSE_S)


def _seconds(text: str | None) -> float | None:
    """0 stands for no time; so does what is longer than any job."""
    try:
        seconds = float(text or 0)
    except ValueError:
        return None
    return seconds if 0 < seconds < _FOR_EVER_S else None
