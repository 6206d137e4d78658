# SPDX-License-Identifier: Apache-2.0
"""Cluster profiles: what they say, and what is said about wrong ones."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gaff.cluster.profile import KEYS, READY, VARIABLE, ClusterProfile, find_profile, read_profile
from gaff.errors import InputError

READY_PROFILES = sorted(READY.glob("*.yml"))
Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_text(text: str) -> Path:
        path = tmp_path / "site.yml"
        path.write_text(text, encoding="utf-8")
        return path

    return write_text


def refusals(path: Path, *overrides: str) -> list[tuple[str, str, str]]:
    """(id, place, what) of each problem."""
    with pytest.raises(InputError) as caught:
        read_profile(path, overrides)
    return [(problem.id, str(problem.where), problem.what) for problem in caught.value.problems]


GOOD: list[tuple[str, str, Any]] = [
    ("scheduler", "sge", "sge"),
    ("partition", "gpu,gpu-long", "gpu,gpu-long"),
    ("account", "my-project", "my-project"),
    ("account", "123", "123"),
    ("qos", "high", "high"),
    ("constraint", "a100&ib", "a100&ib"),
    ("constraint", "a100-80gb|a100-40gb", "a100-80gb|a100-40gb"),
    ("constraint", "'[rack1*2&rack2*4]'", "[rack1*2&rack2*4]"),
    ("reservation", "course_7", "course_7"),
    ("nodes", "4", 4),
    ("gpus_per_node", "0", 0),
    ("ranks_per_node", "2", 2),
    ("gres", "gpu:a100", "gpu:a100"),
    ("cpus_per_node", "64", 64),
    ("memory", "480G", "480G"),
    ("memory", "0", "0"),
    ("exclusive", "false", False),
    ("time", "24:00:00", "24:00:00"),
    ("time", "1-12", "1-12"),
    ("time", "'90'", "90"),
    ("signal_seconds", "600", 600),
    ("resubmit", "follower", "follower"),
    ("parallel_environment", "mpi", "mpi"),
    ("modules", "[cuda/12.4, gcc/12]", ("cuda/12.4", "gcc/12")),
    ("setup", "['ulimit -n 4096', 'export A=\"b c\"']", ("ulimit -n 4096", 'export A="b c"')),
    (
        "environment",
        "{OMP_NUM_THREADS: 8, ON: yes, TOKEN: null}",
        (("OMP_NUM_THREADS", "8"), ("ON", "yes"), ("TOKEN", None)),
    ),
    ("environment", "{QUOTED: 'null', EMPTY: ''}", (("QUOTED", "null"), ("EMPTY", ""))),
    ("scratch", "/local/$SLURM_JOB_ID", "/local/$SLURM_JOB_ID"),
    ("container", "{engine: docker, image: x, binds: [/a]}", {"engine": "docker", "image": "x", "binds": ["/a"]}),
    ("command", "[apptainer, exec, gaff.sif, gaff]", ("apptainer", "exec", "gaff.sif", "gaff")),
    ("options", "[--mail-type=FAIL, -ac allow=L]", ("--mail-type=FAIL", "-ac allow=L")),
]


@pytest.mark.parametrize(("key", "text", "value"), GOOD)
def test_every_key_is_read_as_it_stands_there(write: Write, key: str, text: str, value: Any) -> None:
    path = write(f"# a comment\n{key}: {text}\n")
    profile = read_profile(path)
    assert getattr(profile, key) == value
    assert str(profile.where(key)) == f"{path}:2"


def test_the_examples_above_leave_no_key_out() -> None:
    assert {key for key, _, _ in GOOD} == set(KEYS)


def test_times_are_no_numbers_to_base_60(write: Write) -> None:
    profile = read_profile(write("time: 24:00:00\n"))
    assert profile.time == "24:00:00"
    assert profile.seconds == 24 * 3600
    assert read_profile(write("time: 1-12\n")).seconds == 36 * 3600
    assert read_profile(write("time: 36h\n")).seconds == 36 * 3600


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        ("scheduler", "pbs", "`slurm` or `sge`, not `pbs`"),
        ("partition", "'a b'", "one word"),
        ("partition", "$PARTITION", "one word"),
        ("qos", "[a]", "one word"),
        ("account", "it's", "one word"),
        ("constraint", "a100 | h100", "node features"),
        ("nodes", "0", "a whole number from 1 to 1000000, not `0`"),
        ("nodes", "two", "a whole number"),
        ("nodes", "1.5", "a whole number"),
        ("gpus_per_node", "-1", "a whole number"),
        ("signal_seconds", "5", "from 10 to"),
        ("memory", "much", "a size such as 480G"),
        ("memory", "480 G", "a size"),
        ("memory", "1.5T", "a size"),
        ("exclusive", "yes", "true or false, not `yes`"),
        ("exclusive", "True", "true or false"),
        ("time", "soon", "a time"),
        ("time", "0", "a time"),
        ("time", "[1]", "a time"),
        ("time", "24:00:00:00", "a time"),
        ("resubmit", "always", "`requeue` or `follower` or `never`"),
        ("modules", "cuda/12.4", "a list, each item one line of text"),
        ("setup", "{a: b}", "a list, each item one line of text"),
        ("environment", "[A=1]", "a block of variables"),
        ("environment", "{1A: x}", "`1A` is none"),
        ("environment", "{A: [1]}", "one line of text each"),
        ("scratch", "''", "one line of text"),
        ("container", "gaff.sif", "a block of keys"),
        ("command", "gaff", "a list, each item one line of text"),
        ("options", "--mail-type=END", "a list, each item one line of text"),
    ],
)
def test_a_wrong_value_is_refused_with_its_line(write: Write, key: str, text: str, expected: str) -> None:
    path = write(f"\n# a comment\n{key}: {text}\n")
    [(id, where, what)] = refusals(path)
    assert (id, where) == ("profile-value", f"{path}:3")
    assert what.startswith(f"`{key}` must be ")
    assert expected in what


def test_every_problem_is_told_in_one_go(write: Write) -> None:
    path = write("nodes: x\ngpu: 8\ntime: soon\npartition: a\nexclusive: maybe\n")
    told = refusals(path)
    assert [where for _, where, _ in told] == [f"{path}:{line}" for line in (1, 2, 3, 5)]
    assert told[1][0] == "profile-key"
    assert "`gpu` is not a key" in told[1][2]


@pytest.mark.parametrize(("second", "line"), [("nodes: 2", 3), ("gpus-per-node: 8", 3)])
def test_a_key_that_stands_twice_is_refused(write: Write, second: str, line: int) -> None:
    path = write(f"nodes: 1\ngpus_per_node: 4\n{second}\n")
    [(id, where, _)] = refusals(path)
    assert (id, where) == ("profile-twice", f"{path}:{line}")


@pytest.mark.parametrize(
    ("text", "id", "line"),
    [
        ("nodes: 1\npartition: [a\n", "profile-syntax", 3),
        ("nodes: 1\n\tpartition: a\n", "profile-syntax", 2),
        ("nodes: 1\n---\nnodes: 2\n", "profile-syntax", 2),
        ("- nodes\n", "profile-form", None),
        ("nodes\n", "profile-form", None),
        ("", "profile-form", None),
        ("nodes: \x01\n", "profile-syntax", None),
    ],
)
def test_what_is_no_profile_at_all(write: Write, text: str, id: str, line: int | None) -> None:
    path = write(text)
    [(found, where, _)] = refusals(path)
    assert found == id
    assert where == (f"{path}:{line}" if line else str(path))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.yml").write_bytes("partition: gr\xf6\xdfe\n".encode("latin-1"))
    for name in ("none.yml", "latin.yml", ""):
        [(id, where, _)] = refusals(tmp_path / name)
        assert (id, where) == ("profile-unreadable", str(tmp_path / name))


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    path = tmp_path / "p.yml"
    path.write_bytes(b"\xef\xbb\xbfnodes: 2\n")
    assert read_profile(path).nodes == 2


def test_null_is_nothing_where_nothing_has_a_meaning(write: Write) -> None:
    profile = read_profile(write("memory: null\npartition: ~\ncpus_per_node:\n"))
    assert (profile.memory, profile.partition, profile.cpus_per_node) == (None, None, None)


def test_an_alias_to_itself_is_told_in_a_sentence(write: Write) -> None:
    [(_, where, _)] = refusals(path := write("environment: &a {X: *a}\n"))
    assert where.startswith(str(path))


@pytest.mark.parametrize("text", ["setup: |\n  a\n  b\n", "environment: {A: [x]}\n", "modules: [[a]]\n"])
def test_what_is_wrong_is_one_line(write: Write, text: str) -> None:
    [(_, _, what)] = refusals(write(text))
    assert "\n" not in what


def test_overrides_win_and_know_their_place(write: Write) -> None:
    path = write("nodes: 1\npartition: slow\ntime: 24:00:00\n")
    profile = read_profile(path, ["partition=fast", "time=1-12", "gpus-per-node=4", "modules=[a, b]", "gres=gpu:a100"])
    assert (profile.partition, profile.seconds, profile.gpus_per_node) == ("fast", 129_600, 4)
    assert (profile.modules, profile.gres, profile.nodes) == (("a", "b"), "gpu:a100", 1)
    assert str(profile.where("partition")) == "--job partition"
    assert str(profile.where("nodes")) == f"{path}:1"


def test_overrides_take_a_key_away(write: Write) -> None:
    profile = read_profile(write("partition: a\nmemory: 4G\n"), ["partition=", "memory=null"])
    assert (profile.partition, profile.memory) == (None, None)


def test_overrides_mend_a_wrong_line(write: Write) -> None:
    assert read_profile(write("nodes: many\n"), ["nodes=2"]).nodes == 2


@pytest.mark.parametrize(
    ("override", "id", "place"),
    [
        ("nodes", "profile-override", "None"),
        ("nodes=x", "profile-value", "--job nodes"),
        ("nix=3", "profile-key", "--job nix"),
        ("nodes=[", "profile-syntax", "--job nodes"),
    ],
)
def test_wrong_overrides(write: Write, override: str, id: str, place: str) -> None:
    [(found, where, _)] = refusals(write("nodes: 1\n"), override)
    assert found == id
    assert where.startswith(place)


def test_places_of_keys_that_nobody_wrote(write: Write) -> None:
    path = write("nodes: 1\n")
    assert str(read_profile(path).where("time")) == str(path)
    assert ClusterProfile().where("time") is None


@pytest.mark.parametrize(
    ("text", "slots"),
    [("gpus_per_node: 4", 4), ("gpus_per_node: 0", 1), ("gpus_per_node: 0\nranks_per_node: 3", 3)],
)
def test_ranks_of_a_node(write: Write, text: str, slots: int) -> None:
    assert read_profile(write(text + "\n")).slots == slots


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment whose user has a profile of his own, and one that has a ready one's name."""
    own = tmp_path / "config" / "gaff" / "profiles"
    own.mkdir(parents=True)
    for name in ("mine", READY_PROFILES[0].stem):
        (own / f"{name}.yml").write_text("nodes: 1\n")
    return {"XDG_CONFIG_HOME": str(tmp_path / "config")}


