# SPDX-License-Identifier: Apache-2.0
"""``gaff surgery restore``, ``splice`` and ``restart-lr`` as a user calls them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gaff.cli.main import main

GetTag = Callable[[str], Path]
NAME, OTHER, TIED = "zero1-fp32-tp2-pp2-dp2", "zero3-fp32-nopipe-dp2", "zero1-fp32-tied-tp2-pp2"


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    code = main(["surgery", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def contents(tag: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(tag.glob("*.pt"))}


def test_reset_then_restore(checkpoint: GetTag, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tag, file = checkpoint(NAME), tmp_path / "forgotten.safetensors"
    before = contents(tag)
    assert run(capsys, "reset", tag, "--in-place", "--save-forgotten", file)[0] == 0
    code, output, _ = run(capsys, "restore", tag, file, "--in-place")
    assert (code, "restore changed 196,608 bytes in 14 ranges" in output) == (0, True)
    assert contents(tag) == before
    code, output, _ = run(capsys, "restore", tag.parent, file, "--in-place")
    assert (code, "restore was already done: 196,608 bytes" in output) == (0, True)
    assert run(capsys, "verify", tag)[0] == 0


def test_restore_says_what_it_ignores(checkpoint: GetTag, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.numpy import load_file, save_file

    tag, file = checkpoint(NAME), tmp_path / "forgotten.safetensors"
    run(capsys, "reset", tag, "--in-place", "--save-forgotten", file)
    kept = {name.replace("exp_avg_sq", "other"): tensor for name, tensor in load_file(file).items()}
    save_file(kept, file)
    code, output, _ = run(capsys, "restore", tag, file, "--output", tmp_path / "new", "--moments", "zero")
    assert code == 0
    assert "ignored, no such moments in the checkpoint: 0.word_embeddings.weight#other" in output
    assert "zeroed, not in the file: 0.word_embeddings.weight#exp_avg_sq" in output
    code, output, _ = run(capsys, "restore", tag, file, "--dry-run", "--json")
    assert code == 0
    assert len(json.loads(output)["about"]["notes"]) == 2


def test_splice_into_a_copy(checkpoint: GetTag, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tag, other, new = checkpoint(NAME), checkpoint(OTHER), tmp_path / "new"
    before, given = contents(tag), contents(other)
    code, output, _ = run(capsys, "splice", "--body", tag, "--embeddings", other.parent, "--output", new)
    assert code == 0
    assert f"embeddings of iteration 5 of {other}" in output
    assert run(capsys, "verify", new / tag.name)[0] == 0
    assert (contents(tag), contents(other)) == (before, given)
    assert contents(new / tag.name) != before


def test_splice_of_tied_and_untied_is_refused_and_leaves_no_copy(
    checkpoint: GetTag, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tag, other, new = checkpoint(NAME), checkpoint(TIED), tmp_path / "new"
    code, _, errors = run(capsys, "splice", "--body", tag, "--embeddings", other, "--output", new)
    assert (code, errors.count("\n")) == (2, 1)
    assert "has tied embeddings" in errors
    assert not new.exists()


@pytest.mark.parametrize("name", [NAME, OTHER])
def test_restart_lr_tells_what_the_rate_was_and_will_be(
    name: str, checkpoint: GetTag, capsys: pytest.CaptureFixture[str]
) -> None:
    tag = checkpoint(name)
    before = contents(tag)
    code, output, _ = run(capsys, "restart-lr", tag, "--dry-run")
    assert code == 0
    assert "schedule (cosine): from iteration 5 to 0 of 20" in output
    assert "learning rate of the next step: from 0.000939711 to 0.0005" in output
    assert contents(tag) == before
    code, output, _ = run(capsys, "restart-lr", tag, "--in-place", "--iteration", "1000", "--json")
    about = json.loads(output)["about"]
    assert (code, about["schedule_after"]["num_iters"]) == (0, 1000)
    assert any("cosine rises again" in note for note in about["notes"])
    assert run(capsys, "verify", tag)[0] == 0


@pytest.mark.parametrize("argument", ["--iteration=-1", "--lr=nan", "--decay-iters=0", "--min-lr=x"])
def test_restart_lr_refuses_what_is_no_setting(
    argument: str, checkpoint: GetTag, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run(capsys, "restart-lr", checkpoint(NAME), "--in-place", argument)
    assert caught.value.code == 2


@pytest.mark.parametrize("verb", ["restore", "splice", "restart-lr"])
def test_where_to_operate_must_be_said(verb: str, checkpoint: GetTag, capsys: pytest.CaptureFixture[str]) -> None:
    tag = checkpoint(NAME)
    arguments = {
        "restore": [tag, tag / "x.safetensors"],
        "splice": ["--body", tag, "--embeddings", checkpoint(OTHER)],
        "restart-lr": [tag],
    }
    code, _, errors = run(capsys, verb, *arguments[verb])
    assert (code, "it is not said where to operate" in errors) == (2, True)
