# SPDX-License-Identifier: Apache-2.0
"""Slurm from a login node: directive lines, and what becomes of the words of its programs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gaff.cluster import asking, slurm
from gaff.cluster.profile import ClusterProfile, read_profile
from gaff.cluster.request import JobRequest
from gaff.cluster.schedulers import require
from gaff.cluster.slurm import Slurm
from gaff.errors import GaffError, InputError
from tests.cluster import stand_in
from tests.cluster.stand_in import StandIn

SCRIPT = Path("/runs/a b/jobs/gaff.sbatch")
Directives = Callable[..., list[str]]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    monkeypatch.setattr(asking, "_PAUSE_S", 0.01)
    return stand_in.install(tmp_path / "bin", monkeypatch)


def request_of(profile: ClusterProfile | None = None, **more: object) -> JobRequest:
    request = JobRequest("run", profile or ClusterProfile(), (("a",),), Path("/logs"), Path("/work"))
    return replace(request, **more)


def directives(profile: ClusterProfile | None = None, **more: object) -> list[str]:
    return Slurm().directives(request_of(profile, **more))


def test_a_job_with_nothing_but_defaults() -> None:
    assert directives() == [
        "--job-name=run",
        "--chdir=/work",
        "--output=/logs/%j.log",
        "--open-mode=append",
        "--nodes=1",
        "--ntasks-per-node=1",
        "--gres=gpu:8",
        "--mem=0",
        "--exclusive",
        "--time=24:00:00",
        "--signal=B:USR1@120",
        "--requeue",
        "--export=NONE",
    ]


def test_what_the_profile_asks_for() -> None:
    profile = ClusterProfile(
        partition="p",
        account="a",
        qos="q",
        constraint="x|y",
        reservation="r",
        gres="gpu:a100",
        gpus_per_node=4,
        cpus_per_node=48,
        memory="480G",
        exclusive=False,
        time="1-12",
        signal_seconds=300,
        options=("--mail-type=FAIL", "-x n1"),
    )
    found = directives(profile)
    for line in (
        *("--partition=p", "--account=a", "--qos=q", "--constraint=x|y", "--reservation=r"),
        *("--gres=gpu:a100:4", "--cpus-per-task=48", "--mem=480G", "--time=36:00:00", "--signal=B:USR1@300"),
    ):
        assert line in found
    assert found[-2:] == ["--mail-type=FAIL", "-x n1"]
    assert "--exclusive" not in found


def test_a_qos_without_a_partition() -> None:
    found = directives(ClusterProfile(qos="q"))
    assert "--qos=q" in found
    assert not any(line.startswith("--partition") for line in found)


def test_no_gpus_no_memory() -> None:
    found = directives(ClusterProfile(gpus_per_node=0, memory=None))
    assert not any(line.startswith(("--gres", "--mem")) for line in found)


def test_several_nodes_have_a_task_for_each_rank() -> None:
    found = directives(ClusterProfile(nodes=2, gpus_per_node=8, cpus_per_node=64))
    assert {"--nodes=2", "--ntasks-per-node=8", "--cpus-per-task=8", "--gres=gpu:8"} <= set(found)
    found = directives(ClusterProfile(nodes=2, gpus_per_node=8, cpus_per_node=4))
    assert "--cpus-per-task=1" in found
    found = directives(ClusterProfile(nodes=2, gpus_per_node=0, ranks_per_node=3))
    assert "--ntasks-per-node=3" in found


@pytest.mark.parametrize(
    ("mode", "line"), [("requeue", "--requeue"), ("never", "--requeue"), ("follower", "--no-requeue")]
)
def test_only_a_job_with_a_follower_must_not_be_put_back(mode: str, line: str) -> None:
    found = directives(ClusterProfile(resubmit=mode))  # type: ignore[arg-type]
    assert [one for one in found if "requeue" in one] == [line]


def test_arrays_are_numbered_from_0() -> None:
    found = directives(runs=(("a",), ("b",), ("c",)), array=True)
    assert "--array=0-2" in found
    assert "--output=/logs/%A_%a.log" in found
    assert Slurm().task_number() == ("SLURM_ARRAY_TASK_ID", 0)
    assert Slurm().task("17", 2) == "17_2"


# What real sbatch makes of a directive line was measured with 22.05: inside double quotes every character but `"` and
# the backslash, which another one protects, is itself; outside, blanks, quotes, `#` and the backslash are not.
@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("a b", '"/x/a b"'),
        ("it's", '"/x/it\'s"'),
        ('a"b', '"/x/a\\"b"'),
        ("a\\b", '"/x/a\\\\b"'),
        ("a #b", '"/x/a #b"'),
        ("a#b", '"/x/a#b"'),
        ("$HOME", "/x/$HOME"),
        ("größe", "/x/größe"),
        ("a%j", "/x/a%j"),
    ],
)
def test_odd_directories_reach_sbatch(name: str, written: str) -> None:
    assert f"--chdir={written}" in directives(directory=Path("/x") / name)


def test_a_percent_in_the_path_of_the_log_is_no_pattern() -> None:
    assert "--output=/x/100%%/jobs/%j.log" in directives(logs=Path("/x/100%/jobs"))
    assert '--output="/x/100%% a/jobs/%j.log"' in directives(logs=Path("/x/100% a/jobs"))


def test_a_path_of_two_lines_is_refused() -> None:
    with pytest.raises(InputError, match="two lines"):
        directives(directory=Path("/x/a\nb"))


def test_programs_that_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, programs: StandIn) -> None:
    assert Slurm().missing() is None
    (programs.folder / "squeue").unlink()
    monkeypatch.setenv("PATH", str(programs.folder))
    assert Slurm().missing() == "squeue"
    with pytest.raises(InputError) as caught:
        require("slurm")
    [problem] = caught.value.problems
    assert problem.what == "Slurm is not here: squeue is not on PATH"


def test_a_check_submits_nothing_and_tells_the_start(programs: StandIn) -> None:
    said = "sbatch: Job 5 to start at 2026-11-21T21:40:55 using 8 processors on nodes n1 in partition main"
    programs.does("sbatch", f"echo '{said}' >&2")
    starts = Slurm().check(SCRIPT, request_of())
    assert programs.calls("sbatch") == [["--test-only", str(SCRIPT)]]
    assert starts is not None
    assert "2026-11-21T21:40:55" in starts
    programs.does("sbatch", "")
    assert Slurm().check(SCRIPT, request_of()) is None


@pytest.mark.parametrize("verb", ["check", "submit"])
def test_a_refusal_is_told_in_slurms_words_with_the_profiles_line(tmp_path: Path, programs: StandIn, verb: str) -> None:
    path = tmp_path / "site.yml"
    path.write_text("nodes: 1\npartition: nix\n")
    programs.does("sbatch", "echo 'sbatch: error: invalid partition specified: nix' >&2; exit 1")
    with pytest.raises(InputError) as caught:
        getattr(Slurm(), verb)(SCRIPT, request_of(read_profile(path)))
    [problem] = caught.value.problems
    assert str(problem.where) == f"{path}:2"
    assert "(sbatch: error: invalid partition specified: nix)" in problem.what
    assert len(programs.calls("sbatch")) == 1


AWAY = (
    "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
    "slurm_load_jobs error: Zero Bytes were transmitted or received",
    "scontrol: error: Unexpected message received",
    "sbatch: error: Batch job submission failed: Connection refused",
)


@pytest.mark.parametrize("words", AWAY)
def test_a_controller_that_is_away_for_a_moment_is_waited_for(programs: StandIn, words: str) -> None:
    programs.does("sbatch", f'[ "$(grep -zc . "$0.calls")" -gt 6 ] || {{ echo "{words}" >&2; exit 1; }}; echo 17')
    assert Slurm().submit(SCRIPT, request_of()) == "17"
    assert len(programs.calls("sbatch")) > 1


@pytest.mark.parametrize("verb", ["check", "submit"])
def test_a_controller_that_stays_away_is_no_mistake_of_the_profile(
    programs: StandIn, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.setattr(slurm, "_PATIENCE_S", 0.05)
    programs.does("sbatch", f"echo '{AWAY[0]}' >&2; exit 1")
    with pytest.raises(GaffError) as caught:
        getattr(Slurm(), verb)(SCRIPT, request_of())
    assert not isinstance(caught.value, InputError)
    [problem] = caught.value.problems
    assert problem.id == "scheduler-away"
    assert problem.what == f"Slurm's controller does not answer ({AWAY[0]})"


def test_a_job_that_may_have_been_taken_is_not_submitted_twice(programs: StandIn) -> None:
    words = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
    programs.does("sbatch", f"echo '{words}' >&2; exit 1")
    with pytest.raises(GaffError) as caught:
        Slurm().submit(SCRIPT, request_of())
    assert not isinstance(caught.value, InputError)
    assert "may have taken the job" in caught.value.problems[0].what
    assert len(programs.calls("sbatch")) == 1


def test_a_check_that_timed_out_may_be_made_again(programs: StandIn) -> None:
    programs.does("sbatch", '[ -e "$0.2" ] || { touch "$0.2"; echo "Socket timed out on send/recv" >&2; exit 1; }')
    assert Slurm().check(SCRIPT, request_of()) is None
    assert len(programs.calls("sbatch")) == 2


@pytest.mark.parametrize("said", ["17", "17;west", "hello from a site\n17;west"])
def test_the_id_of_a_submitted_job(programs: StandIn, said: str) -> None:
    programs.does("sbatch", f"printf '%s\\n' '{said}'")
    assert Slurm().submit(SCRIPT, request_of()) == "17"
    assert programs.calls("sbatch") == [["--parsable", str(SCRIPT)]]


@pytest.mark.parametrize("said", ["", "Submitted, thank you"])
def test_an_sbatch_that_tells_no_id_is_told_of(programs: StandIn, said: str) -> None:
    programs.does("sbatch", f"echo '{said}'")
    with pytest.raises(GaffError):
        Slurm().submit(SCRIPT, request_of())


def test_variables_are_handed_over_by_name_on_the_command_line(programs: StandIn) -> None:
    programs.does("sbatch", "echo 17")
    Slurm().submit(SCRIPT, request_of(handed=("A", "B")))
    assert programs.calls("sbatch") == [["--parsable", "--export=A,B", str(SCRIPT)]]


@pytest.mark.parametrize("verb", ["check", "submit"])
def test_a_job_around_the_submission_leaks_nothing_into_the_new_one(
    programs: StandIn, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT", "SBATCH_EXPORT", "SBATCH_TIMELIMIT"):
        monkeypatch.setenv(name, "7")
    monkeypatch.setenv("SLURM_CONF", "/etc/of/the/site")
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    programs.does("sbatch", "echo 17")
    getattr(Slurm(), verb)(SCRIPT, request_of())
    seen = programs.environment("sbatch")
    assert {name for name in seen if name.startswith(("SLURM_", "SBATCH_"))} <= {"SLURM_CONF", "SLURM_TIME_FORMAT"}
    assert (seen["SLURM_CONF"], seen["WANDB_API_KEY"]) == ("/etc/of/the/site", "secret")


@pytest.mark.parametrize(
    ("said", "state"),
    [
        ("echo PENDING Priority", "pending (Priority)"),
        ("echo PENDING ReqNodeNotAvail, UnavailableNodes:n1", "pending (ReqNodeNotAvail, UnavailableNodes:n1)"),
        ("echo RUNNING None", "running"),
        ("echo RUNNING", "running"),
        ("echo COMPLETING None", "completing"),  # which a job is that is being put back
        ("echo REQUEUE_HOLD 'job requeued in held state'", "requeue_hold (job requeued in held state)"),
        ("printf 'COMPLETED None\\nRUNNING None\\nRUNNING None\\n'", "running"),
        ("echo COMPLETED None", ""),
        ("echo CANCELLED None", ""),
        ("echo TIMEOUT TimeLimit", ""),
        ("echo NODE_FAIL NodeDown", ""),
        ("", ""),
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", ""),
        ("echo 'slurm_load_jobs error: Unable to contact slurm controller (connect failure)' >&2; exit 1", None),
    ],
)
def test_how_a_job_stands(programs: StandIn, said: str, state: str | None) -> None:
    programs.does("squeue", said)
    assert Slurm().state("17_2") == state
    [call] = programs.calls("squeue")
    assert call[:3] == ["-h", "-j", "17_2"]


@pytest.mark.parametrize("state", ["CONFIGURING", "REQUEUED", "SUSPENDED", "STAGE_OUT", "SIGNALING", "STOPPED"])
def test_whatever_is_not_over_lives(programs: StandIn, state: str) -> None:
    programs.does("squeue", f"echo {state} None")
    assert Slurm().state("17") == state.lower()


def test_settings_of_the_users_own_do_not_hide_a_job(programs: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SQUEUE_STATES", "RUNNING")
    programs.does("squeue", '[ -n "$SQUEUE_STATES" ] || echo PENDING None')
    assert Slurm().state("17") == "pending"


def test_asking_how_a_job_stands_does_not_insist(programs: StandIn) -> None:
    programs.does("squeue", f"echo '{AWAY[0]}' >&2; exit 1")
    assert Slurm().state("17") is None
    assert len(programs.calls("squeue")) == 1
