# SPDX-License-Identifier: Apache-2.0
"""A directory named on the command line that cannot be used: exit code 2, one sentence, nothing written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gaff.cli.main import main
from gaff.data.indexed_dataset import write_dataset
from tests.live import write_config

pytest.importorskip("deepspeed")  # the bundled trainer is checked for, not launched


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_dataset(tmp_path / "data_text_document", [list(range(100))], np.dtype(np.uint16))
    write_config(tmp_path / "run.yml", tmp_path / "data_text_document", train_iters=40, reset_every=10)
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("absent")
    return tmp_path


def names(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def refused(project: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    before = names(project)
    code = main(list(arguments))
    errors = capsys.readouterr().err
    assert code == 2, errors
    assert names(project) == before, "something was written"
    assert re.fullmatch(r"gaff: .+; .+\.\n", errors), errors
    return errors


BAD = ["file", "file/below", "dangling", "x" * 300, "a*", "a?", "a[1]", "global_step5"]


@pytest.mark.parametrize("verb", ["run", "run --dry-run", "rehearse"])
@pytest.mark.parametrize("name", BAD)
def test_run_directories(verb: str, name: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(project, capsys, *verb.split(), "--config", "run.yml", "--run-dir", name)
    assert str(project / name) in said
    assert "name another with --run-dir" in said


@pytest.mark.parametrize("name", BAD)
def test_save(name: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open(project / "run.yml", "a") as file:
        file.write(f'save: "{name}"\n')
    said = refused(project, capsys, "run", "--config", "run.yml")
    assert re.match(r"gaff: run\.yml:\d+: `save` ", said)
    assert str(project / name) in said


def test_a_name_that_is_no_text(project: Path) -> None:
    command = [sys.executable, "-m", "gaff", "run", "--config", "run.yml", "--run-dir", b"bad\xff"]
    done = subprocess.run(command, capture_output=True, timeout=60)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert b"no UTF-8 text; name another with --run-dir" in done.stderr


def test_a_rehearsal_does_not_touch_a_real_run(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "real").mkdir()
    (project / "real" / "run.json").write_text("{}")
    (project / "real" / "config.yml").write_text((project / "run.yml").read_text())
    said = refused(project, capsys, "rehearse", "--config", "run.yml", "--run-dir", "real")
    assert "something else than a rehearsal of this config" in said


@pytest.mark.parametrize("origin", ['{"config": "other", "minutes": 3.0, "ranks": 2}', "{", "[]", "\udcff"])
def test_a_rehearsal_does_not_carry_on_another(origin: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "other").mkdir()
    (project / "other" / "rehearsal.json").write_bytes(origin.encode(errors="surrogateescape"))
    (project / "other" / "config.yml").write_text((project / "run.yml").read_text())
    refused(project, capsys, "rehearse", "--config", "run.yml", "--run-dir", "other")


def test_a_rehearsal_does_not_write_among_other_files(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(project, capsys, "rehearse", "--config", "run.yml", "--run-dir", str(project))


def test_a_rehearsal_waits_for_no_other(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from gaff.supervisor.lock import run_lock

    (project / "here").mkdir()
    with run_lock(project / "here" / "lock"):
        said = refused(project, capsys, "rehearse", "--config", "run.yml", "--run-dir", "here")
    assert "at work in this run directory" in said


def test_a_rehearsal_refuses_what_the_trainer_cannot_before_it_writes(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(project, capsys, "rehearse", "--config", "run.yml", "-o", "hidden_dropout=0.1")
    assert "hidden_dropout" in said


@pytest.mark.parametrize(
    ("option", "value"),
    [("--minutes", v) for v in ("0", "-1", "nan", "inf", "1e300", "x")] + [("--ranks", v) for v in ("0", "-2", "x")],
)
def test_numbers_of_a_rehearsal(option: str, value: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["rehearse", "--config", "run.yml", f"{option}={value}"])
    assert caught.value.code == 2
    assert f"argument {option}: {value}" in capsys.readouterr().err


def test_a_rehearsal_with_too_many_ranks(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "5,000 processes" in refused(project, capsys, "rehearse", "--config", "run.yml", "--ranks", "5000")


@pytest.mark.parametrize("content", ["{", "{}", "[]"])
def test_a_damaged_run_directory(content: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "runs" / "run").mkdir(parents=True)
    (project / "runs" / "run" / "run.json").write_text(content)
    assert main(["run", "--config", "run.yml"]) == 2
    errors = capsys.readouterr().err
    assert re.search(r"run\.json: this file of GAFF is damaged: .*; .*\.\n", errors)
    assert len(errors.splitlines()) == 1


MISTYPED = [
    *(f"{key}={value}" for key in ("optimizer", "zero_optimization") for value in ("5", "[]")),
    *("optimizer.params=5", "zero_optimization={stage: x}", "gaff.reset_every=1e1"),
    *(
        f"{key}=abc"
        for key in (
            *("hidden_size", "num_attention_heads", "seq_length", "max_position_embeddings", "train_batch_size"),
            *("train_micro_batch_size_per_gpu", "gradient_accumulation_steps"),
        )
    ),
    *("hidden_size=33", "train_batch_size=3", "train_iters=.inf", "global_num_gpus=100000"),
]


@pytest.mark.parametrize("override", MISTYPED)
def test_one_mistake_is_told_once(override: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(project, capsys, "run", "--config", "run.yml", "-o", override)
    assert said.startswith(f"gaff: -o {override}: ")


def test_save_alone_is_no_mistake(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--config", "run.yml", "--dry-run", "-o", "save=here"]) == 0


def test_hugely_many_segments(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("run", "plan", "rehearse"):
        assert "resets in" in refused(project, capsys, verb, "--config", "run.yml", "-o", "train_iters=100000000000")


def test_a_read_only_directory(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    (project / "mine").mkdir(mode=0o500)
    assert "is not writable" in refused(project, capsys, "run", "--config", "run.yml", "--run-dir", "mine/run")
