# SPDX-License-Identifier: Apache-2.0
"""From a command that would run GPT-NeoX here to the launch that runs it where, and with what, the config says.

Puts together what the modules beside it know: hosts and launcher, the environment of every rank, W&B, the container,
and what must be cleared away on other nodes and in a container's daemon.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gaff.errors import InputError, Problem
from gaff.plan.config import Config
from gaff.trainers.contract import Launch, SegmentRequest
from gaff.trainers.neox.check_launcher import check_launcher
from gaff.trainers.neox.clean_up import clean_up
from gaff.trainers.neox.container import check_container, contained, inside_variables, is_relayed, relayed
from gaff.trainers.neox.environment import (
    RUN_ID,
    asked,
    check_environment,
    compilers,
    rank_environment,
    write_environment,
)
from gaff.trainers.neox.launchers import Nodes, launcher_keys, launcher_variables, nodes_of
from gaff.trainers.neox.mounts import mounts_of
from gaff.trainers.neox.relay import job_variables
from gaff.trainers.neox.wandb import wandb_variables

_CACHE = "container-cache"  # in the run directory, for what is compiled inside an image


def launch_problems(config: Config, environ: Mapping[str, str]) -> list[Problem]:
    """Everything that keeps a launch from starting what the config says, seen without starting anything."""
    problems = list(check_launcher(config, environ))
    try:
        nodes = nodes_of(config, environ)
    except InputError:  # told of already
        return problems
    return [*problems, *check_environment(config, environ, nodes), *check_container(config, nodes)]


def launch_keys(config: Config, environ: Mapping[str, str]) -> dict[str, Any]:
    """GPT-NeoX keys that the segment's config needs for its launcher, written over the user's."""
    return launcher_keys(nodes_of(config, environ), config)


def base_environment(config: Config, environ: Mapping[str, str]) -> dict[str, str]:
    """This shell's environment with what the config asks for: what a trainer's own variables are made from."""
    return {**environ, **asked(config, environ)}


def build_launch(
    config: Config,
    request: SegmentRequest,
    command: Launch,
    environ: Mapping[str, str],
    *,
    shim: Path | None = None,
) -> Launch:
    """The launch of one segment.  Writes into the segment's directory where other nodes take their variables from.

    Args:
        config: checked by :func:`launch_problems`.
        request: the segment.
        command: how GPT-NeoX is run on this machine, or, with a ``container``, inside the image: ``argv``, ``cwd``, and
            in ``env`` what the trainer adds to :func:`base_environment`.
        environ: of the shell that GAFF runs in.
        shim: the CPU shim's directory, None on a GPU.

    Raises:
        InputError: a hostfile, a file of variables or a path is wrong.
    """
    nodes = nodes_of(config, environ)
    base = base_environment(config, environ)
    own = {**asked(config, environ), **compilers(base), **command.env, RUN_ID: request.run_id}
    if shim is not None and nodes.ranks_per_node:
        own |= {name: str(nodes.ranks_per_node) for name in ("GAFF_CPU_SHIM", "LOCAL_SIZE")}  # of one node, not of all
    own |= launcher_variables(nodes, config, base, request.master_port)
    dashboard = wandb_variables(config, nodes, request.run_id, base)
    own |= dashboard.variables
    if config.gaff.container is not None:
        return _in_container(config, request, command, own, environ, shim, nodes)
    environment = rank_environment(nodes, base, own, checkout=command.cwd, raw=dashboard.raw)
    variables = write_environment(environment, request.directory)
    return Launch(command.argv, command.cwd, variables, clean_up(nodes, request.run_id))


def _in_container(
    config: Config,
    request: SegmentRequest,
    command: Launch,
    own: Mapping[str, str],
    environ: Mapping[str, str],
    shim: Path | None,
    nodes: Nodes,
) -> Launch:
    assert config.gaff.container is not None
    goes_out = is_relayed(config.gaff.container, nodes)
    if goes_out:
        own = {**job_variables(environ, nodes.ranks or 1), **own}
    cache = request.directory.parents[1] / _CACHE
    variables = inside_variables(config, environ, own, cache=cache, shim=shim)
    mounts = mounts_of(config, request, variables, cache=cache, shim=shim)
    inside = Launch(command.argv, command.cwd, variables)
    launch = contained(config, inside, mounts, name=f"gaff-{request.run_id}", cwd=request.directory)
    if not goes_out:
        return launch
    everywhere = replace(launch, clean_up=clean_up(nodes, request.run_id))
    return relayed(everywhere, request.directory, command.argv)
