# SPDX-License-Identifier: Apache-2.0
"""What GPT-NeoX and DeepSpeed compile with at run time: g++, make, ninja, nvcc, and for which Python."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from gaff.doctor.finding import Finding, Level
from gaff.doctor.neox_python import NeoxPython
from gaff.doctor.probes import Tool, run, said, tool, which
from gaff.doctor.subject import Subject
from gaff.plan.typed import flag
from gaff.trainers.neox.checkout import Checkout
from gaff.trainers.neox.environment import compilers
from gaff.trainers.neox.interpreter import Foundation

AREA = "compilers"
_OLDEST_GXX = (9,)  # the headers of torch 2 need a whole C++17
_SAMPLE = "#include <filesystem>\nint main() { return std::filesystem::path().empty() ? 0 : 1; }\n"
_FUSIONS = ("scaled_upper_triang_masked_softmax_fusion", "scaled_masked_softmax_fusion", "rope_fusion")
_USUAL_CUDA = "/usr/local/cuda/bin"
_NO_ROOT = "conda install -c conda-forge"


@dataclass(frozen=True)
class CompilerFacts:
    """Attributes:
    named: CXX and CC of this shell, where they are set and name no GNU compiler.
    gxx: with ``trouble`` set where it does not compile C++17.
    nvcc: of CUDA_HOME, else of PATH, else of the usual place, as torch looks for it.
    gpus: whether CUDA code will be compiled for GPUs here.
    kernels: keys of the config that have CUDA kernels compiled at every start.
    neox: GPT-NeoX's Python; None where only the bundled trainer is asked for, or none is known.
    python_config: where ``python3-config`` is on the PATH of a launch, and the suffix that it names.
    helper_built: whether GPT-NeoX's data helper is there for that Python.
    headers: whether Python.h of GPT-NeoX's Python is there.
    """

    named: Mapping[str, str]
    gxx: Tool | None
    make: Tool | None
    ninja: Tool | None
    nvcc: Tool | None
    cuda_home: str | None
    cuda_home_there: bool
    gpus: bool
    kernels: tuple[str, ...]
    neox: NeoxPython | None
    python_config: tuple[str, str] | None
    helper_built: bool
    headers: bool = True


def examine(subject: Subject) -> Iterator[Finding]:
    if not subject.contained:
        yield from judge(gather(subject))


def gather(subject: Subject) -> CompilerFacts:
    environment = {**subject.environment, "PATH": subject.search_path}
    home = environment.get("CUDA_HOME")
    search = [str(Path(home) / "bin")] if home else [environment["PATH"], _USUAL_CUDA]
    kernels = tuple(key for key in _FUSIONS if subject.config and flag(subject.config, key))
    known = subject.trainer == "neox" and subject.neox_dir is not None
    foundation = subject.python.foundation if known else None
    return CompilerFacts(
        named={name: environment[name] for name in compilers(environment) if environment.get(name)},
        gxx=_working_gxx(environment),
        make=tool("make", environment),
        ninja=tool("ninja", environment),
        nvcc=tool("nvcc", {**environment, "PATH": os.pathsep.join(search)}),
        cuda_home=home,
        cuda_home_there=bool(home and os.path.isdir(home)),
        gpus=subject.on_gpus and bool(subject.gpus.found),
        kernels=kernels if subject.on_gpus else (),
        neox=subject.python if known else None,
        python_config=_python_config(environment),
        helper_built=foundation is not None and _has_helper(subject.neox_dir, foundation),
        headers=foundation is None or foundation.headers.is_file(),
    )


def _has_helper(checkout: Path | None, foundation: Foundation) -> bool:
    return checkout is not None and os.path.isfile(Checkout(checkout).helper(foundation.suffix))


def _working_gxx(environment: Mapping[str, str]) -> Tool | None:
    found = tool("g++", environment, "-dumpfullversion", "-dumpversion")
    if found is None or found.trouble:
        return found
    command = [found.path, "-std=c++17", "-x", "c++", "-fsyntax-only", "-"]
    tried = run(command, environment=environment, given=_SAMPLE)
    return found if tried.good else Tool(found.path, found.version, tried.last_word)


def _python_config(environment: Mapping[str, str]) -> tuple[str, str] | None:
    path = which("python3-config", environment)
    answer = run([path, "--extension-suffix"], environment=environment) if path else None
    return (path, answer.out.strip()) if path and answer and answer.good else None


def judge(facts: CompilerFacts) -> Iterator[Finding]:
    yield from _gxx(facts)
    yield from _named(facts)
    if facts.ninja is None or facts.ninja.trouble:
        python = facts.neox.command if facts.neox else "python3"
        what = "ninja is missing: DeepSpeed and GPT-NeoX compile their kernels with it at the first start"
        yield Finding("ninja", AREA, "warning", what, f"{shlex.quote(python)} -m pip install ninja")
    if facts.neox is not None:
        yield from _helper(facts, facts.neox)
    if facts.gpus:
        yield from _nvcc(facts)


def _gxx(facts: CompilerFacts) -> Iterator[Finding]:
    found = facts.gxx
    remedy = f"module load gcc  # or: {_NO_ROOT} gxx"
    if found is None:
        what = "there is no g++ on PATH: data helper and kernels cannot be compiled"
        yield Finding("gxx", AREA, "problem", what, remedy)
    elif found.trouble:
        what = f"{found.path} does not compile C++17 ({found.trouble})"
        yield Finding("gxx", AREA, "problem", what, remedy)
    elif found.version < _OLDEST_GXX:
        what = f"g++ is {said(found.version)}; torch's headers need {said(_OLDEST_GXX)} or newer"
        yield Finding("gxx", AREA, "problem", what, remedy)
    else:
        yield Finding("gxx", AREA, "ok", f"g++ {said(found.version)} compiles C++17 ({found.path})")


def _named(facts: CompilerFacts) -> Iterator[Finding]:
    for name, value in facts.named.items():
        what = (
            f"{name}={value}: GPT-NeoX's data helper and DeepSpeed's ops must be compiled with g++; GAFF sees to that"
            " in its launches, nobody does for what you start or install by hand"
        )
        yield Finding("cxx-trap", AREA, "warning", what, "export CXX=g++ CC=gcc")
        return


def _helper(facts: CompilerFacts, neox: NeoxPython) -> Iterator[Finding]:
    """GPT-NeoX runs ``make`` in megatron/data at every start, which asks ``python3-config`` of PATH for the suffix."""
    if facts.make is None:
        what = "there is no make on PATH: GPT-NeoX runs it at every start"
        yield Finding("make", AREA, "problem", what, f"{_NO_ROOT} make")
    foundation = neox.foundation
    if foundation is None:
        return
    built = facts.helper_built
    and_so = "" if built else ", and it is not built yet"
    level: Level = "warning" if built else "problem"
    if facts.python_config is None:
        what = f"there is no python3-config on PATH, which GPT-NeoX's make asks for the name of its data helper{and_so}"
        yield Finding("python-config", AREA, level, what, _link(neox, foundation))
    elif facts.python_config[1] != foundation.suffix:
        path, suffix = facts.python_config
        what = f"{path} belongs to another Python ({suffix}): make builds a data helper that GPT-NeoX cannot load"
        yield Finding("python-config", AREA, level, f"{what}{and_so}", _link(neox, foundation))
    else:
        what = f"python3-config belongs to GPT-NeoX's Python ({foundation.suffix})"
        yield Finding("python-config", AREA, "ok", what)
    if not facts.headers and not built:
        what = f"{foundation.headers} is missing: nothing can be compiled for GPT-NeoX's Python"
        yield Finding("python-headers", AREA, "problem", what, "gaff neox install --python PATH  # one with headers")


def _link(neox: NeoxPython, foundation: Foundation) -> str:
    """Put the right one where a launch looks first: beside the Python."""
    target = Path(neox.command).parent / "python3-config"
    return f"ln -s {shlex.quote(str(foundation.config_script))} {shlex.quote(str(target))}"


def _nvcc(facts: CompilerFacts) -> Iterator[Finding]:
    wanted = facts.neox.torch_cuda if facts.neox else ()
    name = f"cuda/{said(wanted)}" if wanted else "cuda"
    load = f"module load {name} && export CUDA_HOME=$(dirname $(dirname $(which nvcc)))"
    if facts.cuda_home and not facts.cuda_home_there:
        what = f"CUDA_HOME={facts.cuda_home} is no directory"
        yield Finding("cuda-home", AREA, "problem", what, "unset CUDA_HOME  # or name the CUDA that has nvcc")
    if facts.nvcc is None or facts.nvcc.trouble:
        if facts.kernels:
            what = f"there is no nvcc, and `{facts.kernels[0]}` has kernels compiled at every start"
            yield Finding("nvcc", AREA, "problem", what, f"{load}\n-o {facts.kernels[0]}=false  # instead, slower")
        else:
            what = "there is no nvcc, with which DeepSpeed compiles its FusedAdam where Apex is not installed"
            yield Finding("nvcc", AREA, "warning", what, load)
        return
    version = facts.nvcc.version[:2]
    if wanted and version and version[0] != wanted[0]:
        what = f"nvcc is of CUDA {said(version)} and torch of {said(wanted)}: torch refuses to compile for it"
        yield Finding("nvcc-version", AREA, "problem", what, load)
    else:
        yield Finding("nvcc", AREA, "ok", f"nvcc of CUDA {said(version)} ({facts.nvcc.path})")
