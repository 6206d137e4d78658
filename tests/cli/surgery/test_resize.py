# SPDX-License-Identifier: Apache-2.0
"""``gaff surgery resize`` as a user calls it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gaff.cli.main import main
from tests.checkpoint.tags import contents, values

GetTag = Callable[[str], Path]
NAME = "zero1-fp32-tp2-pp2-dp2"


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    code = main(["surgery", "resize", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_output_gets_a_resized_copy(checkpoint: GetTag, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tag = checkpoint(NAME)
    before = contents(tag)
    code, output, _ = run(capsys, tag, "--vocab", "1000", "--output-rows", "init", "--output", tmp_path / "out")
    assert code == 0
    assert "from 512 rows to 1,024; resume with a vocab_file (and merge_file) of 769 to 1,024 tokens" in output
    assert "make_vocab_size_divisible_by: 128, model_parallel_size: 2 as they are" in output
    assert contents(tag) == before
    assert values(tmp_path / "out" / tag.name).shape == (1024, 24)
    assert main(["surgery", "verify", str(tmp_path / "out" / tag.name)]) == 0


def test_a_dry_run_lists_the_files_and_changes_none(checkpoint: GetTag, capsys: pytest.CaptureFixture[str]) -> None:
    tag = checkpoint(NAME)
    before = contents(tag)
    code, output, _ = run(capsys, tag, "--vocab", "1000", "--output-rows", "init", "--dry-run", "--json")
    told = json.loads(output)
    assert code == 0
    assert told["about"]["rows"] == {"before": 512, "after": 1024}
    assert set(told["replaced"]) == {
        name for name in before if not name.startswith(("layer_02", "layer_03", "layer_05"))
    }
    assert contents(tag) == before


def test_what_fits_is_told_and_left(checkpoint: GetTag, capsys: pytest.CaptureFixture[str]) -> None:
    tag = checkpoint(NAME)
    before = contents(tag)
    code, output, _ = run(capsys, tag, "--vocab", "300", "--in-place")
    assert (code, "already fits: 300 tokens take 512 rows" in output) == (0, True)
    code, output, _ = run(capsys, tag, "--vocab", "300", "--in-place", "--json")
    told = json.loads(output)
    assert (code, told["schema"], told["operation"]) == (0, "gaff.nothing-done/1", None)
    assert contents(tag) == before


def test_quiet_rows_that_cannot_be_had_are_refused_in_one_sentence(
    checkpoint: GetTag, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, errors = run(capsys, checkpoint(NAME), "--vocab", "1000", "--in-place")
    assert code == 2
    assert errors.count("\n") == 1
    assert "the loss on old text cannot be kept as it is" in errors
    assert "accept that with --output-rows init" in errors


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--vocab", "0", "--in-place"], "0 is not at least 1"),
        (["--vocab", "1000", "--in-place", "--init", "normal:x"], "--init normal:x"),
        (["--vocab", "1000"], "not said where to operate"),
        (["--in-place"], "--vocab"),
    ],
)
def test_wrong_usage_is_exit_code_2(
    arguments: list[str], said: str, checkpoint: GetTag, capsys: pytest.CaptureFixture[str]
) -> None:
    tag = checkpoint(NAME)
    try:
        code, _, errors = run(capsys, tag, *arguments)
    except SystemExit as wrong:  # argparse's own way out
        code, errors = wrong.code, capsys.readouterr().err
    assert code == 2
    assert said in errors
