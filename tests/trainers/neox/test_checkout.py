# SPDX-License-Identifier: Apache-2.0
"""What is said of a GPT-NeoX checkout: whether it is one, its commit, and what differs from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from gaff.trainers.neox.checkout import Checkout
from tests.trainers.neox.install_parts import git, write_repository, write_tree


def test_a_checkout_names_its_commit_and_what_differs(tmp_path: Path) -> None:
    checkout = Checkout(write_repository(tmp_path / "gpt-neox"))
    assert checkout.problem() is None
    assert checkout.commit == git(checkout.root, "rev-parse", "HEAD")
    assert checkout.changes == ()
    (checkout.root / "train.py").write_text("changed\n")
    (checkout.root / "new.py").touch()
    (checkout.root / "megatron" / "data" / "helpers.so").touch()  # git ignores what is compiled
    assert checkout.changes == ("M train.py", "?? new.py")


def test_looking_writes_nothing(tmp_path: Path) -> None:
    checkout = Checkout(write_repository(tmp_path / "gpt-neox"))
    (checkout.root / "train.py").touch()  # a newer time, for which `git status` likes to refresh its index
    before = (checkout.root / ".git" / "index").stat().st_mtime_ns
    assert checkout.changes == ()
    assert (checkout.root / ".git" / "index").stat().st_mtime_ns == before


def test_a_tree_without_git_has_no_commit_also_inside_another_repository(tmp_path: Path) -> None:
    checkout = Checkout(write_tree(tmp_path / "outer" / "gpt-neox"))
    assert (checkout.commit, checkout.changes) == (None, None)
    git(tmp_path / "outer", "init", "--quiet")
    git(tmp_path / "outer", "commit", "--quiet", "--allow-empty", "--message", "other")
    assert (checkout.commit, checkout.changes) == (None, None)


def test_the_environment_of_a_git_hook_leads_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = write_repository(tmp_path / "one"), write_repository(tmp_path / "other")
    git(other, "commit", "--quiet", "--allow-empty", "--message", "third")
    commit = git(one, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    assert Checkout(one).commit == commit


def test_what_is_no_gpt_neox_is_told_by_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "deepy.py").touch()
    problem = Checkout(tmp_path).problem()
    assert problem is not None
    assert "it lacks train.py, megatron" in problem.what
    assert "gaff neox install" in problem.remedy


def test_the_helper_is_that_of_one_python(tmp_path: Path) -> None:
    checkout = Checkout(write_tree(tmp_path / "gpt-neox"))
    assert checkout.helper(".cpython-311-x86_64-linux-gnu.so") == (
        checkout.root / "megatron" / "data" / "helpers.cpython-311-x86_64-linux-gnu.so"
    )


def test_a_directory_that_the_system_refuses_is_no_checkout() -> None:
    problem = Checkout(Path("/" + "x" * 300)).problem()
    assert problem is not None
    assert problem.what == "cannot be looked into (File name too long)"
