# SPDX-License-Identifier: Apache-2.0
"""A job's nodes as GPT-NeoX wants to hear of them: a hostfile, and the keys that go with it."""

from __future__ import annotations

import json
from pathlib import Path

from gaff.cluster.job import Job
from gaff.files import make_directory_durably, write_durably

FOLDER = "jobs"  # in the run directory: scripts, logs, hostfiles and the record of what was submitted


def write_hostfile(job: Job, root: Path) -> Path:
    """A hostfile of this job's nodes in run directory ``root``.

    One for each start of a job: a job that was put back into the queue gets other nodes, and what is left of its first
    start may still read the first file.
    """
    path = root.absolute() / FOLDER / f"hostfile-{job.id}-{job.restarts}"
    make_directory_durably(path.parent)
    write_durably(path, "".join(f"{node} slots={job.slots}\n" for node in job.nodes).encode())
    return path


def launch_overrides(job: Job | None, hostfile_given: bool, launcher: str | None, root: Path) -> list[str]:
    """``KEY=VALUE`` overrides that spread a run over all nodes of its job; none for one node.

    Args:
        job: this one; None outside of any.
        hostfile_given: whether the config names a hostfile: it then says itself where the ranks run.
        launcher: the config's, None for none: Slurm's own is taken.
        root: the run directory.
    """
    if job is None or len(job.nodes) < 2 or hostfile_given:
        return []
    overrides = [f"hostfile={json.dumps(str(write_hostfile(job, root)))}"]  # an override's value is YAML
    return overrides if launcher or job.scheduler != "Slurm" else [*overrides, "launcher=slurm"]
