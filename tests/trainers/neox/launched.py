# SPDX-License-Identifier: Apache-2.0
"""A checkout that trains nothing but is started by DeepSpeed's own runner, and launchers that run everything here.

``deepy.py`` gives its keys to DeepSpeed as GPT-NeoX's does; ``train.py`` writes down what each rank finds in its
environment.  The false ``ssh``, ``pdsh``, ``mpirun`` and ``srun`` take the options of the real ones and start the
commands on this machine, with as little environment as the real ones would.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gaff.plan.config import Config, load_config
from tests.live import write_config

DEEPY = """
import os, sys, yaml
from deepspeed.launcher import runner
keys = yaml.safe_load(open(sys.argv[2]))
words = []
for key in ("hostfile", "include", "exclude", "num_nodes", "num_gpus", "master_port", "master_addr", "launcher"):
    if keys.get(key) is not None:
        words += ["--" + key, str(keys[key])]
for key in ("no_ssh_check", "force_multi"):
    if keys.get(key) or (key == "force_multi" and (keys.get("deepspeed_slurm") or keys.get("deepspeed_mpi"))):
        words.append("--" + key)
for key, variable in (("hostfile", "DLTS_HOSTFILE"), ("master_addr", "MASTER_ADDR")):
    if variable in os.environ:
        words += ["--" + key, os.environ[variable]]
if keys.get("deepspeed_slurm"):
    [os.environ[name] for name in ("SLURM_LOCALID", "SLURM_PROCID", "SLURM_NTASKS")]
runner.main([*words, "train.py", "--out", os.path.dirname(sys.argv[2])])
"""

TRAIN = """
import json, os, sys
names = ("OMPI_COMM_WORLD_RANK", "FAKE_PROCID", "RANK")
rank = next(os.environ[name] for name in names if name in os.environ)
with open(os.path.join(sys.argv[sys.argv.index("--out") + 1], f"rank-{rank}.json"), "w") as file:
    json.dump(dict(os.environ), file)
"""

SSH = """
words = sys.argv[1:]
while words[0].startswith("-"):
    words = words[2:] if words[0] in ("-o", "-p") else words[1:]
host, command = words[0], " ".join(words[1:])
if host in os.environ.get("FAKE_DEAD", "").split(","):
    sys.exit("ssh: connect to host " + host + ": No route to host")
if command == "hostname -I":
    print("127.0.0.1 ")
    sys.exit(0)
sys.exit(subprocess.run(["/bin/sh", "-c", command], env=login(host)).returncode)
"""

PDSH = """
assert os.environ.get("PDSH_RCMD_TYPE") == "ssh" or "-R" in sys.argv
words, hosts = sys.argv[1:], []
while words[0].startswith("-"):
    if words[0] == "-w":
        hosts = words[1].split(",")
    words = words[1:] if words[0] == "-S" else words[2:]
started = []
for number, host in enumerate(hosts):
    command = " ".join(words).replace("%%", chr(0)).replace("%n", str(number)).replace("%h", host).replace(chr(0), "%")
    started.append(subprocess.Popen(["/bin/sh", "-c", command], env=login(host)))
sys.exit(max(process.wait() for process in started))
"""

MPIRUN = """
words, exports, count = sys.argv[1:], {}, 0
while words[0].startswith("-"):
    if words[0] == "-x":
        name, _, value = words[1].partition("=")
        exports[name] = value
    if words[0] == "-n":
        count = int(words[1])
    words = words[3:] if words[0] == "--mca" else words[2:]
started = []
for rank in range(count):
    world = {"OMPI_COMM_WORLD_RANK": str(rank), "OMPI_COMM_WORLD_SIZE": str(count)}
    started.append(subprocess.Popen(words, env={**login("n"), **exports, **world}))
sys.exit(max(process.wait() for process in started))
"""

SRUN = """
words, environment, count = sys.argv[1:], dict(os.environ), 1
while words[0].startswith("-"):
    if words[0] == "-n":
        count = int(words[1])
    if words[0].startswith("--export="):
        first, *others = words[0][len("--export="):].split(",")
        assert first == "ALL"
        for item in others:  # what srun inherits wins
            name, equals, value = item.partition("=")
            environment.setdefault(name, value)
    words = words[1:] if words[0].startswith("--") else words[2:]
started = [subprocess.Popen(words, env={**environment, "FAKE_PROCID": str(rank)}) for rank in range(count)]
sys.exit(max(process.wait() for process in started))
"""

HEAD = """#!{python}
import json, os, subprocess, sys
def login(host):
    return {{"HOME": os.environ["HOME"], "PATH": "/usr/bin:/bin", "FAKE_HOST": host}}
with open({record!r}, "a") as file:
    file.write(json.dumps(sys.argv) + chr(10))
"""


class FakeCluster:
    """Attributes:
    checkout: the launch's working directory.
    environ: of a shell that has the launchers on its PATH.
    """

    def __init__(self, root: Path) -> None:
        self.checkout = root / "gpt-neox"
        self.checkout.mkdir()
        (self.checkout / "deepy.py").write_text(DEEPY)
        (self.checkout / "train.py").write_text(TRAIN)
        self.programs = root / "bin"
        self.programs.mkdir()
        self._record = root / "called.jsonl"
        self._record.touch()
        bodies = {"ssh": SSH, "pdsh": PDSH, "mpirun": MPIRUN, "srun": SRUN, "ompi_info": "", "sinfo": ""}
        for name, body in bodies.items():
            path = self.programs / name
            path.write_text(HEAD.format(python=sys.executable, record=str(self._record)) + body)
            path.chmod(0o755)
        home = root / "home"
        home.mkdir()
        self.environ = {
            "HOME": str(home),
            "PATH": f"{self.programs}:/usr/bin:/bin",
            "DS_ACCELERATOR": "cpu",
        }

    def called(self, program: str) -> list[list[str]]:
        """The words that each call of a launcher was given."""
        calls = [json.loads(line) for line in self._record.read_text().splitlines()]
        return [words[1:] for words in calls if Path(words[0]).name == program]

    def run(self, argv: Sequence[str], cwd: Path, variables: Mapping[str, str]) -> None:
        done = subprocess.run(
            argv, cwd=cwd, env={**self.environ, **variables}, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr


def ranks_of(directory: Path) -> list[dict[str, str]]:
    """The environment of every rank, in their order."""
    files = sorted(directory.glob("rank-*.json"))
    return [dict(json.loads(file.read_text())) for file in files]


def config_of(folder: Path, *overrides: str, **keys: Any) -> Config:
    """A config for GPT-NeoX, without ``global_num_gpus``; ``keys`` are further ones, or blocks, as Python values."""
    path = write_config(folder / "run.yml", folder / "data" / "text", train_iters=40, reset_every=10)
    words = [f"{key}={json.dumps(value)}" for key, value in keys.items()]
    return load_config([path], ["gaff.trainer=neox", "global_num_gpus=null", *words, *overrides])


def hostfile(folder: Path, text: str = "node-a slots=1\nnode-b slots=1\n") -> Path:
    path = folder / "hostfile"
    path.write_text(text)
    return path
