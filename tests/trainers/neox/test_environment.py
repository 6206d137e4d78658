# SPDX-License-Identifier: Apache-2.0
"""The environment of ranks: what travels, what wins, what is refused.  Real hand-over is tested with the launchers."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from gaff.errors import InputError
from gaff.trainers.neox.environment import (
    FILE_NAME,
    asked,
    check_environment,
    compilers,
    rank_environment,
    travels,
    user_lines,
    write_environment,
)
from gaff.trainers.neox.launchers import Nodes
from tests.trainers.neox.launched import config_of

LOCAL = Nodes("local", {})
PDSH = Nodes("pdsh", {"a": (0,), "b": (0,)})
MPI = Nodes("openmpi", {"a": (0,), "b": (0,)})


def test_null_hands_on_this_shells_value(tmp_path: Path) -> None:
    config = config_of(tmp_path, **{"gaff.environment": {"GIVEN": "x", "FROM_HERE": None}})
    assert asked(config, {"FROM_HERE": "y"}) == {"GIVEN": "x", "FROM_HERE": "y"}
    with pytest.raises(InputError, match="FROM_HERE is to be handed on"):
        asked(config, {})


@pytest.mark.parametrize(
    ("value", "by_pdsh", "by_mpi"),
    [
        ("a=b,c:d/e-f.g@h%i+j", True, True),
        ("", True, True),
        ("two words", True, False),
        ('"', True, False),
        ("$HOME", True, False),
        (" leading", False, False),
        ("two\nlines", False, False),
    ],
)
def test_what_a_value_may_hold_depends_on_the_launcher(tmp_path: Path, value: str, by_pdsh: bool, by_mpi: bool) -> None:
    assert (travels(value, PDSH), travels(value, MPI)) == (by_pdsh, by_mpi)
    config = config_of(tmp_path, **{"gaff.environment": {"ANY": None}})
    environ = {"ANY": value, "HOME": str(tmp_path)}
    for nodes, good in ((PDSH, by_pdsh), (MPI, by_mpi), (LOCAL, True), (Nodes("slurm", PDSH.hosts), True)):
        found = [problem.id for problem in check_environment(config, environ, nodes)]
        assert found == ([] if good else ["environment-value"])


def test_a_value_that_no_variable_can_have_is_refused(tmp_path: Path) -> None:
    config = config_of(tmp_path, **{"gaff.environment": {"ANY": "x\0y"}})
    assert [problem.id for problem in check_environment(config, {}, LOCAL)] == ["environment-value"]


@pytest.mark.parametrize(
    "name", ["RANK", "GAFF_RUN_ID", "DS_ENV_FILE", "WORLD_SIZE", "GAFF_CPU_SHIM", "GAFF_CPU_SHIM_BESIDE_GPUS"]
)
def test_what_launcher_or_gaff_sets_is_not_the_configs(tmp_path: Path, name: str) -> None:
    config = config_of(tmp_path, **{"gaff.environment": {name: "1"}})
    assert [problem.id for problem in check_environment(config, {})] == ["environment-reserved"]


@pytest.mark.parametrize(
    ("cxx", "kept"),
    [
        ("g++", True),
        ("/opt/gcc/bin/g++-12", True),
        ("x86_64-linux-gnu-g++", True),
        ("ccache g++ -O2", True),
        ("clang++-16", True),
        ("c++", True),
        ("icpc", False),
        ("nvc++", False),
        ("CC", False),
        ("/opt/cray/bin/CC", False),
        ("", False),
    ],
)
def test_a_compiler_that_is_no_gnu_one_is_replaced(cxx: str, kept: bool) -> None:
    assert ("CXX" not in compilers({"CXX": cxx})) == kept


def test_on_one_machine_everything_is_inherited_and_no_file_written(tmp_path: Path) -> None:
    found = rank_environment(LOCAL, {"PATH": "/bin"}, {"OWN": "1"}, checkout=tmp_path)
    assert write_environment(found, tmp_path) == {"OWN": "1"}
    assert list(tmp_path.iterdir()) == []


def test_own_variables_win_over_the_users_file_and_that_over_the_shell(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "HF_HOME": "shell", "HF_HUB_OFFLINE": "1", "OTHER": "x", "PYTHONPATH": "/p"}
    (tmp_path / ".deepspeed_env").write_text("HF_HOME=file\nCXX=file\nTWICE=home\n")
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    (checkout / ".deepspeed_env").write_text("TWICE=there\n")
    found = rank_environment(PDSH, environ, {"CXX": "g++", "PYTHONPATH": "/q"}, checkout=checkout, raw={"N": "%n"})
    lines = (found.file or "").splitlines()
    assert sorted(lines) == ["CXX=g++", "HF_HOME=file", "HF_HUB_OFFLINE=1", "N=%n", "TWICE=there"]


def test_secrets_and_the_choice_of_gpus_do_not_travel_unasked(tmp_path: Path) -> None:
    environ = {
        **dict.fromkeys(("HF_TOKEN", "WANDB_API_KEY", "HF_SECRET", "DS_PASSWORD"), "s3cret"),
        "https_proxy": "http://user:s3cret@proxy",
        "CUDA_VISIBLE_DEVICES": "3",
        "TOKENIZERS_PARALLELISM": "false",
        "HOME": str(tmp_path),
    }
    found = rank_environment(PDSH, environ, {}, checkout=tmp_path)
    assert found.file == "TOKENIZERS_PARALLELISM=false\n"
    asked_for = rank_environment(PDSH, environ, {"HF_TOKEN": "s3cret"}, checkout=tmp_path)
    assert "HF_TOKEN=s3cret\n" in (asked_for.file or "")
    assert "s3cret" not in repr(asked_for)


def test_the_file_is_for_its_owner_alone_also_where_one_was(tmp_path: Path) -> None:
    old = tmp_path / FILE_NAME
    old.write_text("old")
    old.chmod(0o644)
    variables = write_environment(
        rank_environment(PDSH, {"HOME": str(tmp_path)}, {"A": "1"}, checkout=tmp_path), tmp_path
    )
    assert variables == {"A": "1", "DS_ENV_FILE": str(old)}
    assert stat.S_IMODE(old.stat().st_mode) == 0o600
    assert old.read_text() == "A=1\n"


def test_a_file_named_by_the_user_is_merged_and_a_broken_line_told(tmp_path: Path) -> None:
    mine = tmp_path / "mine.env"
    mine.write_text("# comment\n\n A = 1 \nB=x=y\n")
    environ = {"HOME": str(tmp_path / "nowhere"), "DS_ENV_FILE": str(mine)}
    assert user_lines(environ, tmp_path) == {"A": "1", "B": "x=y"}
    mine.write_text("export A=1\n")
    with pytest.raises(InputError, match=r"mine\.env:1: `export A=1` is no variable"):
        user_lines(environ, tmp_path)
