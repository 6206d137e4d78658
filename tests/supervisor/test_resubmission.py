# SPDX-License-Identifier: Apache-2.0
"""Which endings of a run bring its job back, and what is done about followers."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gaff.cluster.job import Cause
from gaff.cluster.record import submissions
from gaff.errors import GaffError, Interrupted, Problem
from gaff.supervisor.journal import Journal, read_entries
from gaff.supervisor.resubmission import Mode, Resubmission, fruitless_calls


@dataclass
class Job:
    """One whose signals have this cause.  ``done``: what was asked of its scheduler."""

    why: Cause = Cause.TIME
    refuses: bool = False
    scheduler: str = "Slurm"
    id: str = "17"
    script: Path = Path("/spool/job17/slurm_script")
    done: list[str] = field(default_factory=list)

    def cause(self, signal: str) -> Cause:
        self.done.append(f"cause {signal}")
        return self.why

    def add_follower(self) -> str:
        return self._meet("add_follower", "18")

    def drop(self, follower: str) -> None:
        self._meet(f"drop {follower}", "")

    def _meet(self, what: str, answer: str) -> str:
        if self.refuses:
            raise GaffError(Problem("scheduler-refused", "Slurm says no", "ask it"))
        self.done.append(what)
        return answer


def ended(signal: str | None) -> Interrupted:
    return Interrupted(Problem("interrupted", "stopped", "run it again"), signal)


def queue(root: Path, job: Job, mode: Mode = "requeue") -> Resubmission:
    """Of a run that has begun."""
    if not read_entries(root):
        history(root, KILLED)
    one: Any = job
    return Resubmission(one, mode, root)


def events(root: Path) -> list[dict[str, Any]]:
    """What the journal says beside the beginning."""
    return [{"event": entry.event, **entry.fields} for entry in read_entries(root) if entry.event != "run_started"]


def names(root: Path) -> list[str]:
    return [event["event"] for event in events(root)]


@pytest.mark.parametrize("mode", ["requeue", "follower"])
def test_a_run_whose_time_is_over_goes_on(tmp_path: Path, mode: Mode) -> None:
    job = Job()
    assert queue(tmp_path, job, mode).wanted(ended(None))
    assert job.done == []  # nothing outside asked for it, so nobody need be asked why
    assert names(tmp_path) == []


@pytest.mark.parametrize("mode", ["requeue", "follower"])
@pytest.mark.parametrize("signal", ["SIGTERM", "SIGUSR1", "SIGUSR2"])
@pytest.mark.parametrize(
    ("cause", "goes_on"),
    [(Cause.TIME, True), (Cause.PREEMPTED, True), (Cause.CANCELLED, False), (Cause.UNKNOWN, False)],
)
def test_a_signal_of_the_scheduler_is_judged_by_its_cause(
    tmp_path: Path, mode: Mode, signal: str, cause: Cause, goes_on: bool
) -> None:
    job = Job(cause)
    assert queue(tmp_path, job, mode).wanted(ended(signal)) is goes_on
    assert job.done == [f"cause {signal}"]
    [entry] = events(tmp_path)
    assert entry["signal"] == signal
    assert entry["cause"] == cause.value
    assert entry["job"] == "17"


@pytest.mark.parametrize(("mode", "goes_on"), [("requeue", False), ("follower", True)])
def test_a_job_that_its_scheduler_puts_back_needs_no_help_but_its_follower_stays(
    tmp_path: Path, mode: Mode, goes_on: bool
) -> None:
    assert queue(tmp_path, Job(Cause.PUT_BACK), mode).wanted(ended("SIGTERM")) is goes_on


@pytest.mark.parametrize("mode", ["requeue", "follower"])
@pytest.mark.parametrize("signal", ["SIGINT", "SIGHUP", "stop"])
def test_who_stops_a_run_by_hand_wants_it_stopped(tmp_path: Path, mode: Mode, signal: str) -> None:
    job = Job(Cause.TIME)
    assert not queue(tmp_path, job, mode).wanted(ended(signal))
    assert job.done == []


@pytest.mark.parametrize("signal", [None, "SIGTERM", "SIGUSR1", "stop"])
def test_nothing_goes_on_where_nobody_asked_for_it(tmp_path: Path, signal: str | None) -> None:
    job = Job(Cause.TIME)
    one = queue(tmp_path, job, "never")
    one.begin(done=False)
    assert not one.wanted(ended(signal))
    one.end(goes_on=False)
    assert job.done == []
    assert names(tmp_path) == []


def test_a_follower_is_queued_at_the_start_and_recorded(tmp_path: Path) -> None:
    job = Job()
    one = queue(tmp_path, job, "follower")
    one.begin(done=False)
    assert job.done == ["add_follower"]
    assert one.follower == "18"
    [entry] = events(tmp_path)
    assert (entry["event"], entry["job"], entry["follower"]) == ("follower_added", "17", "18")
    [submission] = submissions(tmp_path)
    assert (submission.scheduler, submission.job, submission.script) == ("slurm", "18", str(job.script))


@pytest.mark.parametrize(("mode", "done"), [("requeue", False), ("follower", True), ("never", False)])
def test_no_follower_where_none_is_wanted(tmp_path: Path, mode: Mode, done: bool) -> None:
    job = Job()
    queue(tmp_path, job, mode).begin(done)
    assert job.done == []
    assert submissions(tmp_path) == []


def test_a_follower_that_is_refused_is_told(tmp_path: Path) -> None:
    one = queue(tmp_path, Job(refuses=True), "follower")
    with pytest.raises(GaffError, match="Slurm says no"):
        one.begin(done=False)
    assert one.follower is None
    one.end(goes_on=False)  # there is none to be dropped


def test_a_follower_stays_where_the_run_goes_on(tmp_path: Path) -> None:
    job = Job()
    one = queue(tmp_path, job, "follower")
    one.begin(done=False)
    one.end(goes_on=True)
    assert job.done == ["add_follower"]
    assert names(tmp_path) == ["follower_added"]


def test_a_follower_goes_where_the_run_is_over(tmp_path: Path) -> None:
    job = Job()
    one = queue(tmp_path, job, "follower")
    one.begin(done=False)
    one.end(goes_on=False)
    assert job.done == ["add_follower", "drop 18"]
    assert names(tmp_path) == ["follower_added", "follower_dropped"]
    assert events(tmp_path)[1]["follower"] == "18"


def test_a_follower_that_cannot_be_dropped_is_told(tmp_path: Path) -> None:
    job = Job()
    one = queue(tmp_path, job, "follower")
    one.begin(done=False)
    job.refuses = True
    with pytest.raises(GaffError, match="Slurm says no"):
        one.end(goes_on=False)
    assert names(tmp_path) == ["follower_added"]


@pytest.mark.parametrize(("mode", "goes_on", "told"), [("requeue", True, ["requeue_asked"]), ("requeue", False, [])])
def test_putting_back_is_announced_in_the_journal(tmp_path: Path, mode: Mode, goes_on: bool, told: list[str]) -> None:
    queue(tmp_path, Job(), mode).end(goes_on)
    assert names(tmp_path) == told


def history(root: Path, *calls: dict[str, Any]) -> None:
    """A journal of calls.  Each: where it began, where and by which signal it ended, what it did in between."""
    journal = Journal(root / "journal.jsonl")
    for call in calls:
        journal.write("run_started", resume_iteration=call.get("begin", 20))
        for event in call.get("did", ()):
            journal.write(event)
        if "end" in call:
            journal.write(call["end"], iteration=call.get("at", 20), signal=call.get("signal"))


OUT_OF_TIME = {"end": "run_interrupted"}
PREEMPTED = {"end": "run_interrupted", "signal": "SIGUSR1"}
TRAINED = {"end": "run_interrupted", "begin": 10, "at": 20}
KILLED: dict[str, Any] = {}  # SIGKILL leaves no last word


@pytest.mark.parametrize(
    ("calls", "fruitless"),
    [
        ([], 0),  # it was deleted
        ([OUT_OF_TIME], 1),
        ([OUT_OF_TIME] * 3, 3),
        ([OUT_OF_TIME, TRAINED, OUT_OF_TIME], 1),
        ([TRAINED], 0),
        ([OUT_OF_TIME, PREEMPTED, PREEMPTED, OUT_OF_TIME], 2),  # preemptions neither count nor forgive
        ([PREEMPTED] * 9, 0),
        ([OUT_OF_TIME, KILLED, OUT_OF_TIME], 2),
        ([OUT_OF_TIME, {**PREEMPTED, "begin": 10}, OUT_OF_TIME], 1),  # one that had trained before it was preempted
        ([OUT_OF_TIME, {**OUT_OF_TIME, "did": ["segment_done"]}], 0),
        ([OUT_OF_TIME, {**OUT_OF_TIME, "did": ["reset_done"]}, OUT_OF_TIME], 1),
        ([OUT_OF_TIME, {**KILLED, "did": ["segment_done"]}, OUT_OF_TIME], 1),
        ([{"end": "run_failed"}, OUT_OF_TIME], 1),
    ],
)
def test_calls_that_came_to_nothing(tmp_path: Path, calls: list[dict[str, Any]], fruitless: int) -> None:
    history(tmp_path, *calls)
    assert fruitless_calls(read_entries(tmp_path)) == fruitless


def test_the_third_fruitless_call_in_a_row_is_the_last(tmp_path: Path) -> None:
    history(tmp_path, OUT_OF_TIME, PREEMPTED, OUT_OF_TIME)
    one = queue(tmp_path, Job())
    assert one.wanted(ended(None))
    history(tmp_path, OUT_OF_TIME)
    with pytest.raises(GaffError) as caught:
        one.wanted(ended(None))
    assert not isinstance(caught.value, Interrupted)  # its exit code would have it put back by a site's own means
    assert [problem.id for problem in caught.value.problems] == ["interrupted", "no-progress"]
    assert "3 jobs in a row" in caught.value.problems[1].what


def test_preemptions_alone_never_end_a_run(tmp_path: Path) -> None:
    history(tmp_path, *[PREEMPTED] * 20)
    assert queue(tmp_path, Job(Cause.PREEMPTED)).wanted(ended("SIGUSR1"))


def test_a_run_without_progress_that_was_cancelled_is_no_failure(tmp_path: Path) -> None:
    history(tmp_path, *[OUT_OF_TIME] * 5)
    assert not queue(tmp_path, Job(Cause.CANCELLED)).wanted(ended("SIGTERM"))


def test_a_torn_journal_is_counted_as_far_as_it_can_be_read(tmp_path: Path) -> None:
    history(tmp_path, *[OUT_OF_TIME] * 2)
    with open(tmp_path / "journal.jsonl", "ab") as file:
        file.write(b'{"event": "run_sta')
    assert fruitless_calls(read_entries(tmp_path)) == 2
    assert json.loads((tmp_path / "journal.jsonl").read_text().splitlines()[0])["event"] == "run_started"
