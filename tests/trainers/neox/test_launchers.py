# SPDX-License-Identifier: Apache-2.0
"""Launchers: what each is given, through DeepSpeed's own runner, and every mistake told before anything starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gaff.errors import InputError
from gaff.trainers.contract import Launch, SegmentRequest
from gaff.trainers.neox.check_launcher import check_mpi4py, unreachable
from gaff.trainers.neox.clean_up import clean_up, sweep
from gaff.trainers.neox.hostfile import chosen, read_hostfile
from gaff.trainers.neox.launchers import is_this_machine, launcher_variables, nodes_of
from gaff.trainers.neox.launching import build_launch, launch_keys, launch_problems
from tests.trainers.neox.launched import FakeCluster, config_of, hostfile, ranks_of


@pytest.fixture
def cluster(tmp_path: Path) -> FakeCluster:
    return FakeCluster(tmp_path)


def ids(tmp_path: Path, environ: dict[str, str] | None = None, **keys: object) -> list[str]:
    return [problem.id for problem in launch_problems(config_of(tmp_path, **keys), environ or {})]


# --- hostfiles ---


def test_a_hostfile_is_read_as_deepspeed_reads_it(tmp_path: Path) -> None:
    path = hostfile(tmp_path, "# ours\n\n  n2   slots=4 # the first\nuser@10.0.0.1 slots=8 max-slots=8\n")
    assert list(read_hostfile(path).items()) == [("n2", 4), ("user@10.0.0.1", 8)]


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("n1\n", 1, "no line of a hostfile"),
        ("n1 slots=2\nn1 slots=2\n", 2, "twice"),
        ("n1 slots=2\n\nn2 slots = 2\n", 3, "no line of a hostfile"),
        ("n1 slots=0\n", 1, "no slots"),
        ("n1 slots=999999999999\n", 1, "so many slots"),
        (f"n1 slots={'9' * 5000}\n", 1, "so many slots"),
        ("n1;reboot slots=2\n", 1, "no name of a host"),
        ("-oProxyCommand=x slots=2\n", 1, "no name of a host"),
        ("# nobody\n", 0, "names no host"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, text: str, line: int, word: str) -> None:
    with pytest.raises(InputError, match=word) as caught:
        read_hostfile(hostfile(tmp_path, text))
    assert caught.value.problems[0].where is not None
    assert caught.value.problems[0].where.line == line


@pytest.mark.parametrize(
    ("keys", "left"),
    [
        ({}, {"a": (0, 1), "b": (0, 1), "c": (0, 1)}),
        ({"include": "c:1,0@a:1"}, {"a": (1,), "c": (0, 1)}),  # in the hostfile's order
        ({"exclude": "b@a:0"}, {"a": (1,), "c": (0, 1)}),
        ({"num_nodes": 2, "num_gpus": 1}, {"a": (0,), "b": (0,)}),
        ({"num_nodes": -1}, {"a": (0, 1), "b": (0, 1), "c": (0, 1)}),
    ],
)
def test_filters_choose_hosts_and_slots(tmp_path: Path, keys: dict[str, object], left: object) -> None:
    assert chosen({"a": 2, "b": 2, "c": 2}, config_of(tmp_path, **keys)) == left


@pytest.mark.slow
def test_filters_agree_with_deepspeeds_own(tmp_path: Path) -> None:
    runner = pytest.importorskip("deepspeed.launcher.runner")
    hosts = {"a": 2, "b": 4, "c": 1}
    for key, value in (("include", "b:3,1@a:0"), ("exclude", "b:0@c"), ("exclude", "a@b")):
        words = (value, "") if key == "include" else ("", value)
        theirs = runner.parse_inclusion_exclusion(hosts, *words)
        ours = chosen(hosts, config_of(tmp_path, **{key: value}))
        assert {host: list(slots) for host, slots in ours.items()} == dict(theirs)
    assert not runner.parse_inclusion_exclusion(hosts, "a", "")


@pytest.mark.parametrize(
    "keys",
    [
        {"include": "a:0", "exclude": "b"},
        {"include": "a:0", "num_nodes": 1},
        {"include": "a:0", "num_gpus": 1},
        {"include": "z"},
        {"include": "a:7"},
        {"include": "a:²"},
        {"include": "a:"},
        {"include": "a"},  # DeepSpeed leaves out a host that it names without slots
        {"exclude": "a@b"},
        {"num_nodes": 3},
        {"num_gpus": 3},
    ],
)
def test_filters_that_cannot_be_are_refused(tmp_path: Path, keys: dict[str, object]) -> None:
    with pytest.raises(InputError) as caught:
        chosen({"a": 2, "b": 2}, config_of(tmp_path, **keys))
    assert [p.id for p in caught.value.problems] == ["host-filters"]


# --- problems before the launch ---


def test_one_machine_needs_nothing(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    assert launch_problems(config, {}) == []
    assert launch_keys(config, {}) == {}
    nodes = nodes_of(config, {})
    assert (nodes.launcher, nodes.ranks, nodes.fixed_port) == ("local", None, None)
    assert clean_up(nodes, "r1") == ()


def test_a_hostfile_that_the_config_does_not_name_is_not_taken_in_silence(tmp_path: Path) -> None:
    environ = {"DLTS_HOSTFILE": str(hostfile(tmp_path)), "PATH": ""}
    (problem, *_) = launch_problems(config_of(tmp_path), environ)
    assert problem.id == "hostfile-unasked"
    assert "DLTS_HOSTFILE" in problem.what
    assert "2 hosts" in problem.what
    assert "hostfile-unasked" not in ids(tmp_path, environ, launcher="pdsh")  # that says that several are meant


def test_variable_and_key_are_made_to_say_the_same(tmp_path: Path) -> None:
    ours = hostfile(tmp_path)
    environ = {"DLTS_HOSTFILE": "/elsewhere"}
    config = config_of(tmp_path, hostfile=str(ours))
    nodes = nodes_of(config, environ)
    assert launch_keys(config, environ)["hostfile"] == str(ours)
    assert launcher_variables(nodes, config, environ, 1)["DLTS_HOSTFILE"] == str(ours)


def test_one_host_is_run_here_whatever_its_name(tmp_path: Path) -> None:
    away = str(hostfile(tmp_path, "nowhere.invalid slots=2\n"))
    assert "one-host-elsewhere" in ids(tmp_path, hostfile=away)
    assert "one-host-elsewhere" not in ids(tmp_path, hostfile=away, force_multi=True)
    here = config_of(tmp_path, hostfile=str(hostfile(tmp_path, "localhost slots=2\n")))
    assert launch_problems(here, {}) == []
    keys = launch_keys(here, {})
    assert (keys["no_ssh_check"], keys["master_addr"]) == (True, "127.0.0.1")  # else DeepSpeed asks ssh for both
    assert is_this_machine("127.0.0.1")
    assert not is_this_machine("192.0.2.77")


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"include": "localhost:0"}, "host-filters"),
        ({"num_nodes": 2}, "host-filters"),
        ({"deepspeed_slurm": True}, "launcher-flags"),
        ({"deepspeed_mpi": True, "launcher": "pdsh"}, "launcher-flags"),
        ({"launcher": "openmpi"}, "launcher-hostfile"),
        ({"launcher": "slurm"}, "not-in-a-job"),
        ({"launcher": "openmpi", "hostfile": "HOSTS", "num_nodes": 1}, "host-filters"),
        ({"launcher": "openmpi", "hostfile": "HOSTS", "master_port": 29501}, "mpi-port"),
        ({"hostfile": "HOSTS", "global_num_gpus": 4}, "gpus-hostfile"),
        ({"hostfile": "HOSTS", "launcher": "pdsh"}, "launcher-program"),
    ],
)
def test_what_does_not_go_together_is_told(tmp_path: Path, keys: dict[str, object], expected: str) -> None:
    hosts = str(hostfile(tmp_path))
    filled = {key: hosts if value == "HOSTS" else value for key, value in keys.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "/nowhere")
        assert expected in ids(tmp_path, **filled)


def test_a_slurm_job_must_fit_the_hostfile(tmp_path: Path) -> None:
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS": "2"}
    assert "launcher-hostfile" in ids(tmp_path, job, launcher="slurm")
    four = str(hostfile(tmp_path, "n1 slots=2\nn2 slots=2\n"))
    assert "slurm-tasks" in ids(tmp_path, job, launcher="slurm", hostfile=four)
    assert "slurm-export" in ids(tmp_path, {**job, "SLURM_EXPORT_ENV": "NONE"}, launcher="slurm", hostfile=four)
    fits = set(ids(tmp_path, {**job, "SLURM_NTASKS": "4"}, launcher="slurm", hostfile=four))
    assert fits <= {"launcher-program"}


def test_an_address_that_the_environment_beats_is_told(tmp_path: Path) -> None:
    keys = {"hostfile": str(hostfile(tmp_path)), "master_addr": "10.0.0.1"}
    assert "master-addr" in ids(tmp_path, {"MASTER_ADDR": "10.0.0.2"}, **keys)
    assert "master-addr" not in ids(tmp_path, {"MASTER_ADDR": "10.0.0.1"}, **keys)


def test_on_one_machine_an_address_that_the_shell_has_left_over_counts_for_nothing(tmp_path: Path) -> None:
    path = tmp_path / "one-host"
    path.write_text("localhost slots=2\n")
    for key, address in ((None, "127.0.0.1"), ("127.0.0.2", "127.0.0.2")):
        config = config_of(tmp_path, hostfile=str(path), master_addr=key)
        left_over = {"MASTER_ADDR": "10.0.0.2"}
        variables = launcher_variables(nodes_of(config, left_over), config, left_over, 1)
        assert variables["MASTER_ADDR"] == address
        assert "master-addr" not in ids(tmp_path, left_over, hostfile=str(path), master_addr=key)


def test_what_ssh_says_may_be_in_any_encoding(
    tmp_path: Path, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ssh").write_bytes(b"#!/bin/sh\nprintf 'acc\\350s refus\\351' >&2; exit 255\n")
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{cluster.environ['PATH']}")
    problems = unreachable(nodes_of(config_of(tmp_path, hostfile=str(hostfile(tmp_path))), {}))
    assert {"(acc\ufffds refus\ufffd)" in problem.what for problem in problems} == {True}


def test_mpi_needs_mpi4py_and_its_one_port(tmp_path: Path) -> None:
    config = config_of(tmp_path, launcher="openmpi", hostfile=str(hostfile(tmp_path)))
    nodes = nodes_of(config, {})
    assert nodes.fixed_port == 29500
    assert [p.id for p in check_mpi4py(config, nodes, None)] == ["mpi4py-missing"]
    assert not list(check_mpi4py(config, nodes, "4.0"))


def test_hosts_that_ssh_does_not_reach_are_named(
    tmp_path: Path, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", cluster.environ["PATH"])
    monkeypatch.setenv("FAKE_DEAD", "node-b")
    (problem,) = unreachable(nodes_of(config_of(tmp_path, hostfile=str(hostfile(tmp_path))), {}))
    assert "node-b cannot be reached" in problem.what
    assert "No route to host" in problem.what


# --- launches through DeepSpeed's runner ---


def launched(cluster: FakeCluster, tmp_path: Path, **keys: object) -> tuple[list[dict[str, str]], Launch, Path]:
    """The environments that the ranks of one launch found, the launch, and the segment's directory."""
    config = config_of(tmp_path, **keys)
    directory = tmp_path / "segments" / "0001"
    directory.mkdir(parents=True)
    request = SegmentRequest(0, 10, tmp_path / "save", directory, 23456, "r1")
    given = {**config.neox, "master_port": request.master_port, **launch_keys(config, cluster.environ)}
    (directory / "neox.yml").write_text(yaml.safe_dump(given))
    own = {"PATH": f"/own/bin:{cluster.environ['PATH']}", "PYTHONUNBUFFERED": "1"}
    command = Launch((sys.executable, "deepy.py", "train.py", str(directory / "neox.yml")), cluster.checkout, own)
    launch = build_launch(config, request, command, cluster.environ)
    cluster.run(launch.argv, launch.cwd, launch.env)
    return ranks_of(directory), launch, directory


