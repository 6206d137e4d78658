# SPDX-License-Identifier: Apache-2.0
"""Commands that end a run's processes on other nodes, which no kill on this machine reaches.

ssh leaves what it started running when it is killed itself, so a killed supervisor leaves ranks behind that hold their
GPUs.  Which processes are a run's is told by GAFF_RUN_ID in their environment: nothing else is touched, neither other
runs of the same user on these nodes, nor (as DeepSpeed's own ``pkill -f``) every launcher there.
"""

from __future__ import annotations

import shlex

from gaff.trainers.neox.launchers import Nodes

_SECONDS = 10


def sweep(run_id: str) -> str:
    """A shell command that kills every process of a run on the machine where it is executed.

    It goes over them twice: a launcher may have started one more rank between being seen and being killed.  The
    command itself must not have GAFF_RUN_ID in its environment.
    """
    mark = shlex.quote(f"GAFF_RUN_ID={run_id}")
    once = f"grep -lzxsF {mark} /proc/[0-9]*/environ | cut -d/ -f3 | xargs -r kill -9 2>/dev/null"
    return f"{once}; {once}; true"


def clean_up(nodes: Nodes, run_id: str) -> tuple[tuple[str, ...], ...]:
    """Commands for :attr:`gaff.trainers.contract.Launch.clean_up`; none where all ranks run on this machine.

    Each ends by itself, within half a minute where a node does not answer; they are to be run without GAFF_RUN_ID in
    their environment.
    """
    if nodes.launcher == "local":
        return ()
    remote = f"sh -c {shlex.quote(sweep(run_id))}"
    if nodes.launcher == "pdsh":
        pdsh = ("pdsh", "-R", "ssh", "-S", "-f", "1024", "-t", str(_SECONDS), "-u", str(3 * _SECONDS))
        return ((*pdsh, "-w", ",".join(nodes.hosts), remote.replace("%", "%%")),)
    if nodes.launcher == "slurm":
        # A step beside the run's own, if that is still there; one task on each node of the job.
        step = ("srun", "--overlap", "--gres=none", "--ntasks-per-node=1", f"--immediate={_SECONDS}")
        return (("sh", "-c", f'{shlex.join(step)} -n "$SLURM_JOB_NUM_NODES" {remote}'),)
    ssh = f"ssh -o BatchMode=yes -o ConnectTimeout={_SECONDS}"
    hosts = " ".join(shlex.quote(host) for host in nodes.hosts)
    return (("sh", "-c", f"for host in {hosts}; do {ssh} $host {shlex.quote(remote)} </dev/null & done; wait"),)
