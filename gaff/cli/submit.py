# SPDX-License-Identifier: Apache-2.0
"""``gaff submit``: a run, or a sweep of runs, as a job of Slurm or Grid Engine that carries itself on."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gaff.cli.execute import check_everything
from gaff.cli.output import note
from gaff.cli.plan import add_config_arguments, add_place_arguments
from gaff.cli.plan_text import columns
from gaff.errors import EXIT_DONE, InputError, Location, Problem
from gaff.plan.config import Config

if TYPE_CHECKING:
    from gaff.cluster.request import Scheduler
    from gaff.cluster.submission import Submittal

SCHEMA = "gaff.submit/1"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "submit",
        help="give a run to Slurm or Grid Engine",
        description="Write a job script from a cluster profile, have the scheduler check it, and submit it. The job "
        "warns the run before its walltime ends, and comes back until the run is finished.",
    )
    add_config_arguments(parser, required=False)
    add_place_arguments(parser)
    parser.add_argument(
        "--profile",
        metavar="NAME",
        help="the cluster profile: a file, one in ~/.config/gaff/profiles, or a100-80gb, a100-40gb, sge-gpu; "
        "else GAFF_PROFILE",
    )
    parser.add_argument(
        "--job",
        dest="job",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="override one key of the profile, for example --job partition=short --job time=4:00:00",
    )
    parser.add_argument(
        "--sweep",
        metavar="KEY=V1,V2",
        action="append",
        default=[],
        help="an array of runs, one for each value, each in its own run directory: --sweep gaff.reset_every=500,1000; "
        "several sweeps are combined",
    )
    parser.add_argument("--keys", action="store_true", help="print every key of a cluster profile and leave")
    parser.add_argument("--json", action="store_true", help="print what was submitted as JSON (schema gaff.submit/1)")
    parser.add_argument("--dry-run", action="store_true", help="check everything and print the job script")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from gaff.cluster.profile import find_profile, read_profile
    from gaff.cluster.schedulers import require, scheduler
    from gaff.cluster.script import render
    from gaff.cluster.submission import prepare, submit

    if options.keys:
        print(_render_keys())
        return EXIT_DONE
    if not options.config:
        raise InputError(Problem("config-missing", "no config is given", "add --config FILE"))
    profile = read_profile(find_profile(options.profile), options.job)
    if not profile.command:
        profile = replace(profile, command=(sys.executable, "-m", "gaff"))
    kind = scheduler(profile.scheduler) if options.dry_run else require(profile.scheduler)
    submittal = prepare(
        profile,
        options.config,
        options.overrides,
        options.sweep,
        root=options.run_dir or Path("runs") / options.config[0].stem,
        arguments=[] if options.neox_dir is None else ["--neox-dir", str(options.neox_dir.absolute())],
        check=lambda config, root: _check_run(config, root, options.neox_dir),
    )
    script = render(submittal.request, kind)
    job, starts = ("", None) if options.dry_run else submit(kind, submittal, script)
    for warning in submittal.warnings:
        note(f"gaff: note: {warning}")
    if options.dry_run:
        print(_as_json(kind, submittal, None, script) if options.json else script.rstrip("\n"))
        return EXIT_DONE
    print(_as_json(kind, submittal, job, script) if options.json else _told(kind, submittal, job, starts))
    return EXIT_DONE


def _check_run(config: Config, root: Path, neox_dir: Path | None) -> Sequence[Problem]:
    """What a login node can tell of a run: its config, the trainer, its directory; not GPUs, nor what nodes reach."""
    from gaff.plan.checks import check
    from gaff.plan.plan import build_plan
    from gaff.supervisor.journal import read_entries
    from gaff.supervisor.run_directory import check_root, check_settings
    from gaff.trainers.select import select_trainer

    trainer = select_trainer(config, neox_dir)
    problems = check(config)
    if problems:
        raise InputError(problems)
    if trainer.name == "bundled":  # the other one is judged where its GPUs are
        check_everything(config, trainer)
    check_root(root)
    check_settings(root, config)
    plan = build_plan(config)
    if any(entry.event == "run_finished" for entry in read_entries(root)):
        what = "this run is finished already"
        remedy = "see `gaff status`, or name another --run-dir"
        raise InputError(Problem("run-finished", what, remedy, Location(str(root))))
    return [*plan.warnings, *trainer.warnings(config)]


def _told(kind: Scheduler, submittal: Submittal, job: str, starts: str | None) -> str:
    many = len(submittal.runs)
    what = f"{kind.title} job {job}" + (f" with {many} runs" if submittal.request.array else "")
    lines = [f"submitted {what}{f', which starts {starts}' if starts else ''}"]
    lines += [f"  run directory {run}" for run in submittal.runs]
    lines += [f"  logs in {submittal.request.logs}", f"  gaff status {submittal.runs[0]} --watch   tells how it goes"]
    return "\n".join(lines)


def _as_json(kind: Scheduler, submittal: Submittal, job: str | None, script: str) -> str:
    """``job`` is None for a dry run."""
    told = {"schema": SCHEMA, "scheduler": kind.name, "job": job, "runs": [str(run) for run in submittal.runs]}
    return json.dumps({**told, "logs": str(submittal.request.logs), "script": script}, indent=2)


def _render_keys() -> str:
    from gaff.cluster.profile import ClusterProfile

    rows = [
        (item.name, _shown(item.default), str(item.metadata["doc"]))
        for item in fields(ClusterProfile)
        if "doc" in item.metadata
    ]
    return "\n".join(["Keys of a cluster profile, with their defaults:", "", *columns(rows)])


def _shown(value: object) -> str:
    if value is None or value == ():
        return "-"
    return str(value).lower() if isinstance(value, bool) else str(value)
