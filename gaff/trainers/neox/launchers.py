# SPDX-License-Identifier: Apache-2.0
"""GPT-NeoX's launchers: where the ranks of a config run, and what each launcher needs beside the config to start them.

``deepy.py`` hands over to DeepSpeed's runner, which starts the ranks on this machine itself, or on several through
pdsh, Open MPI, MVAPICH or Slurm.  Sources: DeepSpeed 0.16.5 ``launcher/runner.py`` and ``multinode_runner.py``,
``comm.mpi_discovery``; GPT-NeoX ``arguments.py``.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gaff.plan.config import Config
from gaff.plan.typed import flag, text, word
from gaff.trainers.neox.hostfile import VARIABLE, Slots, chosen, find_hostfile, read_hostfile

Launcher = Literal["local", "pdsh", "openmpi", "mvapich", "slurm"]
MPI = ("openmpi", "mvapich")
_MULTI_NODE: tuple[Launcher, ...] = ("openmpi", "mvapich", "slurm")  # used for one machine, too

#: GPT-NeoX's ranks under MPI call ``mpi_discovery()``, which sets their port to DeepSpeed's default, whatever is asked.
MPI_PORT = 29500


@dataclass(frozen=True)
class Nodes:
    """Where the ranks of a launch run.

    Attributes:
        launcher: what starts them; ``local`` is DeepSpeed's runner on this machine alone.
        hosts: host -> its slots, in the order of the ranks; empty for this machine without a hostfile.
        hostfile: the file that they come from.
    """

    launcher: Launcher
    hosts: Slots
    hostfile: Path | None = None

    @property
    def several(self) -> bool:
        """Whether more than one machine takes part, as far as the hostfile says."""
        return len(self.hosts) > 1

    @property
    def ranks(self) -> int | None:
        """How many processes train; None where only the machine knows."""
        return sum(len(own) for own in self.hosts.values()) or None

    @property
    def ranks_per_node(self) -> int | None:
        """Ranks of the largest node; None where only the machine knows."""
        return max((len(own) for own in self.hosts.values()), default=None)

    @property
    def inherits(self) -> bool:
        """Whether every rank gets the whole environment of the launch (``srun --export=ALL`` hands it on)."""
        return self.launcher in ("local", "slurm")

    @property
    def fixed_port(self) -> int | None:
        """The one port that this launcher's ranks meet at, whatever ``master_port`` says; None where the key counts."""
        return MPI_PORT if self.launcher in MPI else None


def nodes_of(config: Config, environ: Mapping[str, str]) -> Nodes:
    """Where a config's ranks will run when it is launched from a shell with the environment ``environ``.

    Raises:
        InputError: the hostfile or a filter on it is wrong.
    """
    found = find_hostfile(config, environ)
    hosts = chosen(read_hostfile(found.path), config) if found else {}
    return Nodes(_launcher(config, hosts), hosts, found.path if found else None)


def _launcher(config: Config, hosts: Slots) -> Launcher:
    """DeepSpeed's own rule (``runner.main``): pdsh is used where there are several hosts, or it is forced."""
    for launcher in _MULTI_NODE:
        if word(config, "launcher") == launcher:
            return launcher
    return "pdsh" if len(hosts) > 1 or flag(config, "force_multi") else "local"


def launcher_keys(nodes: Nodes, config: Config) -> dict[str, Any]:
    """GPT-NeoX keys that a segment's config needs beside the user's; written over them."""
    keys: dict[str, Any] = {}
    if nodes.hostfile is not None:
        keys["hostfile"] = str(nodes.hostfile)  # GPT-NeoX counts the GPUs by this key, never by DLTS_HOSTFILE
    if nodes.launcher == "slurm":
        keys |= {"deepspeed_slurm": True, "no_ssh_check": True}  # Slurm needs no ssh between nodes
    elif nodes.launcher in MPI:
        keys["deepspeed_mpi"] = True  # without it every rank takes itself for rank 0
    elif nodes.launcher == "local" and nodes.hostfile is not None:
        keys["no_ssh_check"] = True  # DeepSpeed asks even for one host, which it then runs here
        if text(config, "master_addr") is None:
            keys["master_addr"] = "127.0.0.1"
    return keys


def launcher_variables(nodes: Nodes, config: Config, base: Mapping[str, str], port: int) -> dict[str, str]:
    """Variables that DeepSpeed's runner, or a rank that it starts, needs under this launcher.

    Args:
        nodes: from :func:`nodes_of`.
        config: its ``master_addr`` is used under Slurm.
        base: the environment that the launch inherits.
        port: the port that was reserved for the launch.
    """
    variables: dict[str, str] = {}
    if nodes.hostfile is not None and VARIABLE in base:
        variables[VARIABLE] = str(nodes.hostfile)  # it beats the key, so let both say the same
    if nodes.launcher == "local" and nodes.hostfile is not None:
        variables["MASTER_ADDR"] = text(config, "master_addr") or "127.0.0.1"  # it beats the key, too
    elif nodes.launcher == "slurm":
        variables |= _slurm_variables(nodes, config, base, port)
    elif nodes.launcher == "openmpi":
        # DeepSpeed's Open MPI runner demands them before it calls mpirun, which then sets those of each rank.
        world = {"RANK": "0", "LOCAL_RANK": "0", "SIZE": "1"}
        variables |= {f"OMPI_COMM_WORLD_{name}": value for name, value in world.items()}
    return variables


def _slurm_variables(nodes: Nodes, config: Config, base: Mapping[str, str], port: int) -> dict[str, str]:
    """No launcher of DeepSpeed's runs on the nodes under Slurm, so the ranks read these from their environment."""
    variables = {"MASTER_PORT": str(port)}
    if "MASTER_ADDR" not in base:
        variables["MASTER_ADDR"] = text(config, "master_addr") or next(iter(nodes.hosts), "127.0.0.1")
    # deepy.py reads these as well; srun gives each rank its own.  In a shell of `salloc` they are not there.
    alone = {"SLURM_LOCALID": "0", "SLURM_PROCID": "0", "SLURM_NTASKS": str(nodes.ranks or 1)}
    variables |= {name: value for name, value in alone.items() if name not in base}
    if "SLURM_KILL_BAD_EXIT" not in base:
        variables["SLURM_KILL_BAD_EXIT"] = "1"  # one dead rank ends the step, else the others wait for it for ever
    return variables


def is_this_machine(host: str) -> bool:
    """Whether a host's name leads to an address of this machine."""
    name = host.rpartition("@")[2]
    if name in ("localhost", socket.gethostname()):
        return True
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return any(_is_own(family, address) for family, _, _, _, address in found)


def _is_own(family: int, address: Any) -> bool:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((address[0], 0, *address[2:]))
    except OSError:
        return False
    return True