VALUES = {
    "PLAIN": "a=b,c:d/e",
    "SHELLY": 'it\'s "so" $HOME `id` \\n ~ *',
    "PERCENT": "100% %n %h",
    "EMPTY": "",
}


@pytest.fixture
def shell(cluster: FakeCluster) -> FakeCluster:
    """A shell with things that ranks need, things that they must not see, and a file of variables of the user's."""
    pytest.importorskip("deepspeed")
    cluster.environ |= {
        "LD_LIBRARY_PATH": "/opt/cuda/lib64",
        "TORCH_NCCL_BLOCKING_WAIT": "1",
        "CUDA_VISIBLE_DEVICES": "5",
        "HF_TOKEN": "hf_secret",
        "HF_HOME": "/from/the/shell",
        "CXX": "icpc",
        "PASSED": "on",
        "NCCL_IB_HCA": "mlx5_0,mlx5_1",
    }
    user = Path(cluster.environ["HOME"]) / ".deepspeed_env"
    user.write_text("# mine\n\nHF_HOME=$HOME/hf\nMINE=1 2\nPLAIN=beaten\n")
    return cluster


@pytest.mark.slow
def test_pdsh_hands_every_value_to_every_rank(tmp_path: Path, shell: FakeCluster) -> None:
    environment = {**VALUES, "PASSED": None}
    overrides = {"gaff.environment": environment}
    ranks, launch, directory = launched(shell, tmp_path, hostfile=str(hostfile(tmp_path)), **overrides)
    assert [rank["FAKE_HOST"] for rank in ranks] == ["node-a", "node-b"]
    for rank in ranks:
        assert {name: rank[name] for name in VALUES} == VALUES
        assert rank["PASSED"] == "on"
        assert rank["GAFF_RUN_ID"] == "r1"
        assert rank["PATH"].startswith("/own/bin:")
        assert rank["LD_LIBRARY_PATH"] == "/opt/cuda/lib64"
        assert rank["TORCH_NCCL_BLOCKING_WAIT"] == "1"
        assert (rank["CXX"], rank["CC"]) == ("g++", "gcc")
        assert rank["HF_HOME"] == f"{shell.environ['HOME']}/hf"  # the user's own file wins over the shell
        assert rank["MINE"] == "1 2"
        assert rank["MASTER_PORT"] == "23456"
        assert rank["CUDA_VISIBLE_DEVICES"] == "0"  # the node's slots, not this shell's choice
        assert "HF_TOKEN" not in rank
    (file,) = directory.glob("deepspeed_env")
    assert file.stat().st_mode & 0o077 == 0
    assert "hf_secret" not in " ".join(shell.called("pdsh")[0])
    assert launch.env["DS_ENV_FILE"] == str(file)


