# SPDX-License-Identifier: Apache-2.0
"""Programs that answer, fail, hang or are not there."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from gaff.cluster import asking
from gaff.cluster.asking import Answer, ask, insist
from gaff.cluster.slurm import is_away


def test_an_answer_is_what_the_program_said() -> None:
    answer = ask(["sh", "-c", "echo ' out '; echo err >&2; exit 3"])
    assert answer == Answer(3, "out", "err")
    assert not answer.ok
    assert ask(["true"]).ok


def test_a_program_gets_no_input_and_the_environment_that_it_is_given() -> None:
    assert ask(["cat"]) == Answer(0, "", "")
    assert ask(["/bin/sh", "-c", "echo $A$HOME"], environment={"A": "x"}).out == "x"


def test_bytes_that_are_no_text_do_no_harm() -> None:
    assert "a" in ask(["printf", r"a\377"]).out


def test_a_program_that_hangs_is_given_up() -> None:
    started = time.monotonic()
    answer = ask(["sleep", "60"], timeout_s=0.2)
    assert time.monotonic() - started < 30
    assert answer.code is None
    assert "sleep did not answer within" in answer.words
    assert is_away(answer)


def test_a_program_that_is_not_there_is_no_controller_that_is_away(tmp_path: Path) -> None:
    answer = ask([str(tmp_path / "scontrol")])
    assert not answer.ok
    assert answer.words == f"{tmp_path / 'scontrol'}: No such file or directory"
    assert not is_away(answer)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(1, "out", " a \n\n b \n"), "a; b"),
        (Answer(1, "out", ""), "out"),
        (Answer(1), "exit code 1"),
        (Answer(None), "no answer"),
    ],
)
def test_words_are_one_line(answer: Answer, words: str) -> None:
    assert answer.words == words


@pytest.fixture
def flaky(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that fails twice for the controller's sake, and then succeeds."""
    monkeypatch.setattr(asking, "_PAUSE_S", 0.01)
    path = tmp_path / "flaky"
    path.write_text(
        '#!/bin/sh\necho x >>"$0.calls"\n'
        '[ "$(wc -l <"$0.calls")" -ge 3 ] || { echo "Unable to contact slurm controller" >&2; exit 1; }\necho done\n'
    )
    path.chmod(0o755)
    return path


def calls(path: Path) -> int:
    return len((path.parent / f"{path.name}.calls").read_text().splitlines())


def test_the_same_is_asked_until_the_controller_is_back(flaky: Path) -> None:
    assert insist([str(flaky)], 30.0, is_away) == Answer(0, "done", "")
    assert calls(flaky) == 3


def test_patience_ends(flaky: Path) -> None:
    answer = insist([str(flaky)], 0.0, is_away)
    assert answer.words == "Unable to contact slurm controller"
    assert calls(flaky) == 1


def test_a_refusal_is_final(flaky: Path) -> None:
    answer = insist([str(flaky)], 30.0, lambda answer: False)
    assert answer.code == 1
    assert calls(flaky) == 1


def test_the_environment_is_given_each_time(flaky: Path) -> None:
    flaky.write_text(
        '#!/bin/sh\necho x >>"$0.calls"\n[ "$(wc -l <"$0.calls")" -ge 2 ] && echo "$A" && exit 0; exit 1\n'
    )
    answer = insist([str(flaky)], 30.0, lambda answer: True, {"A": "b", "PATH": os.environ["PATH"]})
    assert (answer.out, calls(flaky)) == ("b", 2)
