# SPDX-License-Identifier: Apache-2.0
"""GPT-NeoX as a trainer: the merged config, what is checked beforehand, and a real run where there is one."""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
from pathlib import Path

import pytest
import yaml

from gaff.errors import InputError
from gaff.plan.config import Config, load_config
from gaff.trainers.bundled.adapter import BundledTrainer
from gaff.trainers.contract import SegmentRequest
from gaff.trainers.neox.cpu_shim.gaff_cpu_shim.gpus import signs_of_gpus
from gaff.trainers.neox.trainer import NeoxTrainer
from gaff.trainers.select import select_trainer
from tests.live import finish, gaff, journal, write_config


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "gpt-neox"
    (root / "megatron").mkdir(parents=True)
    (root / "deepy.py").touch()
    (root / "train.py").touch()
    return root


def config_of(tmp_path: Path, *overrides: str) -> Config:
    path = write_config(tmp_path / "run.yml", tmp_path / "data", train_iters=40, reset_every=10)
    return load_config([path], ["gaff.trainer=neox", *overrides])


def test_the_merged_config_resumes_and_stops_where_it_is_asked(tmp_path: Path, checkout: Path) -> None:
    config = config_of(tmp_path, "eval_iters=10", "exit_interval=7", "extra_save_iters=[5, 20]", "log_dir=logs")
    request = SegmentRequest(10, 20, tmp_path / "save", tmp_path, 12345, "r1")
    launch = NeoxTrainer(checkout).prepare(config, request)
    assert launch.argv == (sys.executable, "deepy.py", "train.py", str(tmp_path / "neox.yml"))
    assert launch.cwd == checkout
    keys = yaml.safe_load((tmp_path / "neox.yml").read_text())
    told = {k: keys[k] for k in ("iteration", "exit_interval", "extra_save_iters", "save", "load", "master_port")}
    assert told == {
        "iteration": 10,
        "exit_interval": 20,
        "extra_save_iters": [5, 20],
        "save": str(tmp_path / "save"),
        "load": str(tmp_path / "save"),
        "master_port": 12345,
    }
    assert keys["eval_iters"] == 0  # its validation crashes pipeline runs
    assert keys["use_wandb"] is False
    assert "gaff" not in keys
    assert "log_dir" not in keys
    assert keys["train_iters"] == 40  # never changed: the order of the data hangs on it


def test_the_first_segment_loads_nothing(tmp_path: Path, checkout: Path) -> None:
    NeoxTrainer(checkout).prepare(config_of(tmp_path), SegmentRequest(0, 10, tmp_path / "save", tmp_path, 1, "r1"))
    keys = yaml.safe_load((tmp_path / "neox.yml").read_text())
    assert "load" not in keys
    assert "iteration" not in keys


def test_the_python_of_gpt_neox_comes_first_on_its_path(tmp_path: Path, checkout: Path) -> None:
    trainer = NeoxTrainer(checkout, "/opt/neox/bin/python")
    launch = trainer.prepare(config_of(tmp_path), SegmentRequest(0, 10, tmp_path / "save", tmp_path, 1, "r1"))
    assert launch.argv[0] == "/opt/neox/bin/python"
    assert launch.env["PYTHONSAFEPATH"] == ""  # whatever this shell has: modules beside deepy.py are imported
    assert launch.env["PATH"].split(os.pathsep)[0] == "/opt/neox/bin"


def test_missing_packages_are_named(tmp_path: Path, checkout: Path) -> None:
    python = tmp_path / "python"
    answer = {"python": [3, 11, 2], "executable": "x", "missing": ["deepspeed", "pkg_resources"], "versions": {}}
    python.write_text(f"#!/bin/sh\necho '{json.dumps(answer)}'\n")
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    (problem,) = NeoxTrainer(checkout, str(python)).check(config_of(tmp_path))
    assert "lacks packages that GPT-NeoX needs: deepspeed, setuptools<80" in str(problem)


def test_a_python_that_is_not_there_is_named(tmp_path: Path, checkout: Path) -> None:
    (problem,) = NeoxTrainer(checkout, str(tmp_path / "no-python")).check(config_of(tmp_path))
    assert "no-python" in str(problem)