def test_profiles_are_found_by_path_then_by_name(tmp_path: Path, home: dict[str, str]) -> None:
    own = tmp_path / "config" / "gaff" / "profiles"
    a_file = tmp_path / "site.yaml"
    a_file.write_text("nodes: 1\n")
    ready = READY_PROFILES[0].stem
    assert find_profile(str(a_file), home) == a_file
    assert find_profile("mine", home) == own / "mine.yml"
    assert find_profile(ready, home) == own / f"{ready}.yml"
    (own / f"{ready}.yml").unlink()
    assert find_profile(ready, home) == READY_PROFILES[0]


def test_the_option_beats_the_variable(tmp_path: Path, home: dict[str, str]) -> None:
    assert find_profile(None, {**home, VARIABLE: "mine"}).stem == "mine"
    assert find_profile("a100-80gb", {**home, VARIABLE: "mine"}).stem == "a100-80gb"


def test_a_name_with_a_suffix_is_a_path(tmp_path: Path, home: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.yml").write_text("nodes: 1\n")
    assert find_profile("here.yml", home) == Path("here.yml")
    with pytest.raises(InputError, match=r"no cluster profile mine\.yml"):
        find_profile("mine.yml", home)


@pytest.mark.parametrize("name", [None, "nix", "no/such.yml", ""])
def test_a_profile_that_is_nowhere(home: dict[str, str], name: str | None) -> None:
    with pytest.raises(InputError) as caught:
        find_profile(name, home)
    [problem] = caught.value.problems
    assert problem.id == "profile-missing"
    assert all(path.stem in problem.remedy for path in READY_PROFILES)


@pytest.mark.parametrize("path", READY_PROFILES, ids=lambda path: path.stem)
def test_ready_profiles_are_sound_also_with_every_suggestion_taken(path: Path, write: Write) -> None:
    assert read_profile(path).name == path.stem
    suggested = re.sub(r"^# (?=\w+: )", "", path.read_text(), flags=re.MULTILINE)
    assert suggested != path.read_text()
    whole = read_profile(write(suggested))
    assert set(whole.places) <= set(KEYS)
    assert whole.container


def test_the_a100_profiles_ask_for_what_their_names_say() -> None:
    assert {"a100-80gb", "a100-40gb"} <= {path.stem for path in READY_PROFILES}
    for path in READY_PROFILES:
        profile = read_profile(path)
        assert profile.scheduler == ("sge" if path.stem.startswith("sge") else "slurm")
        assert profile.gpus_per_node > 0
        assert os.sep not in profile.name
