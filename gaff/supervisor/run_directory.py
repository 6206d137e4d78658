# SPDX-License-Identifier: Apache-2.0
"""What a run leaves behind, and where.

::

    RUN/
      run.json             who this run is, and where
      config.yml           the effective config, as one file
      plan.json            segments and resets
      journal.jsonl        the history
      lock                 held by the supervisor at work
      stop                 where somebody made it: the run stops before the next launch, until it is removed
      jobs/                what was submitted to a scheduler: scripts, logs, hostfiles
      segments/0001/       one segment: the trainer's config, attempt-1.log, attempt-2.log …
      checkpoints/         the tags, unless the config names another `save`
      checkpoints/set-aside/   tags that were incomplete and not trusted
      metrics.jsonl        every iteration line (docs/metrics.md)
      tensorboard/, trackers/   what `gaff: track` asks for
      report.html, loss_curve.png, loss_curve.svg, resets.csv, summary.json
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from gaff import __version__
from gaff.errors import InputError, Problem
from gaff.files import make_directory_durably, write_durably, write_json_durably
from gaff.plan.config import Config, load_config
from gaff.plan.directories import directory_problem
from gaff.supervisor.journal import JOURNAL_NAME
from gaff.supervisor.ownership import (
    IDENTITY_KEYS,
    IDENTITY_NAME,
    REMEDY,
    ROLE,
    claim_save,
    read_small,
    stands_elsewhere,
)

SCHEMA = "gaff.run/1"

# Keys that do not change what is trained, so a run may be carried on with other values.
FREE_KEYS = frozenset(
    [
        "master_port",
        "hostfile",
        "include",
        "exclude",
        "num_workers",
        "log_interval",
        "steps_per_print",
        "wall_clock_breakdown",
        "tensorboard_dir",
        "use_wandb",
        "wandb_group",
        "wandb_team",
        "wandb_project",
        "wandb_host",
        "wandb_init_all_ranks",
        "comment",
        "account",
        "launcher",
        "no_ssh_check",
        "log_dir",
        "exit_interval",
        "master_addr",
        "force_multi",
        "deepspeed_slurm",
        "deepspeed_mpi",
        "wandb_run_name",
        "gaff.neox_dir",
        "gaff.track",
        "gaff.neox_python",
        "gaff.container",
        "gaff.environment",
        "gaff.watch",
        "gaff.notify",
        "gaff.keep",
    ]
)


@dataclass(frozen=True)
class RunDirectory:
    """Paths of one run.  ``root`` and ``save`` are absolute."""

    root: Path
    save: Path

    @property
    def journal(self) -> Path:
        return self.root / JOURNAL_NAME

    @property
    def config(self) -> Path:
        return self.root / "config.yml"

    @property
    def plan(self) -> Path:
        return self.root / "plan.json"

    @property
    def stop(self) -> Path:
        return self.root / "stop"

    @property
    def identity(self) -> Path:
        return self.root / IDENTITY_NAME

    def segment(self, number: int) -> Path:
        return self.root / "segments" / f"{number:04d}"

    def attempts(self, number: int) -> int:
        """How often segment ``number`` was launched so far, by its logs; of which somebody may have deleted some."""
        numbers = (path.stem.removeprefix("attempt-") for path in self.segment(number).glob("attempt-*.log"))
        return max((int(text) for text in numbers if text.isdecimal()), default=0)


def run_directory(root: Path, config: Config) -> RunDirectory:
    """The run directory of a config: its own ``save``, or ``checkpoints`` below ``root``."""
    root = root.absolute()
    save = config.get("save")
    return RunDirectory(root, Path(save).absolute() if save else root / "checkpoints")


def check_root(root: Path) -> None:
    """Refuse a run directory that cannot be used.  Writes nothing.

    Raises:
        InputError: it is a file, below one, not writable, or has a name that a trainer stumbles over.
    """
    problem = directory_problem(root.absolute(), ROLE, REMEDY, for_tags=True)
    if problem:
        raise InputError(problem)


def open_run(directory: RunDirectory, config: Config, plan: dict[str, Any]) -> str:
    """Create the run directory, or make sure that it belongs to this config.  Returns the run's id.

    The caller holds its lock.  The id belongs to the place: leftover processes are found, and ended, by it, so a copy
    of a run directory beside its original becomes a run of its own, while one that was moved stays what it was.

    Raises:
        InputError: the run directory holds a run with other settings or is damaged, or ``save`` holds somebody else's
            checkpoints.
    """
    root = directory.root.resolve()
    identity = read_small(directory.identity, IDENTITY_KEYS) if directory.identity.is_file() else None
    if identity is None:
        run_id = claim_save(directory.save, root, uuid.uuid4().hex, formerly=None)
        make_directory_durably(directory.root / "segments")
        write_durably(directory.config, config.to_yaml().encode())
        write_json_durably(directory.plan, plan)
        created = datetime.now(timezone.utc).isoformat(timespec="seconds")
        identity = {"schema": SCHEMA, "run_id": run_id, "created": created, "gaff": __version__}
        write_json_durably(directory.identity, {**identity, "root": str(root), "save": str(directory.save)})
        return run_id
    _refuse_other_settings(directory, config)
    formerly = str(identity["run_id"])
    is_copy = stands_elsewhere(identity, root)
    run_id = claim_save(directory.save, root, uuid.uuid4().hex if is_copy else formerly, formerly)
    here = {"run_id": run_id, "root": str(root), "save": str(directory.save)}
    if identity != {**identity, **here}:
        write_json_durably(directory.identity, {**identity, **here})
    return run_id


def check_settings(root: Path, config: Config) -> None:
    """Make sure that the run in ``root``, if there is one, is of this config.  Writes nothing.

    Raises:
        InputError: it began with other settings.
    """
    directory = run_directory(root, config)
    if directory.identity.is_file() and directory.config.is_file():
        _refuse_other_settings(directory, config)


def _refuse_other_settings(directory: RunDirectory, config: Config) -> None:
    then, now = _settings(load_config([directory.config])), _settings(config)
    changed = sorted(k for k in then.keys() | now.keys() if then.get(k) != now.get(k))
    if not changed:
        return
    key = changed[0]
    what = f"the run in {directory.root} began with {key} = {then.get(key)!r}, and now it is {now.get(key)!r}"
    more = f" ({len(changed) - 1} more keys differ)" if len(changed) > 1 else ""
    remedy = f"set it back, or start a new run with another --run-dir{more}"
    raise InputError(Problem("settings-changed", what, remedy, config.where(key)))


def _settings(config: Config) -> dict[str, Any]:
    """Everything that decides what is trained, flat."""
    gaff = {f"gaff.{name}": getattr(config.gaff, name) for name in config.gaff.__dataclass_fields__}
    return {k: v for k, v in {**config.neox, **gaff}.items() if k not in FREE_KEYS}
