# SPDX-License-Identifier: Apache-2.0
"""One case from start to verdict."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.faults import processes
from tests.faults.cases import Case
from tests.faults.grounds import Grounds
from tests.faults.inject import kill_supervisor, thaw
from tests.faults.scene import Failed, Missed, Scene
from tests.faults.surroundings import Skipped, unmount
from tests.faults.verdict import faults_found
from tests.supervisor.drive import processes_of

_TRIES = 5  # to hit the moment
_MOST_CALLS = 3
_AGAIN = (75, 1)  # exit codes after which the same command is given again, as a user or Slurm would
_ANSWER_S = 60.0  # in which no process may be left of a supervisor that was killed


@dataclass(frozen=True)
class Result:
    """What became of a case.

    Attributes:
        ends: the exit code of each command, in order; negative for a signal.
        restarts: by GAFF itself.
        set_aside: iterations of tags that were.
        sentence: what GAFF said of it.
        wrong: clauses; empty when the run is finished as if nothing had been.
        skipped: why it could not be tried, or "".
    """

    case: Case
    ends: tuple[int, ...] = ()
    restarts: int = 0
    set_aside: tuple[int, ...] = ()
    sentence: str = ""
    wrong: tuple[str, ...] = ()
    skipped: str = ""


def run_case(case: Case, grounds: Grounds, place: Path) -> Result:
    """Try until the moment is hit.  What a failed case leaves in ``place`` stays there to be looked at."""
    for _ in range(_TRIES):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        with contextlib.suppress(Missed):
            result = _try(case, grounds, place)
            if not result.wrong:
                shutil.rmtree(place)
            return result
    return Result(case, wrong=(f"the moment was missed {_TRIES} times",))


def _try(case: Case, grounds: Grounds, place: Path) -> Result:
    fault, moment = case.fault, case.moment
    quick = ("-o", "gaff.watch.backoff_seconds=0")
    scene = Scene(grounds, case.trainer, place, (*quick, *moment.options, *fault.options), modes=fault.modes)
    try:
        fault.prepare(scene)
        scene.begin(moment.halt, fault.limit)
        wrong = _disturb(scene, case)
        _carry_on(scene, case)
        return _result(scene, case, wrong + faults_found(scene, case))
    except Skipped as why:
        return Result(case, skipped=str(why))
    except Failed as why:
        return _result(scene, case, [str(why)])
    except (OSError, ValueError, KeyError, psutil.Error, subprocess.SubprocessError) as error:
        return Result(case, wrong=(f"the bench itself failed: {error!r}",))  # the other cases go on
    finally:
        _end_everything(scene)
        unmount(scene)


def _disturb(scene: Scene, case: Case) -> list[str]:
    """Wait for the moment, bring the fault about, and wait for the end of the command."""
    fault = case.fault
    case.moment.wait(scene)
    if fault.between:
        kill_supervisor(scene)
    else:
        fault.inject(scene)
    if fault.ends >= 0:
        _let_all_go_on(scene)
    code, wrong = scene.end(), []
    if code != fault.ends:
        wrong.append(f"the command ended with {code} instead of {fault.ends}")
    if code < 0 and not fault.leaves:
        scene.wait_until_alone(_ANSWER_S)  # a frozen trainer does not end by itself
    _let_all_go_on(scene)
    if fault.between:
        fault.inject(scene)
    return wrong


def _let_all_go_on(scene: Scene) -> None:
    thaw(scene)
    with contextlib.suppress(psutil.Error):
        if processes.is_halted(scene.pid):
            psutil.Process(scene.pid).send_signal(signal.SIGCONT)


def _carry_on(scene: Scene, case: Case) -> None:
    """Give the same command again until the run is finished."""
    if scene.ends[-1]:
        case.fault.clear(scene)
    while scene.ends[-1] and len(scene.ends) < _MOST_CALLS:
        if len(scene.ends) > 1 and scene.ends[-1] not in _AGAIN:
            break
        scene.begin()
        scene.end()
    if scene.ends[-1]:
        said = scene.output(len(scene.ends)).read_text().strip().splitlines()
        raise Failed(f"the run is not finished: the last command ended with {scene.ends[-1]}: {' '.join(said[-1:])}")


def _end_everything(scene: Scene) -> None:
    """Nothing of a case may disturb the next one."""
    if not scene.has_ended:
        assert scene.process is not None
        scene.process.kill()
        scene.process.wait()
    for pid in processes_of(scene.root):
        with contextlib.suppress(psutil.Error):
            psutil.Process(pid).kill()
    processes.wait_until_gone(scene.trainers, 5)


def _result(scene: Scene, case: Case, wrong: list[str]) -> Result:
    return Result(
        case,
        tuple(scene.ends),
        len(scene.journal("restart_planned")),
        tuple(entry["iteration"] for entry in scene.journal("tag_set_aside")),
        _sentence(scene),
        tuple(wrong),
    )


_WORDS = (  # events that have some, the most telling first
    ("trainer_failed", "what"),
    ("run_failed", "why"),
    ("run_interrupted", "why"),
    ("tag_set_aside", "why"),
)

_LINE = re.compile(r"(?:\d\d:\d\d:\d\d  |gaff: (?!note))(.*)")
# on the screen of any run
_USUAL = re.compile(r"carrying on|\d+ iterations|segment|iteration|reset|checkpoint|finished|failed|restart")


def _sentence(scene: Scene) -> str:
    """What GAFF said of it: in the journal, else on the screen of the last command."""
    for event, name in _WORDS:
        for entry in scene.journal(event):
            prefix = f"global_step{entry['iteration']} " if event == "tag_set_aside" else ""
            return _plain(scene, prefix + str(entry[name]))
    said = [line for call in range(len(scene.ends), 0, -1) for line in _screen(scene.output(call))]
    told = [line for line in said if not _USUAL.match(line)]
    carrying_on = [line.split(" of ")[0] for line in said if line.startswith("carrying on")]
    return _plain(scene, (told or carrying_on or [""])[0])


def _screen(output: Path) -> list[str]:
    """The lines that GAFF wrote while it worked, without their time, and its complaints."""
    lines = output.read_text(errors="replace").splitlines() if output.exists() else []
    return [found[1] for line in lines if (found := _LINE.match(line))]


def _plain(scene: Scene, text: str) -> str:
    """One line without what differs from run to run."""
    text = text.partition("\n")[0].replace(f"{scene.root}/", "").replace(str(scene.root), "RUN")
    text = re.sub(r"process \d+ on \S+", "process N", text)
    return re.sub(r"\(process \d+\)", "(process N)", text)
