# SPDX-License-Identifier: Apache-2.0
"""Ranks on several nodes: ``launcher: slurm`` with a hostfile has srun start each rank, inside a Slurm job.

Without a hostfile, and under any other launcher, all ranks are forked on this machine.  Hostfile and launcher are read
and judged as GPT-NeoX's are, so that a rehearsal of its launch fails on what would fail there.  Facts on srun: Slurm
22.05, measured.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from gaff.errors import InputError, Problem
from gaff.plan.config import Config
from gaff.plan.typed import word
from gaff.trainers.bundled import settings
from gaff.trainers.neox.check_launcher import check_launcher
from gaff.trainers.neox.launchers import Nodes, launcher_variables, nodes_of

_HERE = "127.0.0.1"
_LOOPBACK_DEVICE = "lo"
_WAIT_S = 30  # all ranks leave within a second of each other: the last thing they do is to wait for all


def step_nodes(config: Config, environ: Mapping[str, str]) -> Nodes | None:
    """The hosts on which srun is to start the ranks; None where they are forked on this machine.

    Raises:
        InputError: the hostfile is wrong.
    """
    if word(config, "launcher") != "slurm":
        return None
    nodes = nodes_of(config, environ)
    return nodes if nodes.hosts else None


def check_nodes(config: Config, environ: Mapping[str, str]) -> list[Problem]:
    """What keeps srun from starting one process for each rank of a config that the trainer supports."""
    try:
        nodes = step_nodes(config, environ)
    except InputError as error:
        return list(error.problems)
    if nodes is None:
        left_out = _nodes_left_out(config, environ)
        return [left_out] if left_out else []
    found = list(check_launcher(config, environ))
    other = None if any(problem.id == "gpus-hostfile" for problem in found) else other_ranks(config, nodes)
    return [*found, *([other] if other else [])]


def other_ranks(config: Config, nodes: Nodes) -> Problem | None:
    """The hostfile's number of slots must be that of the layout's ranks: batch and order of the data hang on it."""
    world = settings.layout(config.neox).world
    if nodes.ranks == world:
        return None
    what = (
        f"the config has {_count(world, 'rank')}, and the hostfile {nodes.hostfile} {_count(nodes.ranks or 0, 'slot')}"
    )
    key = "hostfile" if config.get("global_num_gpus") is None else "global_num_gpus"
    return config.problem("gpus-hostfile", key, what, f"set global_num_gpus: {nodes.ranks}, or mend the hostfile")


def step_command(nodes: Nodes, command: tuple[str, ...]) -> tuple[str, ...]:
    """srun's command line for one process per slot; where the hosts' slots differ, Slurm decides who gets how many.

    The rest of what a step needs goes through :func:`step_variables`.
    """
    words = ["srun", "-n", str(nodes.ranks), f"--nodes={len(nodes.hosts)}"]
    if nodes.ranks == len(nodes.hosts) * (nodes.ranks_per_node or 0):
        words.append(f"--ntasks-per-node={nodes.ranks_per_node}")  # with any other number srun warns and ignores it
    return (*words, "--export=ALL", *command)


def step_variables(nodes: Nodes, config: Config, environ: Mapping[str, str], port: int) -> dict[str, str]:
    """What the ranks, and srun itself, need in their environment: where to meet, and that one dead rank ends the step.

    srun would wait for ever for a node that lost its slurmstepd, so it is told how long (SLURM_WAIT, where not set).

    Args:
        nodes: from :func:`step_nodes`.
        config: its ``master_addr`` is used where MASTER_ADDR is not set.
        environ: the environment that the launch inherits.
        port: the port that was reserved for the launch.
    """
    variables = launcher_variables(nodes, config, environ, port)
    if not nodes.several:
        variables["MASTER_ADDR"] = _HERE
    # gloo would look up the machine's own name, which need not resolve where all ranks are on one machine.
    if _is_loopback({**environ, **variables}["MASTER_ADDR"]) and "GLOO_SOCKET_IFNAME" not in environ:
        variables["GLOO_SOCKET_IFNAME"] = _LOOPBACK_DEVICE
    if "SLURM_WAIT" not in environ:
        variables["SLURM_WAIT"] = str(_WAIT_S)
    return {**variables, "LOCAL_SIZE": str(nodes.ranks_per_node)}


def _nodes_left_out(config: Config, environ: Mapping[str, str]) -> Problem | None:
    allocated = environ.get("SLURM_JOB_NUM_NODES") or environ.get("SLURM_NNODES") or ""
    if word(config, "launcher") != "slurm" or not allocated.isdecimal() or int(allocated) < 2:
        return None
    what = f"the job has {allocated} nodes, and without a hostfile the bundled trainer runs on one"
    remedy = "write `scontrol show hostnames` to a file, ` slots=RANKS` after each, and name it in `hostfile`"
    return config.problem("launcher-hostfile", "launcher", what, remedy)


def _is_loopback(address: str) -> bool:
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:  # a host's name
        return False


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
