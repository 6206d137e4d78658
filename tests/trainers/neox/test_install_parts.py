# SPDX-License-Identifier: Apache-2.0
"""What `gaff neox install` works out and refuses before it fetches anything, and what it mends."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from gaff.errors import InputError
from gaff.trainers.neox.home import default_home, installations
from gaff.trainers.neox.install import Install, Request
from gaff.trainers.neox.install_checks import check_place, check_room, check_tools, choose_python
from gaff.trainers.neox.install_environment import PackagesStep, mend
from gaff.trainers.neox.install_site import Site, decisive_lines, without_credentials
from gaff.trainers.neox.install_source import resolve
from gaff.trainers.neox.interpreter import ask_foundation
from gaff.trainers.neox.versions import PINNED_COMMIT, REPOSITORY
from tests.trainers.neox.install_parts import git, write_repository, write_tree

UNKNOWN = "0123456789" * 4


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_repository(tmp_path_factory.mktemp("repository"))


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def fake_python(path: Path, version: tuple[int, int, int]) -> Path:
    """Answers as a Python of this version would, asked for what matters here."""
    answer = {"python": version, "executable": str(path), "include": "/nowhere", "suffix": ".so", "bindir": "/nowhere"}
    return script(path, f"#!/bin/sh\ncat <<'E'\n{json.dumps({**answer, 'can_make': False})}\nE\n")


# --- the source ---


def test_the_default_source_is_the_pinned_commit_and_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")  # no git at all
    source = resolve(None, None)
    assert (source.location, source.commit, source.in_place) == (REPOSITORY, PINNED_COMMIT, False)


@pytest.mark.parametrize("ref", ["main", "v1", "short", "full"])
@pytest.mark.parametrize("remote", [True, False])
def test_a_ref_becomes_a_full_commit(repository: Path, ref: str, remote: bool) -> None:
    first, second = git(repository, "rev-parse", "v1^{commit}"), git(repository, "rev-parse", "main")
    name = {"short": first[:10], "full": first}.get(ref, ref)
    if remote and ref == "short":
        with pytest.raises(InputError, match="there is no commit"):
            resolve(repository.as_uri(), name)
        return
    source = resolve(repository.as_uri() if remote else str(repository), name)
    assert source.commit == (second if ref == "main" else first)
    assert not source.in_place


def test_a_work_tree_is_used_in_place_unless_a_ref_is_given(repository: Path, tmp_path: Path) -> None:
    used = resolve(str(repository), None)
    assert (used.in_place, used.commit) == (True, git(repository, "rev-parse", "HEAD"))
    tree = write_tree(tmp_path / "tree")
    assert resolve(str(tree), None).commit is None
    git(tmp_path, "init", "--quiet")  # the tree lies in somebody else's repository now
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "other")
    assert resolve(str(tree), None).commit is None


@pytest.mark.parametrize(
    ("named", "ref", "words"),
    [
        ("REPOSITORY", "no-such-branch", "there is no commit no-such-branch in this repository"),
        ("REPOSITORY", UNKNOWN, f"there is no commit {UNKNOWN}"),
        ("BARE", None, f"there is no commit {PINNED_COMMIT}"),
        ("URI", "no-such-branch", "there is no commit no-such-branch in this repository"),
        ("/no/such/place", None, "there is no such directory, and it is no URL either"),
        ("file:///no/such/place", "main", "the repository does not answer"),
        ("EMPTY", None, "neither a GPT-NeoX checkout nor a git repository"),
    ],
)
def test_a_wrong_source_or_ref_is_one_sentence(
    repository: Path, tmp_path: Path, named: str, ref: str | None, words: str
) -> None:
    (tmp_path / "empty").mkdir()
    subprocess.run(["git", "clone", "--quiet", "--bare", repository, tmp_path / "bare"], check=True, timeout=60)
    places = {"REPOSITORY": repository, "BARE": tmp_path / "bare", "EMPTY": tmp_path / "empty"}
    location = repository.as_uri() if named == "URI" else str(places.get(named, named))
    with pytest.raises(InputError, match=words) as caught:
        resolve(location, ref)
    assert len(caught.value.problems) == 1
    assert "\n" not in str(caught.value)


# --- the Python ---


def test_a_python_that_the_packages_have_no_wheels_for_is_refused(tmp_path: Path) -> None:
    old, new = fake_python(tmp_path / "old", (3, 7, 9)), fake_python(tmp_path / "new", (3, 14, 0))
    for python in (old, new):
        with pytest.raises(InputError, match=r"need Python 3\.9 to 3\.12; .* name one with --python"):
            choose_python(str(python), (3, 9))
    with pytest.raises(InputError, match="does not run as a Python"):
        choose_python(str(tmp_path / "none"), (3, 9))
    assert choose_python(str(fake_python(tmp_path / "good", (3, 9, 0))), (3, 9)).python == (3, 9, 0)


def test_where_gaffs_own_python_will_not_do_the_newest_on_path_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(fake_python(tmp_path / "own", (3, 14, 0))))
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin")
    fake_python(tmp_path / "python3.12", (3, 13, 0))  # not what it is called
    fake_python(tmp_path / "python3.11", (3, 11, 9))
    fake_python(tmp_path / "python3.10", (3, 10, 9))
    assert choose_python(None, (3, 10)).python == (3, 11, 9)


def test_what_pip_cannot_get_is_asked_for_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = ask_foundation(str(fake_python(tmp_path / "python", (3, 11, 0))))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert [p.id for p in check_tools(bare, clones=True)] == ["no-venv", "no-headers", "no-tool", "no-tool", "no-tool"]
    for tool in ("g++", "make"):
        script(tmp_path / tool, "#!/bin/sh\n")
    assert [p.id for p in check_tools(bare, clones=False)] == ["no-venv", "no-headers"]


# --- the place ---


def test_home_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("GAFF_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert default_home() == tmp_path / ".local" / "share" / "gaff"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert default_home() == tmp_path / ".local" / "share" / "gaff"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert default_home() == tmp_path / "data" / "gaff"
    monkeypatch.setenv("GAFF_HOME", "~/mine")
    assert default_home() == tmp_path / "mine"


def test_a_place_that_will_not_do_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert [p.id for p in check_place(tmp_path / "with space")] == ["home-with-space"]
    assert [p.id for p in check_place(tmp_path / "file" / "below")] == ["home-unusable"]
    assert not list(check_place(tmp_path / "new" / "deep"))


def test_too_little_room_is_said_with_both_numbers(tmp_path: Path) -> None:
    (problem,) = check_room(tmp_path / "new", disk_mb=10**9, download_mb=0)
    assert problem.id == "no-space"
    assert "1,000,000,000 MB are needed" in problem.what
    assert not list(check_room(tmp_path / "new", disk_mb=1, download_mb=1))


def test_what_cannot_succeed_writes_nothing(tmp_path: Path, repository: Path) -> None:
    home = tmp_path / "home"
    for request in (
        Request(home=home, source=str(repository), ref="no-such-ref"),
        Request(home=home, source=str(repository), python=str(fake_python(tmp_path / "old", (3, 7, 0)))),
        Request(home=home, source=str(repository), torch=" "),
    ):
        with pytest.raises(InputError):
            Install(request)
    assert not home.exists()


def test_the_notice_names_source_packages_sizes_and_place(tmp_path: Path, repository: Path) -> None:
    home = tmp_path / "home"
    cpu = Install(Request(home=home, cpu=True)).notice()
    assert REPOSITORY in cpu
    assert PINNED_COMMIT[:12] in cpu
    assert str(home) in cpu
    assert "deepspeed==0.16.5" in cpu
    assert "MB installed" in cpu
    assert "see --torch" in cpu
    gpu = Install(Request(home=home, source=str(repository))).notice()
    assert "nothing is written there" in gpu
    assert "requirements/requirements.txt" in gpu
    assert "not tried here on a GPU" in gpu
    assert "data helper" not in gpu  # left to GPT-NeoX where the tree is not ours
    assert not home.exists()


# --- what is said and recorded ---


def test_the_decisive_lines_of_a_log_are_found() -> None:
    said = "Collecting x\n  ERROR: no matching distribution\nnote: this is no mistake of pip\n\n"
    assert decisive_lines(said) == "ERROR: no matching distribution"
    assert decisive_lines("one\ntwo\nthree\nfour\n") == "two | three | four"
    assert decisive_lines("") == ""


def test_credentials_in_urls_are_neither_shown_nor_recorded(tmp_path: Path) -> None:
    assert without_credentials("clone https://me:secret@example.invalid/x y") == "clone https://example.invalid/x y"
    url = "https://me:secret@example.invalid/gpt-neox"
    assert "secret" not in Install(Request(home=tmp_path / "home", source=url)).notice()


def test_a_record_that_cannot_be_read_is_no_installation(tmp_path: Path) -> None:
    for name, text in {"a": "{", "b": "[]", "c": '{"schema": "other/1"}'}.items():
        (tmp_path / "neox" / name).mkdir(parents=True)
        (tmp_path / "neox" / name / "installation.json").write_text(text)
    assert installations(tmp_path) == []
    assert Site(tmp_path / "neox" / "a", tmp_path, None, cpu=True).steps == {}


# --- mending ---


def distribution(packages: Path, name: str, *, installer: bool = True, size: int = 4) -> Path:
    """One as pip leaves it; ``size`` (bytes) is what its RECORD says of its one file."""
    info = packages / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (packages / f"{name}.py").write_text("x=1\n")
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    digest = hashlib.sha256(b"x=1\n").hexdigest()
    rows = [f"{name}.py,sha256={digest},{size}", f"__pycache__/{name}.pyc,,", f"{info.name}/RECORD,,"]
    if installer:
        (info / "INSTALLER").write_text("pip\n")
        rows.append(f"{info.name}/INSTALLER,,")
    (info / "RECORD").write_text("\n".join(rows) + "\n")
    return info


def test_what_a_killed_pip_left_half_done_is_taken_away_and_nothing_else(tmp_path: Path) -> None:
    packages = tmp_path / "lib" / "python3.11" / "site-packages"
    whole = distribution(packages, "whole")
    halves = [
        distribution(packages, "wheels_own_record", installer=False),
        distribution(packages, "cut_short", size=5),
        distribution(packages, "file_missing"),
        distribution(packages, "no_record"),
        packages / "~umpy",
    ]
    (packages / "file_missing.py").unlink()
    (halves[3] / "RECORD").unlink()
    halves[4].mkdir()
    mend(tmp_path)
    assert whole.is_dir()
    assert [half.name for half in halves if half.exists()] == []


def test_a_step_that_failed_on_a_full_disk_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(tmp_path, tmp_path / "gpt-neox", None, cpu=True)
    told = site.failed("torch", "pip could not install torch", "exit code 1", "see pip's words there")
    assert "pip could not install torch: exit code 1; see pip's words there" in str(told)
    usage = shutil.disk_usage(tmp_path)._replace(free=3_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    told = site.failed("torch", "pip could not install torch", "exit code 1", "see pip's words there")
    assert "its disk is full (3 MB are free); make room there; what is done stays done" in str(told)


def test_a_credential_of_an_index_is_not_shown(tmp_path: Path) -> None:
    site = Site(tmp_path, tmp_path / "gpt-neox", None, cpu=True)
    step = PackagesStep(site, "torch", ["torch", "--index-url", "https://me:secret@host/simple"])
    assert step.aim == "install torch, --index-url, https://host/simple"
