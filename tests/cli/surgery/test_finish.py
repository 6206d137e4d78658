# SPDX-License-Identifier: Apache-2.0
"""``gaff surgery finish``, and ``inspect`` and ``verify`` of what is half done."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gaff.checkpoint.surgery.reset import ResetRequest, reset
from gaff.cli.main import main
from tests.checkpoint.killing import killed_at
from tests.checkpoint.tags import contents, everything

GetTag = Callable[[str], Path]
NAME = "zero1-fp32-tp2-pp2-dp2"


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    code = main(["surgery", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def half_done(checkpoint: GetTag) -> Path:
    """A tag whose reset was killed when some of its bytes were written."""
    tag = checkpoint(NAME)
    before = contents(tag)
    effect = 60
    while contents(tag) == before:
        assert killed_at(effect, lambda: reset(tag, ResetRequest(1, 1234)))
        effect += 10
    return tag


def test_finish_says_when_there_is_nothing_to_finish(checkpoint: GetTag, capsys: pytest.CaptureFixture[str]) -> None:
    tag = checkpoint(NAME)
    before = everything(tag)
    code, output, _ = run(capsys, "finish", tag)
    assert (code, "nothing was left half done" in output) == (0, True)
    code, output, _ = run(capsys, "finish", tag, "--json")
    assert (code, json.loads(output)) == (
        0,
        {"schema": "gaff.nothing-done/1", "checkpoint": str(tag), "operation": None},
    )
    assert everything(tag) == before


def test_finish_finishes_what_was_begun(
    half_done: Path, unpacked_checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, output, _ = run(capsys, "verify", half_done)
    assert (code, "gaff surgery finish" in output) == (1, True)
    assert "half done" in run(capsys, "inspect", half_done)[1]
    code, output, _ = run(capsys, "finish", half_done.parent)
    assert (code, "reset 1 is finished: 196,608 bytes in 14 ranges" in output) == (0, True)
    assert run(capsys, "verify", half_done)[0] == 0
    assert "half done" not in run(capsys, "inspect", half_done)[1]
    undisturbed = unpacked_checkpoints / NAME / "global_step5"
    assert run(capsys, "reset", undisturbed, "--output", tmp_path / "undisturbed")[0] == 0
    assert contents(half_done) == contents(tmp_path / "undisturbed" / "global_step5")


def test_finish_as_json_is_the_operation(half_done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, output, _ = run(capsys, "finish", half_done, "--json")
    found = json.loads(output)
    assert (code, found["operation"], found["about"]["reset"]) == (0, "reset", 1)


def test_an_output_of_a_half_done_checkpoint_is_refused_and_leaves_nothing(
    half_done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = everything(half_done)
    code, _, errors = run(capsys, "reset", half_done, "--output", tmp_path / "new", "--number", "2")
    assert code == 1
    assert "a reset was begun here and not finished" in errors
    assert everything(half_done) == before
    assert not (tmp_path / "new").exists()


def test_finish_of_no_checkpoint_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, errors = run(capsys, "finish", tmp_path)
    assert (code, "is neither a tag" in errors) == (2, True)


def test_ctrl_c_says_what_is_half_done(
    checkpoint: GetTag, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    tag = checkpoint(NAME)
    monkeypatch.setattr("gaff.checkpoint.surgery.perform.apply", interrupted)
    code, _, errors = run(capsys, "reset", tag, "--in-place")
    assert code == 130
    assert f"{tag}: the reset is half done; finish it with `gaff surgery finish`" in errors
    monkeypatch.setattr("gaff.checkpoint.surgery.perform.begin", interrupted)
    code, _, errors = run(capsys, "reset", checkpoint("zero0-fp32-dp2"), "--in-place")
    assert (code, "half done" in errors) == (130, False)
