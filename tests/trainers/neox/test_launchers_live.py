# SPDX-License-Identifier: Apache-2.0
"""Unmodified GPT-NeoX, started by real launchers on hosts that are this machine under other names.

GAFF_TEST_HOSTS names two such hosts, as ``node-a,node-b``: entries of /etc/hosts that lead to addresses of this machine
(127.0.0.2 …) at which an sshd lets this user in without a password.  Slurm's test runs inside a job of two tasks.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.trainers.neox.live import MARKS, Finished, corpus, train

HOSTS = [host for host in os.environ.get("GAFF_TEST_HOSTS", "").split(",") if host]


def _log_in(host: str) -> bool:
    words = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5", host, "true"]
    return shutil.which("ssh") is not None and subprocess.run(words, capture_output=True).returncode == 0


pytestmark = MARKS
needs_hosts = pytest.mark.skipif(
    len(HOSTS) < 2 or not all(map(_log_in, HOSTS)), reason="GAFF_TEST_HOSTS names no two hosts that ssh reaches"
)


def train_on(folder: Path, hosts: str, *overrides: str) -> Finished:
    (folder / "hostfile").write_text(hosts)
    words = (f"hostfile={folder / 'hostfile'}", "global_num_gpus=null", *overrides)
    environment = {"GLOO_SOCKET_IFNAME": "lo", "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return train(folder, corpus(folder / "data"), words, train_iters=6, reset_every=2, environment=environment)


def check(run: Finished) -> None:
    assert run.code == 0, run.told()
    assert [event.iteration for event in run.logged()] == [1, 2, 3, 4, 5, 6]
    shards = sorted(path.name for path in run.tag(6).glob("*optim_states.pt"))
    assert shards == [f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in (0, 1)]


@needs_hosts
@pytest.mark.skipif(shutil.which("pdsh") is None, reason="there is no pdsh")
def test_pdsh(tmp_path: Path) -> None:
    run = train_on(tmp_path, f"{HOSTS[0]} slots=1\n{HOSTS[1]} slots=1\n", "master_addr=127.0.0.1")
    check(run)
    said = run.logs[-1].read_text()
    for host in HOSTS:
        assert f"{host}: " in said  # as pdsh marks the lines of each
    assert all(path.stat().st_mode & 0o077 == 0 for path in run.root.glob("segments/*/deepspeed_env"))


@needs_hosts
@pytest.mark.skipif(shutil.which("ompi_info") is None, reason="there is no Open MPI")
def test_open_mpi(tmp_path: Path) -> None:
    # mpi_discovery() takes hosts with one machine name for one host, so here is one with two slots
    check(train_on(tmp_path, f"{HOSTS[0]} slots=2\n", "launcher=openmpi"))


@pytest.mark.skipif("SLURM_JOB_ID" not in os.environ, reason="not inside a Slurm job")
def test_slurm(tmp_path: Path) -> None:
    nodes = subprocess.run(["scontrol", "show", "hostnames"], capture_output=True, text=True, check=True).stdout.split()
    check(train_on(tmp_path, "".join(f"{n} slots=1\n" for n in nodes[:2]), "launcher=slurm", "master_addr=127.0.0.1"))
