# SPDX-License-Identifier: Apache-2.0
"""``gaff surgery verify`` as a user calls it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gaff.checkpoint.layout.parameter import INPUT_EMBEDDING
from gaff.checkpoint.layout.read import read_layout
from gaff.cli.main import main
from tests.checkpoint.planting import flip_copy
from tests.conftest import ALL_NAMES

GetTag = Callable[[str], Path]
NAME = "zero1-fp32-tp2-pp2-dp2"


@pytest.mark.parametrize("name", ALL_NAMES)
def test_a_sound_tag_is_said_to_be_so(name: str, checkpoint: GetTag, capsys: pytest.CaptureFixture[str]) -> None:
    tag = checkpoint(name)
    assert main(["surgery", "verify", str(tag)]) == 0
    assert capsys.readouterr().out.startswith(f"{tag}: sound: ")
    assert main(["surgery", "verify", str(tag), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "schema": "gaff.verify/1",
        "checkpoint": str(tag),
        "sound": True,
        "faults": [],
    }


def test_a_fault_is_one_line_with_its_file_and_exit_code_1(
    checkpoint: GetTag, capsys: pytest.CaptureFixture[str]
) -> None:
    tag = checkpoint(NAME)
    copy = read_layout(tag).of_kind(INPUT_EMBEDDING, "exp_avg")[0]
    flip_copy(tag, copy, mend_crc=False)
    assert main(["surgery", "verify", str(tag)]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{tag / copy.file}: record {copy.record} does not match its CRC-32")
    assert main(["surgery", "verify", str(tag), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["sound"], [fault["id"] for fault in found["faults"]]) == (False, ["bad-crc"])


def test_each_of_several_faults_has_its_line(checkpoint: GetTag, capsys: pytest.CaptureFixture[str]) -> None:
    tag = checkpoint(NAME)
    copies = read_layout(tag).of_kind(INPUT_EMBEDDING, "exp_avg")
    for copy in copies:
        flip_copy(tag, copy, mend_crc=False)
    assert main(["surgery", "verify", str(tag)]) == 1
    assert len(capsys.readouterr().out.splitlines()) == len(copies)


def test_what_is_no_checkpoint_is_wrong_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["surgery", "verify", str(tmp_path)]) == 2
    assert "neither a tag" in capsys.readouterr().err
