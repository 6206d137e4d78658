# SPDX-License-Identifier: Apache-2.0
"""One rank on each of two nodes of a real Slurm: the same weights as forked ranks, and the exit codes of the dead."""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from gaff.data.indexed_dataset import write_dataset
from gaff.trainers.contract import ErrorLogged
from gaff.trainers.faults import decisive
from gaff.trainers.loglines import read_events
from tests.live import different, finish, gaff, write_config
from tests.trainers.bundled.slurm import Job, NotInstalledError, Slurm, local_slurm, quoted

pytest.importorskip("deepspeed")
pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

ITERATIONS, STOP = 6, 3
LONG = 100_000

# One launch as the supervisor makes it, in place of this process: START STOP SAVE, and overrides of the config.
LAUNCH = """
import os, sys
from pathlib import Path
from gaff.plan.config import load_config
from gaff.trainers.bundled.adapter import BundledTrainer
from gaff.trainers.contract import SegmentRequest
start, stop, save, *overrides = sys.argv[1:]
config = load_config([Path("run.yml")], overrides)
problems = BundledTrainer().check(config)
if problems:
    sys.exit("\\n".join(map(str, problems)))
request = SegmentRequest(int(start), int(stop), Path(save), Path("segment").absolute(), 29871, "r1")
launch = BundledTrainer().prepare(config, request)
os.chdir(launch.cwd)
os.execvpe(launch.argv[0], launch.argv, {**os.environ, **launch.env})
"""
# Python of the second rank, in a launch.
LACKING = """
import os, sys
if "SLURM_STEP_ID" in os.environ and os.environ["SLURM_PROCID"] == "1":
    sys.modules["deepspeed"] = None
"""
# Nodes have names that lead nowhere, as all are this machine.
ON_TWO_NODES = "sed 's/$/ slots=1/' nodes >hostfile; export MASTER_ADDR=127.0.0.1; exec "
OVERRIDES = ("launcher=slurm", "hostfile=hostfile")


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    folder = Path(tempfile.mkdtemp(prefix="gaff-slurm-", dir="/tmp"))  # the names of its sockets must be short
    try:
        with local_slurm(folder) as running:
            yield running
    except NotInstalledError as error:
        pytest.skip(str(error))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def whole(slurm: Slurm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a run of two segments has come to its end, in ``run`` on two nodes and in ``forked`` on this machine."""
    folder = tmp_path_factory.mktemp("whole")
    random = np.random.default_rng(7)
    write_dataset(folder / "set", [random.integers(1, 512, 90) for _ in range(60)], np.dtype("<u2"))
    config = write_config(folder / "run.yml", folder / "set", train_iters=ITERATIONS, reset_every=STOP)
    options = [word for override in OVERRIDES for word in ("-o", override)]
    words = quoted(sys.executable, "-m", "gaff", "run", "--config", config, "--run-dir", folder / "run", *options)
    job = slurm.submit(folder, ON_TWO_NODES + words)
    code, _, errors = finish(gaff("run", "--config", config, "--run-dir", folder / "forked"))
    assert code == 0, errors
    assert job.code() == 0, job.log
    return folder


def test_two_nodes_train_what_two_forks_train_bit_for_bit(whole: Path) -> None:
    for iteration in (STOP, ITERATIONS):
        tag = f"checkpoints/global_step{iteration}"
        assert sorted(path.name for path in (whole / "run" / tag).iterdir()) == sorted(
            path.name for path in (whole / "forked" / tag).iterdir()
        )
        assert (whole / "run" / tag / "configs").is_dir()
        assert different(whole / "run" / tag, whole / "forked" / tag) == []
    assert different(whole / "run" / f"checkpoints/global_step{STOP}", whole / "run" / tag) != []


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """The config and checkpoints of the whole run, to be spoilt."""
    shutil.copytree(whole / "run" / "checkpoints", tmp_path / "checkpoints")
    shutil.copy(whole / "run.yml", tmp_path)
    return tmp_path


def launch(slurm: Slurm, folder: Path, start: int, stop: int, *overrides: str, before: str = "") -> Job:
    words = (sys.executable, "-c", LAUNCH, str(start), str(stop), folder / "checkpoints", *OVERRIDES, *overrides)
    return slurm.submit(folder, before + ON_TWO_NODES + quoted(*words))


def test_a_node_without_the_packages_is_told_by_code_and_words(slurm: Slurm, copy: Path) -> None:
    """The other rank waits for it, without a word, until Slurm ends it."""
    (copy / "sitecustomize.py").write_text(LACKING)
    job = launch(slurm, copy, 0, STOP, before=f"export PYTHONPATH={quoted(copy)}; ")
    assert job.code() == 1, job.log  # not the 143 of the rank that Slurm ended
    said = decisive(event for event in read_events(job.log.splitlines()) if isinstance(event, ErrorLogged))
    assert said is not None
    assert said.message.startswith("ModuleNotFoundError: import of deepspeed")


def test_the_code_and_the_words_are_those_of_the_rank_that_failed(slurm: Slurm, copy: Path) -> None:
    (copy / "checkpoints" / f"global_step{STOP}" / "zero_pp_rank_1_mp_rank_00_optim_states.pt").write_bytes(b"junk")
    job = launch(slurm, copy, STOP, ITERATIONS)
    assert job.code() == 1, job.log
    assert "[rank1]: Traceback" in job.log
    said = decisive(event for event in read_events(job.log.splitlines()) if isinstance(event, ErrorLogged))
    assert said is not None
    assert "UnpicklingError" in said.message
    assert ranks(copy) == []


@pytest.fixture
def training(slurm: Slurm, copy: Path) -> Job:
    """A launch in the middle of training."""
    keys = (f"train_iters={LONG}", f"lr_decay_iters={LONG}")
    job = launch(slurm, copy, 0, LONG, *keys, before="export SLURM_WAIT=3; ")
    job.wait_for("| iteration")
    assert len(ranks(copy)) == 2
    return job


def ranks(folder: Path) -> list[psutil.Process]:
    """Processes that train a config of ``folder``, in the order of their ranks."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "gaff.trainers.bundled" in words and words[-1].startswith(f"{folder}/") and words[0] == sys.executable:
            found[int(process.environ()["SLURM_PROCID"])] = process
    return [found[rank] for rank in sorted(found)]


def none_is_left(folder: Path, within_s: float = 20.0) -> bool:
    deadline = time.monotonic() + within_s
    while ranks(folder) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not ranks(folder)


def test_a_killed_rank_ends_the_step(training: Job) -> None:
    ranks(training.folder)[1].kill()
    assert training.code() in (128 + signal.SIGKILL, 128 + signal.SIGTERM), training.log
    assert none_is_left(training.folder)


def test_a_killed_slurmstepd_ends_the_step(training: Job) -> None:
    parent = ranks(training.folder)[1].parent()
    assert parent is not None
    assert parent.cmdline()[0].startswith("slurmstepd")
    parent.kill()
    assert training.code() != 0, training.log
    assert none_is_left(training.folder)


def test_a_step_that_slurm_ends_was_killed(training: Job) -> None:
    """As at a preemption, of which ranks hear first."""
    training.slurm.command("scancel", "--signal=TERM", f"{training.number}.0")
    assert training.code() == 128 + signal.SIGTERM, training.log
    assert none_is_left(training.folder)


def test_a_config_that_does_not_fit_the_hostfile_is_one_sentence(slurm: Slurm, copy: Path) -> None:
    job = launch(slurm, copy, 0, STOP, "global_num_gpus=4")
    assert job.code() == 1
    assert "`global_num_gpus: 4` sets the batch, but 2 ranks will be started" in job.log
    assert job.log.count("\n") == 1
