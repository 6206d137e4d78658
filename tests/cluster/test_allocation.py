# SPDX-License-Identifier: Apache-2.0
"""A job's nodes, as a hostfile and as overrides of the config."""

from __future__ import annotations

from pathlib import Path

import pytest

from gaff.cluster.allocation import launch_overrides, write_hostfile
from gaff.cluster.slurm_job import SlurmJob
from gaff.plan.config import load_config


def job(nodes: tuple[str, ...] = ("n2", "n1"), restarts: int = 0, id: str = "17", kind: str = "Slurm") -> SlurmJob:
    return SlurmJob(id, restarts, nodes, 4, {}, kind)


def test_a_hostfile_lists_the_nodes_in_the_order_of_the_ranks(tmp_path: Path) -> None:
    path = write_hostfile(job(), tmp_path)
    assert path.read_text() == "n2 slots=4\nn1 slots=4\n"
    assert path.is_absolute()
    assert path.parent == tmp_path / "jobs"


def test_each_job_and_each_start_of_it_has_its_own(tmp_path: Path) -> None:
    jobs = [job(), job(("n3", "n4"), 1), job(("n5", "n6"), id="18_2")]
    paths = [write_hostfile(one, tmp_path) for one in jobs]
    assert len(set(paths)) == 3
    assert paths[0].read_text() == "n2 slots=4\nn1 slots=4\n"
    assert paths[1].read_text() == "n3 slots=4\nn4 slots=4\n"


def test_the_same_start_writes_it_anew(tmp_path: Path) -> None:
    path = write_hostfile(job(), tmp_path)
    path.write_text("something else\n")
    assert write_hostfile(job(), tmp_path).read_text() == "n2 slots=4\nn1 slots=4\n"


def test_several_nodes_are_named_and_slurm_starts_their_ranks(tmp_path: Path) -> None:
    hostfile, launcher = launch_overrides(job(), False, None, tmp_path)
    config = read(tmp_path, hostfile, launcher)
    assert config.get("hostfile") == str(tmp_path / "jobs" / "hostfile-17-0")
    assert config.get("launcher") == "slurm"


def read(tmp_path: Path, *overrides: str):  # type: ignore[no-untyped-def]
    (tmp_path / "run.yml").write_text("train_iters: 4\ngaff: {reset_every: 2}\n")
    return load_config([tmp_path / "run.yml"], overrides)


@pytest.mark.parametrize(
    "name", ["a b", "a #b", "a: b", "'a", '"a', "{a}", "größe", "100%", "a\\b", "reset_every=5,seed=1"]
)
def test_odd_paths_arrive_in_the_config(tmp_path: Path, name: str) -> None:
    root = tmp_path / name
    overrides = launch_overrides(job(), False, None, root)
    assert read(tmp_path, *overrides).get("hostfile") == str(root / "jobs" / "hostfile-17-0")


def test_a_launcher_of_the_config_is_kept(tmp_path: Path) -> None:
    [hostfile] = launch_overrides(job(), False, "pdsh", tmp_path)
    assert hostfile.startswith("hostfile=")


def test_other_schedulers_have_no_launcher_of_their_own(tmp_path: Path) -> None:
    assert len(launch_overrides(job(kind="Grid Engine"), False, None, tmp_path)) == 1


@pytest.mark.parametrize(
    ("of", "hostfile_given"), [(None, False), (job(("n1",)), False), (job(()), False), (job(), True)]
)
def test_nothing_is_changed_or_written_where_the_ranks_have_their_place(
    tmp_path: Path, of: SlurmJob | None, hostfile_given: bool
) -> None:
    assert launch_overrides(of, hostfile_given, None, tmp_path / "run") == []
    assert not (tmp_path / "run").exists()
