# SPDX-License-Identifier: Apache-2.0
"""GPT-NeoX in an image: the command line of Apptainer or Docker that runs a segment inside, GAFF itself outside.

On several nodes with Apptainer under Slurm alone, by way of :mod:`gaff.trainers.neox.relay`: GPT-NeoX's launchers go
out from inside the image, where neither ssh nor Slurm are set up.
Values of variables are never on the command line, where everybody could read them and commas and quotes would need
care: Apptainer takes them from ``APPTAINERENV_NAME``, Docker from its own environment by ``--env NAME``.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from gaff.errors import InputError, Problem
from gaff.plan.config import Config
from gaff.plan.settings import ContainerSettings
from gaff.plan.typed import flag
from gaff.trainers.contract import Launch
from gaff.trainers.neox.environment import asked
from gaff.trainers.neox.launchers import Nodes
from gaff.trainers.neox.mounts import Mount
from gaff.trainers.neox.relay import programs, write_relay

Which = Callable[[str], str | None]

_PROGRAMS = {"apptainer": ("apptainer", "singularity"), "docker": ("docker",)}
_TIMEOUT_S = 120.0
_ADVICE = re.compile(r"(?:Run|See) 'docker .* --help'")  # docker's last line, whatever failed
#: What the image has its own of.
_OUTSIDE = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LIBRARY_PATH", "CPATH", "HOME", "TORCH_EXTENSIONS_DIR")

#: Variables of GAFF's shell that are set inside as well; paths of compilers and of CUDA are not: the image has its own.
HANDED_IN = frozenset(
    [
        *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUDA_DEVICE_MAX_CONNECTIONS"),
        *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TOKENIZERS_PARALLELISM", "TIKTOKEN_CACHE_DIR"),
        *("TRANSFORMERS_OFFLINE", "TRANSFORMERS_CACHE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NETRC"),
        *("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
    ]
)
HANDED_IN_PREFIXES = ("NCCL_", "TORCH_NCCL_", "TORCH_DISTRIBUTED_", "GLOO_", "UCX_", "FI_", "HF_", "WANDB_")


def check_container(config: Config, nodes: Nodes, which: Which = shutil.which) -> Iterator[Problem]:
    """Whether the config's image can be run here, judged without starting it."""
    container = config.gaff.container
    if container is None:
        return
    if nodes.launcher != "local" and not is_relayed(container, nodes):
        what = f"`container` with {container.engine} cannot go with ranks that {nodes.launcher} starts"
        remedy = "use apptainer with `launcher: slurm`, one machine without a hostfile, or no `container`"
        yield config.problem("container-nodes", "gaff.container", what, remedy)
    if _program(container, which) is None:
        what = f"{' or '.join(_PROGRAMS[container.engine])} is not on PATH here"
        yield config.problem("container-engine", "gaff.container.engine", what, "install it or load its module")
    if any("\0" in text for text in (*container.binds, *container.options)):
        what = "`binds` and `options` hold a character of code 0, which no command line can have"
        yield config.problem("container-text", "gaff.container", what, "remove it")
        return
    is_path = container.engine == "apptainer" and "://" not in container.image
    if is_path and not os.path.exists(container.image):
        what = f"the image {container.image} is not there"
        yield config.problem("container-image", "gaff.container.image", what, "mend the path, or build it")
    for index, bind in enumerate(container.binds):
        source = bind.partition(":")[0]
        if not os.path.exists(source):
            what = f"{source}, to be mounted in the container, is not there"
            yield config.problem("container-bind", f"gaff.container.binds.{index}", what, "mend the path")


def is_relayed(container: ContainerSettings, nodes: Nodes) -> bool:
    """Whether srun starts each rank in the image of its own node."""
    return container.engine == "apptainer" and nodes.launcher == "slurm"


