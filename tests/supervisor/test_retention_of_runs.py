# SPDX-License-Identifier: Apache-2.0
"""Whole runs that delete what `keep` does not keep: undisturbed, killed in a deletion, with another `keep` later."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gaff.supervisor.journal import read_entries
from gaff.supervisor.progress import tags
from gaff.supervisor.retention import DELETING, EXPECTED
from tests.checkpoint.tags import contents
from tests.supervisor.drive import build, processes_of

REAL = "zero1-fp32-pp1-tp1-dp1"


@pytest.fixture(scope="module")
def template(unpacked_checkpoints: Path) -> Path:
    return unpacked_checkpoints / REAL / "global_step5"


def events(root: Path, name: str) -> list[dict[str, Any]]:
    return [dict(entry.fields) for entry in read_entries(root) if entry.event == name]


def deleted(root: Path, name: str = "tags_deleted") -> list[list[int]]:
    return [event["iterations"] for event in events(root, name)]


def test_a_run_ends_with_the_tags_that_it_is_to_keep(tmp_path: Path, template: Path) -> None:
    whole, root = tmp_path / "whole", tmp_path / "run"
    build(whole, template, {}).run()
    build(root, template, {}, overrides=["gaff.keep={newest: 1, every: 20}"]).run()
    save = root / "checkpoints"
    assert (tags(save), deleted(root)) == ([20, 40], [[10], [30]])
    for name in ("global_step20", "global_step40"):
        assert contents(save / name) == contents(whole / "checkpoints" / name)
    assert not (save / DELETING).exists()
    assert not (save / EXPECTED).exists()
    assert tags(whole / "checkpoints") == [10, 20, 30, 40]


def test_tags_go_when_a_finished_run_is_to_keep_fewer(tmp_path: Path, template: Path) -> None:
    root = tmp_path / "run"
    build(root, template, {}, overrides=["gaff.keep=3"]).run()
    build(root, template, {}, overrides=["gaff.keep=2"]).run()
    assert deleted(root) == [[10], [20]]
    build(root, template, {}, overrides=["gaff.keep=all"]).run()
    assert tags(root / "checkpoints") == [30, 40]


def killed_removing(number: int, work: Callable[[], object]) -> bool:
    """Do ``work`` in a process that kills itself before it removes the ``number``-th file of a tag, from 0."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    real = os.unlink

    def unlink(path: Any, **options: Any) -> None:
        nonlocal number
        if f"/{DELETING}/" in str(path):
            if number == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            number -= 1
        real(path, **options)

    os.unlink = unlink
    try:
        work()
    finally:
        os._exit(0)


@pytest.mark.parametrize("number", [0, 3])
def test_a_run_killed_in_a_deletion_finishes_it_and_loses_nothing(tmp_path: Path, template: Path, number: int) -> None:
    root, keep = tmp_path / "run", ["gaff.keep=2"]
    save = root / "checkpoints"
    assert killed_removing(number, lambda: build(root, template, {}, overrides=keep).run())
    assert (tags(save), [path.name for path in (save / DELETING).iterdir()]) == ([20, 30], ["iteration10"])
    build(root, template, {}, overrides=keep).run()
    assert (deleted(root, "deletion_finished"), deleted(root)) == ([[10]], [[20]])
    assert tags(save) == [30, 40]
    assert not (save / DELETING).exists()
    assert [event["start"] for event in events(root, "segment_launched")] == [0, 10, 20, 30], "nothing is trained twice"
    assert processes_of(root) == []
