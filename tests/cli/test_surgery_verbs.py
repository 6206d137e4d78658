# SPDX-License-Identifier: Apache-2.0
"""``gaff surgery`` as a user calls it."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gaff.cli.main import main

GetTag = Callable[[str], Path]
NAME = "zero1-fp32-tp2-pp2-dp2"


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    code = main(["surgery", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_inspect_tells_what_the_tag_is(checkpoint: GetTag, capsys: pytest.CaptureFixture[str]) -> None:
    code, output, _ = run(capsys, "inspect", checkpoint(NAME).parent)  # a save directory: latest leads on
    assert code == 0
    assert "TP 2, PP 2, DP 2, ZeRO stage 1" in output
    assert "39.3% of the model" in output


def test_inspect_as_json_has_every_copy(checkpoint: GetTag, capsys: pytest.CaptureFixture[str]) -> None:
    code, output, _ = run(capsys, "inspect", checkpoint(NAME), "--json")
    found = json.loads(output)
    assert code == 0
    assert found["schema"] == "gaff.inspection/1"
    assert len(found["input_embedding"]["copies"]) == 14


def test_reset_in_place_then_verify_then_inspect(checkpoint: GetTag, capsys: pytest.CaptureFixture[str]) -> None:
    tag = checkpoint(NAME)
    code, output, _ = run(capsys, "reset", tag, "--in-place", "--number", "7", "--seed", "5")
    assert (code, "reset 7 changed 196,608 bytes in 14 ranges" in output) == (0, True)
    code, output, _ = run(capsys, "reset", tag, "--in-place", "--number", "7", "--seed", "5")
    assert (code, "reset 7 was already done: 196,608 bytes in 14 ranges" in output) == (0, True)
    assert run(capsys, "verify", tag)[0] == 0
    assert "reset 7" in run(capsys, "inspect", tag)[1]


def test_finish_says_when_there_is_nothing_to_finish(checkpoint: GetTag, capsys: pytest.CaptureFixture[str]) -> None:
    code, output, _ = run(capsys, "finish", checkpoint(NAME))
    assert (code, "no reset was left half done" in output) == (0, True)


def test_finish_finishes_what_was_begun(
    checkpoint: GetTag, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tag = checkpoint(NAME)

    def cut_short(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("gaff.checkpoint.surgery.apply", cut_short)
        assert run(capsys, "reset", tag, "--in-place")[0] == 130
    assert "gaff surgery finish" in run(capsys, "verify", tag)[1]
    code, output, _ = run(capsys, "finish", tag)
    assert (code, "reset 1 is finished: 196,608 bytes" in output) == (0, True)
    assert run(capsys, "verify", tag)[0] == 0


def test_dry_run_lists_the_ranges_and_changes_nothing(checkpoint: GetTag, capsys: pytest.CaptureFixture[str]) -> None:
    tag = checkpoint(NAME)
    before = {p: p.read_bytes() for p in tag.rglob("*") if p.is_file()}
    code, output, _ = run(capsys, "reset", tag, "--dry-run")
    assert code == 0
    assert len(output.splitlines()) == 15
    assert {p: p.read_bytes() for p in tag.rglob("*") if p.is_file()} == before


def test_output_writes_a_second_tag(checkpoint: GetTag, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, output, _ = run(capsys, "reset", checkpoint(NAME), "--output", tmp_path / "new", "--json")
    assert code == 0
    assert json.loads(output)["checkpoint"] == str(tmp_path / "new" / "global_step5")
    assert run(capsys, "verify", tmp_path / "new" / "global_step5")[0] == 0
    assert not (checkpoint(NAME) / "gaff").exists()


def test_output_is_left_empty_when_the_reset_cannot_be_made(
    checkpoint: GetTag, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zero3 = checkpoint("zero3-fp32-nopipe-dp2")
    assert run(capsys, "reset", zero3, "--output", tmp_path / "new")[0] == 1
    for init in ("no.safetensors", "step0"):
        assert run(capsys, "reset", checkpoint(NAME), "--output", tmp_path / "new", "--init", init)[0] == 2
    assert not (tmp_path / "new").exists()


def test_a_copy_whose_reset_fails_is_removed(
    checkpoint: GetTag, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "somewhere")

    monkeypatch.setattr("gaff.checkpoint.surgery.begin", no_space)
    code, _, errors = run(capsys, "reset", checkpoint(NAME), "--output", tmp_path / "new")
    assert (code, errors) == (1, "gaff: somewhere: No space left on device.\n")
    assert list((tmp_path / "new").iterdir()) == []


def test_step0_of_a_copy_is_that_beside_the_source(
    checkpoint: GetTag, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tag = checkpoint(NAME)
    shutil.copytree(tag, tag.with_name("global_step0"))
    monkeypatch.chdir(tag)  # also when the tag is named from inside
    code, output, errors = run(capsys, "reset", ".", "--output", tmp_path / "new", "--init", "step0")
    assert code == 0, errors
    assert str(tmp_path / "new" / "global_step5") in output
    assert run(capsys, "verify", tmp_path / "new" / "global_step5")[0] == 0


@pytest.mark.parametrize("output", ["TAG", "TAG/inside", "SAVE", "file", "file/below", "dangling"])
def test_an_output_that_cannot_be_used(
    output: str, checkpoint: GetTag, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tag = checkpoint(NAME)
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "absent")
    before = sorted(tmp_path.rglob("*"))
    target = output.replace("TAG", str(tag)).replace("SAVE", str(tag.parent))
    code, _, errors = run(capsys, "reset", tag, "--output", tmp_path / target)
    assert (code, len(errors.splitlines())) == (2, 1)
    assert "choose another --output" in errors
    assert sorted(tmp_path.rglob("*")) == before


def test_numbers_that_are_not_finite_are_null_in_json(
    checkpoint: GetTag, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    nothing = {"norm": float("nan"), "mean": float("inf"), "std": 0.0}
    monkeypatch.setattr("gaff.checkpoint.inspect.embedding_statistics", lambda layout: nothing)
    _, output, _ = run(capsys, "inspect", checkpoint(NAME), "--json")
    embedding = json.loads(output, parse_constant=refuse)["input_embedding"]
    assert (embedding["norm"], embedding["mean"], embedding["std"]) == (None, None, 0.0)


def test_verify_names_each_fault_and_exits_1(checkpoint: GetTag, capsys: pytest.CaptureFixture[str]) -> None:
    tag = checkpoint(NAME)
    (tag / "layer_05-model_00-model_states.pt").unlink()
    code, output, _ = run(capsys, "verify", tag)
    assert (code, "layer_05-model_00-model_states.pt" in output) == (1, True)
    code, output, _ = run(capsys, "verify", tag, "--json")
    assert (code, json.loads(output)["sound"]) == (1, False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("inspect", "nowhere"), "there is no such directory"),
        (("reset", "TAG", "--in-place", "--init", "normal:-1"), "a number above 0"),
        (("reset", "TAG", "--in-place", "--init", "normal:1e300"), "a number above 0 (from 1.2e-38 to 10000)"),
        (("reset", "TAG", "--in-place", "--init", "nonsense"), "--init nonsense"),
        (("reset", "TAG", "--in-place", "--init", "no.safetensors"), "no.safetensors"),
        (("reset", "TAG", "--in-place", "--init", "step0"), "global_step0"),
    ],
)
def test_wrong_arguments_are_one_sentence_and_exit_code_2(
    arguments: tuple[str, ...], message: str, checkpoint: GetTag, capsys: pytest.CaptureFixture[str]
) -> None:
    tag = checkpoint(NAME)
    before = {p: p.read_bytes() for p in tag.rglob("*") if p.is_file()}
    code, _, errors = run(capsys, *(tag if a == "TAG" else a for a in arguments))
    assert (code, len(errors.splitlines())) == (2, 1)
    assert message in errors
    assert {p: p.read_bytes() for p in tag.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("verb", ["inspect", "verify"])
def test_another_layout_is_refused_by_name(verb: str, checkpoint: GetTag, capsys: pytest.CaptureFixture[str]) -> None:
    code, output, errors = run(capsys, verb, checkpoint("zero3-fp32-nopipe-dp2"))
    assert code == 1
    assert "ZeRO stage 3" in output + errors


@pytest.mark.parametrize(
    ("arguments", "forbidden"),
    [
        (["--help"], ["numpy", "torch", "rich", "matplotlib", "psutil"]),
        (["plan", "--keys"], ["numpy", "torch", "rich", "matplotlib"]),
        (["surgery", "inspect", "TAG"], ["torch", "deepspeed", "rich", "matplotlib", "ml_dtypes"]),
        (["surgery", "reset", "TAG", "--in-place"], ["torch", "deepspeed", "rich", "matplotlib"]),
    ],
)
def test_light_verbs_stay_light(arguments: list[str], forbidden: list[str], checkpoint: GetTag) -> None:
    """What makes them start in a fraction of a second on a login node without torch."""
    tag = str(checkpoint(NAME))
    code = (
        "import sys\nfrom gaff.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        f"loaded = [m for m in {forbidden} if m in sys.modules]\nsys.exit(f'imported: {{loaded}}' if loaded else 0)"
    )
    command = [sys.executable, "-c", code, *(tag if a == "TAG" else a for a in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
