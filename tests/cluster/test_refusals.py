# SPDX-License-Identifier: Apache-2.0
"""What Slurm 22.05 really says when it refuses a job, traced back to the profile."""

from __future__ import annotations

from pathlib import Path

import pytest

from gaff.cluster.profile import ClusterProfile, read_profile
from gaff.cluster.refusals import refusal

PROFILE = """\
partition: nix
account: nobody
qos: none
constraint: h100
reservation: course
nodes: 9
gpus_per_node: 4
gres: gpu:a100
cpus_per_node: 999
memory: 9T
time: 1000:00:00
"""


@pytest.fixture
def profile(tmp_path: Path) -> ClusterProfile:
    path = tmp_path / "site.yml"
    path.write_text(PROFILE)
    return read_profile(path)


@pytest.mark.parametrize(
    ("words", "key"),
    [
        ("sbatch: error: invalid partition specified: nix; allocation failure: Invalid partition name", "partition"),
        ("allocation failure: Invalid account or account/partition combination specified", "account"),
        ("allocation failure: Invalid qos specification", "qos"),
        ("Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)", "qos"),
        ("allocation failure: Invalid feature specification", "constraint"),
        ("allocation failure: Requested reservation is invalid", "reservation"),
        ("sbatch: error: Invalid generic resource (gres) specification", "gres"),
        ("allocation failure: Requested time limit is invalid (missing or exceeds some limit)", "time"),
        ("sbatch: error: Invalid --time specification", "time"),
        ("sbatch: error: Memory specification can not be satisfied", "memory"),
        ("sbatch: error: CPU count per node can not be satisfied", "cpus_per_node"),
        ("allocation failure: Node count specification invalid", "nodes"),
        ("allocation failure: More processors requested than permitted", "nodes"),
    ],
)
def test_each_refusal_names_the_line_that_caused_it(profile: ClusterProfile, words: str, key: str) -> None:
    problem = refusal("Slurm", words, profile)
    line = 1 + [text.partition(":")[0] for text in PROFILE.splitlines()].index(key)
    assert str(problem.where) == f"{profile.file}:{line}"
    assert problem.what == f"Slurm does not take the job with `{key}: {getattr(profile, key)}` ({words})"
    assert problem.id == "scheduler-refused"


def test_slurm_says_the_same_of_everything_that_is_too_much(profile: ClusterProfile) -> None:
    words = "allocation failure: Requested node configuration is not available"
    problem = refusal("Slurm", words, profile)
    assert str(problem.where) == profile.file
    asked = ("nodes: 9", "gpus_per_node: 4", "gres: gpu:a100", "cpus_per_node: 999", "memory: 9T", "constraint: h100")
    assert all(part in problem.what for part in (*asked, words))


def test_a_key_that_nobody_gave_is_not_blamed(tmp_path: Path) -> None:
    path = tmp_path / "site.yml"
    path.write_text("# no account here\npartition: gpu\n")
    problem = refusal("Slurm", "Invalid account or account/partition combination specified", read_profile(path))
    assert str(problem.where) == f"{path}:2"
    assert "`partition: gpu`" in problem.what


def test_a_policy_of_accounting_does_not_blame_the_account(tmp_path: Path) -> None:
    path = tmp_path / "site.yml"
    path.write_text("account: mine\ntime: 90-0\n")
    words = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
    assert str(refusal("Slurm", words, read_profile(path)).where) == f"{path}:2"


@pytest.mark.parametrize(
    "words", ["sbatch: unrecognized option '--nix=foo'", "Batch job submission failed: Unspecified error", "no answer"]
)
def test_other_words_are_passed_on_with_the_file(profile: ClusterProfile, words: str) -> None:
    problem = refusal("Slurm", words, profile)
    assert str(problem.where) == profile.file
    assert problem.what == f"Slurm does not take the job with this profile ({words})"


def test_an_override_is_blamed_as_such(profile: ClusterProfile) -> None:
    overridden = read_profile(Path(profile.file), ["partition=long"])
    problem = refusal("Slurm", "Invalid partition name specified", overridden)
    assert str(problem).startswith("--job partition: Slurm does not take the job with `partition: long` (")
