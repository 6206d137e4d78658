# SPDX-License-Identifier: Apache-2.0
"""How a trainer fails while it runs, and the one sentence that is made of it; the processes are real."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gaff.errors import Interrupted, TrainerError
from gaff.supervisor.failures import killed_by
from gaff.supervisor.journal import read_entries
from gaff.supervisor.progress import tags
from tests.supervisor import drive

SILENCE = "restarts: 0, grace_seconds: 1, silence_minutes: 0.1"


@pytest.fixture(scope="module")
def template(unpacked_checkpoints: Path) -> Path:
    return unpacked_checkpoints / "zero1-fp32-tp2-pp2-dp2" / "global_step5"


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six seconds without a line are a hang."""
    monkeypatch.setattr(drive, "WATCH", SILENCE)


def events(root: Path, name: str) -> list[dict[str, Any]]:
    return [dict(e.fields) for e in read_entries(root) if e.event == name]


def failed(root: Path, template: Path, modes: dict[int, str]) -> TrainerError:
    with pytest.raises(TrainerError) as caught:
        drive.build(root, template, modes).run()
    assert caught.value.exit_code == 1
    return caught.value


@pytest.mark.usefixtures("watched")
def test_a_silent_trainer_says_where_it_stands_and_is_ended(tmp_path: Path, template: Path) -> None:
    root = tmp_path / "run"
    [problem] = failed(root, template, {20: "hangs"}).problems
    assert problem.id == "trainer-silent"
    assert "after iteration 13 the trainer said nothing for 0.1 minutes and was ended" in problem.what
    assert "the trainer stands in end_as (supervisor/fake_trainer.py:" in problem.what
    assert problem.what.endswith("iteration 10 is safe")
    assert "gaff: watch: silence_minutes" in problem.remedy
    assert [(e["iteration"], e["ranks"]) for e in events(root, "trainer_silent")] == [(13, 1)]
    assert not drive.processes_of(root)
    assert tags(root / "checkpoints") == [10]
    drive.build(root, template, {}).run()  # and the same command carries on
    assert tags(root / "checkpoints") == [10, 20, 30, 40]


@pytest.mark.usefixtures("watched")
def test_all_ranks_of_a_hang_are_asked_though_their_launcher_ends_all_when_one_dies(
    tmp_path: Path, template: Path
) -> None:
    root = tmp_path / "run"
    [problem] = failed(root, template, {10: "collective"}).problems
    assert "rank 0 stands in all_reduce (torch/distributed/distributed_c10d.py:3), rank 1 stands in load_batch" in (
        problem.what
    )
    assert "see why rank 1 stays there: the others wait for it" in problem.remedy
    assert problem.detail[0].startswith("rank 0: all_reduce (torch/distributed/distributed_c10d.py:3), called from ")
    assert "rank_main (supervisor/fake_trainer.py:" in problem.detail[0]
    assert not drive.processes_of(root)
    assert not list(root.rglob("core*"))


@pytest.mark.usefixtures("watched")
def test_a_rank_that_was_stopped_is_named(tmp_path: Path, template: Path) -> None:
    [problem] = failed(tmp_path / "run", template, {10: "stopped"}).problems
    assert "rank 1 stands in rank_main" in problem.what
    assert "stopped by a signal" in problem.what
    assert problem.remedy.startswith("find who stopped rank 1")
    assert not drive.processes_of(tmp_path / "run")


def test_exit_code_0_before_the_first_iteration_is_told_as_such(tmp_path: Path, template: Path) -> None:
    [problem] = failed(tmp_path / "run", template, {20: "exit-0"}).problems
    assert problem.what == (
        "the trainer exited with 0 without having trained and global_step20 is not there,"
        " saying: ZeRO stage 2/3 and pipeline parallelism are not supported together"
    )
    assert "pipe_parallel_size: 0" in problem.remedy
    assert problem.where is not None
    assert problem.where.line == 1


def test_the_cause_is_told_though_a_peer_that_lost_it_spoke_first(tmp_path: Path, template: Path) -> None:
    error = failed(tmp_path / "run", template, {20: "peer-speaks-first"})
    [problem] = error.problems
    assert problem.what.endswith("saying: IndexError: index out of range in self")
    assert "tokenizer" in problem.remedy
    assert problem.where is not None
    log = Path(problem.where.file).read_text().splitlines()
    assert "IndexError" in log[problem.where.line - 1]
    shown = str(error).splitlines()
    assert shown[1:4] == [
        '    [rank0]:   File "/opt/gpt-neox/megatron/model/word_embeddings.py", line 100, in forward',
        "    [rank0]:     embeddings = self.word_embeddings(input_ids)",
        "    [rank0]: IndexError: index out of range in self",
    ]
    assert "Connection reset by peer" in shown[4]


def test_a_rank_that_only_lost_its_peers_is_no_cause(tmp_path: Path, template: Path) -> None:
    [problem] = failed(tmp_path / "run", template, {20: "peer-alone"}).problems
    assert "as a rank lost its peers and none said why: RuntimeError" in problem.what
    assert "out of memory" in problem.remedy


def test_a_killed_launcher_is_resumable(tmp_path: Path, template: Path) -> None:
    with pytest.raises(Interrupted, match="launcher was killed after iteration 13; iteration 10 is safe"):
        drive.build(tmp_path / "run", template, {20: "launcher-killed"}).run()


def test_out_of_memory_is_said_where_the_log_says_so(tmp_path: Path, template: Path) -> None:
    with pytest.raises(
        Interrupted, match="killed by SIGKILL after iteration 13, saying: Detected 1 oom_kill event"
    ) as caught:
        drive.build(tmp_path / "run", template, {20: "out-of-memory"}).run()
    assert "give the job more host memory" in caught.value.problems[0].remedy


@pytest.mark.parametrize(
    ("code", "signal"),
    [(-9, "SIGKILL"), (137, "SIGKILL"), (247, "SIGKILL"), (241, "SIGTERM"), (-15, "SIGTERM")],
)
def test_exit_codes_of_killed_trainers(code: int, signal: str) -> None:
    assert killed_by(code) == signal


@pytest.mark.parametrize("code", [0, 1, -6, -11, 250])
def test_exit_codes_of_trainers_that_ended_by_themselves(code: int) -> None:
    assert killed_by(code) is None
