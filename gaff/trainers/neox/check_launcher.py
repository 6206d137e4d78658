# SPDX-License-Identifier: Apache-2.0
"""What would keep GPT-NeoX's launcher from starting the ranks of a config, or make it start others than meant.

Everything here is judged before the first launch.  Only :func:`unreachable` talks to other machines.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping

from gaff.errors import InputError, Problem
from gaff.plan.config import Config
from gaff.plan.typed import flag, integer, text, word
from gaff.trainers.neox.hostfile import find_hostfile
from gaff.trainers.neox.launchers import MPI, MPI_PORT, Nodes, is_this_machine, nodes_of

Which = Callable[[str], str | None]

_PROGRAMS: Mapping[str, tuple[str, ...]] = {
    "local": (),
    "pdsh": ("pdsh", "ssh"),
    "openmpi": ("mpirun", "ompi_info", "ssh"),
    "mvapich": ("mpirun", "mpiname"),
    "slurm": ("srun", "sinfo"),
}
_FILTERS = ("include", "exclude", "num_nodes", "num_gpus")
_SSH_SECONDS = 10


def check_launcher(config: Config, environ: Mapping[str, str], which: Which = shutil.which) -> Iterator[Problem]:
    """Whether launcher, hostfile and the keys around them go together, and the launcher's programs are there.

    Args:
        environ: of the shell that GAFF runs in.
        which: finds a program on PATH.
    """
    try:
        nodes = nodes_of(config, environ)
    except InputError as error:
        yield from error.problems
        return
    yield from _hostfile_that_nobody_named(config, nodes, environ)
    yield from _filters(config, nodes)
    yield from _count(config, nodes)
    yield from _flags(config, nodes)
    yield from _address(config, nodes, environ)
    if nodes.launcher == "slurm":
        yield from _slurm(config, nodes, environ)
    elif nodes.launcher == "openmpi" and nodes.hostfile is None:
        what = "`launcher: openmpi` needs a hostfile, also for one machine"
        yield config.problem("launcher-hostfile", "launcher", what, "name one in `hostfile`")
    elif nodes.launcher == "local":
        yield from _one_host_elsewhere(config, nodes)
    if nodes.launcher in MPI and integer(config, "master_port") not in (None, MPI_PORT):
        what = f"under MPI the ranks meet at port {MPI_PORT}, whatever `master_port` says"
        yield config.problem("mpi-port", "master_port", what, "remove the key")
    missing = [name for name in _PROGRAMS[nodes.launcher] if which(name) is None]
    if missing:
        what = f"the launcher {nodes.launcher} needs {' and '.join(missing)}, not on PATH here"
        yield config.problem("launcher-program", "launcher", what, "install it or load its module")


def check_mpi4py(config: Config, nodes: Nodes, version: str | None) -> Iterator[Problem]:
    """Whether GPT-NeoX's Python has the mpi4py (None: it has none) by which its ranks find each other under MPI."""
    if nodes.launcher in MPI and version is None:
        what = f"`launcher: {nodes.launcher}` needs mpi4py, which GPT-NeoX's Python does not have"
        yield config.problem("mpi4py-missing", "launcher", what, "install mpi4py there, built with this MPI")


