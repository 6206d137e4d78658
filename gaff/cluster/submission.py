# SPDX-License-Identifier: Apache-2.0
"""From a config and a profile to a job in the queue."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from gaff.cluster.allocation import FOLDER
from gaff.cluster.profile import ClusterProfile
from gaff.cluster.record import record, submissions
from gaff.cluster.request import JobRequest, Scheduler
from gaff.cluster.sweep import Variant, variants
from gaff.errors import InputError, Location, Problem
from gaff.files import make_directory_durably, write_durably
from gaff.plan.config import Config, load_config

#: Variables that GAFF itself reads, which a job with a clean environment would lack.
EXPORTED = ("GAFF_HOME", "GPT_NEOX_DIR", "GPT_NEOX_PYTHON", "TORCH_EXTENSIONS_DIR", "HF_HOME")
_DEFAULTS = ("partition", "account", "qos", "reservation")  # SBATCH_PARTITION and so on
_LONGEST_NAME = 60  # characters of a job's name

Check = Callable[[Config, Path], Sequence[Problem]]


@dataclass(frozen=True)
class Submittal:
    """A job, or an array of jobs, ready to be submitted.

    Attributes:
        request: for the scheduler.
        root: of the run, or the directory of a sweep's runs; absolute.
        runs: the run directory of each task, absolute.
        warnings: what a person should know before.
    """

    request: JobRequest
    root: Path
    runs: tuple[Path, ...]
    warnings: tuple[Problem, ...] = ()


def prepare(
    profile: ClusterProfile,
    configs: Sequence[Path],
    overrides: Sequence[str],
    sweeps: Sequence[str],
    *,
    root: Path,
    arguments: Sequence[str],
    check: Check,
    environ: Mapping[str, str] = os.environ,
) -> Submittal:
    """Check every run as far as a login node can, and put its command together.  Writes nothing.

    Args:
        profile: with a ``command``.
        configs: the config files.
        overrides: ``KEY=VALUE`` for all runs.
        sweeps: ``KEY=VALUE,VALUE``; see :func:`gaff.cluster.sweep.variants`.
        root: the run directory; that of a sweep holds one for each run.
        arguments: further ones of ``gaff run``.
        check: raises what is wrong with a config and its run directory, and returns what is worth a word.
        environ: of the submitting shell.

    Raises:
        InputError: a config, a run directory, the sweep or a variable is wrong.
    """
    root = root.absolute()
    profile = _with_defaults(profile, environ)
    chosen = variants(sweeps) or (Variant((), ""),)
    runs: list[Path] = []
    commands: list[tuple[str, ...]] = []
    warnings: list[Problem] = []
    handed: dict[str, None] = {}
    for variant in chosen:
        given = [*overrides, *variant.overrides]
        config = load_config(configs, given)
        given += _container(config, profile)
        config = load_config(configs, given)
        _refuse_container_on_nodes(config, profile)
        own = root / variant.name if variant.name else root
        warnings += [problem for problem in check(config, own) if problem not in warnings]
        handed |= dict.fromkeys(_handed(config, profile, environ))
        options = [word for path in configs for word in ("--config", str(path.absolute()))]
        options += [word for override in given for word in ("-o", override)]
        runs.append(own)
        commands.append((*options, *arguments, "--run-dir", str(own)))
    request = JobRequest(
        name=_job_name(root.name),
        profile=profile,
        runs=tuple(commands),
        logs=root / FOLDER,
        directory=Path.cwd(),
        handed=tuple(handed),
        exported={name: environ[name] for name in EXPORTED if environ.get(name)},
        array=bool(sweeps),
    )
    return Submittal(request, root, tuple(runs), tuple(warnings))


def submit(scheduler: Scheduler, submittal: Submittal, script: str) -> tuple[str, str | None]:
    """Write the script into the run directory, have it checked, submit it, and record that.

    Returns:
        The job's id, and what the scheduler says of when it will start.

    Raises:
        InputError: another job of one of the runs waits or runs; or the scheduler refuses this one.
        GaffError: the scheduler does not answer.
    """
    for run in submittal.runs:
        _refuse_second(scheduler, run)
    make_directory_durably(submittal.request.logs)  # without it a job of Slurm dies without a trace
    path = submittal.request.logs / scheduler.template
    write_durably(path, script.encode())
    path.chmod(0o755)
    starts = scheduler.check(path, submittal.request)
    job = scheduler.submit(path, submittal.request)
    _, first = scheduler.task_number()
    for number, run in enumerate(submittal.runs, start=first):
        record(run, scheduler.name, scheduler.task(job, number) if submittal.request.array else job, path)
    return job, starts


def _refuse_second(scheduler: Scheduler, run: Path) -> None:
    """Two jobs of one run would contend for its directory, and the second would end at once."""
    for earlier in submissions(run)[-2:]:  # one and its follower; those before are over
        if earlier.scheduler == scheduler.name and scheduler.state(earlier.job):
            what = f"{scheduler.title}'s job {earlier.job} of this run is waiting or running"
            remedy = "let it go on, or cancel it first"
            raise InputError(Problem("already-submitted", what, remedy, Location(str(run))))


def _container(config: Config, profile: ClusterProfile) -> Iterator[str]:
    """The profile's image, where the config names none."""
    if profile.container and config.gaff.container is None:
        block = yaml.safe_dump(dict(profile.container), default_flow_style=True, width=10**6).strip()
        yield f"gaff.container={block}"


def _refuse_container_on_nodes(config: Config, profile: ClusterProfile) -> None:
    """A container of Docker's daemon is in no step of Slurm's."""
    container = config.gaff.container
    if profile.nodes > 1 and container is not None and container.engine != "apptainer":
        what = f"`nodes: {profile.nodes}` does not go with a container of {container.engine}"
        remedy = "ask for one node, or use apptainer"
        raise InputError(Problem("container-nodes", what, remedy, profile.where("nodes")))


def _with_defaults(profile: ClusterProfile, environ: Mapping[str, str]) -> ClusterProfile:
    """What the profile leaves open and the user has set for every sbatch, so that it stands in the script as well."""
    if profile.scheduler != "slurm":
        return profile
    open_keys = [key for key in _DEFAULTS if getattr(profile, key) is None and environ.get(f"SBATCH_{key.upper()}")]
    return replace(profile, **{key: environ[f"SBATCH_{key.upper()}"] for key in open_keys})  # type: ignore[arg-type]


def _handed(config: Config, profile: ClusterProfile, environ: Mapping[str, str]) -> list[str]:
    """Names whose values the job takes from the submitting shell."""
    asked = [(name, config.where("gaff.environment")) for name, value in config.gaff.environment if value is None]
    asked += [(name, profile.where("environment")) for name, value in profile.environment if value is None]
    lacking = [
        Problem("variable-missing", f"`{name}` is to be handed on, and this shell has none", "export it", where)
        for name, where in asked
        if name not in environ
    ]
    if lacking:
        raise InputError(lacking)
    return [name for name, _ in asked]


def _job_name(text: str) -> str:
    """What Slurm and Grid Engine take, which wants no digit in front."""
    name = re.sub(r"[^\w.-]+", "-", text, flags=re.ASCII)[:_LONGEST_NAME]
    return name if name[:1].isalpha() else f"gaff-{name}".rstrip("-")
