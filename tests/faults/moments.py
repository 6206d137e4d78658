# SPDX-License-Identifier: Apache-2.0
"""The moments at which a run is disturbed, and how each is awaited.

A moment of the trainer is seen in its log and its tag; the trainer is then frozen, it is looked once more whether the
moment still holds, and a try that came too late is made again.  A moment of the supervisor is an effect on the disk,
before which it halts (``tests/faults/halting.py``).
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.faults.grounds import END
from tests.faults.processes import is_halted, send, trainer_of
from tests.faults.scene import PATIENCE_S, Failed, Missed, Scene


@dataclass(frozen=True)
class Moment:
    """When.

    Attributes:
        name: for the table.
        here, over: whether it has come, and whether it is over; of a moment of the trainer.
        first: the last iteration to be logged before it is looked closely; None where there may be none yet.
        freeze: the trainer can be frozen.
        halt: the effect before which the supervisor halts, see ``tests/faults/halting.py``.
        prelude: something that must be done to bring the moment about.
        options: of the command, without which it does not come about.
    """

    name: str
    here: Callable[[Scene], bool] = lambda scene: False
    over: Callable[[Scene], bool] = lambda scene: False
    first: int | None = None
    freeze: bool = True
    halt: tuple[str, str, int] | None = None
    prelude: Callable[[Scene], None] = lambda scene: None
    options: tuple[str, ...] = ()

    def wait(self, scene: Scene) -> None:
        """Return in the moment.

        Raises:
            Missed: it passed, or never came.
        """
        if self.halt is not None:
            _wait_for_halt(scene)
            return
        self.prelude(scene)
        if self.first is not None:
            _wait(scene, lambda: scene.has_logged(self.first or 0), 0.005)
            scene.trainers = trainer_of(scene.pid)
        _wait(scene, lambda: self.here(scene), 0.001)
        if self.first is None:
            scene.trainers = trainer_of(scene.pid)
        if self.freeze:
            send(signal.SIGSTOP, scene.trainers)
            scene.frozen = list(scene.trainers)
        if self.over(scene) or (not scene.trainers and self.freeze):
            raise Missed(self.name)


def _wait(scene: Scene, condition: Callable[[], bool], step_s: float) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if scene.has_ended:
            raise Missed("the command ended before")
        if time.monotonic() > deadline:
            raise Failed(f"the moment did not come within {PATIENCE_S:g} s")
        time.sleep(step_s)


def _wait_for_halt(scene: Scene) -> None:
    _wait(scene, lambda: is_halted(scene.pid), 0.005)


def _training(name: str, iteration: int, stop: int, *, first: int) -> Moment:
    """Iteration ``iteration`` is logged, and the tag at ``stop`` not begun."""
    return Moment(
        name,
        here=lambda scene: scene.has_logged(iteration),
        over=lambda scene: scene.tag(stop).exists() or scene.has_logged(stop),
        first=first,
    )


def _launcher_at_work(scene: Scene) -> bool:
    return scene.launches(2) == 1 and bool(trainer_of(scene.pid))


FIRST_SEGMENT = _training("in the first segment, with no checkpoint yet", 5, 12, first=1)
STARTING = Moment(
    "while the trainer starts, before its first iteration",
    here=_launcher_at_work,
    over=lambda scene: scene.has_logged(13),
    freeze=False,
)
MIDDLE = _training("in the middle of a segment", 17, 24, first=13)
LAST_ITERATION = _training("in the last iteration of a segment", 23, 24, first=13)
SAVING = Moment(
    "while the trainer saves",
    here=lambda scene: scene.tag(24).exists(),
    over=lambda scene: (scene.tag(24) / "configs").exists(),
    first=20,
)
SAVED = Moment(
    "after the save, before the trainer exits",
    here=lambda scene: any(p.stat().st_size for p in (scene.tag(24) / "configs").glob("*")),
    over=lambda scene: bool(scene.journal("segment_done")[1:]),
    first=20,
)
LAST_SEGMENT = _training("in the middle of the last segment", 29, END, first=25)


def _kill_a_rank(scene: Scene) -> None:
    _wait(scene, lambda: scene.has_logged(16), 0.005)
    send(signal.SIGKILL, trainer_of(scene.pid)[-1:])


BACKOFF = Moment(
    "in the wait before a restart",
    here=lambda scene: bool(scene.journal("restart_planned")),
    over=lambda scene: scene.launches(2) > 1,
    freeze=False,
    prelude=_kill_a_rank,
    options=("-o", "gaff.watch.backoff_seconds=6"),
)


def _halt(name: str, event: str, pattern: str, number: int = 1, options: tuple[str, ...] = ()) -> Moment:
    return Moment(name, halt=(event, pattern, number), options=options)


_KEEP_ONE = ("-o", "gaff.keep=1")
_RECORDS = "global_step24/gaff/"
OPENING = _halt("at the start: before `run.json` is written", "rename", "run/run.json")
UNMARKED = _halt("the trainer has ended, its tag is not marked yet", "rename", _RECORDS + "written.json")
BEFORE_INTENT = _halt("surgery: the intent is about to be written", "rename", _RECORDS + "intent.json")
INTENT = _halt("surgery: the intent stands, nothing is changed", "write", "global_step24/")
IN_WRITE = _halt("surgery: in the middle of a write into the tag", "half-write", "global_step24/layer_00")
UNRECORDED = _halt("surgery: all is changed, nothing recorded", "rename", _RECORDS + "0001-reset.json")
RECORDED = _halt("surgery: recorded, the intent not withdrawn", "remove", _RECORDS + "intent.json")
BETWEEN = _halt("after a reset, before the next launch", "rename", "checkpoints/gaff-stop.json", 3)
CONDEMNED = _halt("retention: a tag is about to be moved away", "rename", "deleting/iteration12", options=_KEEP_ONE)
DELETING = _halt("retention: a tag is half deleted", "remove", "deleting/iteration12/", 3, options=_KEEP_ONE)
PROOF_LEFT = _halt("retention: all but the proof is deleted", "remove", "iteration12/gaff/written.json", 1, _KEEP_ONE)
UNFINISHED = _halt("after the last save, before the end is journalled", "remove", "checkpoints/gaff-stop.json", 3)
REPORTING = _halt("the run is finished, its report is being written", "rename", "run/report.html")
WRITING_INTENT = _halt("surgery: the intent is being written", "open", _RECORDS + ".intent.json")
WRITING_RECORD = _halt("surgery: all is changed, the record is being written", "open", _RECORDS + ".0001-reset.json")
JOURNALLING = _halt("at a journal write, after the trainer's end", "open", "run/journal.jsonl", 8)
ANY = Moment("in the middle of a segment, wherever that is", here=lambda scene: True, freeze=False)
