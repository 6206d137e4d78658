# SPDX-License-Identifier: Apache-2.0
"""``gaff surgery reset`` as a user calls it."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from gaff.cli.main import main
from gaff.cli.surgery.common import to_json
from tests.checkpoint.killing import killed_at
from tests.checkpoint.tags import changed, contents, crc_places, everything, members, values
from tests.conftest import ALL_NAMES

GetTag = Callable[[str], Path]
NAME = "zero1-fp32-tp2-pp2-dp2"


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    code = main(["surgery", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def found_json(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    """What a verb says with ``--json``: one object and nothing else."""
    code, output, errors = run(capsys, *arguments, "--json")
    assert (code, errors) == (0, ""), errors
    found = json.loads(output)
    assert isinstance(found, dict)
    return found


def test_reset_in_place_then_verify_then_inspect(checkpoint: GetTag, capsys: pytest.CaptureFixture[str]) -> None:
    tag = checkpoint(NAME)
    code, output, _ = run(capsys, "reset", tag, "--in-place", "--number", "7", "--seed", "5")
    assert (code, "reset 7 changed 196,608 bytes in 14 ranges of 6 files" in output) == (0, True)
    assert "left alone, shared with other parameters: step" in output
    code, output, _ = run(capsys, "reset", tag, "--in-place", "--number", "7", "--seed", "5")
    assert (code, "reset 7 was already done: 196,608 bytes in 14 ranges" in output) == (0, True)
    assert run(capsys, "verify", tag)[0] == 0
    assert "reset 7" in run(capsys, "inspect", tag)[1]


@pytest.mark.parametrize("name", ALL_NAMES)
@pytest.mark.parametrize(
    "arguments",
    [(), ("--fraction", "0.1", "--moments", "keep"), ("--parameters", "*.attention.dense.*", "--init", "uniform:0.5")],
    ids=["whole", "fraction", "pattern"],
)
def test_a_dry_run_lists_every_byte_that_a_reset_changes_and_no_other(
    arguments: tuple[str, ...], name: str, checkpoint: GetTag, capsys: pytest.CaptureFixture[str]
) -> None:
    tag = checkpoint(name)
    before, all_before = contents(tag), everything(tag.parent)
    found = found_json(capsys, "reset", tag, *arguments, "--dry-run")
    assert everything(tag.parent) == all_before
    assert run(capsys, "reset", tag, *arguments, "--in-place")[0] == 0
    for file, now in contents(tag).items():
        moved = changed(before[file], now)
        records: dict[str, set[int]] = {}
        for listed in (r for r in found["ranges"] if r["file"] == file):
            begin = members(tag / file)[listed["record"]][0] + listed["offset"]
            place = slice(begin, begin + listed["length"])
            if listed["content"] == "zeros":
                assert not any(now[place])
            else:
                assert before[file][place] != now[place], "a range that is listed changes"
            records.setdefault(listed["record"], set()).update(range(begin, begin + listed["length"]))
        allowed = set().union(*records.values(), *(crc_places(tag / file)[record] for record in records))
        assert set(moved.tolist()) <= allowed, file


def test_a_dry_run_for_people_names_each_range(checkpoint: GetTag, capsys: pytest.CaptureFixture[str]) -> None:
    code, output, _ = run(capsys, "reset", checkpoint(NAME), "--dry-run")
    assert code == 0
    first, *lines, last = output.splitlines()
    assert "reset 1 would change 196,608 bytes in 14 ranges of 6 files" in first
    assert len(lines) == 14
    pattern = r"  \S+\.pt  data/\d+  \[\d+, \d+\)  (model|master|exp_avg|exp_avg_sq) of 0\.word_embeddings\.weight"
    assert all(re.fullmatch(rf"{pattern}  (new values|zeros)", line) for line in lines)
    assert "left alone" in last


def test_json_says_what_was_done(checkpoint: GetTag, capsys: pytest.CaptureFixture[str]) -> None:
    tag = checkpoint(NAME)
    found = found_json(capsys, "reset", tag, "--in-place", "--fraction", "0.5", "--seed", "3")
    assert (found["operation"], found["iteration"], found["checkpoint"]) == ("reset", 5, str(tag))
    assert {k: found["about"][k] for k in ("reset", "seed", "init", "moments", "fraction", "parameters")} == {
        "reset": 1, "seed": 3, "init": "config", "moments": "zero", "fraction": 0.5, "parameters": ["input_embedding"],
    }  # fmt: skip
    assert ("ranges" in found, found["status"]) == (False, "done")
    again = found_json(capsys, "reset", tag, "--in-place", "--fraction", "0.5", "--seed", "3")
    assert again["status"] == "already-done"
    assert found_json(capsys, "reset", tag, "--dry-run")["status"] == "planned"
    assert len(found["edits"]) == 14
    (selection,) = found["selections"].values()
    assert sum(stop - start for start, stop in selection["runs"]) == 256


def test_numbers_that_are_not_finite_are_null_in_json() -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    text = to_json({"norm": float("nan"), "more": [float("-inf"), 1.5], "in": {"deep": (float("inf"),)}})
    found = json.loads(text, parse_constant=refuse)
    assert found == {"norm": None, "more": [None, 1.5], "in": {"deep": [None]}}


def test_rows_parameters_and_what_was_forgotten(
    checkpoint: GetTag, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tag = checkpoint("zero1-fp32-learnedpos-dp2")
    (tmp_path / "rows").write_text("0-3\n15\n")
    before = values(tag, "0.position_embeddings.weight")
    kept = tmp_path / "kept.safetensors"
    arguments = ("--parameters", "position_embedding", "--rows", tmp_path / "rows", "--save-forgotten", kept)
    code, _, errors = run(capsys, "reset", tag, "--in-place", *arguments)
    assert (code, errors) == (0, "")
    assert np.array_equal(load_file(kept)["0.position_embeddings.weight"], before)
    after = values(tag, "0.position_embeddings.weight")
    assert list(np.flatnonzero((after != before).any(axis=1))) == [0, 1, 2, 3, 15]
    assert run(capsys, "verify", tag)[0] == 0


def test_a_reset_finishes_what_another_began(
    checkpoint: GetTag, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tag = checkpoint(NAME)

    def cut_short(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("gaff.checkpoint.surgery.perform.apply", cut_short)
        assert run(capsys, "reset", tag, "--in-place")[0] == 130
    code, output, _ = run(capsys, "reset", tag, "--in-place")
    assert (code, "reset 1 was already done" in output) == (0, True)


# --- --output ---


def test_output_writes_a_second_tag(checkpoint: GetTag, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tag = checkpoint(NAME)
    before = everything(tag.parent)
    found = found_json(capsys, "reset", tag, "--output", tmp_path / "new")
    new = tmp_path / "new" / "global_step5"
    assert found["checkpoint"] == str(new)
    assert run(capsys, "verify", new)[0] == 0
    assert everything(tag.parent) == before
    touched = {edit["copy"]["file"] for edit in found["edits"]}
    for path in tag.glob("*.pt"):
        assert os.path.samefile(path, new / path.name) == (path.name not in touched)
    assert run(capsys, "reset", tag, "--output", tmp_path / "new")[0] == 2, "it is there already"


def test_an_output_can_be_killed_anywhere_and_the_same_command_ends_it(
    checkpoint: GetTag, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever stands there under the tag's name has been operated on; the original never changes."""
    tag, output = checkpoint("zero1-fp32-pp1-tp1-dp1"), tmp_path / "new"
    arguments = ["surgery", "reset", str(tag), "--output", str(output)]
    before = everything(tag.parent)
    assert main(arguments) == 0
    expected = contents(output / tag.name)
    effect = 0
    while True:
        shutil.rmtree(output)
        killed = killed_at(effect, lambda: main(arguments))
        assert everything(tag.parent) == before, effect
        if (output / tag.name).exists():
            assert contents(output / tag.name) == expected, effect
            assert main(["surgery", "verify", str(output / tag.name)]) == 0
        else:
            assert main(arguments) == 0
            assert contents(output / tag.name) == expected, effect
            assert sorted(p.name for p in output.iterdir()) == [tag.name, "latest"]
        if not killed:
            break
        effect += 7
    assert effect > 60
    capsys.readouterr()


