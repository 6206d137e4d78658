# SPDX-License-Identifier: Apache-2.0
"""``gaff run``: start a run, or carry it on where it stands."""

from __future__ import annotations

import argparse
from pathlib import Path

from gaff.cli.execute import check_everything, execute, held
from gaff.cli.in_job import held_by_job, run_in_job, spread
from gaff.cli.plan import add_config_arguments, add_place_arguments, render_plan
from gaff.errors import EXIT_DONE


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "run",
        help="start a run, or carry it on where it stands",
        description="Train in segments with a reset between them. The same command carries on a run that was "
        "stopped or killed: progress is judged from its checkpoints.",
    )
    add_config_arguments(parser)
    add_place_arguments(parser)
    parser.add_argument(
        "--time-limit",
        metavar="TIME",
        help="stop at a checkpoint before so much time is over, with exit code 75: 90s, 45m, 12h, or as for sbatch;"
        " inside a Slurm job its own limit counts too",
    )
    parser.add_argument(
        "--resubmit",
        choices=("requeue", "follower", "never"),
        default="never",
        help="in a job of Slurm or Grid Engine whose time is over: have it put back into the queue, or let a second "
        "one wait behind it (never)",
    )
    parser.add_argument("--dry-run", action="store_true", help="check everything and print the plan; launch nothing")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from gaff.cluster.schedulers import this_job
    from gaff.plan.config import load_config
    from gaff.plan.plan import build_plan
    from gaff.supervisor.run_directory import check_root
    from gaff.supervisor.walltime import find_deadline
    from gaff.trainers.select import select_trainer

    job = this_job()
    deadline = find_deadline(options.time_limit, job)
    root = options.run_dir or Path("runs") / options.config[0].stem
    config = load_config(options.config, options.overrides)
    if job is not None and not options.dry_run:
        config = spread(config, options.config, options.overrides, job, root)
    trainer = select_trainer(config, options.neox_dir)
    check_everything(config, trainer)
    check_root(root)
    plan = build_plan(config, trainer.launcher_keys(config))
    if options.dry_run:
        print(render_plan(plan))
        return EXIT_DONE
    if job is None:
        with held(root) as lock:
            execute(config, plan, trainer, root, lock, deadline)
        return EXIT_DONE
    with held_by_job(root, job) as lock:
        go_on = run_in_job(
            job,
            options.resubmit,
            root,
            plan.segments[-1].stop,
            deadline,
            lambda is_submitted, gone: execute(config, plan, trainer, root, lock, deadline, job, is_submitted, gone),
        )
    return go_on() if go_on else EXIT_DONE
