# SPDX-License-Identifier: Apache-2.0
"""Job scripts: a template of slurm/ with its two marked blocks replaced.

The templates are job scripts themselves, which a user may copy and submit by hand.  What stands between ``# >>>
directives`` and ``# <<< directives``, and between ``# >>> site`` and ``# <<< site``, is what differs from job to job.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from gaff.cluster.job import HANDED
from gaff.cluster.profile import TEMPLATES
from gaff.cluster.request import JobRequest, Scheduler

_MEANS_SOMETHING = re.compile(r"""[\\"`]|\$(?![A-Za-z_]|\{[A-Za-z_]\w*\})""", re.ASCII)
_BACKSLASHED = r"\\\g<0>"
# Many sites define `module` for login shells alone, and a job that goes on without one trains with the wrong CUDA.
_MODULES = """\
# shellcheck disable=SC1090 # where sites keep it
for init in /etc/profile.d/{modules,lmod,z00_lmod}.sh "${MODULESHOME-}/init/bash" "${LMOD_PKG-}/init/bash"; do
    if type module >/dev/null 2>&1; then break; fi
    if [ -r "$init" ]; then . "$init"; fi
done
no_module() { echo "gaff: 'module load $1' failed" >&2; exit 2; }
module purge"""
_SCRATCH = 'mkdir -p "$TMPDIR" || { echo "gaff: TMPDIR cannot be made" >&2; exit 2; }'


def render(request: JobRequest, scheduler: Scheduler) -> str:
    """The job script of a request."""
    text = (TEMPLATES / scheduler.template).read_text(encoding="utf-8")
    directives = [f"{scheduler.directive} {words}" for words in scheduler.directives(request)]
    text = _replaced(text, "directives", directives)
    return _replaced(text, "site", _site(request, scheduler))


def _replaced(text: str, block: str, lines: Sequence[str]) -> str:
    begin, end = f"# >>> {block}\n", f"# <<< {block}\n"
    head, found, rest = text.partition(begin)
    _, closed, tail = rest.partition(end)
    assert found, f"the template has no block {block}"
    assert closed, f"the template's block {block} has no end"
    return "".join([head, begin, *(f"{line}\n" for line in lines), end, tail])


def _site(request: JobRequest, scheduler: Scheduler) -> list[str]:
    profile = request.profile
    lines = []
    if profile.modules:
        lines += _MODULES.splitlines()
        lines += [f"module load {(name := shlex.quote(module))} || no_module {name}" for module in profile.modules]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in (request.exported or {}).items()]
    lines += [f"export {name}={_expandable(value)}" for name, value in profile.environment if value is not None]
    if profile.scratch:
        lines += [f"export TMPDIR={_expandable(profile.scratch)}", _SCRATCH]
    lines += profile.setup
    if request.handed:
        lines.append(f"export {HANDED}={','.join(request.handed)}")
    lines += [f"gaff=({shlex.join(profile.command)})", f"resubmit={profile.resubmit}"]
    if not request.array:
        return [*lines, f"set -- {shlex.join(request.runs[0])}"]
    variable, first = scheduler.task_number()
    lines.append(f'case "${variable}" in')
    lines += [f"    {number}) set -- {shlex.join(run)} ;;" for number, run in enumerate(request.runs, start=first)]
    return [*lines, f'    *) echo "gaff: no run has the number ${variable}" >&2; exit 2 ;;', "esac"]


def _expandable(value: str) -> str:
    """In double quotes, in which only ``$NAME`` and ``${NAME}`` mean something."""
    return f'"{_MEANS_SOMETHING.sub(_BACKSLASHED, value)}"'
