# SPDX-License-Identifier: Apache-2.0
"""``launcher: slurm``: what srun is told, what the ranks find, and every mistake told before anything starts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from gaff.errors import InputError
from gaff.plan.config import Config, load_config
from gaff.trainers.bundled.adapter import CONFIG_NAME, BundledTrainer
from gaff.trainers.bundled.launch import main
from gaff.trainers.bundled.nodes import check_nodes, step_nodes, step_variables
from gaff.trainers.bundled.step import forget_failed, mark_failed, rank_variables
from gaff.trainers.contract import Launch, SegmentRequest
from tests.live import write_config

JOB = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"}
TWO = "n1 slots=1\nn2 slots=1\n"


def config_of(folder: Path, hosts: str | None = TWO, **keys: Any) -> Config:
    """A config of two ranks under ``launcher: slurm``; None in ``keys`` for one that is not given."""
    path = write_config(folder / "run.yml", folder / "set", train_iters=40, reset_every=10)
    given: dict[str, Any] = {"launcher": "slurm", **keys}
    if hosts is not None:
        (folder / "hostfile").write_text(hosts)
        given["hostfile"] = str(folder / "hostfile")
    return load_config([path], [f"{key}={json.dumps(value)}" for key, value in given.items()])


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that alone is on PATH, with what Slurm has; and no variable of Slurm's or of ranks."""
    for name in os.environ:
        if name.startswith(("SLURM_", "MASTER_", "GLOO_", "DLTS_")):
            monkeypatch.delenv(name)
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("srun", "sinfo"):
        (folder / name).touch(0o755)
    monkeypatch.setenv("PATH", str(folder))
    return folder


