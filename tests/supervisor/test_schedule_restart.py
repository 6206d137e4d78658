# SPDX-License-Identifier: Apache-2.0
"""``lr_schedule: restart``: the schedule in the checkpoint begins anew with each reset, and only with it."""

from __future__ import annotations

import shutil
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

from gaff.checkpoint.surgery.learning_rate import RestartRequest, restart_lr
from gaff.checkpoint.tag import TagFiles
from gaff.checkpoint.transaction import valid_records
from gaff.checkpoint.verify import verify_tag
from gaff.errors import Interrupted, Problem
from gaff.plan.config import Config
from gaff.supervisor.journal import read_entries
from gaff.supervisor.loop import Supervisor
from gaff.trainers.contract import Launch, SegmentRequest
from tests.checkpoint.killing import killed_at
from tests.supervisor.drive import build, changed
from tests.supervisor.fake_trainer import FakeTrainer, write_tag

RESTART = ("gaff.lr_schedule=restart",)


@pytest.fixture
def template(unpacked_checkpoints: Path) -> Path:
    return unpacked_checkpoints / "zero1-fp32-pp1-tp1-dp1" / "global_step5"


def kinds(tag: Path) -> list[str]:
    return [record.operation.kind for record in valid_records(tag)]


def steps(tag: Path) -> int:
    """Optimizer steps done, as the schedule in the checkpoint counts them."""
    number = TagFiles(tag).header["lr_scheduler"]["num_iters"]
    assert isinstance(number, int)
    return number


class NotNow(FakeTrainer):
    """Stops the run when it is to train."""

    def prepare(self, config: Config, request: SegmentRequest) -> Launch:
        raise Interrupted(Problem("interrupted", "not now", "come back"))


def at_the_first_boundary(root: Path, template: Path) -> Supervisor:
    """A run whose first segment is trained and whose first reset is due; it stops before it trains on."""
    supervisor = build(root, template, {}, overrides=RESTART)
    if not (root / "checkpoints" / "global_step10").exists():
        write_tag(root / "checkpoints", template, 10)
    return changed(supervisor, trainer=NotNow(template, 40))


def stop_at_boundary(supervisor: Supervisor) -> None:
    with suppress(Interrupted):
        supervisor.run()


def test_every_reset_restarts_the_schedule_and_the_last_tag_has_none(tmp_path: Path, template: Path) -> None:
    root = tmp_path / "run"
    assert steps(template) == 5
    build(root, template, {}, overrides=RESTART).run()
    for iteration in (10, 20, 30):
        tag = root / "checkpoints" / f"global_step{iteration}"
        assert (kinds(tag), steps(tag), verify_tag(tag)) == (["reset", "restart-lr"], 0, [])
    assert kinds(root / "checkpoints" / "global_step40") == []
    told = [(e.fields["reset"], e.fields["lr_after"]) for e in read_entries(root) if e.event == "schedule_restarted"]
    assert [number for number, _ in told] == [1, 2, 3]
    assert [e.event for e in read_entries(root) if e.event == "operated_by_hand"] == []


def test_a_schedule_that_continues_is_left_alone(tmp_path: Path, template: Path) -> None:
    root = tmp_path / "run"
    build(root, template, {}).run()
    tag = root / "checkpoints" / "global_step20"
    assert (kinds(tag), steps(tag)) == (["reset"], 5)


@pytest.mark.exhaustive
def test_killed_anywhere_between_reset_and_restart_both_are_done_once(tmp_path: Path, template: Path) -> None:
    whole = tmp_path / "whole"
    stop_at_boundary(at_the_first_boundary(whole, template))
    expected = {p.name: p.read_bytes() for p in (whole / "checkpoints" / "global_step10").glob("*.pt")}
    start = tmp_path / "start"
    at_the_first_boundary(start, template)
    for effect in count(0, 5):  # further ones are enumerated for each operation in tests/checkpoint/surgery
        root = tmp_path / "run"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(start, root)
        killed = killed_at(effect, lambda root=root: stop_at_boundary(at_the_first_boundary(root, template)))
        stop_at_boundary(at_the_first_boundary(root, template))
        tag = root / "checkpoints" / "global_step10"
        assert kinds(tag) == ["reset", "restart-lr"], effect
        assert {p.name: p.read_bytes() for p in tag.glob("*.pt")} == expected, effect
        if not killed:
            break
    assert effect > 20


def test_what_was_done_by_hand_after_both_stays(tmp_path: Path, template: Path) -> None:
    root = tmp_path / "run"
    stop_at_boundary(at_the_first_boundary(root, template))
    tag = root / "checkpoints" / "global_step10"
    restart_lr(tag, RestartRequest(3))
    stop_at_boundary(at_the_first_boundary(root, template))
    assert (kinds(tag), steps(tag)) == (["reset", "restart-lr", "restart-lr"], 3)
    told = [e.fields["operations"] for e in read_entries(root) if e.event == "operated_by_hand"]
    assert told == [["restart-lr"]]
