# SPDX-License-Identifier: Apache-2.0
"""The GPT-NeoX checkout and the versions beside it, against those that GAFF was tested with."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from gaff.doctor.finding import Finding
from gaff.doctor.neox_python import NeoxPython, requirement
from gaff.doctor.subject import Subject
from gaff.errors import Problem
from gaff.plan.config import Config
from gaff.plan.neox_keys import attention_kinds
from gaff.plan.typed import flag, word
from gaff.trainers.neox.checkout import Checkout
from gaff.trainers.neox.versions import PINNED_COMMIT, TESTED, is_tested

AREA = "GPT-NeoX"
_SHOWN = 3  # changed files
#: Those that are compiled on installation, against the torch that is there (GPT-NeoX's requirements files).
_COMPILED = {
    "flash-attn": "flash-attn==2.5.6 --no-build-isolation",
    "transformer-engine": "transformer-engine[pytorch] --no-build-isolation",
}
_ENGINE = ("te_columnparallel", "te_rowparallel", "te_layernorm_mlp", "te_mha", "te_fp8_mha")


@dataclass(frozen=True)
class NeoxFacts:
    """Attributes:
    root: None where nobody says where a checkout is.
    problem: why the directory is no checkout.
    commit, changes: as git says; None where it does not.
    install: the command that installs the tested commit.
    python: None where it does not run.
    needed: distribution -> the key of the config that needs it.
    named_by: what names the checkout: --neox-dir, gaff.neox_dir or GPT_NEOX_DIR; None for one that was installed.
    """

    root: Path | None
    problem: Problem | None
    commit: str | None
    changes: tuple[str, ...] | None
    install: str
    python: NeoxPython | None
    needed: Mapping[str, str]
    named_by: str | None = None


def examine(subject: Subject) -> Iterator[Finding]:
    if subject.trainer == "neox" and not subject.contained:
        yield from judge(gather(subject))


def gather(subject: Subject) -> NeoxFacts:
    needed = needed_packages(subject.config, subject.on_gpus) if subject.config else {}
    install = subject.install()
    if subject.neox_dir is None:
        return NeoxFacts(None, None, None, None, install, None, needed)
    checkout = Checkout(subject.neox_dir)
    problem = checkout.problem()
    commit, changes = (None, None) if problem else (checkout.commit, checkout.changes)
    return NeoxFacts(subject.neox_dir, problem, commit, changes, install, subject.python, needed, subject.named_by)


def needed_packages(config: Config, on_gpus: bool) -> dict[str, str]:
    """Distributions that this config needs beyond GPT-NeoX's own, and the key that asks for each."""
    found = {}
    if on_gpus:
        kinds = set(attention_kinds(config.get("attention_config")))
        asked = {
            "flash-attn": "attention_config" if "flash" in kinds else _first(config, ("use_flashattn_swiglu",)),
            "mamba-ssm": "attention_config" if "mamba" in kinds else None,
            "apex": _first(config, ("layernorm_fusion", "rmsnorm_fusion")),
            "transformer-engine": "norm" if word(config, "norm").startswith("te_") else _first(config, _ENGINE),
            "bitsandbytes": _first(config, ("use_bnb_optimizer",)),
        }
        found.update({name: key for name, key in asked.items() if key})
    if flag(config, "use_wandb"):
        found["wandb"] = "use_wandb"
    if config.get("tensorboard_dir"):
        found["tensorboard"] = "tensorboard_dir"
    if flag(config, "deepspeed_mpi") or word(config, "launcher") in ("openmpi", "mvapich"):
        found["mpi4py"] = "launcher"
    return found


def _first(config: Config, keys: tuple[str, ...]) -> str | None:
    return next((key for key in keys if flag(config, key)), None)


