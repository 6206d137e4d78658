# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the live Slurm tests: one Slurm for each process of the test run, and runs to compare with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.slurm import NotInstalledError, Slurm, kill, local_slurm
from tests.cluster.slurm_runs import ITERATIONS, K, Run, processes_of
from tests.live import finish, gaff, write_config

PROFILE = """\
partition: main
gpus_per_node: 1
memory: null
exclusive: false
time: 10
environment:
  OMP_NUM_THREADS: 1
"""


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    try:
        with local_slurm() as running:
            yield running
    except NotInstalledError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("profile") / "local.yml"
    path.write_text(PROFILE)
    return path


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One rank, iterations of some ten milliseconds."""
    from gaff.data.corpus import write_corpus
    from gaff.data.tokenizers import CharLevel

    folder = tmp_path_factory.mktemp("config")
    data = write_corpus(folder, CharLevel(), characters=300_000)
    path = write_config(folder / "tiny.yml", data, train_iters=ITERATIONS, reset_every=K)
    text = path.read_text().replace("global_num_gpus: 2", "global_num_gpus: 1")
    path.write_text(text.replace("train_micro_batch_size_per_gpu: 4", "train_micro_batch_size_per_gpu: 32"))
    return path


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, config: Path) -> Path:
    """The last tag of the run that no scheduler had its hands in."""
    root = tmp_path_factory.mktemp("undisturbed") / "run"
    code, _, errors = finish(gaff("run", "--config", config, "--run-dir", root))
    assert code == 0, errors
    return root / "checkpoints" / f"global_step{ITERATIONS}"


@pytest.fixture
def run(slurm: Slurm, config: Path, profile: Path, tmp_path: Path) -> Iterator[Run]:
    """Not submitted yet.  What is left of it afterwards is ended."""
    made = Run(slurm, config, profile, tmp_path / "run")
    yield made
    slurm.tidy()
    kill(*processes_of(made.root))
