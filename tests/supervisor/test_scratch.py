# SPDX-License-Identifier: Apache-2.0
"""What a trainer keeps in temporary files is gone when its launch is, however that ended."""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from gaff.errors import GaffError
from gaff.plan.config import Config
from gaff.supervisor.scratch import make_scratch, remove_scratch
from gaff.trainers.contract import Launch, SegmentRequest
from tests.supervisor.drive import build, changed
from tests.supervisor.fake_trainer import FakeTrainer

RUN_ID = "0123456789abcdef0123456789abcdef"
LITTER = """
import os, sys, tempfile
folder = tempfile.mkdtemp()
open(os.path.join(folder, "probe.c"), "w").write("int main() {}")
open(sys.argv[1], "w").write(folder)
os.kill(os.getpid(), 9)
"""


@dataclass
class Litterer(FakeTrainer):
    """Is killed with a temporary file under its hands; ``cleans`` as a launch that goes to other nodes."""

    told: Path = Path()
    cleans: bool = False

    def prepare(self, config: Config, request: SegmentRequest) -> Launch:
        clean_up = (("true",),) if self.cleans else ()
        return Launch((sys.executable, "-c", LITTER, str(self.told)), Path.cwd(), {}, clean_up)


@pytest.fixture(autouse=True)
def own_tmpdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def litter(tmp_path: Path, cleans: bool = False) -> Path:
    """Run it; returns the temporary directory that it made."""
    one = build(tmp_path / "run", tmp_path, {})
    told = tmp_path / "told"
    with pytest.raises(GaffError):
        changed(one, trainer=Litterer(tmp_path, 40, {}, 0.01, told=told, cleans=cleans)).run()
    return Path(told.read_text())


def test_a_killed_trainer_leaves_no_temporary_file(tmp_path: Path, own_tmpdir: Path) -> None:
    made = litter(tmp_path)
    assert own_tmpdir in made.parents, "it was on its way to the usual place"
    assert made.parent.name.startswith("gaff-")
    assert list(own_tmpdir.iterdir()) == []


def test_a_launch_on_other_nodes_keeps_their_tmpdir(tmp_path: Path, own_tmpdir: Path) -> None:
    assert litter(tmp_path, cleans=True).parent == own_tmpdir


def test_what_a_killed_supervisor_left_is_removed_at_the_next_start(tmp_path: Path, own_tmpdir: Path) -> None:
    scratch = make_scratch(RUN_ID)
    assert scratch is not None
    (scratch / "tmpabc").mkdir()
    assert make_scratch(RUN_ID) == scratch, "it is the run's, and is found again"
    remove_scratch(RUN_ID)
    assert list(own_tmpdir.iterdir()) == []
    remove_scratch(RUN_ID)


def test_a_link_or_a_file_of_that_name_is_left_alone(tmp_path: Path, own_tmpdir: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    link = own_tmpdir / f"gaff-{RUN_ID[:12]}"
    link.symlink_to(precious)
    assert make_scratch(RUN_ID) is None
    remove_scratch(RUN_ID)
    assert (precious / "file").exists()


def test_where_none_can_be_made_there_is_none(own_tmpdir: Path) -> None:
    os.rmdir(own_tmpdir)
    own_tmpdir.write_text("")
    tempfile.tempdir = str(own_tmpdir)
    try:
        assert make_scratch(RUN_ID) is None
    finally:
        tempfile.tempdir = None