def judge(facts: NeoxFacts) -> Iterator[Finding]:
    if facts.root is None:
        what = "no GPT-NeoX is named or installed (gaff: neox_dir, --neox-dir, GPT_NEOX_DIR)"
        yield Finding("no-gpt-neox", AREA, "problem", what, f"{facts.install}  # or: export GPT_NEOX_DIR=PATH")
        return
    if facts.problem is not None:
        yield Finding("no-gpt-neox", AREA, "problem", f"{facts.root} {facts.problem.what}", _other_checkout(facts))
        return
    yield from _checkout(facts, facts.root)
    if facts.python is not None and facts.python.interpreter is not None:
        yield from _versions(facts.python)
        yield from _needed(facts.python, facts.needed)


def _other_checkout(facts: NeoxFacts) -> str:
    """The command after which another checkout is taken: what names one wins over what is installed."""
    after = f"# after: {facts.install}"
    if facts.named_by == "GPT_NEOX_DIR":
        return f"unset GPT_NEOX_DIR  {after}"
    if facts.named_by == "gaff.neox_dir":
        return f"-o gaff.neox_dir=null  {after}"
    return f"{facts.install}  # and leave --neox-dir out" if facts.named_by else facts.install


def _checkout(facts: NeoxFacts, root: Path) -> Iterator[Finding]:
    git = f"git -C {shlex.quote(str(root))}"
    if facts.commit is None:
        what = f"git does not say at which commit {root} is; GAFF was tested with {PINNED_COMMIT[:8]}"
        yield Finding("neox-commit", AREA, "note", what, _other_checkout(facts))
    elif facts.commit != PINNED_COMMIT:
        what = f"{root} is at commit {facts.commit[:8]}; GAFF was tested with {PINNED_COMMIT[:8]}"
        remedy = f"{git} checkout {PINNED_COMMIT[:8]}" if facts.named_by else facts.install
        yield Finding("neox-commit", AREA, "warning", what, remedy)
    else:
        yield Finding("neox-commit", AREA, "ok", f"{root} is at the tested commit {PINNED_COMMIT[:8]}")
    if facts.changes:
        shown = ", ".join(line.split(maxsplit=1)[-1] for line in facts.changes[:_SHOWN])
        more = f" and {len(facts.changes) - _SHOWN} more" if len(facts.changes) > _SHOWN else ""
        what = f"files in it are not as its authors left them: {shown}{more}"
        yield Finding("neox-changed", AREA, "warning", what, f"{git} diff  # to see; {git} stash -u sets them aside")


def _versions(python: NeoxPython) -> Iterator[Finding]:
    fine = []
    for name, tested in TESTED.items():
        version = python.version(name)
        if version is None:  # told by the area of Python
            continue
        if is_tested(name, version):
            fine.append(f"{name} {version}")
            continue
        what = f"{name} {version} is not among the versions tested ({', '.join(tested)})"
        if name != "torch" and not python.is_own:
            yield Finding(f"{name}-version", AREA, "warning", what, _pip(python, name))
        else:  # another torch is the usual thing: GPUs and drivers decide
            yield Finding(f"{name}-version", AREA, "note", what)
    if fine:
        yield Finding("versions", AREA, "ok", f"tested versions: {', '.join(fine)}")


def _needed(python: NeoxPython, needed: Mapping[str, str]) -> Iterator[Finding]:
    for name, key in needed.items():
        if python.version(name) is not None:
            continue
        what = f"`{key}` needs {name}, which GPT-NeoX's Python lacks"
        remedy = _pip(python, name)
        if name == "apex":
            remedy = f"-o {key}=false  # Apex is built from its own sources, not from the package index"
        elif key == "attention_config":
            remedy += "\n-o 'attention_config=[[[\"global\"], LAYERS]]'  # instead, slower and with more memory"
        yield Finding(f"needs-{name}", AREA, "problem", what, remedy)


def _pip(python: NeoxPython, name: str) -> str:
    words = _COMPILED.get(name, requirement(name)).split()
    return f"{shlex.quote(python.command)} -m pip install {shlex.join(words)}"
