# SPDX-License-Identifier: Apache-2.0
"""What a real Slurm does not take, in one sentence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.cluster.slurm_runs import Run

pytestmark = pytest.mark.cluster


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("partition: nowhere", "invalid partition specified: nowhere"),
        ("constraint: a100", "Invalid feature specification"),
        ("reservation: ours", "Requested reservation is invalid"),
    ],
)
def test_a_refusal_is_told_in_slurms_words_with_the_profiles_line(run: Run, line: str, words: str) -> None:
    number, profile = _with_line(run.profile, line, run.root.parent)
    code, output, errors = replace(run, profile=profile).try_to_submit()
    assert (code, output) == (2, "")
    sentence = next(said for said in errors.splitlines() if "Slurm does not take" in said)
    assert sentence.startswith(f"gaff: {profile}:{number}: Slurm does not take the job with `{line}` (")
    assert words in sentence
    assert run.slurm.ask("squeue", "-h") == ""


@pytest.mark.parametrize("line", ["gpus_per_node: 5", "nodes: 3"])
def test_what_no_node_has_is_told_in_slurms_words_with_all_that_was_asked(run: Run, line: str) -> None:
    """Slurm says the same of both, and does not say which it is."""
    _, profile = _with_line(run.profile, line, run.root.parent)
    code, _, errors = replace(run, profile=profile).try_to_submit("-o", f"global_num_gpus={line[-1]}")
    assert code == 2
    assert f"{profile}: Slurm has no nodes for what the profile asks" in errors
    assert line in errors
    assert "Requested node configuration is not available" in errors


def test_a_wrong_time_is_told_before_slurm_is_asked(run: Run) -> None:
    number, profile = _with_line(run.profile, "time: 24 hours", run.root.parent)
    code, _, errors = replace(run, profile=profile).try_to_submit()
    assert code == 2
    assert f"{profile}:{number}: `time` must be a time, as 24:00:00" in errors


@pytest.mark.parametrize("line", ["account: nobody", "qos: nothing"])
def test_slurm_without_accounting_takes_any_account(run: Run, line: str) -> None:
    """So the site's Slurm alone can refuse it; its words are then told as above."""
    _, profile = _with_line(run.profile, line, run.root.parent)
    job = replace(run, profile=profile).submit()
    assert run.slurm.facts(job)["JobState"] in ("PENDING", "RUNNING")


def _with_line(profile: Path, line: str, folder: Path) -> tuple[int, Path]:
    """A profile with this line in place of the one with its key, and the line's number."""
    key = line.partition(":")[0]
    lines = [old for old in profile.read_text().splitlines() if not old.startswith(f"{key}:")]
    mended = folder / "wrong.yml"
    mended.write_text("\n".join([*lines, line, ""]))
    return len(lines) + 1, mended
