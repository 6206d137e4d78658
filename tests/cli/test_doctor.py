# SPDX-License-Identifier: Apache-2.0
"""``gaff doctor`` itself, on this machine and on one whose PATH has two A100."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gaff.cli.doctor import render
from gaff.cli.main import main
from gaff.data.indexed_dataset import write_dataset
from gaff.doctor.finding import Finding
from tests.doctor.conftest import programs
from tests.live import write_config

__all__ = ["programs"]

SMI = """\
case "$1" in
  --query-gpu=*) for i in 0 1; do
    echo "$i, GPU-$i, NVIDIA A100-SXM4-40GB, 40960, 4, 535.104.05, Disabled, 8.0"; done;;
  --query-compute-apps=*) echo "GPU-1, 4242, python, 30720";;
  *) echo "CUDA Version: 12.2";;
esac
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GAFF_HOME", str(tmp_path / "home"))
    for name in ("GPT_NEOX_DIR", "GPT_NEOX_PYTHON", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    write_dataset(tmp_path / "data_text_document", [list(range(100))], np.dtype(np.uint16))
    write_config(tmp_path / "run.yml", tmp_path / "data_text_document", train_iters=40, reset_every=10)
    return tmp_path


def findings(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
    code = main(["doctor", "--json", *arguments])
    report = json.loads(capsys.readouterr().out)
    assert report["schema"] == "gaff.doctor/1"
    return code, {finding["id"]: finding for finding in report["findings"]}


def test_this_machine_as_a_user_asks_it(project: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "gaff", "doctor"], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (1, "")  # there is no GPT-NeoX
    assert "no GPT-NeoX is named or installed" in done.stdout
    assert "$ gaff neox install" in done.stdout
    assert "examined (" not in done.stdout, "an area failed"
    if shutil.which("nvidia-smi") is None:
        assert "there is no GPU here" in done.stdout
        assert "gaff rehearse --config FILE" in done.stdout
        assert "gaff.device=cpu" in done.stdout


def test_the_bundled_trainer_needs_no_gpt_neox_and_no_gpu(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if find_spec("deepspeed") is None:
        pytest.skip("the bundled trainer's packages are not here")
    before = sorted(project.rglob("*"))
    code, found = findings(capsys, "--config", "run.yml")
    assert (code, found["config"]["level"], found["bundled-packages"]["level"]) == (0, "ok", "ok")
    assert "no-gpt-neox" not in found
    assert sorted(project.rglob("*")) == before


def test_two_gpus_one_of_them_taken(
    project: Path,
    programs: Callable[..., dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PATH", os.pathsep.join([programs(nvidia_smi=SMI)["PATH"], os.environ["PATH"]]))
    options = ("--config", "run.yml", "-o", "gaff.trainer=neox", "-o", "global_num_gpus=8")
    code, found = findings(capsys, *options)
    assert code == 1
    assert found["gpus"]["what"] == "2 × NVIDIA A100-SXM4-40GB, 42.9 GB, compute capability 8.0"
    assert "process 4242 (python) holds 32.2 GB of GPU 1" in found["gpu-occupied"]["what"]
    assert found["gpu-memory"]["level"] == "ok"
    assert found["gpu-count"]["remedy"].startswith(f"gaff run {' '.join(options)} -o global_num_gpus=2")


def test_a_config_that_cannot_be_read_is_wrong_input(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--config", "absent.yml"]) == 2
    assert "absent.yml" in capsys.readouterr().err


def test_overrides_without_a_config_are_wrong_usage(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "-o", "train_iters=1"]) == 2
    assert "add --config FILE" in capsys.readouterr().err


def test_a_full_disk_is_told(project: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    with open("/dev/full", "wb") as full:
        words = [sys.executable, "-m", "gaff", "doctor", "--json"]
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert (done.returncode, "No space left on device" in done.stderr) == (1, True)


def test_the_report_as_text() -> None:
    text = render(
        [
            Finding("a", "first area", "ok", "fine"),
            Finding("b", "first area", "problem", "broken", "mend it\n# or leave it"),
            Finding("c", "second", "warning", "odd"),
        ]
    )
    assert text.splitlines() == [
        "first area",
        "  ok       fine",
        "  problem  broken",
        "             $ mend it",
        "             # or leave it",
        "",
        "second",
        "  warning  odd",
        "",
        "1 problem, 1 warning",
    ]
    assert render([Finding("a", "x", "ok", "fine")]).endswith("\n\nnothing is missing")