def unreachable(nodes: Nodes) -> list[Problem]:
    """Hosts that ssh does not reach without a password, where the launcher goes by ssh.  Asks all of them at once."""
    if nodes.launcher not in ("pdsh", "openmpi"):
        return []
    options = ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={_SSH_SECONDS}"]
    asked = {
        host: subprocess.Popen(
            ["ssh", *options, host, "true"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            errors="replace",
        )
        for host in nodes.hosts
    }
    problems = []
    for host, process in asked.items():
        try:
            _, said = process.communicate(timeout=3 * _SSH_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            _, said = process.communicate()
        if process.returncode:
            lines = said.strip().splitlines()
            what = f"the host {host} cannot be reached by ssh without a password"
            what += f" ({lines[-1].strip()})" if lines else ""
            remedy = f"mend it until `ssh {shlex.quote(host)} true` asks nothing"
            problems.append(Problem("host-unreachable", what, remedy))
    return problems


def _hostfile_that_nobody_named(config: Config, nodes: Nodes, environ: Mapping[str, str]) -> Iterator[Problem]:
    """A hostfile from elsewhere would make a run on one machine one on many, in silence."""
    found = find_hostfile(config, environ)
    if found is None or found.named_by == "hostfile" or text(config, "launcher") is not None:
        return
    hosts = "1 host" if len(nodes.hosts) == 1 else f"{len(nodes.hosts)} hosts"
    by = f"the variable {found.named_by} names" if found.named_by else "DeepSpeed would take, unasked,"
    what = f"{by} the hostfile {found.path} with {hosts}, and the config does not say that it is meant"
    otherwise = f"unset {found.named_by}" if found.named_by else "name one with this machine alone"
    yield config.problem("hostfile-unasked", "hostfile", what, f"write `hostfile: {found.path}`, or {otherwise}")


def _filters(config: Config, nodes: Nodes) -> Iterator[Problem]:
    """Keys that the launcher obeys and GPT-NeoX, which works out the batch, does not; or the other way round."""
    given = [k for k in _FILTERS if (text(config, k) if k in ("include", "exclude") else (integer(config, k) or 0) > 0)]
    if not given:
        return
    key = given[0]
    if nodes.launcher in MPI or nodes.launcher == "slurm":
        what = f"`{key}` cannot be used with `launcher: {nodes.launcher}`"
        yield config.problem("host-filters", key, what, "list just the hosts and slots to use in the hostfile")
    elif nodes.hostfile is None and key in ("include", "exclude"):
        what = f"without a hostfile `{key}` is half ignored: the launcher obeys it, the batch is worked out without it"
        remedy = "remove it and set CUDA_VISIBLE_DEVICES, or name a hostfile"
        yield config.problem("host-filters", key, what, remedy)
    elif nodes.hostfile is None and (integer(config, "num_nodes") or 0) > 1:
        what = f"`num_nodes: {integer(config, 'num_nodes')}` asks for machines that no hostfile names"
        yield config.problem("host-filters", "num_nodes", what, "name a hostfile, or remove the key")


def _count(config: Config, nodes: Nodes) -> Iterator[Problem]:
    """``global_num_gpus`` decides the batch, the hostfile how many ranks there are."""
    told = integer(config, "global_num_gpus")
    if told is not None and nodes.ranks is not None and told != nodes.ranks:
        what = (
            f"`global_num_gpus: {told}` sets the batch, but {nodes.ranks} ranks will be started from {nodes.hostfile}"
        )
        yield config.problem("gpus-hostfile", "global_num_gpus", what, "remove it, or mend the hostfile")


def _flags(config: Config, nodes: Nodes) -> Iterator[Problem]:
    """``deepspeed_slurm`` and ``deepspeed_mpi`` change what ranks read; GAFF sets them as the launcher needs."""
    for key, launchers in (("deepspeed_slurm", ("slurm",)), ("deepspeed_mpi", MPI)):
        if flag(config, key) and nodes.launcher not in launchers:
            what = f"`{key}: true` does not go with {_described(config)}"
            yield config.problem("launcher-flags", key, what, f"write `launcher: {launchers[0]}`, or remove the key")


def _address(config: Config, nodes: Nodes, environ: Mapping[str, str]) -> Iterator[Problem]:
    """GPT-NeoX passes on MASTER_ADDR of the environment after the key, and the last one counts.

    On one machine GAFF sets it.
    """
    key, variable = text(config, "master_addr"), environ.get("MASTER_ADDR")
    if nodes.launcher != "local" and nodes.hostfile is not None and key and variable and key != variable:
        what = f"`master_addr: {key}` has no effect: MASTER_ADDR in the environment, {variable}, beats it"
        yield config.problem("master-addr", "master_addr", what, "unset MASTER_ADDR, or remove the key")


def _described(config: Config) -> str:
    return f"`launcher: {word(config, 'launcher')}`" if word(config, "launcher") else "no `launcher` key"


def _slurm(config: Config, nodes: Nodes, environ: Mapping[str, str]) -> Iterator[Problem]:
    if "SLURM_JOB_ID" not in environ:
        what = "`launcher: slurm` starts the ranks inside a Slurm job, and GAFF was not started in one"
        remedy = "start it from a script given to sbatch, or in a shell of salloc"
        yield config.problem("not-in-a-job", "launcher", what, remedy)
        return
    allocated = environ.get("SLURM_JOB_NUM_NODES") or environ.get("SLURM_NNODES") or ""
    if nodes.hostfile is None and allocated.isdecimal() and int(allocated) > 1:
        what = f"the job has {allocated} nodes, and without a hostfile GPT-NeoX trains on the GPUs of one"
        remedy = "write `scontrol show hostnames` to a file, ` slots=GPUS` after each, and name it in `hostfile`"
        yield config.problem("launcher-hostfile", "launcher", what, remedy)
    tasks = environ.get("SLURM_NTASKS", "")
    if nodes.ranks and tasks.isdecimal() and int(tasks) < nodes.ranks and "SLURM_NTASKS_PER_NODE" not in environ:
        what = f"the hostfile has {nodes.ranks} slots, and the job was given {tasks} tasks"
        yield config.problem("slurm-tasks", "hostfile", what, f"ask for {nodes.ranks} tasks (sbatch --ntasks)")
    if environ.get("SLURM_EXPORT_ENV", "").upper() in ("NONE", "NIL"):
        what = "SLURM_EXPORT_ENV=NONE keeps the environment, PATH included, from the ranks"
        yield config.problem("slurm-export", "launcher", what, "unset SLURM_EXPORT_ENV in the job's script")


def _one_host_elsewhere(config: Config, nodes: Nodes) -> Iterator[Problem]:
    """DeepSpeed starts the ranks of a single host where it stands itself, whatever that host is called."""
    for host in nodes.hosts:
        if not is_this_machine(host):
            what = f"{host} is the only host, and not this machine, yet DeepSpeed starts a single host's ranks here"
            yield config.problem("one-host-elsewhere", "hostfile", what, f"write `force_multi: true` to go to {host}")