def test_the_checkout_is_found_by_option_then_config_then_environment(
    tmp_path: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPT_NEOX_DIR", "/from/environment")
    chosen = select_trainer(config_of(tmp_path))
    assert isinstance(chosen, NeoxTrainer)
    assert chosen.root == Path("/from/environment")
    chosen = select_trainer(config_of(tmp_path, f"gaff.neox_dir={checkout}"))
    assert isinstance(chosen, NeoxTrainer)
    assert chosen.root == checkout
    chosen = select_trainer(config_of(tmp_path, f"gaff.neox_dir={checkout}"), Path("/from/option"))
    assert isinstance(chosen, NeoxTrainer)
    assert chosen.root == Path("/from/option")


def test_the_bundled_trainer_never_stands_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GPT_NEOX_DIR", raising=False)
    for name in ("auto", "neox"):
        with pytest.raises(InputError, match="asks for GPT-NeoX"):
            select_trainer(config_of(tmp_path, f"gaff.trainer={name}"))
    assert isinstance(select_trainer(config_of(tmp_path, "gaff.trainer=bundled")), BundledTrainer)


@pytest.mark.neox
@pytest.mark.slow
def test_unmodified_gpt_neox_trains_resets_and_resumes(tmp_path: Path) -> None:
    """A real run: on the CPU, through GAFF's shim, where there is no GPU.  GPT_NEOX_DIR names the checkout,
    GPT_NEOX_PYTHON its Python."""
    if not os.environ.get("GPT_NEOX_DIR"):
        pytest.skip("GPT_NEOX_DIR is not set: there is no GPT-NeoX to run")
    pytest.importorskip("torch")
    from gaff.data.corpus import write_corpus
    from gaff.data.tokenizers import CharLevel

    data = write_corpus(tmp_path, CharLevel(), characters=300_000)
    config = write_config(tmp_path / "run.yml", data, train_iters=30, reset_every=10)
    shutil.copy(config, tmp_path / "neox.yml")
    device = "gpu" if signs_of_gpus() else "cpu"
    options = ["-o", "gaff.trainer=neox", "-o", f"gaff.device={device}", "-o", "num_workers=0"]
    root = tmp_path / "run"
    code, output, errors = finish(gaff("run", "--config", tmp_path / "neox.yml", *options, "--run-dir", root))
    assert code == 0, output + errors
    assert [(e["reset"], e["iteration"]) for e in journal(root, "reset_done")] == [(1, 10), (2, 20)]
    for iteration in (10, 20, 30):
        assert finish(gaff("surgery", "verify", root / "checkpoints" / f"global_step{iteration}"))[0] == 0


def test_a_python_known_by_name_is_looked_up_and_nothing_relative_comes_onto_its_path(
    tmp_path: Path, checkout: Path
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "python-of-mine").symlink_to(sys.executable)
    trainer = NeoxTrainer(checkout, "python-of-mine")
    assert trainer.search_path({"PATH": f"/usr/bin:{folder}"}).split(os.pathsep)[0] == str(folder)
    assert NeoxTrainer(checkout, "python-of-an-image").search_path({"PATH": "/usr/bin"}) == "/usr/bin"


def test_a_hostfile_that_changed_between_two_segments_is_refused(
    tmp_path: Path, checkout: Path, unpacked_checkpoints: Path
) -> None:
    save = unpacked_checkpoints / "zero0-fp32-dp2"
    hosts = tmp_path / "hosts"
    hosts.write_text("localhost slots=2\n")
    config = config_of(tmp_path, f"hostfile={hosts}", "global_num_gpus=null")
    request = SegmentRequest(5, 10, save, tmp_path, 1, "r1")
    NeoxTrainer(checkout).prepare(config, request)
    hosts.write_text("localhost slots=1\n")
    with pytest.raises(InputError, match="global_step5 was written by 2 ranks, and the hostfile now names 1"):
        NeoxTrainer(checkout).prepare(config, request)
