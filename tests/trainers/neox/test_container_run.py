# SPDX-License-Identifier: Apache-2.0
"""``gaff run`` with GPT-NeoX in a container: real supervisor, real resets, false engine and trainer."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from tests.live import finish, gaff, journal, write_config
from tests.trainers.neox import false_engine
from tests.trainers.neox.live import corpus

DEEPY = f"""
import sys, yaml
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parents[3])!r})
from tests.supervisor.fake_trainer import ITERATION_LINE, write_tag
keys = yaml.safe_load(open(sys.argv[2]))
save, start, stop = Path(keys["save"]), keys.get("iteration", 0), keys["exit_interval"]
print(f"Loading checkpoint and starting from iteration {{start}}" if start else "training ...", flush=True)
for iteration in range(start + 1, stop + 1):
    line = ITERATION_LINE.format(iteration=iteration, total=keys["train_iters"], loss=9 / iteration, ms=20.0)
    print(line, flush=True)
write_tag(save, save / f"global_step{{start}}" if start else Path("template"), stop)
print(f"rank: 0 | time: 2026-11-21 03:12:11 | exiting the program at iteration {{stop}}", flush=True)
"""


@pytest.mark.parametrize("engine", ["apptainer", pytest.param("docker", marks=pytest.mark.exhaustive)])
def test_gaff_run_trains_and_resets_with_gpt_neox_in_an_image(
    tmp_path: Path, unpacked_checkpoints: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs, checkout = tmp_path / "bin", tmp_path / "image" / "opt" / "gpt-neox"
    programs.mkdir()
    checkout.mkdir(parents=True)
    (programs / engine).write_text(f'#!/bin/sh\nexec "{sys.executable}" "{false_engine.__file__}" {engine} "$@"\n')
    (programs / engine).chmod(0o755)
    (checkout / "deepy.py").write_text(DEEPY)
    (checkout / "template").symlink_to(unpacked_checkpoints / "zero1-fp16-tp2-dp2" / "global_step5")
    record = tmp_path / "calls.jsonl"
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("FALSE_ENGINE_RECORD", str(record))
    config = write_config(tmp_path / "run.yml", corpus(tmp_path / "data"), train_iters=6, reset_every=2)
    container = json.dumps({"engine": engine, "image": str(tmp_path / "image")})
    words = ("-o", "gaff.trainer=neox", "-o", f"gaff.container={container}")
    code, output, errors = finish(gaff("run", "--config", config, *words, "--run-dir", tmp_path / "run"))
    assert code == 0, output + errors
    assert len(journal(tmp_path / "run", "reset_done")) == 2
    assert len(journal(tmp_path / "run", "run_finished")) == 1
    calls = [json.loads(line) for line in record.read_text().splitlines()]
    assert len([call for call in calls if "deepy.py" in call]) == 3
    if engine == "docker":  # before each launch and after it
        names = {call[call.index("--name") + 1] for call in calls if "deepy.py" in call}
        assert len(names) == 1
        assert [call for call in calls if call[1] == "rm"] == [["docker", "rm", "-f", *names]] * 6
