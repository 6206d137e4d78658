# SPDX-License-Identifier: Apache-2.0
"""Grid Engine's directives, and what is refused before Grid Engine is asked; the rest in ``test_sge_live.py``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gaff.cluster.asking import Answer
from gaff.cluster.profile import ClusterProfile, find_profile, read_profile
from gaff.cluster.request import JobRequest
from gaff.cluster.script import render
from gaff.cluster.sge import GridEngine, complaint, job_number
from gaff.errors import InputError

READY = find_profile("sge-gpu")


def request_of(profile: ClusterProfile, logs: str = "/runs/a/jobs", **changes: object) -> JobRequest:
    asked = JobRequest("pythia", profile, (("--config", "a.yml"),), Path(logs), Path("/home/me"))
    return replace(asked, **changes)  # type: ignore[arg-type]


def directives(*overrides: str, logs: str = "/runs/a/jobs", **changes: object) -> list[str]:
    return GridEngine().directives(request_of(read_profile(READY, overrides), logs, **changes))


def test_the_ready_profile_asks_for_what_the_seed_papers_cluster_wants() -> None:
    assert directives() == [
        "-N pythia",
        "-S /bin/bash",
        "-wd /home/me",
        "-o /runs/a/jobs/$JOB_ID.log",
        "-j y",
        "-l gpu=4",
        "-pe smp 8",
        "-l mem=8G",
        "-l h_rt=24:00:00",
        "-notify",
        "-r y",
        "-ac allow=L",
        "-l tmpfs=10G",
    ]


def test_keys_of_the_profile_become_options() -> None:
    given = directives("partition=gpu.q", "account=nlp", "time=2-12", "memory=480GB", "gres=a100", "resubmit=follower")
    assert [word for word in given if word[:2] in ("-q", "-P", "-r")] == ["-q gpu.q", "-P nlp", "-r n"]
    assert {"-l a100=4", "-l mem=480G", "-l h_rt=60:00:00"} < set(given)


@pytest.mark.parametrize("override", ["memory=0", "memory=0g", "memory=null", "cpus_per_node=null", "gpus_per_node=0"])
def test_what_is_left_to_the_site_is_not_asked_for(override: str) -> None:
    option = {"memory": "-l mem", "cpus_per_node": "-pe", "gpus_per_node": "-l gpu"}[override.partition("=")[0]]
    assert not [words for words in directives(override) if words.startswith(option)]


def test_an_array_has_a_task_and_a_log_for_each_run() -> None:
    given = directives(runs=(("a",), ("b",), ("c",)), array=True)
    assert "-t 1-3" in given
    assert "-o /runs/a/jobs/$JOB_ID.$TASK_ID.log" in given
    assert GridEngine().task_number() == ("SGE_TASK_ID", 1)
    assert GridEngine().task("7", 3) == "7.3"


@pytest.mark.parametrize(
    ("logs", "option"),
    [("/my runs/jobs", '-o "/my runs/jobs/$JOB_ID.log"'), ("/k:5/jobs", "-o :/k:5/jobs/$JOB_ID.log")],
)
def test_logs_in_unusual_places(logs: str, option: str) -> None:
    assert option in directives(logs=logs)


@pytest.mark.parametrize("logs", ["/k=1,2/jobs", "/$HOME/jobs", "/it's/jobs"])
def test_a_place_that_grid_engine_would_misread_is_refused(logs: str) -> None:
    with pytest.raises(InputError, match="no path with a comma"):
        directives(logs=logs)


@pytest.mark.parametrize("override", ["qos=high", "constraint=a100", "reservation=r1", "exclusive=true"])
def test_what_grid_engine_does_not_have_is_refused_with_the_profiles_line(override: str) -> None:
    key = override.partition("=")[0]
    with pytest.raises(InputError, match=f"--job {key}: Grid Engine has no `{key}`"):
        directives(override)


def test_several_nodes_are_refused() -> None:
    with pytest.raises(InputError, match="GAFF runs on one node; write nodes: 1"):
        directives("nodes=2")


def test_the_script_is_the_template_with_the_runs_arguments() -> None:
    script = render(request_of(read_profile(READY)), GridEngine())
    assert "\n#$ -pe smp 8\n" in script
    assert "\nset -- --config a.yml\n" in script
    assert script.splitlines()[-1] == 'exec "${gaff[@]}" run --resubmit "$resubmit" "$@"'


def test_a_refusal_is_told_without_what_is_said_each_time() -> None:
    lines = [
        'Unable to run job: Job 47 (-l gpu=99,h_rt=60) cannot run at host "a" because it offers only hc:gpu=4.000000',
        *[f'Job 47 (-l gpu=99,h_rt=60) cannot run at host "{name}" because it offers only hc:gpu=4' for name in "bcde"],
        "verification: no suitable queues",
        "Exiting.",
    ]
    told = complaint(Answer(1, err="\n".join(lines)))
    assert told.startswith('Job 47 cannot run at host "a" because it offers only hc:gpu=4.000000; Job 47 cannot run')
    assert told.endswith("; and 2 more")
    assert complaint(Answer(1)) == "exit code 1"


def test_the_number_of_a_job_and_of_an_array() -> None:
    assert (job_number("7"), job_number("8.1-3:1"), job_number("a warning\n9")) == ("7", "8", "9")
