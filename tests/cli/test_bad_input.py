# SPDX-License-Identifier: Apache-2.0
"""Every wrong input that can be known beforehand: one sentence, its place, exit code 2, nothing written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gaff.data.indexed_dataset import write_dataset
from tests.live import write_config


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A config that would run; the current directory of the command is its folder."""
    write_dataset(tmp_path / "data_text_document", [list(range(100))], np.dtype(np.uint16))
    return write_config(tmp_path / "run.yml", tmp_path / "data_text_document", train_iters=40, reset_every=10)


def command(folder: Path, *arguments: str) -> tuple[int, str, str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GPT_NEOX")}
    done = subprocess.run(
        [sys.executable, "-m", "gaff", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


def contents(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refused(folder: Path, *arguments: str) -> list[str]:
    """The sentences with which a command is refused; checks all that holds for each of them."""
    before = contents(folder)
    code, output, errors = command(folder, *arguments)
    assert code == 2, output + errors
    assert contents(folder) == before, "something was written"
    assert "Traceback" not in errors
    lines = [line for line in errors.splitlines() if not line.startswith("gaff: note: ")]
    for line in lines:
        assert re.fullmatch(r"gaff: .+; .+\.", line), line
    return lines


CASES = {
    "misspelt gaff key": (
        "reset_every: 10",
        "reset_evry: 10",
        r"run\.yml:\d+: .*reset_evry.*did you mean `reset_every`",
    ),
    "k is zero": ("reset_every: 10", "reset_every: 0", r"run\.yml:\d+: .*reset_every.*at least 1"),
    "k is negative": ("reset_every: 10", "reset_every: -5", r"run\.yml:\d+: .*reset_every.*at least 1"),
    "k is a truth value": ("reset_every: 10", "reset_every: true", r"run\.yml:\d+: .*reset_every.*integer"),
    "k is a string to YAML": ("reset_every: 10", "reset_every: 1e1", r"run\.yml:\d+: .*1e1"),
    "k is not below train_iters": ("reset_every: 10", "reset_every: 40", r"run\.yml:\d+: .*(40).*train_iters"),
    "eps is a string to YAML": ("eps: 1.0e-8", "eps: 1e-8", r"run\.yml:16: .*1e-8.*1\.0e-8"),
    "lr is a string to YAML": ("lr: 0.002", "lr: 2e-3", r"run\.yml:16: .*2e-3.*2\.0e-3"),
    "load is not save": ("log_interval: 1", "log_interval: 1\nsave: a\nload: b", r"run\.yml:\d+: .*load.*save"),
    "tags that GPT-NeoX deletes": (
        "log_interval: 1",
        "log_interval: 1\nkeep_last_n_checkpoints: 2",
        r"run\.yml:\d+: .*keep_last_n_checkpoints",
    ),
    "no such data": ("data_text_document", "missing_text_document", r"run\.yml:\d+: .*missing_text_document\.bin"),
    "no such tokenizer": (
        "tokenizer_type: CharLevelTokenizer",
        "tokenizer_type: HFTokenizer\nvocab_file: no.json",
        r"run\.yml:\d+: .*no\.json",
    ),
    "keep of no kind": (
        "reset_every: 10",
        "reset_every: 10\n  keep: newest",
        r"keep.*must be all, resets, a number of newest",
    ),
    "what the bundled trainer cannot": (
        "model_parallel_size: 1",
        "model_parallel_size: 2",
        r"run\.yml:3: .*model_parallel_size: 2",
    ),
    "a parameter that the model lacks": (
        "reset_every: 10",
        "reset_every: 10\n  parameters: position_embedding",
        r"run\.yml:\d+: .*position_embedding",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_config_is_refused_with_its_place(case: str, good: Path) -> None:
    old, new, expected = CASES[case]
    text = good.read_text()
    assert old in text
    good.write_text(text.replace(old, new))
    lines = refused(good.parent, "run", "--config", "run.yml")
    assert any(re.search(expected, line) for line in lines), lines


def test_all_problems_are_told_in_one_go(good: Path) -> None:
    text = good.read_text().replace("eps: 1.0e-8", "eps: 1e-8").replace("reset_every: 10", "reset_every: 0")
    good.write_text(text + "  seeed: 3\n")
    assert len(refused(good.parent, "run", "--config", "run.yml")) == 3


def test_gpt_neox_asked_for_where_there_is_none(good: Path) -> None:
    for trainer in ("neox", "auto"):
        (line,) = refused(good.parent, "run", "--config", "run.yml", "-o", f"gaff.trainer={trainer}")
        assert "`gaff neox install`" in line
        assert "trainer: bundled" in line


def test_a_neox_dir_that_is_none(good: Path) -> None:
    (line,) = refused(
        good.parent, "run", "--config", "run.yml", "-o", "gaff.trainer=neox", "--neox-dir", str(good.parent)
    )
    assert "is no GPT-NeoX checkout: it lacks deepy.py, train.py, megatron" in line


@pytest.mark.parametrize("content", [None, "", "# nothing\n", "- a\n- b\n", "a: [1\n", "\x00\x01", "a:\n\t- b\n"])
def test_a_file_that_is_no_config(content: str | None, good: Path) -> None:
    path = good.parent / "other.yml"
    if content is not None:
        path.write_text(content)
    for verb in ("run", "plan", "rehearse"):
        (line,) = refused(good.parent, verb, "--config", "other.yml")
        assert "other.yml" in line


def test_the_later_of_two_files_wins_and_says_so(good: Path) -> None:
    (good.parent / "more.yml").write_text("train_iters: 80\nlr_decay_iters: 80\ngaff:\n  reset_every: 20\n")
    code, output, errors = command(good.parent, "plan", "--config", "run.yml", "--config", "more.yml")
    assert code == 0, errors
    assert re.search(r"resets +3, every 20 iterations", output)
    code, output, _ = command(good.parent, "plan", "--config", "run.yml", "--config", "more.yml", "--json")
    assert '"train_iters": 80' in output


def test_a_dry_run_prints_the_plan_and_writes_nothing(good: Path) -> None:
    pytest.importorskip("deepspeed")
    before = contents(good.parent)
    code, output, errors = command(good.parent, "run", "--config", "run.yml", "--dry-run")
    assert code == 0, errors
    assert re.search(r"segments +4", output)
    assert contents(good.parent) == before
