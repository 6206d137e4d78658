# SPDX-License-Identifier: Apache-2.0
"""A run whose tag was operated on with ``gaff surgery`` between two starts."""

from __future__ import annotations

import shutil
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from gaff.checkpoint.surgery.learning_rate import RestartRequest, restart_lr
from gaff.checkpoint.transaction import begun_operation, valid_records
from gaff.checkpoint.verify import verify_tag
from gaff.supervisor.journal import read_entries
from tests.checkpoint.killing import killed_at
from tests.supervisor.drive import build


@pytest.fixture
def run(tmp_path: Path, unpacked_checkpoints: Path) -> Any:
    """A run that stands at iteration 20, its second reset made; called again, it goes on to the end."""
    template = unpacked_checkpoints / "zero1-fp32-pp1-tp1-dp1" / "global_step5"
    root = tmp_path / "run"
    build(root, template, {}).run()
    for iteration in (30, 40):
        shutil.rmtree(root / "checkpoints" / f"global_step{iteration}")
    return root, lambda: build(root, template, {}).run()


def kinds(tag: Path) -> list[str]:
    return [record.operation.kind for record in valid_records(tag)]


def test_what_was_done_by_hand_after_a_reset_stays(run: Any) -> None:
    root, carry_on = run
    tag = root / "checkpoints" / "global_step20"
    restart_lr(tag, RestartRequest(3))
    carry_on()
    assert kinds(tag) == ["reset", "restart-lr"], "the reset was not made again on top"
    told = [e.fields for e in read_entries(root) if e.event == "operated_by_hand"]
    assert [(e["reset"], e["operations"]) for e in told] == [(2, ["restart-lr"])]


def test_an_operation_by_hand_that_was_cut_short_is_finished_before_training(run: Any) -> None:
    root, carry_on = run
    tag = root / "checkpoints" / "global_step20"
    for effect in count():
        assert killed_at(effect, lambda: restart_lr(tag, RestartRequest(3)))
        if begun_operation(tag) is not None:
            break
    carry_on()
    assert begun_operation(tag) is None
    assert kinds(tag) == ["reset", "restart-lr"]
    assert verify_tag(tag) == []
    assert [e.fields["kind"] for e in read_entries(root) if e.event == "surgery_finished"] == ["restart-lr"]