def look_inside(config: Config) -> list[Problem]:
    """Start the image for a moment: whether GPT-NeoX and a Python are where the config says."""
    container = config.gaff.container
    assert container is not None
    question = "import os, sys; sys.exit(0 if os.path.isfile('deepy.py') else 3)"
    inside = Launch((container.python, "-c", question), Path(container.neox_dir), {})
    launch = contained(config, inside, (), name=f"gaff-look-{os.getpid()}", cwd=Path("/"))
    try:
        done = subprocess.run(
            launch.argv,
            env={**os.environ, **launch.env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            errors="replace",
            timeout=_TIMEOUT_S,
        )
        lines = (line.strip() for line in done.stderr.splitlines())
        code, said = done.returncode, [line for line in lines if line and not _ADVICE.match(line)]
    except OSError as error:
        code, said = -1, [str(error)]
    except subprocess.TimeoutExpired:
        code, said = -1, [f"it did not answer within {_TIMEOUT_S:.0f} s"]
        for command in launch.clean_up:
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):  # the same engine may not answer this either
                subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=_TIMEOUT_S)
    if code == 0:
        return []
    if code == 3:
        what = f"the image {container.image} has no GPT-NeoX in {container.neox_dir}"
        return [config.problem("container-neox", "gaff.container", what, "name it in `container: neox_dir`")]
    what = f"the image {container.image} does not run{f' ({said[-1]})' if said else ''}"
    return [config.problem("container-image", "gaff.container", what, "mend it until its Python starts by hand")]


def inside_variables(
    config: Config, environ: Mapping[str, str], own: Mapping[str, str], *, cache: Path, shim: Path | None
) -> dict[str, str]:
    """Variables of every rank inside.

    Args:
        config: its ``environment`` may set what else is the image's own, PATH for one.
        environ: of GAFF's shell.
        own: what the config asks for and GAFF adds, as for a launch without a container.
        cache: a directory of the run, mounted inside: kernels compiled for this image are kept there.
        shim: the CPU shim's directory, None on a GPU.
    """
    container = config.gaff.container
    assert container is not None
    images_own = {name: value for name, value in asked(config, environ).items() if name in _OUTSIDE}
    handed = {k: v for k, v in environ.items() if k in HANDED_IN or k.startswith(HANDED_IN_PREFIXES)}
    given = {name: value for name, value in own.items() if name not in _OUTSIDE} | images_own
    caches = {"TORCH_EXTENSIONS_DIR": "torch_extensions", "TRITON_CACHE_DIR": "triton", "WANDB_DIR": "."}
    variables = {
        "CXX": "g++",
        "CC": "gcc",
        "PYTHONNOUSERSITE": "1",  # packages in the user's home, which Apptainer mounts, are for another Python
        "USER": "gaff",  # an id without an entry in the image's passwd has no name otherwise, and torch asks for it
        "LOGNAME": "gaff",
        **{name: str(cache / folder) for name, folder in caches.items()},
        **({"HOME": str(cache)} if container.engine == "docker" else {}),  # the user has none in the image
        **handed,
        **given,
    }
    if shim is not None:
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, [str(shim), images_own.get("PYTHONPATH")]))
    netrc = Path(os.path.expanduser("~/.netrc"))  # stays as it is where this user has no home
    if flag(config, "use_wandb") and "WANDB_API_KEY" not in variables and "NETRC" not in variables and netrc.is_file():
        variables["NETRC"] = str(netrc)
    return variables


def contained(
    config: Config, inside: Launch, mounts: Sequence[Mount], *, name: str, cwd: Path, which: Which = shutil.which
) -> Launch:
    """The launch outside that makes the launch ``inside`` happen in the config's container.

    Args:
        config: its ``container`` and ``device`` blocks are used.
        inside: command, working directory and variables in the image.
        mounts: from :func:`gaff.trainers.neox.mounts.mounts_of`.
        name: of the container; letters, digits, ``.``, ``_`` and ``-``.  The same in all segments of a run, so that one
            that a killed run left is found.
        cwd: where the engine is started.

    Raises:
        InputError: the engine cannot be told of a path, for the characters in it.
    """
    container = config.gaff.container
    assert container is not None
    program = _program(container, which) or container.engine
    build = _docker if container.engine == "docker" else _apptainer
    return build(config, container, program, inside, mounts, name, cwd)


