# SPDX-License-Identifier: Apache-2.0
"""``gaff submit`` as a user gives it, with stand-ins for Slurm's programs."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gaff.cli.main import main
from gaff.cluster import asking
from gaff.cluster.profile import KEYS
from gaff.cluster.record import submissions
from gaff.data.indexed_dataset import write_dataset
from gaff.plan.config import load_config
from gaff.supervisor.journal import Journal
from gaff.supervisor.run_directory import open_run, run_directory
from tests.cluster import stand_in
from tests.cluster.stand_in import StandIn
from tests.live import write_config

PROFILE = """\
# our cluster
partition: gpu
gpus_per_node: 0
ranks_per_node: 2
memory: 4G
time: 1-12
"""
TAKES = '[ "$1" = --test-only ] && { echo "sbatch: Job 1 to start at 2026-11-22T01:02:03 using" >&2; exit; }; echo 17'


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The present directory, with a config that would run and a profile; a blank in its name."""
    folder = tmp_path / "my runs"
    folder.mkdir()
    write_dataset(folder / "data_text_document", [list(range(100))], np.dtype(np.uint16))
    write_config(folder / "run.yml", folder / "data_text_document", train_iters=40, reset_every=10)
    (folder / "site.yml").write_text(PROFILE)
    monkeypatch.chdir(folder)
    for name in ("GAFF_PROFILE", "GPT_NEOX_DIR", "GPT_NEOX_PYTHON"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(asking, "_PAUSE_S", 0.01)
    return folder


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    found = stand_in.install(tmp_path / "bin", monkeypatch)
    found.does("sbatch", TAKES)
    return found


def contents(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def submit(*more: str) -> int:
    return main(["submit", "--config", "run.yml", "--profile", "site.yml", *more])


def test_a_run_is_submitted_and_told(place: Path, slurm: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    assert submit() == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("submitted Slurm job 17, which starts at 2026-11-22T01:02:03")
    root = place / "runs" / "run"
    assert f"  run directory {root}" in told
    script = root / "jobs" / "gaff.sbatch"
    assert slurm.calls("sbatch") == [["--test-only", str(script)], ["--parsable", str(script)]]
    assert [one.job for one in submissions(root)] == ["17"]
    assert os.access(script, os.X_OK)


def test_the_script_starts_this_very_gaff_on_this_very_run(
    place: Path, slurm: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit("-o", "gaff.reset_every=20") == 0
    capsys.readouterr()
    script = (place / "runs" / "run" / "jobs" / "gaff.sbatch").read_text()
    lines = script.splitlines()
    assert f"gaff=({shlex.join((sys.executable, '-m', 'gaff'))})" in lines
    assert f'#SBATCH --chdir="{place}"' in lines
    assert "#SBATCH --time=36:00:00" in lines
    replaced = script.replace('exec "${gaff[@]}" run', 'exec "${gaff[@]}" run --dry-run')
    (place / "dry.sh").write_text(replaced)
    environ = {"PATH": os.environ["PATH"], "HOME": str(place)}
    done = subprocess.run(["bash", "dry.sh"], cwd=place, env=environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    code = main(["plan", "--config", "run.yml", "-o", "gaff.reset_every=20"])
    planned = capsys.readouterr().out.splitlines()
    assert code == 0
    assert "every 20 iterations" in planned[2]
    assert done.stdout.splitlines()[:9] == planned[:9]


def test_json(place: Path, slurm: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    assert submit("--json", "--run-dir", "out/größe") == 0
    root = place / "out" / "größe"
    assert json.loads(capsys.readouterr().out) == {
        "schema": "gaff.submit/1",
        "scheduler": "slurm",
        "job": "17",
        "runs": [str(root)],
        "logs": str(root / "jobs"),
        "script": (root / "jobs" / "gaff.sbatch").read_text(),
    }


def test_a_dry_run_as_json(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert submit("--json", "--dry-run") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["job"], told["runs"]) == (None, [str(place / "runs" / "run")])
    assert told["script"].startswith("#!/bin/bash\n")
    assert not (place / "runs").exists()


def test_a_sweep_is_an_array(place: Path, slurm: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    assert submit("--sweep", "gaff.reset_every=5,10,20", "--run-dir", "sweep") == 0
    told = capsys.readouterr().out
    assert told.startswith("submitted Slurm job 17 with 3 runs")
    names = [f"reset_every={k}" for k in (5, 10, 20)]
    assert [submissions(place / "sweep" / name)[0].job for name in names] == ["17_0", "17_1", "17_2"]
    script = (place / "sweep" / "jobs" / "gaff.sbatch").read_text()
    assert "#SBATCH --array=0-2\n" in script
    assert all(f"gaff.reset_every={k} " in script for k in (5, 10, 20))


def test_a_dry_run_prints_the_script_and_leaves_nothing(
    place: Path, slurm: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(place)
    assert submit("--dry-run") == 0
    printed = capsys.readouterr().out
    assert contents(place) == before
    assert slurm.calls("sbatch") == slurm.calls("squeue") == slurm.calls("scontrol") == []
    assert submit() == 0
    assert (place / "runs" / "run" / "jobs" / "gaff.sbatch").read_text() == printed


def without_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))


def test_a_dry_run_needs_no_slurm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without_slurm(tmp_path, monkeypatch)
    assert submit("--dry-run") == 0
    assert capsys.readouterr().out.startswith("#!/bin/bash\n")


def test_without_slurm_that_is_said_in_one_sentence(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without_slurm(tmp_path, monkeypatch)
    before = contents(place)
    assert submit() == 2
    said = capsys.readouterr()
    assert said.out == ""
    [sentence] = said.err.splitlines()
    assert sentence.startswith("gaff: Slurm is not here: sbatch is not on PATH; submit from a login node")
    assert contents(place) == before


def test_keys_need_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without_slurm(tmp_path, monkeypatch)
    assert main(["submit", "--keys"]) == 0
    lines = capsys.readouterr().out.splitlines()
    told = [line.split()[0] for line in lines[2:]]
    assert told == list(KEYS)
    assert all(len(line.split()) > 3 for line in lines[2:])


def wrong(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """What ``gaff submit`` says, line by line, when it refuses."""
    assert main(["submit", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    lines = [line for line in said.err.splitlines() if not line.startswith("gaff: note: ")]
    assert all(line.startswith("gaff: ") and line.endswith(".") for line in lines)
    return lines


GIVEN = ["--config", "run.yml", "--profile", "site.yml"]
WRONG: dict[str, tuple[list[str], str]] = {
    "no config": (["--profile", "site.yml"], "no config is given"),
    "no profile": (["--config", "run.yml"], "no cluster profile is named"),
    "unknown profile": (["--config", "run.yml", "--profile", "nix"], "there is no cluster profile nix"),
    "no such config": (["--config", "nix.yml", "--profile", "site.yml"], "nix.yml: there is no such config file"),
    "config": ([*GIVEN, "-o", "gaff.reset_every=0"], "reset_every"),
    "job": ([*GIVEN, "--job", "time=soon"], "--job time: `time` must be a time"),
    "sweep": ([*GIVEN, "--sweep", "seed"], "`--sweep seed` is not of the form"),
    "a run of a sweep": ([*GIVEN, "--sweep", "gaff.reset_every=10,-3"], "reset_every"),
    "variable": ([*GIVEN, "--job", "environment={NO_SUCH_VARIABLE: null}"], "NO_SUCH"),
    "run directory": ([*GIVEN, "--run-dir", "run.yml"], "run.yml"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_told_before_anything_is_written(
    place: Path, slurm: StandIn, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    before = contents(place)
    arguments, expected = WRONG[case]
    lines = wrong(capsys, *arguments)
    assert expected in lines[0]
    assert contents(place) == before
    assert slurm.calls("sbatch") == []


def test_every_mistake_of_a_profile_has_its_line(
    place: Path, slurm: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "site.yml").write_text("time: soon\nnodes: 1\ngpu: 8\n")
    lines = wrong(capsys, "--config", "run.yml", "--profile", "site.yml")
    assert [line.split(": ")[1] for line in lines] == ["site.yml:1", "site.yml:3"]


def test_the_profile_may_come_from_the_environment(
    place: Path, slurm: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Path(os.environ["XDG_CONFIG_HOME"]) / "gaff" / "profiles"
    own.mkdir(parents=True)
    (own / "ours.yml").write_text(PROFILE)
    monkeypatch.setenv("GAFF_PROFILE", "ours")
    assert main(["submit", "--config", "run.yml", "--job", "partition=short"]) == 0
    script = (place / "runs" / "run" / "jobs" / "gaff.sbatch").read_text()
    assert "#SBATCH --partition=short\n" in script


def test_what_slurm_refuses_is_told_in_its_words_with_the_profiles_line(
    place: Path, slurm: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    slurm.does("sbatch", "echo 'sbatch: error: invalid partition specified: gpu' >&2; exit 1")
    [line] = wrong(capsys, "--config", "run.yml", "--profile", "site.yml")
    assert line.startswith(
        "gaff: site.yml:2: Slurm does not take the job with `partition: gpu` (sbatch: error: invalid"
    )
    assert submissions(place / "runs" / "run") == []
    assert len(slurm.calls("sbatch")) == 1  # the check; nothing was submitted


def test_a_controller_that_is_away_is_a_failure_not_a_mistake(
    slurm: StandIn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("gaff.cluster.slurm._PATIENCE_S", 0.05)
    slurm.does("sbatch", "echo 'allocation failure: Unable to contact slurm controller (connect failure)' >&2; exit 1")
    assert submit() == 1
    assert "Slurm's controller does not answer" in capsys.readouterr().err


def test_a_second_submission_waits_for_the_end_of_the_first(
    place: Path, slurm: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit() == 0
    slurm.does("squeue", "echo PENDING Priority")
    capsys.readouterr()
    [line] = wrong(capsys, "--config", "run.yml", "--profile", "site.yml")
    assert "Slurm's job 17 of this run is waiting or running; let it go on, or cancel it first." in line
    assert len(slurm.calls("sbatch")) == 2
    slurm.does("squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert submit() == 0


def test_a_finished_run_is_not_submitted_again(place: Path, slurm: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    root = place / "runs" / "run"
    root.mkdir(parents=True)
    Journal(root / "journal.jsonl").write("run_finished", iteration=40)
    [line] = wrong(capsys, "--config", "run.yml", "--profile", "site.yml")
    assert "this run is finished already" in line
    assert slurm.calls("sbatch") == []


def test_a_run_that_began_with_other_settings_is_refused_here(
    place: Path, slurm: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load_config([place / "run.yml"])
    open_run(run_directory(place / "runs" / "run", config), config, {})
    lines = wrong(capsys, "--config", "run.yml", "--profile", "site.yml", "-o", "gaff.reset_every=20")
    assert "began with gaff.reset_every = 10" in lines[0]


def test_a_run_that_has_begun_is_submitted_again_with_the_same_settings(place: Path, slurm: StandIn) -> None:
    config = load_config([place / "run.yml"])
    open_run(run_directory(place / "runs" / "run", config), config, {})
    assert submit() == 0
