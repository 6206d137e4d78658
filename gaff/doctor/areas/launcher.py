# SPDX-License-Identifier: Apache-2.0
"""How the ranks will be started: the launcher of the config, its programs, its hosts, and what they share."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from gaff.doctor.filesystems import NETWORK, file_system
from gaff.doctor.finding import Finding, from_problem
from gaff.doctor.probes import run, which
from gaff.doctor.subject import Subject
from gaff.errors import InputError, Problem
from gaff.plan.config import Config
from gaff.plan.typed import items, text
from gaff.report.format import count
from gaff.trainers.neox.check_launcher import check_launcher, unreachable
from gaff.trainers.neox.launchers import nodes_of

AREA = "launcher"
_SSH_SECONDS = 10


@dataclass(frozen=True)
class LauncherFacts:
    """Attributes:
    launcher: as :func:`gaff.trainers.neox.launchers.nodes_of` says; None when the hostfile is wrong.
    hosts: host -> its slots.
    problems: of launcher, hostfile and the keys around them.
    unreachable: of the hosts, by ssh.
    lacking: host -> paths that must be there too and are not.
    local: the directory of checkpoints and its file system, where that looks like this machine's own.
    """

    launcher: str | None
    hosts: Mapping[str, int]
    problems: tuple[Problem, ...] = ()
    unreachable: tuple[Problem, ...] = ()
    lacking: Mapping[str, tuple[str, ...]] | None = None
    local: tuple[Path, str] | None = None


def examine(subject: Subject) -> Iterator[Finding]:
    if subject.trainer == "neox" and subject.config is not None:
        yield from judge(gather(subject, subject.config))


def gather(subject: Subject, config: Config) -> LauncherFacts:
    def find(name: str) -> str | None:
        return which(name, subject.environment)

    problems = tuple(check_launcher(config, subject.environment, find))
    try:
        nodes = nodes_of(config, subject.environment)
    except InputError:
        return LauncherFacts(None, {}, problems)
    hosts = {host: len(slots) for host, slots in nodes.hosts.items()}
    if not nodes.several:
        return LauncherFacts(nodes.launcher, hosts, problems)
    ssh = find("ssh") is not None and nodes.launcher != "slurm"
    mute = tuple(unreachable(nodes)) if ssh else ()
    lacking = _lacking(tuple(hosts), shared_paths(subject, config)) if ssh and not mute else {}
    kind = file_system(subject.save).kind
    local = None if kind in NETWORK or kind == "unknown" else (subject.save, kind)
    return LauncherFacts(nodes.launcher, hosts, problems, mute, lacking, local)


def shared_paths(subject: Subject, config: Config) -> tuple[str, ...]:
    """Directories that every node must see under the same name, as far as they are there on this one."""
    data = [text(config, "data_path"), *(items(config, "train_data_paths"))]
    named = [subject.neox_dir, Path(subject.neox_python).parent, subject.save.parent]
    named += [Path(path).parent for path in data if isinstance(path, str)]
    return tuple(dict.fromkeys(str(path) for path in named if path is not None and os.path.isdir(path)))


def _lacking(hosts: tuple[str, ...], paths: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Which of the paths each host lacks, asked by ssh of all at once."""
    question = "; ".join(f"test -d {shlex.quote(path)} || echo {shlex.quote(path)}" for path in paths)
    options = ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={_SSH_SECONDS}"]

    def ask(host: str) -> tuple[str, ...]:
        return tuple(run(["ssh", *options, host, question], timeout_s=3 * _SSH_SECONDS).out.splitlines())

    if not hosts:
        return {}
    with ThreadPoolExecutor(max_workers=32) as pool:
        return {host: lost for host, lost in zip(hosts, pool.map(ask, hosts), strict=True) if lost}


def judge(facts: LauncherFacts) -> Iterator[Finding]:
    yield from (_mended(problem, facts.launcher) for problem in facts.problems)
    for problem in facts.unreachable:
        host = next((host for host in facts.hosts if f" {host} " in problem.what), "HOST")
        yield Finding(problem.id, AREA, "problem", problem.what, _reach(shlex.quote(host), problem.what))
    for host, paths in (facts.lacking or {}).items():
        what = f"{host} does not have {', '.join(paths)}, which must lie at the same place on every node"
        remedy = f"rsync -a {shlex.quote(paths[0])}/ {shlex.quote(f'{host}:{paths[0]}/')}  # or use a shared directory"
        yield Finding("path-missing", AREA, "problem", what, remedy)
    if facts.local is not None:
        path, kind = facts.local
        what = f"{path} lies on {kind}, which looks like a disk of this machine alone; every node saves into it"
        remedy = "gaff run --config FILE --run-dir DIR  # on the cluster's shared file system"
        yield Finding("save-local", AREA, "warning", what, remedy)
    if facts.problems or facts.unreachable or facts.launcher is None:
        return
    if facts.launcher == "local":
        yield Finding("launcher", AREA, "ok", "the ranks start on this machine alone")
    else:
        where = f"{count(sum(facts.hosts.values()), 'rank')} on {count(len(facts.hosts), 'host')}"
        yield Finding("launcher", AREA, "ok", f"{facts.launcher} starts {where if facts.hosts else 'the ranks'}")


def _reach(host: str, said: str) -> str:
    """What mends a connection, by what ssh said of it."""
    if "resolve hostname" in said:
        return f"getent hosts {host}  # finds nothing: mend the name in the hostfile"
    if "Host key verification failed" in said:
        return f"ssh-keyscan {host} >> ~/.ssh/known_hosts  # if it is the host you mean"
    if "Permission denied" in said:
        return f"ssh-copy-id {host}  # asks for the password once; ssh-keygen makes a key"
    return f"ssh -v {host} true  # shows where it stops"


#: Programs of launchers, by what a module or a package without root is usually called.
_HOW = {
    "pdsh": "module load pdsh  # or: conda install -c conda-forge pdsh",
    "openmpi": "module load openmpi  # or: conda install -c conda-forge openmpi",
    "mvapich": "module load mvapich2",
    "slurm": "module load slurm  # or run this on a node of the cluster",
}


def _mended(problem: Problem, launcher: str | None) -> Finding:
    if problem.id == "launcher-program" and launcher in _HOW:
        return Finding(problem.id, AREA, "problem", problem.what, _HOW[launcher])
    if problem.id == "not-in-a-job":
        return Finding(problem.id, AREA, "warning", problem.what, "salloc --nodes=1 --gres=gpu:1  # or sbatch a script")
    return from_problem(AREA, problem)
