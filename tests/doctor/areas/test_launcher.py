# SPDX-License-Identifier: Apache-2.0
"""The launcher, with an ``ssh`` on PATH that runs its command here, and knows one host that does not answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gaff.doctor.areas.launcher import LauncherFacts, examine, gather, judge
from gaff.doctor.finding import Finding
from gaff.doctor.subject import Subject
from gaff.errors import Problem
from tests.doctor.conftest import a100s

Programs = Callable[..., dict[str, str]]
SSH = """\
while [ "$1" = -o ]; do shift 2; done
host="$1"; shift
if [ "$host" = node-mute ]; then echo "Permission denied (publickey)." >&2; exit 255; fi
exec sh -c "$*"
"""


@pytest.fixture
def cluster(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, str]]:
    """``cluster(*lines)`` writes a hostfile of these lines beside programs of pdsh; its environment."""

    def make(*lines: str) -> dict[str, str]:
        Path("hosts").write_text("".join(f"{line}\n" for line in lines))
        environment = programs(ssh=SSH, pdsh="exit 1")
        monkeypatch.setenv("PATH", environment["PATH"])
        return environment

    return make


def found(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.id: finding for finding in findings}


def test_one_machine(load: Callable[..., Any]) -> None:
    (finding,) = examine(Subject({"PATH": ""}, load(), given_gpus=a100s(2)))
    assert (finding.id, finding.level) == ("launcher", "ok")


def test_a_missing_program_is_loaded_as_a_module(load: Callable[..., Any]) -> None:
    Path("hosts").write_text("node-a slots=1\nnode-b slots=1\n")
    config = load("hostfile=hosts", "global_num_gpus=2")
    finding = found(list(examine(Subject({"PATH": ""}, config, given_gpus=a100s(0)))))["launcher-program"]
    assert finding.level == "problem"
    assert "pdsh" in finding.what
    assert (finding.remedy or "").startswith("module load pdsh")


def test_a_hostfile_with_a_slip(load: Callable[..., Any], cluster: Callable[..., dict[str, str]]) -> None:
    environment = cluster("node-a slots=1", "node-b slots 1")
    findings = found(list(examine(Subject(environment, load("hostfile=hosts"), given_gpus=a100s(0)))))
    assert findings["hostfile-line"].level == "problem"
    assert (findings["hostfile-line"].remedy or "").startswith(f"${{EDITOR:-vi}} +2 {Path('hosts').absolute()}")


def test_hosts_that_ask_for_a_password(load: Callable[..., Any], cluster: Callable[..., dict[str, str]]) -> None:
    environment = cluster("node-a slots=1", "node-mute slots=1")
    findings = found(list(examine(Subject(environment, load("hostfile=hosts"), given_gpus=a100s(0)))))
    assert "Permission denied" in findings["host-unreachable"].what
    assert (findings["host-unreachable"].remedy or "").startswith("ssh-copy-id node-mute")


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("ssh: Could not resolve hostname node-a: Name or service not known", "getent hosts node-a"),
        ("Host key verification failed.", "ssh-keyscan node-a >> ~/.ssh/known_hosts"),
        ("me@node-a: Permission denied (publickey).", "ssh-copy-id node-a"),
        ("ssh: connect to host node-a port 22: Connection refused", "ssh -v node-a true"),
    ],
)
def test_each_complaint_of_ssh_has_its_remedy(said: str, remedy: str) -> None:
    what = f"the host node-a cannot be reached by ssh without a password ({said})"
    facts = LauncherFacts("pdsh", {"node-a": 1, "node-b": 1}, unreachable=(Problem("host-unreachable", what, "mend"),))
    (finding,) = judge(facts)
    assert (finding.level, (finding.remedy or "").split("  #")[0]) == ("problem", remedy)


def test_hosts_see_the_same_paths(load: Callable[..., Any], cluster: Callable[..., dict[str, str]]) -> None:
    subject = Subject(
        cluster("node-a slots=1", "node-b slots=1"),
        load("hostfile=hosts"),
        Path("runs").absolute(),
        given_gpus=a100s(0),
    )
    facts = gather(subject, subject.config)  # type: ignore[arg-type]
    assert (facts.launcher, dict(facts.hosts), facts.lacking) == ("pdsh", {"node-a": 1, "node-b": 1}, {})
    (finding,) = [finding for finding in judge(replace(facts, local=(subject.save, "ext4"))) if finding.remedy]
    assert (finding.id, finding.level) == ("save-local", "warning")


def test_a_path_that_another_host_lacks() -> None:
    facts = LauncherFacts("pdsh", {"node-a": 1, "node-b": 1}, lacking={"node-b": ("/scratch/my data",)})
    finding = found(list(judge(facts)))["path-missing"]
    assert finding.level == "problem"
    assert (finding.remedy or "").startswith("rsync -a '/scratch/my data'/ 'node-b:/scratch/my data/'")


def test_slurm_outside_of_a_job(load: Callable[..., Any], programs: Programs) -> None:
    subject = Subject(programs(srun="", sinfo=""), load("launcher=slurm"), given_gpus=a100s(0))
    finding = found(list(examine(subject)))["not-in-a-job"]
    assert (finding.level, (finding.remedy or "")[:6]) == ("warning", "salloc")
    inside = Subject({**subject.environment, "SLURM_JOB_ID": "7"}, subject.config, given_gpus=a100s(0))
    assert list(found(list(examine(inside)))) == ["launcher"]


def test_a_hostfile_that_a_variable_names_unasked(load: Callable[..., Any]) -> None:
    Path("hosts").write_text("node-a slots=1\nnode-b slots=1\n")
    subject = Subject({"PATH": "", "DLTS_HOSTFILE": "hosts"}, load(), given_gpus=a100s(0))
    assert found(list(examine(subject)))["hostfile-unasked"].level == "problem"