def test_a_new_output_is_a_save_directory(
    checkpoint: GetTag, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """GPT-NeoX trains from scratch where it finds no ``latest``; one that is there is somebody's choice."""
    run(capsys, "reset", checkpoint(NAME), "--output", tmp_path / "new")
    assert (tmp_path / "new" / "latest").read_text() == "global_step5"
    assert run(capsys, "verify", tmp_path / "new")[0] == 0
    for name, content in (("latest", "global_step9"), ("global_step9", None)):
        other = tmp_path / f"with {name}"
        other.mkdir()
        (other / name).mkdir() if content is None else (other / name).write_text(content)
        assert run(capsys, "reset", checkpoint(NAME), "--output", other)[0] == 0
        assert sorted(path.name for path in other.iterdir()) == sorted(["global_step5", name])
        assert content is None or (other / name).read_text() == content


@pytest.mark.parametrize("linked", [True, False])
def test_a_read_only_archive_can_be_copied(
    linked: bool,
    checkpoint: GetTag,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its modes are not those of the copy.  Access is judged by mode alone here, for root may write anywhere."""
    tag = checkpoint(NAME)
    before = everything(tag)
    for path in (*tag.rglob("*"), tag):
        path.chmod(path.stat().st_mode & ~0o222)
    if not linked:
        monkeypatch.setattr(os, "link", lambda *paths: (_ for _ in ()).throw(OSError(errno.EXDEV, "other device")))
    monkeypatch.setattr(os, "access", lambda path, mode: bool(os.stat(path).st_mode & (0o200 if mode & os.W_OK else 0)))
    code, _, errors = run(capsys, "reset", tag, "--in-place")
    assert (code, "cannot be written to; make it writable, or use --output" in errors) == (1, True)
    code, _, errors = run(capsys, "reset", tag, "--output", tmp_path / "new")
    assert (code, errors) == (0, "")
    assert run(capsys, "verify", tmp_path / "new")[0] == 0
    assert everything(tag) == before
    assert not any(path.stat().st_mode & 0o222 for path in (*tag.rglob("*"), tag))
    for path in (*tag.rglob("*"), tag):
        path.chmod(path.stat().st_mode | 0o200)


def test_directories_that_were_made_for_a_failed_output_are_removed(
    checkpoint: GetTag, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "somewhere")

    monkeypatch.setattr("gaff.checkpoint.surgery.perform.begin", no_space)
    tag, mine = checkpoint(NAME), tmp_path / "mine"
    mine.mkdir()
    assert run(capsys, "reset", tag, "--output", mine / "a" / "b")[0] == 1
    assert list(mine.iterdir()) == []


def test_a_dry_run_refuses_the_output_that_the_operation_would(
    checkpoint: GetTag, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tag = checkpoint(NAME)
    code, _, errors = run(capsys, "reset", tag, "--dry-run", "--output", tag.parent)
    assert (code, "is already there; choose another --output" in errors) == (2, True)
    (tmp_path / "loop").symlink_to("loop")
    code, _, errors = run(capsys, "reset", tag, "--output", tmp_path / "loop")
    assert (code, "choose another --output" in errors) == (2, True)


def test_what_is_forgotten_overwrites_nothing(
    checkpoint: GetTag, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tag, mine = checkpoint(NAME), tmp_path / "mine"
    mine.write_text("mine")
    before = everything(tag.parent)
    for file in (mine, tag / "mp_rank_00_model_states.pt", tmp_path / "no" / "file", mine / "file"):
        for how in (["--dry-run"], ["--in-place"], ["--output", tmp_path / "new"]):
            code, _, errors = run(capsys, "reset", tag, *how, "--save-forgotten", file)
            assert (code, errors.startswith(f"gaff: {file}: ")) == (2, True)
    assert everything(tag.parent) == before
    assert mine.read_text() == "mine"
    assert not (tmp_path / "new").exists()


def test_what_was_forgotten_long_ago_cannot_be_kept(
    checkpoint: GetTag, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tag, kept = checkpoint(NAME), tmp_path / "kept"
    arguments = ("reset", tag, "--in-place", "--save-forgotten", kept)
    assert run(capsys, *arguments)[0] == 0
    assert run(capsys, *arguments)[0] == 0, "it is kept already"
    kept.unlink()
    code, _, errors = run(capsys, *arguments)
    assert (code, "this reset was already done" in errors) == (2, True)
    assert not kept.exists()


def test_output_is_left_empty_when_the_reset_cannot_be_made(
    checkpoint: GetTag, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for init in ("no.safetensors", "step0"):
        assert run(capsys, "reset", checkpoint(NAME), "--output", tmp_path / "new", "--init", init)[0] == 2
    (checkpoint(NAME) / "layer_05-model_00-model_states.pt").unlink()
    assert run(capsys, "reset", checkpoint(NAME), "--output", tmp_path / "new")[0] == 1
    assert not (tmp_path / "new").exists()


def test_a_copy_whose_reset_fails_is_removed(
    checkpoint: GetTag, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "somewhere")

    monkeypatch.setattr("gaff.checkpoint.surgery.perform.begin", no_space)
    code, _, errors = run(capsys, "reset", checkpoint(NAME), "--output", tmp_path / "new")
    assert (code, len(errors.splitlines())) == (1, 1)
    assert "the disk is full; free some space" in errors
    assert not (tmp_path / "new").exists()


def test_a_disk_too_small_for_the_copy_is_said_in_a_sentence(
    checkpoint: GetTag, tiny_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tag = checkpoint(NAME)  # on another file system, so that nothing can be linked
    assert sum(path.stat().st_size for path in tag.glob("*.pt")) > 1 << 19
    (tiny_disk / "rest").write_bytes(bytes((2 << 20) - (1 << 19)))
    code, _, errors = run(capsys, "reset", tag, "--output", tiny_disk / "new")
    assert (code, len(errors.splitlines())) == (1, 1), errors
    assert "cannot hold a copy of the checkpoint ([Errno 28] No space left on device" in errors
    assert "free some space, or choose another --output" in errors
    assert not (tiny_disk / "new").exists()


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


# --- wrong usage ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("inspect", "nowhere"), "there is no such directory"),
        (("reset", "TAG"), "it is not said where to operate; add --in-place"),
        (("reset", "TAG", "--in-place", "--init", "normal:-1"), "a number above 0"),
        (("reset", "TAG", "--in-place", "--init", "normal:1e300"), "a number above 0 (from 1.2e-38 to 10000)"),
        (("reset", "TAG", "--in-place", "--init", "nonsense"), "--init nonsense"),
        (("reset", "TAG", "--in-place", "--init", "no.safetensors"), "no.safetensors"),
        (("reset", "TAG", "--in-place", "--init", "step0"), "global_step0"),
        (("reset", "TAG", "--in-place", "--rows", "no-rows"), "no-rows: cannot be read"),
        (("reset", "TAG", "--in-place", "--rows", "."), "not a plain file"),
        (("reset", "TAG", "--in-place", "--fraction", "0.0001"), "less than one row"),
        (("reset", "TAG", "--in-place", "--parameters", "output_embeddings"), "has no parameter 'output_embeddings'"),
        (("reset", "TAG", "--dry-run", "--parameters", "position_embedding"), "has no parameter"),
    ],
)
def test_wrong_arguments_are_one_sentence_and_exit_code_2(
    arguments: tuple[str, ...], message: str, checkpoint: GetTag, capsys: pytest.CaptureFixture[str]
) -> None:
    tag = checkpoint(NAME)
    before = everything(tag.parent)
    code, _, errors = run(capsys, *(tag if a == "TAG" else a for a in arguments))
    assert (code, len(errors.splitlines())) == (2, 1)
    assert message in errors
    assert everything(tag.parent) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("--fraction", "0"), ("--fraction", "1.5"), ("--fraction", "nan"), ("--fraction", "some"),
        ("--fraction", "0.5", "--rows", "file"), ("--moments", "half"), ("--number", "0"), ("--seed", "x"),
        ("--in-place", "--output", "elsewhere"), ("--parameters",),
    ],
)  # fmt: skip
def test_arguments_that_cannot_be_meant_are_refused_by_the_parser(
    arguments: tuple[str, ...], checkpoint: GetTag, capsys: pytest.CaptureFixture[str]
) -> None:
    tag = checkpoint(NAME)
    before = everything(tag.parent)
    with pytest.raises(SystemExit) as caught:
        main(["surgery", "reset", str(tag), *arguments])
    assert caught.value.code == 2
    assert "usage: gaff surgery reset" in capsys.readouterr().err
    assert everything(tag.parent) == before


@pytest.mark.parametrize(
    ("arguments", "forbidden"),
    [
        (["--help"], ["numpy", "torch", "rich", "matplotlib", "psutil"]),
        (["plan", "--keys"], ["numpy", "torch", "rich", "matplotlib"]),
        (
            ["surgery", "inspect", "TAG"],
            ["torch", "deepspeed", "rich", "matplotlib", "ml_dtypes", "yaml", "gaff.cli.plan"],
        ),
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
