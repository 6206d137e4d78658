# SPDX-License-Identifier: Apache-2.0
"""``gaff doctor``: what is missing here, or for a config, and the command that mends it."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from gaff.cli.plan import add_config_arguments, encodable
from gaff.errors import EXIT_DONE, EXIT_FAILED, InputError, Problem

if TYPE_CHECKING:
    from gaff.doctor.finding import Finding

_WIDTH = len("problem")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "doctor",
        help="what is missing here, and the command that mends it",
        description="Examine this machine, and with a config whether it can run here. Changes nothing; writes one "
        "temporary file to measure the disk, and asks the hosts of a hostfile by ssh. Exit code 1 when there is a "
        "problem.",
    )
    add_config_arguments(parser, required=False)
    parser.add_argument("--run-dir", type=Path, metavar="DIR", help="where the run would live")
    parser.add_argument(
        "--neox-dir", type=Path, metavar="DIR", help="the GPT-NeoX checkout; else gaff: neox_dir, GPT_NEOX_DIR"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object (schema gaff.doctor/1)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """The verb itself.  Returns 1 when there is a problem, else 0.

    Raises:
        InputError: the config cannot be read, or overrides are given without one.
    """
    from gaff.doctor.examine import examine, to_json
    from gaff.doctor.finding import worst
    from gaff.doctor.subject import subject_of
    from gaff.plan.config import load_config

    if options.overrides and not options.config:
        what = f"`-o {options.overrides[0]}` overrides a key of a config, and none is given"
        raise InputError(Problem("config-missing", what, "add --config FILE"))
    config = load_config(options.config, options.overrides) if options.config else None
    subject = subject_of(config, options.neox_dir, options.run_dir, os.environ, options.overrides)
    findings = examine(subject)
    print(json.dumps(to_json(findings), indent=1) if options.json else encodable(render(findings)))
    return EXIT_FAILED if worst(findings) == "problem" else EXIT_DONE


def render(findings: Sequence[Finding]) -> str:
    """The report as plain text: one line a finding, below it the command that mends it."""
    blocks = []
    for area, group in groupby(findings, key=lambda finding: finding.area):
        lines = [area]
        for finding in group:
            lines.append(f"  {finding.level:<{_WIDTH}}  {finding.what}")
            lines += [f"  {'':<{_WIDTH}}    {_command(line)}" for line in (finding.remedy or "").splitlines()]
        blocks.append("\n".join(lines))
    return "\n\n".join([*blocks, _summary(findings)])


def _command(line: str) -> str:
    return line if line.startswith("#") else f"$ {line}"


def _summary(findings: Sequence[Finding]) -> str:
    from gaff.report.format import count

    problems = sum(finding.level == "problem" for finding in findings)
    warnings = sum(finding.level == "warning" for finding in findings)
    if not problems and not warnings:
        return "nothing is missing"
    return f"{count(problems, 'problem')}, {count(warnings, 'warning')}"
