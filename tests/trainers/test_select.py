# SPDX-License-Identifier: Apache-2.0
"""Which trainer a run or a rehearsal gets."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from gaff.errors import InputError
from gaff.plan.config import Config, load_config
from gaff.trainers.bundled.adapter import BundledTrainer
from gaff.trainers.neox.home import RECORD_NAME, SCHEMA
from gaff.trainers.neox.trainer import NeoxTrainer
from gaff.trainers.select import select_for_rehearsal, select_trainer
from tests.live import write_config


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty GAFF_HOME, and nothing named in the environment."""
    monkeypatch.setenv("GAFF_HOME", str(tmp_path / "home"))
    for name in ("GPT_NEOX_DIR", "GPT_NEOX_PYTHON"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


def config_of(tmp_path: Path, *overrides: str) -> Config:
    path = write_config(tmp_path / "run.yml", tmp_path / "data", train_iters=40, reset_every=10)
    return load_config([path], overrides)


def install(home: Path, *, cpu: bool, completed: str) -> Path:
    """The record of an installation, with a checkout that looks like one.  Returns the checkout."""
    root = home / "neox" / ("abc-cpu" if cpu else "abc")
    (root / "gpt-neox" / "megatron").mkdir(parents=True)
    for name in ("deepy.py", "train.py"):
        (root / "gpt-neox" / name).touch()
    record = {
        "schema": SCHEMA,
        "checkout": str(root / "gpt-neox"),
        "python": sys.executable,
        "extensions": str(root / "extensions"),
        "commit": None,
        "device": "cpu" if cpu else "gpu",
        "completed": completed,
        "steps": {},
    }
    (root / RECORD_NAME).write_text(json.dumps(record))
    return root / "gpt-neox"


def test_what_is_installed_is_found_and_brings_its_compiled_ops(tmp_path: Path, home: Path) -> None:
    checkout = install(home, cpu=True, completed="2026-01-01T00:00:00+00:00")
    trainer = select_trainer(config_of(tmp_path, "gaff.trainer=auto", "gaff.device=cpu"))
    assert isinstance(trainer, NeoxTrainer)
    assert (trainer.root, trainer.python, trainer.extensions) == (
        checkout,
        sys.executable,
        checkout.parent / "extensions",
    )


def test_an_installation_for_the_device_goes_before_a_newer_one_for_the_other(tmp_path: Path, home: Path) -> None:
    for_cpu = install(home, cpu=True, completed="2026-01-01T00:00:00+00:00")
    for_gpu = install(home, cpu=False, completed="2026-02-01T00:00:00+00:00")
    chosen = [select_trainer(config_of(tmp_path, "gaff.trainer=neox", f"gaff.device={d}")) for d in ("cpu", "gpu")]
    assert [t.root for t in chosen if isinstance(t, NeoxTrainer)] == [for_cpu, for_gpu]


def test_a_checkout_that_is_named_wins_over_what_is_installed(tmp_path: Path, home: Path) -> None:
    install(home, cpu=True, completed="2026-01-01T00:00:00+00:00")
    trainer = select_trainer(config_of(tmp_path, "gaff.trainer=neox"), Path("/theirs"))
    assert isinstance(trainer, NeoxTrainer)
    assert (trainer.root, trainer.extensions) == (Path("/theirs"), None)


def test_without_gpt_neox_a_run_is_refused_and_a_rehearsal_is_the_bundled_trainers(tmp_path: Path) -> None:
    config = config_of(tmp_path, "gaff.trainer=neox")
    with pytest.raises(InputError, match="`gaff neox install`"):
        select_trainer(config)
    assert isinstance(select_for_rehearsal(config, "auto"), BundledTrainer)
    with pytest.raises(InputError, match="`--trainer neox` asks for GPT-NeoX, and there is none"):
        select_for_rehearsal(config, "neox")


def test_a_rehearsal_takes_gpt_neox_where_it_is_unless_the_bundled_trainer_is_asked_for(tmp_path: Path) -> None:
    config = config_of(tmp_path, "gaff.trainer=neox", "gaff.neox_dir=/theirs")
    assert isinstance(select_for_rehearsal(config, "auto"), NeoxTrainer)
    assert isinstance(select_for_rehearsal(config, "bundled"), BundledTrainer)
    bundled = config_of(tmp_path, "gaff.trainer=bundled", "gaff.neox_dir=/theirs")
    assert isinstance(select_for_rehearsal(bundled, "auto"), BundledTrainer)
    assert isinstance(select_for_rehearsal(bundled, "neox"), NeoxTrainer)


def test_a_python_named_by_the_environment_is_meant_from_here(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(home, cpu=False, completed="2026-01-01T00:00:00+00:00")
    monkeypatch.chdir(tmp_path)
    for given, expected in (("env/bin/python", str(tmp_path / "env/bin/python")), ("python3", "python3")):
        monkeypatch.setenv("GPT_NEOX_PYTHON", given)
        trainer = select_trainer(config_of(tmp_path, "gaff.trainer=neox"))
        assert isinstance(trainer, NeoxTrainer)
        assert trainer.python == expected


def test_an_empty_variable_names_nothing(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = install(home, cpu=False, completed="2026-01-01T00:00:00+00:00")
    monkeypatch.setenv("GPT_NEOX_PYTHON", "")
    monkeypatch.setenv("GPT_NEOX_DIR", "")
    trainer = select_trainer(config_of(tmp_path, "gaff.trainer=neox"))
    assert isinstance(trainer, NeoxTrainer)
    assert (trainer.root, trainer.python) == (checkout, sys.executable)
    assert trainer.extensions is not None