@pytest.mark.slow
def test_open_mpi_gets_what_deepspeed_demands_and_no_quotes_arrive(tmp_path: Path, shell: FakeCluster) -> None:
    hosts = str(hostfile(tmp_path))
    ranks, _, _ = launched(
        shell, tmp_path, hostfile=hosts, launcher="openmpi", **{"gaff.environment": {"PLAIN": VALUES["PLAIN"]}}
    )
    assert len(ranks) == 2
    for rank in ranks:
        assert rank["PLAIN"] == VALUES["PLAIN"]
        assert rank["GAFF_RUN_ID"] == "r1"
        assert rank["PATH"].startswith("/own/bin:")
        assert rank["CXX"] == "g++"


@pytest.mark.slow
def test_slurm_ranks_see_port_address_and_whole_values(tmp_path: Path, shell: FakeCluster) -> None:
    shell.environ |= {"SLURM_JOB_ID": "7"}  # as in a shell of salloc, where the tasks' variables are not there
    hosts = str(hostfile(tmp_path))
    ranks, _, directory = launched(shell, tmp_path, hostfile=hosts, launcher="slurm", **{"gaff.environment": VALUES})
    assert len(ranks) == 2
    for rank in ranks:
        assert {name: rank[name] for name in VALUES} == VALUES
        assert (rank["MASTER_ADDR"], rank["MASTER_PORT"]) == ("node-a", "23456")
        assert rank["NCCL_IB_HCA"] == "mlx5_0,mlx5_1"
        assert rank["MINE"] == "1 2"
        assert rank["SLURM_KILL_BAD_EXIT"] == "1"
    keys = yaml.safe_load((directory / "neox.yml").read_text())
    assert (keys["deepspeed_slurm"], keys["no_ssh_check"]) == (True, True)
    assert shell.called("srun")[0][:2] == ["-n", "2"]
    assert shell.called("ssh") == []


# --- clean-up ---


def sleeper(run_id: str) -> subprocess.Popen[bytes]:
    """A process of a run, for sure started."""
    process = subprocess.Popen(
        [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"],
        env={"GAFF_RUN_ID": run_id},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("launcher", ["pdsh", "openmpi", "slurm"])
def test_clean_up_ends_the_run_and_nothing_else(tmp_path: Path, cluster: FakeCluster, launcher: str) -> None:
    config = config_of(tmp_path, launcher=launcher, hostfile=str(hostfile(tmp_path)))
    ours = f"ours-{tmp_path.name}-{launcher}"
    mine, other = sleeper(ours), sleeper(f"{ours}-not")
    try:
        for command in clean_up(nodes_of(config, {}), ours):
            cluster.run(command, tmp_path, {"SLURM_JOB_NUM_NODES": "2"})
        assert mine.wait(10) == -9
        assert other.poll() is None
    finally:
        for process in (mine, other):
            process.kill()
            process.communicate()


def test_a_sweep_that_finds_nothing_is_no_failure() -> None:
    assert subprocess.run(["sh", "-c", sweep("nobody has this id")], capture_output=True).returncode == 0
