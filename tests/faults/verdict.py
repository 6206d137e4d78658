# SPDX-License-Identifier: Apache-2.0
"""What must hold when a disturbed run is finished."""

from __future__ import annotations

import re
from pathlib import Path

from gaff.checkpoint.transaction import FOLDER, is_announced, records, valid_records
from gaff.checkpoint.verify import verify_tag
from gaff.supervisor.progress import tags
from gaff.supervisor.retention import DELETING, EXPECTED
from tests.faults.cases import Case
from tests.faults.grounds import END, TAGS, K
from tests.faults.scene import Scene
from tests.live import different
from tests.supervisor.drive import processes_of

_RESETS = {iteration: iteration // K for iteration in TAGS if iteration < END}


def faults_found(scene: Scene, case: Case) -> list[str]:
    """Everything that is wrong, a clause each; empty when the fault left no trace in what was trained."""
    found = tags(scene.save)
    if not found or found[-1] != END:
        return [f"the newest tag is {found[-1:] or 'none'}"]
    wrong = [what for iteration in found for what in _tag(scene, iteration)]
    return wrong + _told(scene, case.fault.told) + _said(scene, case.fault.says) + _left_behind(scene)


def _tag(scene: Scene, iteration: int) -> list[str]:
    """A tag that stays must be what it is in the undisturbed run."""
    tag, wrong = scene.tag(iteration), []
    wrong += [f"{tag.name}: {problem.what}" for problem in verify_tag(tag)]
    expected = [_RESETS[iteration]] if iteration in _RESETS else []
    for name, those in (("records", records(tag)), ("valid records", valid_records(tag))):
        made = [record.operation.about.get("reset") for record in those if record.operation.kind == "reset"]
        if made != expected:
            wrong.append(f"{tag.name} has {name} of resets {made}")
    if is_announced(tag) or (tag / FOLDER / "staged").exists():
        wrong.append(f"{tag.name} is half operated on")
    if iteration in TAGS:
        wrong += _differences(tag, scene.grounds.undisturbed(scene.trainer).parent / tag.name)
    return wrong


def _differences(tag: Path, undisturbed: Path) -> list[str]:
    try:
        names = different(tag, undisturbed)
    except AssertionError:
        return [f"{tag.name} has other tensors than undisturbed"]
    return [f"{tag.name} differs from undisturbed in {names[0]} and {len(names) - 1} others"] if names else []


def _told(scene: Scene, told: str) -> list[str]:
    event, _, name = told.partition(".")
    if not event or any(not name or entry.get(name) for entry in scene.journal(event)):
        return []
    return [f"the journal says nothing of it (no {told})"]


def _said(scene: Scene, says: str) -> list[str]:
    screen = scene.output(1).read_text(errors="replace")
    return [] if re.search(says, screen, re.MULTILINE) else [f"GAFF did not say it ({says})"]


def _left_behind(scene: Scene) -> list[str]:
    wrong = []
    alive = processes_of(scene.root)
    if alive:
        wrong.append(f"processes {alive} are left")
    hidden = list(scene.root.rglob(".*"))
    if hidden:
        wrong.append(f"{hidden[0].name} is left")
    deleting = scene.save / DELETING
    if deleting.exists() and any(deleting.iterdir()):
        wrong.append("a half deletion is left")
    if (scene.save / EXPECTED).exists():
        wrong.append(f"{EXPECTED} is left")
    if (scene.root / "lock").stat().st_size:
        wrong.append("the lock is left")
    if (scene.save / "latest").read_text() != f"global_step{END}":
        wrong.append("`latest` names another tag")
    return wrong
