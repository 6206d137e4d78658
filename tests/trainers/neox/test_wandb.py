# SPDX-License-Identifier: Apache-2.0
"""Weights & Biases: one id for the one process that logs, never one id for two, and every silent failure told."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from gaff.trainers.neox.launchers import Nodes
from gaff.trainers.neox.wandb import check_version, check_wandb, wandb_variables
from tests.trainers.neox.launched import config_of

ONE = Nodes("local", {})
HOSTS = {"a": (0, 1), "b": (0, 1)}
ONE_RUN = {"WANDB_RUN_ID": "gaff-r1", "WANDB_RESUME": "allow"}


@pytest.fixture(autouse=True)
def _empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))


def test_off_means_that_nothing_is_handed_on(tmp_path: Path) -> None:
    for keys in ({}, {"use_wandb": False}):
        found = wandb_variables(config_of(tmp_path, **keys), ONE, "r1", {})
        assert (found.variables, found.raw) == ({}, {})


def test_one_process_goes_on_with_one_run(tmp_path: Path) -> None:
    config = config_of(tmp_path, use_wandb=True)
    assert wandb_variables(config, ONE, "r1", {}).variables == ONE_RUN
    one_host = Nodes("slurm", {"a": (0, 1, 2)})
    assert wandb_variables(config, one_host, "r1", {}).variables == ONE_RUN


def test_the_users_own_id_wins(tmp_path: Path) -> None:
    config = config_of(tmp_path, use_wandb=True)
    assert wandb_variables(config, ONE, "r1", {"WANDB_RUN_ID": "mine"}).variables == {"WANDB_RESUME": "allow"}
    both = {"WANDB_RUN_ID": "mine", "WANDB_RESUME": "must"}
    assert wandb_variables(config, ONE, "r1", both).variables == {}


def test_nodes_of_pdsh_get_an_id_each_and_the_first_that_of_the_run(tmp_path: Path) -> None:
    found = wandb_variables(config_of(tmp_path, use_wandb=True), Nodes("pdsh", HOSTS), "r1", {})
    assert found.variables == {"WANDB_RESUME": "allow"}
    ids = []
    for node in ("0", "1", "12"):  # as pdsh puts in the node's number and its shell expands double quotes
        script = f'export ID="{found.raw["WANDB_RUN_ID"].replace("%n", node)}"; printf %s "$ID"'
        ids.append(subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout)
    assert ids == ["gaff-r1", "gaff-r1.1", "gaff-r1.12"]


@pytest.mark.parametrize(
    ("nodes", "keys"),
    [
        (Nodes("slurm", HOSTS), {}),
        (Nodes("openmpi", HOSTS), {}),
        (ONE, {"wandb_init_all_ranks": True}),
        (Nodes("pdsh", HOSTS), {"wandb_init_all_ranks": True}),
    ],
)
def test_several_processes_never_get_one_id_and_that_is_told(
    tmp_path: Path, nodes: Nodes, keys: dict[str, object]
) -> None:
    config = config_of(tmp_path, use_wandb=True, **keys)
    found = wandb_variables(config, nodes, "r1", {"WANDB_TAGS": "mine"})
    assert (found.variables, found.raw) == ({"WANDB_TAGS": "mine,gaff-r1"}, {})
    environ = {"WANDB_API_KEY": "k"}
    assert [p.id for p in check_wandb(config, nodes, environ)] == ["wandb-many-runs"]
    assert [p.id for p in check_wandb(config, nodes, {**environ, "WANDB_RUN_ID": "mine"})] == ["wandb-one-id"]


def test_a_missing_key_is_told_because_gpt_neox_logs_nothing_then(tmp_path: Path) -> None:
    config = config_of(tmp_path, use_wandb=True)
    assert [p.id for p in check_wandb(config, ONE, {"WANDB_MODE": "offline"})] == ["wandb-no-key"]
    for environ in ({"WANDB_API_KEY": "k"}, {"WANDB_LOCAL": "1"}):
        assert not list(check_wandb(config, ONE, environ))
    given = config_of(tmp_path, use_wandb=True, **{"gaff.environment": {"WANDB_API_KEY": "k"}})
    assert not list(check_wandb(given, ONE, {}))


def test_a_key_in_netrc_counts_for_its_host(tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine api.wandb.ai\n login user\n password k\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert not list(check_wandb(config_of(tmp_path, use_wandb=True), ONE, {}))
    other = config_of(tmp_path, use_wandb=True, wandb_host="https://wandb.example.org:8080")
    assert [p.id for p in check_wandb(other, ONE, {})] == ["wandb-no-key"]


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        (None, ["wandb-missing"]),
        ("0.16.6", []),
        ("0.28.3", []),
        ("0.29.0", ["wandb-too-new"]),
        ("1.0", ["wandb-too-new"]),
    ],
)
def test_the_package_must_be_there_and_not_too_new(tmp_path: Path, version: str | None, expected: list[str]) -> None:
    assert [p.id for p in check_version(config_of(tmp_path, use_wandb=True), version)] == expected
    assert not list(check_version(config_of(tmp_path), version))


def test_an_id_that_the_shell_may_have_from_another_run_is_told(tmp_path: Path) -> None:
    environ = {"WANDB_API_KEY": "k", "WANDB_RUN_ID": "other"}
    assert [p.id for p in check_wandb(config_of(tmp_path, use_wandb=True), ONE, environ)] == ["wandb-id-of-shell"]
    meant = config_of(tmp_path, use_wandb=True, **{"gaff.environment": {"WANDB_RUN_ID": None}})
    assert not list(check_wandb(meant, ONE, environ))


def test_neither_an_odd_netrc_nor_an_odd_host_is_a_reason_to_fall_over(tmp_path: Path) -> None:
    odd = tmp_path / "netrc"
    odd.write_bytes(b"machine \xff\xfe\n")
    for keys in ({}, {"wandb_host": "https://["}):
        config = config_of(tmp_path, use_wandb=True, **keys)
        assert [p.id for p in check_wandb(config, ONE, {"NETRC": str(odd)})] == ["wandb-no-key"]
