# SPDX-License-Identifier: Apache-2.0
"""The srun that a launcher inside an image asks for is run outside: real processes, a false srun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gaff.trainers.neox.relay import job_variables, programs, step_command, write_relay

# Starts the command once for each task, as srun does, and ends with the highest exit code.
FALSE_SRUN = r"""#!/bin/bash
echo "srun $*" >> "$CALLS"
while [ "$1" != sh ]; do [ "$1" = -n ] && tasks=$2; shift; done
for ((rank = 0; rank < tasks; rank++)); do SLURM_PROCID=$rank SLURM_NTASKS=$tasks "$@" & pids+=($!); done
trap 'kill "${pids[@]}"; wait; exit 143' TERM
code=0
for pid in "${pids[@]}"; do wait "$pid"; last=$?; [ $last -gt $code ] && code=$last; done
exit $code
"""
# An engine that makes the environment anew but for what comes under its prefix.
FALSE_ENGINE = r"""#!/bin/bash
while [ "$1" != image ]; do shift; done; shift
words=(PATH="$PATH")
while IFS='=' read -r name value; do words+=("${name#INTO_}=$value"); done < <(env | grep ^INTO_)
[ -z "$INTO_PREPEND_PATH" ] || words+=(PATH="$INTO_PREPEND_PATH:$PATH")
exec env -i "${words[@]}" "$@"
"""


class Scene:
    def __init__(self, folder: Path) -> None:
        self.directory, self.calls = folder / "it's a segment", folder / "calls"
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.directory.mkdir()
        for name, text in (("srun", FALSE_SRUN), ("engine", FALSE_ENGINE)):
            (self.bin / name).write_text(text)
            (self.bin / name).chmod(0o755)
        self.engine = (str(self.bin / "engine"), "exec", "image")

    def start(self, launcher: str) -> subprocess.Popen[str]:
        inside = (*self.engine, "sh", "-c", launcher)
        command = write_relay(self.directory, inside, self.engine, "INTO_")
        environment = {
            **os.environ,
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "CALLS": str(self.calls),
            "INTO_GREETING": "hello there",
            "INTO_PREPEND_PATH": str(programs(self.directory)),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=60)
    return process.returncode, output, errors


def test_every_task_starts_its_rank_in_the_image(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    rank = 'echo "rank $SLURM_PROCID of $SLURM_NTASKS: $GREETING, $1"'
    launcher = f"sinfo && srun -n 3 --export=ALL,A=\"b c\" sh -c '{rank}' - 'two words'; echo launcher ends with $?"
    code, output, errors = finished(scene.start(launcher))
    assert code == 0, errors
    ranks = sorted(line for line in output.splitlines() if line.startswith("rank"))
    assert ranks == [f"rank {n} of 3: hello there, two words" for n in range(3)]
    assert "launcher ends with 0" in output
    assert scene.calls.read_text().startswith("srun -n 3 --export=ALL sh -c")


@pytest.mark.parametrize("code", [1, 137])
def test_a_ranks_exit_code_comes_to_the_launcher(code: int, tmp_path: Path) -> None:
    found, output, _ = finished(
        Scene(tmp_path).start(f"srun -n 2 --export=ALL sh -c 'exit {code}'; echo saw $?; exit 7")
    )
    assert f"saw {code}" in output
    assert found == 7


def test_a_launcher_that_never_asks_is_waited_for(tmp_path: Path) -> None:
    assert finished(Scene(tmp_path).start("exit 3"))[0] == 3


def test_a_step_that_cannot_be_started_fails_with_a_word(tmp_path: Path) -> None:
    code, output, errors = finished(Scene(tmp_path).start("srun -n 2 true; echo saw $?; exit 1"))
    assert "saw 1" in output
    assert code == 1
    assert "srun was called without --export" in errors


def test_told_to_end_it_ends_launcher_and_ranks(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    process = scene.start(f"srun -n 2 --export=ALL sh -c 'echo $$ >> {tmp_path}/pids; exec sleep 100'")
    pids, until = tmp_path / "pids", time.monotonic() + 30
    while (not pids.exists() or len(pids.read_text().split()) < 2) and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    code, _, _ = finished(process)
    assert code == 143
    for pid in pids.read_text().split():
        assert not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split(")")[1]


def test_what_a_launch_before_left_is_not_taken_for_this_one(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    for _ in range(2):
        code, output, errors = finished(scene.start("srun -n 1 --export=ALL sh -c 'echo trained'"))
        assert (code, output.strip()) == (0, "trained"), errors
    assert len(scene.calls.read_text().splitlines()) == 2


def test_options_of_the_launcher_stay_before_the_ranks_command() -> None:
    words = [
        "-n",
        "16",
        "--comment",
        "x y",
        "--export=ALL,PYTHONPATH=/a",
        "/env/bin/python",
        "-u",
        "train.py",
        "--export=no",
    ]
    command = step_command(words, ["apptainer", "exec", "i.sif"], "APPTAINERENV_")
    assert command[:6] == ["srun", "-n", "16", "--comment", "x y", "--export=ALL"]
    assert command[-7:] == ["apptainer", "exec", "i.sif", "/env/bin/python", "-u", "train.py", "--export=no"]


def test_the_launcher_learns_of_its_job_as_rank_0() -> None:
    found = job_variables({"SLURM_PROCID": "5", "SLURM_JOB_ID": "12", "MASTER_ADDR": "n1", "HOME": "/home/me"}, 16)
    assert found == {
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        "SLURM_NTASKS": "16",
        "SLURM_JOB_ID": "12",
        "MASTER_ADDR": "n1",
    }