def set_all(monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def prepared(config: Config, folder: Path) -> Launch:
    request = SegmentRequest(0, 10, folder / "ckpt", folder / "segment", master_port=23456, run_id="r1")
    return BundledTrainer().prepare(config, request)


# --- the launch ---


@pytest.mark.parametrize(
    ("hosts", "ranks", "most", "counts"),
    [
        (TWO, 2, 1, ["-n", "2", "--nodes=2", "--ntasks-per-node=1"]),
        ("n1 slots=4\n", 4, 4, ["-n", "4", "--nodes=1", "--ntasks-per-node=4"]),
        ("n1 slots=1\nn2 slots=3\n", 4, 3, ["-n", "4", "--nodes=2"]),
    ],
)
def test_srun_starts_a_process_for_each_slot(
    tmp_path: Path, programs: Path, hosts: str, ranks: int, most: int, counts: list[str]
) -> None:
    launch = prepared(config_of(tmp_path, hosts, global_num_gpus=ranks), tmp_path)
    config = str(tmp_path / "segment" / CONFIG_NAME)
    trainer = [sys.executable, "-u", "-m", "gaff.trainers.bundled", config]
    assert list(launch.argv) == ["srun", *counts, "--export=ALL", *trainer]
    assert launch.env["LOCAL_SIZE"] == str(most)
    (sweep,) = launch.clean_up
    assert "srun --overlap" in sweep[-1]
    assert "GAFF_RUN_ID=r1" in sweep[-1]


@pytest.mark.parametrize(
    ("hosts", "keys", "environ", "expected"),
    [
        (TWO, {}, {}, {"MASTER_ADDR": "n1"}),
        (TWO, {"master_addr": "10.0.0.1"}, {}, {"MASTER_ADDR": "10.0.0.1"}),
        (TWO, {}, {"MASTER_ADDR": "n1.local"}, {}),
        (TWO, {}, {"MASTER_ADDR": "127.0.0.1"}, {"GLOO_SOCKET_IFNAME": "lo"}),
        (TWO, {"master_addr": "localhost"}, {}, {"MASTER_ADDR": "localhost", "GLOO_SOCKET_IFNAME": "lo"}),
        (TWO, {}, {"MASTER_ADDR": "::1", "GLOO_SOCKET_IFNAME": "ib0"}, {}),
        ("n1 slots=2\n", {}, {}, {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}),
        ("n1 slots=2\n", {}, {"MASTER_ADDR": "n1"}, {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}),
    ],
)
def test_ranks_learn_where_to_meet(
    tmp_path: Path,
    programs: Path,
    hosts: str,
    keys: dict[str, Any],
    environ: dict[str, str],
    expected: dict[str, str],
) -> None:
    config = config_of(tmp_path, hosts, **keys)
    nodes = step_nodes(config, environ)
    assert nodes is not None
    found = step_variables(nodes, config, environ, 23456)
    assert found["MASTER_PORT"] == "23456"
    assert {name: found[name] for name in ("MASTER_ADDR", "GLOO_SOCKET_IFNAME") if name in found} == expected


def test_a_dead_rank_ends_the_step_unless_the_user_says_otherwise(tmp_path: Path, programs: Path) -> None:
    config = config_of(tmp_path)
    nodes = step_nodes(config, {})
    assert nodes is not None
    found = step_variables(nodes, config, {}, 23456)
    assert (found["SLURM_KILL_BAD_EXIT"], found["SLURM_WAIT"]) == ("1", "30")
    users = {"SLURM_KILL_BAD_EXIT": "0", "SLURM_WAIT": "600"}
    assert not set(users) & set(step_variables(nodes, config, users, 23456))


@pytest.mark.parametrize(("launcher", "hosts"), [(None, TWO), ("slurm", None), ("pdsh", TWO)])
def test_all_else_is_forked_here(tmp_path: Path, programs: Path, launcher: str | None, hosts: str | None) -> None:
    config = config_of(tmp_path, hosts, launcher=launcher)
    launch = prepared(config, tmp_path)
    assert launch.argv[0] == sys.executable
    assert set(launch.env) == {"OMP_NUM_THREADS", "DS_ACCELERATOR", "PYTHONUNBUFFERED"}
    assert launch.clean_up == ()
    assert BundledTrainer().launcher_keys(config) == {}
    assert check_nodes(config, {}) == []


def test_a_hostfile_that_a_variable_names_is_told_to_the_ranks(
    tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").write_text(TWO)
    monkeypatch.setenv("DLTS_HOSTFILE", str(tmp_path / "mine"))
    launch = prepared(config_of(tmp_path, None), tmp_path)
    assert launch.argv[0] == "srun"
    assert yaml.safe_load(Path(launch.argv[-1]).read_text())["hostfile"] == str(tmp_path / "mine")


def test_a_hostfile_that_changed_is_refused_at_the_next_segment(tmp_path: Path, programs: Path) -> None:
    config = config_of(tmp_path)
    prepared(config, tmp_path)
    (tmp_path / "hostfile").write_text("n1 slots=1\nn2 slots=1\nn3 slots=1\n")
    with pytest.raises(InputError, match=r"has 2 ranks, and the hostfile .* 3 slots; set global_num_gpus: 3"):
        prepared(config, tmp_path)


# --- problems before the launch ---


@pytest.mark.parametrize(
    ("hosts", "keys", "environ", "problem", "word", "place"),
    [
        (TWO, {}, {"SLURM_JOB_ID": None}, "not-in-a-job", "inside a Slurm job", "launcher"),
        (TWO, {}, {"SLURM_EXPORT_ENV": "NONE"}, "slurm-export", "PATH included", "launcher"),
        (TWO, {"global_num_gpus": 4}, {}, "gpus-hostfile", "`global_num_gpus: 4`", "global_num_gpus"),
        (TWO, {"global_num_gpus": None}, {}, "gpus-hostfile", "1 rank, and the hostfile", "hostfile"),
        ("n1 slots=two\n", {}, {}, "hostfile-line", "no line of a hostfile", None),
        (None, {}, {}, "launcher-hostfile", "the job has 2 nodes", "launcher"),
        (None, {}, {"SLURM_JOB_NUM_NODES": "1"}, None, "", None),
        (TWO, {"include": "n1:0@n2:0"}, {}, "host-filters", "cannot be used with", "include"),
        (TWO, {}, {}, None, "", None),
    ],
)
def test_what_keeps_srun_from_starting_the_ranks_is_told(
    tmp_path: Path,
    programs: Path,
    monkeypatch: pytest.MonkeyPatch,
    hosts: str | None,
    keys: dict[str, Any],
    environ: dict[str, str | None],
    problem: str | None,
    word: str,
    place: str | None,
) -> None:
    set_all(monkeypatch, {name: value for name, value in {**JOB, **environ}.items() if value is not None})
    config = config_of(tmp_path, hosts, **keys)
    found = [p for p in BundledTrainer().check(config) if p.id != "missing-package"]
    assert [p.id for p in found] == ([problem] if problem else [])
    if problem:
        assert word in found[0].what
    if place:
        assert found[0].where == config.where(place)


def test_a_missing_srun_is_told(tmp_path: Path, programs: Path) -> None:
    (programs / "srun").unlink()
    (problem,) = check_nodes(config_of(tmp_path), JOB)
    assert (problem.id, "needs srun" in problem.what) == ("launcher-program", True)


def test_the_ranks_of_one_node_must_fit_a_machine(
    tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crowded(per_node: int) -> list[str]:
        hosts = "".join(f"n{n} slots={per_node}\n" for n in range(100))
        set_all(monkeypatch, {**JOB, "SLURM_JOB_NUM_NODES": "100", "SLURM_NTASKS": str(100 * per_node)})
        problems = BundledTrainer().check(config_of(tmp_path, hosts, global_num_gpus=100 * per_node))
        return [p.id for p in problems if p.id != "missing-package"]

    assert crowded(8) == []
    assert crowded(4096) == ["too-many-ranks"]


# --- one task of the step ---

KEYS = {"global_num_gpus": 4, "launcher": "slurm", "hostfile": "/h"}
TASK = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NTASKS": "4"}


def test_a_task_knows_which_rank_it_is() -> None:
    found = rank_variables(KEYS, TASK, Path("c.yml"))
    assert found == {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4"}


@pytest.mark.parametrize(
    ("changes", "word"), [({"SLURM_STEP_ID": None}, "in no step"), ({"SLURM_NTASKS": "3"}, "started 3 tasks")]
)
def test_a_process_that_is_no_rank_says_so(changes: dict[str, str | None], word: str) -> None:
    environ = {name: value for name, value in {**TASK, **changes}.items() if value is not None}
    with pytest.raises(InputError, match=word):
        rank_variables(KEYS, environ, Path("c.yml"))


def test_a_config_of_srun_started_by_hand_is_one_sentence(
    tmp_path: Path, programs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_all(monkeypatch, JOB)
    launch = prepared(config_of(tmp_path), tmp_path)
    assert main([launch.argv[-1]]) == 2
    assert "this process is in no step of srun's; start it with `gaff run`" in capsys.readouterr().err


WAITING = """
import sys, time
from pathlib import Path
from gaff.trainers.bundled.step import end_with_the_step
end_with_the_step(Path(sys.argv[1]))
print("up", flush=True)
time.sleep(60)
"""


@pytest.fixture
def waiting(tmp_path: Path) -> subprocess.Popen[bytes]:
    """A rank that hears of nothing but its end."""
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING, str(tmp_path / CONFIG_NAME)], stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    return process


@pytest.mark.parametrize(("failed", "code"), [(True, 0), (False, 128 + signal.SIGTERM)])
def test_sigterm_hides_no_other_rank_that_failed(
    tmp_path: Path, waiting: subprocess.Popen[bytes], failed: bool, code: int
) -> None:
    mark_failed(tmp_path / CONFIG_NAME)
    if not failed:
        forget_failed(tmp_path)
    waiting.terminate()
    assert waiting.communicate(timeout=20)
    assert waiting.returncode == code


def test_a_new_launch_forgets_that_one_failed(tmp_path: Path, programs: Path) -> None:
    launch = prepared(config_of(tmp_path), tmp_path)
    before = sorted(launch.cwd.iterdir())
    mark_failed(Path(launch.argv[-1]))
    assert sorted(launch.cwd.iterdir()) != before
    prepared(config_of(tmp_path), tmp_path)
    assert sorted(launch.cwd.iterdir()) == before
