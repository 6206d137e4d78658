# SPDX-License-Identifier: Apache-2.0
"""A directory that cannot be used is known beforehand, and said in one sentence."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gaff.errors import InputError, Location
from gaff.plan.directories import directory_problem, make_directory


def why(path: Path, for_tags: bool = False) -> str | None:
    problem = directory_problem(path, "the place", "choose another", for_tags=for_tags)
    if problem is None:
        return None
    start = f"the place {path} cannot be used: "
    assert problem.what.startswith(start)
    return problem.what.removeprefix(start)


def test_what_is_there_or_can_be_made_is_good(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    for path in (tmp_path, tmp_path / "a" / "b", tmp_path / "link", tmp_path / "link" / "c", tmp_path / "sp ace é"):
        assert why(path, for_tags=True) is None
    assert [p.name for p in tmp_path.iterdir()] == ["link"]


def test_files_and_links_are_no_directories(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "absent")
    assert why(tmp_path / "file") == "it is a file"
    assert why(tmp_path / "file" / "a" / "b") == f"{tmp_path / 'file'} is a file"
    assert why(tmp_path / "dangling") == "it is a link that leads nowhere"
    assert why(tmp_path / "dangling" / "a") == f"{tmp_path / 'dangling'} is a link that leads nowhere"


def test_names_that_no_file_system_takes(tmp_path: Path) -> None:
    assert "name" in (why(tmp_path / ("x" * 300)) or "")
    assert "longer than 255 bytes" in (why(tmp_path / "absent" / ("é" * 200)) or "")
    assert why(tmp_path / "a\0b") == "its name holds a null character"
    assert why(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))) == "its name is no UTF-8 text"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_is_not_writable(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir(mode=0o500)
    assert why(tmp_path / "mine" / "run") == f"{tmp_path / 'mine'} is not writable"


@pytest.mark.parametrize("name", ["a*b", "what?", "x[1]", "global_step7", "my-global_steps"])
def test_a_trainer_cannot_save_under_every_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / name / "checkpoints"
    assert (why(path, for_tags=True) or "").startswith("its path holds `")
    assert why(path) is None


def test_the_problem_stands_where_the_user_wrote_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    problem = directory_problem(tmp_path / "file", "`save`", "name another", where=Location("run.yml", 3))
    assert str(problem) == f"run.yml:3: `save` {tmp_path / 'file'} cannot be used: it is a file; name another."


def test_making_says_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="it is a file; name another"):
        make_directory(tmp_path / "file", "the place", "name another")
    make_directory(tmp_path / "a" / "b", "the place", "name another")
    assert (tmp_path / "a" / "b").is_dir()
