# SPDX-License-Identifier: Apache-2.0
"""A copy shares its files with the first tag, so it must be made between operations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gaff.checkpoint import tag_copy
from gaff.checkpoint.surgery.reset import ResetRequest, reset
from gaff.checkpoint.transaction import begun_operation
from gaff.cli.main import main
from gaff.errors import CheckpointError, InputError
from tests.checkpoint.killing import killed_at
from tests.checkpoint.tags import contents

GetTag = Callable[[str], Path]
NAME = "zero1-fp32-pp1-tp1-dp1"


@pytest.fixture
def half_done(checkpoint: GetTag) -> Path:
    tag = checkpoint(NAME)
    before = contents(tag)
    effect = 30
    while begun_operation(tag) is None or contents(tag) == before:
        assert killed_at(effect, lambda: reset(tag, ResetRequest(1, 1)))
        effect += 5
    return tag


def test_a_half_operated_tag_is_not_copied(half_done: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="begun here and not finished"):
        tag_copy.copy_tag(half_done, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("how", [["--dry-run"], ["--output", "out"]], ids=" ".join)
@pytest.mark.parametrize("verb", [["reset"], ["restart-lr"], ["resize", "--vocab", "900"]], ids=lambda v: v[0])
def test_a_verb_that_does_not_finish_it_says_so(
    verb: list[str],
    how: list[str],
    half_done: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["surgery", *verb, str(half_done), *how]) == 1
    assert "a reset was begun here and not finished" in capsys.readouterr().err
    assert not Path("out").exists()


def test_a_tag_that_is_operated_on_meanwhile_is_not_copied(
    checkpoint: GetTag, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tag = checkpoint(NAME)
    link = tag_copy._link_or_copy

    def link_slowly(source: str, target: str) -> str:
        if "layer_00" in source:
            reset(tag, ResetRequest(1, 1))  # while its file has one link, so in place
        return link(source, target)

    monkeypatch.setattr(tag_copy, "_link_or_copy", link_slowly)
    with pytest.raises(InputError, match="while it was copied"):
        tag_copy.copy_tag(tag, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
