# SPDX-License-Identifier: Apache-2.0
"""From a config and a profile to a job: what is checked, what is asked for, and in which order things are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from gaff.cluster.profile import ClusterProfile, read_profile
from gaff.cluster.record import record, submissions
from gaff.cluster.request import JobRequest
from gaff.cluster.submission import Submittal, prepare, submit
from gaff.errors import GaffError, InputError, Location, Problem
from gaff.plan.config import Config, load_config

CONFIG = "train_iters: 40\nseed: 1\ngaff:\n  reset_every: 10\n"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a config, which is the present one."""
    (tmp_path / "run.yml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plain(config: Config, root: Path) -> Sequence[Problem]:
    """Nothing is wrong."""
    return ()


def prepared(
    profile: ClusterProfile | None = None,
    *,
    configs: Sequence[str] = ("run.yml",),
    overrides: Sequence[str] = (),
    sweeps: Sequence[str] = (),
    root: str = "runs/a",
    **more: Any,
) -> Submittal:
    given: dict[str, Any] = {"arguments": [], "check": plain, "environ": {}, **more}
    of = profile or ClusterProfile(command=("gaff",))
    return prepare(of, [Path(name) for name in configs], overrides, sweeps, root=Path(root), **given)


def profile_of(place: Path, text: str) -> ClusterProfile:
    path = place / "site.yml"
    path.write_text(text)
    return read_profile(path)


def effective(command: Sequence[str]) -> Config:
    """The config that ``gaff run`` makes of a command."""
    pairs = list(zip(command[::2], command[1::2], strict=True))
    paths = [Path(value) for option, value in pairs if option == "--config"]
    return load_config(paths, [value for option, value in pairs if option == "-o"])


def everything(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def test_a_run_is_started_with_absolute_paths(place: Path) -> None:
    submittal = prepared(configs=["run.yml"], overrides=["seed=7"], arguments=["--neox-dir", "/neox"])
    [command] = submittal.request.runs
    config, root = str(place / "run.yml"), str(place / "runs" / "a")
    assert command == ("--config", config, "-o", "seed=7", "--neox-dir", "/neox", "--run-dir", root)
    request = submittal.request
    assert (request.directory, request.logs) == (place, place / "runs" / "a" / "jobs")
    assert (submittal.root, submittal.runs) == (place / "runs" / "a", (place / "runs" / "a",))
    assert not request.array


def test_several_configs_keep_their_order(place: Path) -> None:
    (place / "late.yml").write_text("seed: 9\n")
    [command] = prepared(configs=["run.yml", "late.yml"]).request.runs
    assert effective(command[:-2]).get("seed") == 9


def test_a_sweep_has_a_run_directory_for_each_run(place: Path) -> None:
    submittal = prepared(overrides=["seed=7"], sweeps=["gaff.reset_every=10,20", "seed=1,2"])
    root = place / "runs" / "a"
    assert submittal.request.array
    assert submittal.runs == tuple(root / f"reset_every={k},seed={s}" for k in (10, 20) for s in (1, 2))
    assert submittal.request.logs == root / "jobs"
    last = submittal.request.runs[-1]
    assert last[-2:] == ("--run-dir", str(submittal.runs[-1]))
    config = effective(last[:-2])
    assert (config.gaff.reset_every, config.get("seed")) == (20, 2)  # the sweep beats `-o seed=7`


def test_a_sweep_of_one_value_is_an_array_too(place: Path) -> None:
    submittal = prepared(sweeps=["seed=3"])
    assert submittal.request.array
    assert submittal.runs == (place / "runs" / "a" / "seed=3",)


@pytest.mark.parametrize("name", ["run a", "größe", "it's", "100%", "a:b", "x" * 200, "7", "-x", "_"])
def test_names_of_jobs_are_plain(place: Path, name: str) -> None:
    told = prepared(root=f"runs/{name}").request.name
    assert told[0].isalpha()
    assert told.isascii()
    assert set(told) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert 1 <= len(told) <= 80


def test_the_name_of_a_job_is_that_of_its_run() -> None:
    assert prepared(root="runs/pythia-70m.k1000").request.name == "pythia-70m.k1000"


CONTAINER = (
    "command: [gaff]\ncontainer: {engine: docker, image: 'of: the profile', binds: [/data], options: ['--x=1']}\n"
)


def test_the_profiles_image_stands_in_where_the_config_has_none(place: Path) -> None:
    [command] = prepared(profile_of(place, CONTAINER)).request.runs
    container = effective(command[:-2]).gaff.container
    assert container is not None
    assert (container.engine, container.image) == ("docker", "of: the profile")
    assert (container.binds, container.options) == (("/data",), ("--x=1",))


@pytest.mark.parametrize("by", ["file", "override"])
def test_an_image_of_the_config_is_kept(place: Path, by: str) -> None:
    own = "{engine: docker, image: own}"
    if by == "file":
        (place / "run.yml").write_text(f"{CONFIG}  container: {own}\n")
    overrides = [f"gaff.container={own}"] if by == "override" else []
    [command] = prepared(profile_of(place, CONTAINER), overrides=overrides).request.runs
    container = effective(command[:-2]).gaff.container
    assert container is not None
    assert container.image == "own"


def test_a_wrong_image_is_told_before_anything_is_submitted(place: Path) -> None:
    with pytest.raises(InputError, match="engine"):
        prepared(profile_of(place, "container: {engine: podman, image: x}\n"))


def test_nodes_and_an_image_do_not_go_together(place: Path) -> None:
    with pytest.raises(InputError) as caught:
        prepared(profile_of(place, "nodes: 2\n" + CONTAINER))
    assert str(caught.value.problems[0].where) == f"{place / 'site.yml'}:1"


def test_variables_are_handed_over_by_name(place: Path) -> None:
    (place / "run.yml").write_text(f"{CONFIG}  environment: {{WANDB_API_KEY: null, FIXED: x}}\n")
    profile = profile_of(place, "environment: {HF_TOKEN: null, OMP_NUM_THREADS: 8, WANDB_API_KEY: null}\n")
    submittal = prepared(profile, environ={"WANDB_API_KEY": "secret", "HF_TOKEN": ""})
    assert submittal.request.handed == ("WANDB_API_KEY", "HF_TOKEN")
    assert "secret" not in str(submittal.request.runs)


def test_variables_that_the_shell_lacks_are_all_told_with_their_lines(place: Path) -> None:
    (place / "run.yml").write_text(f"{CONFIG}  environment:\n    WANDB_API_KEY: null\n")
    profile = profile_of(place, "nodes: 1\nenvironment:\n  HF_TOKEN: null\n  THERE: null\n")
    with pytest.raises(InputError) as caught:
        prepared(profile, environ={"THERE": "1"})
    told = [(problem.id, problem.what, str(problem.where)) for problem in caught.value.problems]
    assert [id for id, _, _ in told] == ["variable-missing"] * 2
    assert "`WANDB_API_KEY`" in told[0][1]
    assert told[0][2].startswith("run.yml:")
    assert "`HF_TOKEN`" in told[1][1]
    assert told[1][2] == f"{place / 'site.yml'}:2"


def test_what_gaff_itself_reads_is_written_into_the_script(place: Path) -> None:
    environ = {"GPT_NEOX_DIR": "/neox", "HF_HOME": "", "GAFF_HOME": "/my gaff", "OTHER": "x"}
    assert prepared(environ=environ).request.exported == {"GPT_NEOX_DIR": "/neox", "GAFF_HOME": "/my gaff"}


def test_defaults_for_every_sbatch_fill_what_the_profile_leaves_open(place: Path) -> None:
    environ = {"SBATCH_ACCOUNT": "mine", "SBATCH_PARTITION": "slow", "SBATCH_EXPORT": "ALL"}
    profile = prepared(profile_of(place, "partition: fast\n"), environ=environ).request.profile
    assert (profile.account, profile.partition, profile.qos) == ("mine", "fast", None)


def test_nothing_is_written_before_everything_is_checked(place: Path) -> None:
    before = everything(place)
    prepared(sweeps=["seed=1,2"])
    for sweeps, overrides in ((["gaff.reset_every=10,-1"], []), ([], ["gaff.nix=1"]), (["seed"], [])):
        with pytest.raises(InputError):
            prepared(sweeps=sweeps, overrides=overrides)
    assert everything(place) == before


def test_every_run_of_a_sweep_is_checked_with_its_own_config_and_directory(place: Path) -> None:
    seen = []

    def check(config: Config, root: Path) -> Sequence[Problem]:
        seen.append((config.gaff.reset_every, root.name))
        if config.gaff.reset_every == 30:
            raise InputError(Problem("bad", "30 is bad", "take another"))
        return (Problem("note", "a word", "think"), Problem(f"note{config.gaff.reset_every}", "b", "c"))

    submittal = prepared(sweeps=["gaff.reset_every=10,20"], check=check)
    assert seen == [(10, "reset_every=10"), (20, "reset_every=20")]
    assert [warning.id for warning in submittal.warnings] == ["note", "note10", "note20"]  # each once
    with pytest.raises(InputError, match="30 is bad"):
        prepared(sweeps=["gaff.reset_every=10,30"], check=check)


@dataclass
class Queue:
    """A scheduler that takes notes.  ``living``: jobs that it says are alive; ``refusal``: what it says instead."""

    log: list[str] = field(default_factory=list)
    living: tuple[str, ...] = ()
    refusal: GaffError | None = None
    refuses_at: str = "check"
    name: str = "slurm"
    title = "Slurm"
    template = "gaff.sbatch"
    directive = "#SBATCH"

    def task_number(self) -> tuple[str, int]:
        return "TASK", 1

    def task(self, job: str, number: int) -> str:
        return f"{job}_{number}"

    def check(self, script: Path, request: JobRequest) -> str | None:
        return self._meet("check", script, request, "at noon")

    def submit(self, script: Path, request: JobRequest) -> str:
        return self._meet("submit", script, request, "17")

    def state(self, job: str) -> str | None:
        self.log.append(f"state {job}")
        return "pending" if job in self.living else ""

    def _meet(self, what: str, script: Path, request: JobRequest, answer: str) -> str:
        assert request.logs.is_dir(), "a job of Slurm without its log directory dies without a trace"
        self.log.append(f"{what} {script.name} {script.read_text()} {script.stat().st_mode & 0o777:o}")
        if self.refusal and self.refuses_at == what:
            raise self.refusal
        return answer


def test_a_job_is_checked_submitted_and_recorded(place: Path) -> None:
    submittal, queue = prepared(), Queue()
    assert submit(queue, submittal, "the script") == ("17", "at noon")
    assert queue.log == ["check gaff.sbatch the script 755", "submit gaff.sbatch the script 755"]
    [one] = submissions(place / "runs" / "a")
    script = place / "runs" / "a" / "jobs" / "gaff.sbatch"
    assert (one.scheduler, one.job, one.script) == ("slurm", "17", str(script))


def test_each_run_of_an_array_knows_its_task(place: Path) -> None:
    submittal = prepared(sweeps=["seed=4,5"])
    submit(Queue(), submittal, "")
    assert [submissions(run)[0].job for run in submittal.runs] == ["17_1", "17_2"]
    assert submissions(submittal.root) == []


@pytest.mark.parametrize("at", ["check", "submit"])
def test_a_refused_job_is_not_recorded(place: Path, at: str) -> None:
    refusal = InputError(Problem("scheduler-refused", "no", "mend it"))
    queue = Queue(refusal=refusal, refuses_at=at)
    with pytest.raises(InputError, match="no"):
        submit(queue, prepared(), "")
    assert submissions(place / "runs" / "a") == []
    assert len(queue.log) == (1 if at == "check" else 2)


def test_a_second_job_of_a_run_is_refused_while_the_first_lives(place: Path) -> None:
    submittal = prepared()
    submit(Queue(), submittal, "first")
    before = everything(place)
    with pytest.raises(InputError) as caught:
        submit(Queue(living=("17",)), submittal, "second")
    [problem] = caught.value.problems
    assert problem.id == "already-submitted"
    assert problem.where == Location(str(place / "runs" / "a"))
    assert "job 17 of this run" in problem.what
    assert everything(place) == before
    submit(Queue(), submittal, "third")  # the first has ended


def test_a_sweep_is_refused_for_one_run_that_lives(place: Path) -> None:
    submittal = prepared(sweeps=["seed=4,5"])
    submit(Queue(), submittal, "")
    with pytest.raises(InputError, match="17_2"):
        submit(Queue(living=("17_2",)), submittal, "")
    with pytest.raises(InputError, match="17_2"):  # and the run of the sweep by itself
        submit(Queue(living=("17_2",)), prepared(root="runs/a/seed=5"), "")


def test_a_job_and_its_follower_are_asked_for_and_none_of_a_long_chain_before(place: Path) -> None:
    root = place / "runs" / "a"
    for job in ("1", "2", "3"):
        record(root, "slurm", job, Path("x"))
    for living in ("2", "3"):
        with pytest.raises(InputError, match=f"job {living} "):
            submit(Queue(living=(living,)), prepared(), "")
    queue = Queue()
    submit(queue, prepared(), "")
    assert sorted(line for line in queue.log if line.startswith("state")) == ["state 2", "state 3"]


def test_jobs_of_another_scheduler_are_not_asked_for(place: Path) -> None:
    record(place / "runs" / "a", "sge", "17", Path("x"))
    queue = Queue(living=("17",))
    submit(queue, prepared(), "")
    assert "state 17" not in queue.log


def test_requests_of_a_profile_without_command_are_not_made_up() -> None:
    request = prepared(replace(ClusterProfile(), command=("my", "gaff"))).request
    assert request.profile.command == ("my", "gaff")
