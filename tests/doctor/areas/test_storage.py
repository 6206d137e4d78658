# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gaff.doctor.areas.storage import StorageFacts, examine, gather, judge
from gaff.doctor.filesystems import FileSystem
from gaff.doctor.finding import Finding
from gaff.doctor.subject import Subject
from gaff.plan.plan import build_plan
from tests.doctor.conftest import a100s

Programs = Callable[..., dict[str, str]]
GB = 1_000_000_000
DISK = FileSystem(Path("/scratch"), "ext4", 100 * GB, 200 * GB, 10**7)
SHARED = FileSystem(Path("/dev/shm"), "tmpfs", 60 * GB, 64 * GB, None)
FINE = StorageFacts(
    Path("/scratch/run"), None, DISK, 1e9, tag=GB, tags=50, shared_memory=SHARED, memory=100 * GB, loader=GB
)


def found(facts: StorageFacts) -> dict[str, Finding]:
    return {finding.id: finding for finding in judge(facts) if finding.level != "ok"}


def test_enough_of_everything() -> None:
    assert found(FINE) == {}


@pytest.mark.parametrize(
    ("tags", "there", "free", "level"),
    [(50, 0, 100 * GB, None), (101, 0, 100 * GB, "problem"), (101, 60, 100 * GB, None), (5, 0, GB // 2, "problem")],
)
def test_room_for_the_tags_that_are_still_to_come(tags: int, there: int, free: int, level: str | None) -> None:
    facts = replace(FINE, tags=tags, there=there, place=replace(DISK, free=free))
    finding = found(facts).get("room")
    assert (finding.level if finding else None) == level


@pytest.mark.parametrize("kind", ["tmpfs", "overlay"])
def test_file_systems_that_do_not_last(kind: str) -> None:
    assert found(replace(FINE, place=replace(DISK, kind=kind)))["storage-kind"].level == "warning"


def test_inodes_and_quotas() -> None:
    findings = found(replace(FINE, place=replace(DISK, files_free=0), quota="over by 3 GB"))
    assert {name: finding.level for name, finding in findings.items()} == {"inodes": "problem", "quota": "problem"}


def test_a_slow_disk_is_told_by_what_one_tag_costs() -> None:
    finding = found(replace(FINE, tag=100 * GB, tags=1, speed=50e6))["write-speed"]
    assert "one tag of 100 GB takes about 0:33:20" in finding.what
    assert finding.level == "warning"


def test_a_place_that_cannot_be_written() -> None:
    assert found(replace(FINE, speed=None, unwritable="Read-only file system"))["write"].level == "problem"


def test_a_small_dev_shm() -> None:
    small = replace(SHARED, total=64 << 20, free=64 << 20)
    finding = found(replace(FINE, shared_memory=small))["shared-memory"]
    assert (finding.level, "--ipc=host" in (finding.remedy or "")) == ("problem", True)
    assert found(replace(FINE, shared_memory=replace(SHARED, free=1)))["shared-memory"].level == "warning"


def test_host_memory_against_what_the_loaders_keep() -> None:
    assert found(replace(FINE, loader=60 * GB))["host-memory"].level == "warning"
    assert found(replace(FINE, loader=101 * GB))["host-memory"].level == "problem"


def test_tags_that_will_be_deleted_need_no_room(load: Callable[..., Any]) -> None:
    config = load("gaff.keep=1", "checkpoint_factor=", "train_iters=1000", "lr_decay_iters=1000")
    facts = gather(Subject({"PATH": ""}, config, given_gpus=a100s(0)))
    assert facts.tags == 2  # one that stays, and the next before that goes
    small = replace(FINE, tags=101)
    assert "-o gaff.keep=2 -o checkpoint_factor=" in (found(small)["room"].remedy or "")


def test_facts_of_a_real_directory(load: Callable[..., Any], project: Path, programs: Programs) -> None:
    (project / "runs" / "checkpoints" / "global_step100").mkdir(parents=True)
    subject = Subject(programs(quota="echo '/dev/sda: 101* 100 100'"), load(), project / "runs", given_gpus=a100s(2))
    facts = gather(subject)
    plan = build_plan(subject.config)  # type: ignore[arg-type]
    assert (facts.there, facts.tags, facts.tag) == (1, len(plan.tags), plan.checkpoint_bytes)
    assert facts.place.directory == project / "runs" / "checkpoints"
    assert facts.speed is not None
    assert (facts.quota, facts.problem) == ("/dev/sda: 101* 100 100", None)
    # two ranks, each keeping 100 iterations x 2 samples of 33 tokens of 8 bytes
    assert facts.loader == 2 * 100 * 2 * 33 * 8


def test_a_run_directory_that_is_a_file(load: Callable[..., Any], project: Path) -> None:
    (project / "taken").touch()
    subject = Subject({}, load(), project / "taken", given_gpus=a100s(0))
    findings = {finding.id: finding for finding in examine(subject)}
    assert findings["directory-unusable"].level == "problem"


def test_nothing_is_left_behind(project: Path) -> None:
    before = sorted(project.rglob("*"))
    list(examine(Subject({}, root=project / "runs", given_gpus=a100s(0))))
    assert sorted(project.rglob("*")) == before


@pytest.mark.parametrize(
    ("overrides", "gpus", "loaders"),
    [
        ([], 8, 8),
        ([], 0, 0),  # the run will be elsewhere
        (["model_parallel_size=2"], 8, 4),
        (["pipe_parallel_size=4"], 8, 2 * 2),  # the first and the last stage of each of two replicas
        (["gaff.device=cpu", "global_num_gpus=4"], 8, 4),
    ],
)
def test_how_many_loaders_there_are(load: Callable[..., Any], overrides: list[str], gpus: int, loaders: int) -> None:
    config = load("gaff.trainer=neox", *overrides)
    facts = gather(Subject({"PATH": ""}, config, given_gpus=a100s(gpus)))
    assert facts.loader == loaders * 100 * 2 * 33 * 8


def test_where_save_is_named_another_run_directory_would_not_help(load: Callable[..., Any]) -> None:
    small = replace(FINE, place=replace(DISK, free=GB // 2))
    assert "--run-dir" in (found(small)["room"].remedy or "")
    assert (found(replace(small, named=True))["room"].remedy or "").startswith("-o save=DIR")
    facts = gather(Subject({"PATH": ""}, load("save=runs/global_step/x"), given_gpus=a100s(0)))
    assert (facts.named, facts.problem) == (True, None)  # told with the config
