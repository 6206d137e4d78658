# SPDX-License-Identifier: Apache-2.0
import sys
import time
from pathlib import Path

import pytest

from gaff.supervisor.child import RUN_ID, Child, clean_up
from gaff.trainers.contract import Launch


def test_words_that_were_never_ended_by_a_newline_are_read_at_the_end(tmp_path: Path) -> None:
    launch = Launch((sys.executable, "-c", "print('one'); print('and out', end='')"), tmp_path, {})
    with Child(launch, tmp_path / "log", "some-run") as child:
        while child.poll() is None:
            time.sleep(0.01)
        assert list(child.new_lines(last=True)) == ["one", "and out"]


def test_cleaning_up_runs_every_command_with_the_launchs_variables_but_not_the_runs_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RUN_ID, "r1")
    say = f"import os; open('said', 'a').write(os.environ['WORD'] + str(os.environ.get('{RUN_ID}')))"
    commands = (("no-such-program",), (sys.executable, "-c", "raise SystemExit(3)"), (sys.executable, "-c", say))
    clean_up(Launch(("true",), tmp_path, {"WORD": "swept "}, commands))
    assert (tmp_path / "said").read_text() == "swept None"