def _apptainer(
    config: Config,
    container: ContainerSettings,
    program: str,
    inside: Launch,
    mounts: Sequence[Mount],
    name: str,
    cwd: Path,
) -> Launch:
    """Its processes are children of the command and see all of them, so no name and no cleaning up is needed."""
    command = [program, "exec", "--cleanenv", *(["--nv"] if config.gaff.device == "gpu" else [])]
    for mount in mounts:
        for path in (mount.source, mount.target):
            if set(path) & set(':,\\"\n'):
                what = f"Apptainer cannot mount {path!r}: its --bind parts words at colons and commas"
                remedy = "move or rename it, or mount a directory above it with `container: binds`"
                raise InputError(config.problem("container-path", "gaff.container", what, remedy))
        command += ["--bind", f"{mount.source}:{mount.target}{':ro' if mount.read_only else ''}"]
    command += ["--pwd", str(inside.cwd), *container.options, container.image, *inside.argv]
    prefix = "SINGULARITYENV_" if Path(program).name == "singularity" else "APPTAINERENV_"
    return Launch(tuple(command), cwd, {f"{prefix}{key}": value for key, value in inside.env.items()})


def relayed(launch: Launch, directory: Path, ranks_command: Sequence[str]) -> Launch:
    """An Apptainer launch of GPT-NeoX's launcher, made into one whose ranks srun starts outside.

    Args:
        launch: from :func:`contained`; its words end with ``ranks_command``.
        directory: the segment's.
        ranks_command: the launcher's own command in the image.
    """
    engine_words = launch.argv[: -len(ranks_command)]
    prefix = "SINGULARITYENV_" if Path(engine_words[0]).name == "singularity" else "APPTAINERENV_"
    command = write_relay(directory, launch.argv, engine_words, prefix)
    return Launch(
        command, launch.cwd, {**launch.env, f"{prefix}PREPEND_PATH": str(programs(directory))}, launch.clean_up
    )


def _docker(
    config: Config,
    container: ContainerSettings,
    program: str,
    inside: Launch,
    mounts: Sequence[Mount],
    name: str,
    cwd: Path,
) -> Launch:
    """The container is the daemon's child: it outlives this command when that is killed, so it is removed by name."""
    command = [program, "run", "--rm", "--init", "--name", name]
    command += ["--ipc=host", "--network=host", "--ulimit=memlock=-1", "--ulimit=stack=67108864"]
    command += [f"--user={os.getuid()}:{os.getgid()}"]  # files that are written belong to the user, not to root
    command += [f"--group-add={group}" for group in sorted({*os.getgroups()} - {os.getgid()})]
    command += ["--gpus=all"] if config.gaff.device == "gpu" else []
    for mount in mounts:
        if "\n" in mount.source + mount.target:
            what = f"Docker cannot mount {mount.source!r}, whose name has two lines"
            raise InputError(config.problem("container-path", "gaff.container", what, "rename it"))
        command.append(f"--mount={_csv(mount)}")
    command += [f"--env={key}" for key in sorted(inside.env)]
    command += ["--workdir", str(inside.cwd), *container.options, container.image, *inside.argv]
    return Launch(tuple(command), cwd, dict(inside.env), ((program, "rm", "-f", name),))


def _csv(mount: Mount) -> str:
    """One line of comma-separated values, quoted where need be, as Docker reads its --mount."""
    fields = ["type=bind", f"source={mount.source}", f"target={mount.target}"]
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow([*fields, *(["readonly"] if mount.read_only else [])])
    return line.getvalue()


def _program(container: ContainerSettings, which: Which) -> str | None:
    return next((name for name in _PROGRAMS[container.engine] if which(name)), None)
