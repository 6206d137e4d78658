# SPDX-License-Identifier: Apache-2.0
"""Which directories of this machine a container must see so that a segment of GPT-NeoX can run in it.

Everything is mounted at the path it has outside, because the segment's config names those paths.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from gaff.errors import InputError
from gaff.plan.config import Config
from gaff.plan.neox_keys import PATH_LISTS
from gaff.plan.settings import ContainerSettings
from gaff.plan.typed import items, text
from gaff.trainers.contract import SegmentRequest

_SYSTEM = frozenset({"/", "/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/run", "/sbin", "/sys", "/usr"})

#: Variables that name a place on this machine which GPT-NeoX or a library of it then reads or writes.
PATH_VARIABLES: Mapping[str, bool] = {  # name -> whether it is written to
    "HF_HOME": True,
    "TRANSFORMERS_CACHE": True,
    "TIKTOKEN_CACHE_DIR": True,
    "TORCH_EXTENSIONS_DIR": True,
    "TRITON_CACHE_DIR": True,
    "WANDB_DIR": True,
    "WANDB_CACHE_DIR": True,
    "NETRC": False,
    "SSL_CERT_FILE": False,
    "REQUESTS_CA_BUNDLE": False,
}


@dataclass(frozen=True)
class Mount:
    """One bind mount.

    Attributes:
        source: on this machine, absolute.
        target: inside.
        read_only: whether nothing inside may write to it.
    """

    source: str
    target: str
    read_only: bool = False


def mounts_of(
    config: Config, request: SegmentRequest, variables: Mapping[str, str], *, cache: Path, shim: Path | None
) -> tuple[Mount, ...]:
    """The least set of mounts of a segment, parents first.  Directories that the run is to write are created.

    Args:
        config: its paths, all absolute, and the binds of its ``container`` block, which win over GAFF's own.
        request: the segment.
        variables: what will be set inside.
        cache: a directory of the run that the image's caches are kept in from segment to segment.
        shim: the CPU shim's directory, None on a GPU.

    Raises:
        InputError: a mount would hide a part of the image that is needed.
    """
    container = config.gaff.container
    assert container is not None
    wanted = [
        *((path, False) for path in (request.directory, request.save, cache)),
        *_of_config(config),
        *((Path(variables[name]), not written) for name, written in PATH_VARIABLES.items() if name in variables),
        *([(shim, True)] if shim else []),
    ]
    for path, read_only in wanted:
        if not read_only and not path.exists():
            path.mkdir(parents=True, exist_ok=True)
    own = [Mount(str(path), str(path), read_only) for path, read_only in wanted if path.is_absolute() and path.exists()]
    users = [_user_mount(bind) for bind in container.binds]
    targets = {mount.target for mount in users}
    least = _least([mount for mount in own if mount.target not in targets], users)
    for mount in [*least, *users]:
        _refuse_hiding(config, container, mount)
    return tuple(sorted([*least, *users], key=_depth))  # Apptainer mounts in this order: a parent would hide its child


def _of_config(config: Config) -> Iterator[tuple[Path, bool]]:
    """(path, whether it is only read) of what the config names."""
    prefixes = [text(config, "data_path"), *(p for key in PATH_LISTS for p in items(config, key))]
    for prefix in (p for p in prefixes if isinstance(p, str)):
        folder = Path(prefix).parent
        yield folder, not os.access(folder, os.W_OK)  # the first start writes its index maps beside the data
        for suffix in (".bin", ".idx"):
            yield from _behind_links(Path(prefix + suffix))
    for key in ("vocab_file", "merge_file", "hostfile"):
        yield from _file(text(config, key))
    shapes = text(config, "base_shapes_file")
    if shapes:
        yield Path(shapes).parent, True  # a prefix: each rank reads its own
    for key in ("tensorboard_dir", "fused_kernels_build_path", "memory_profiling_path"):
        folder_name = text(config, key)
        if folder_name and "://" not in folder_name:
            yield Path(folder_name), False


def _file(path: str | None) -> Iterator[tuple[Path, bool]]:
    if path and os.path.isabs(path):  # else it is the name of an encoding, or none
        yield Path(path), True
        yield from _behind_links(Path(path))


def _behind_links(path: Path) -> Iterator[tuple[Path, bool]]:
    """Where a link leads, which is not there inside unless it is mounted as well."""
    real = path.resolve()
    if real != path and real.exists():
        yield real, True


def _user_mount(bind: str) -> Mount:
    """``HOST``, ``HOST:INSIDE`` or ``HOST:INSIDE:ro``."""
    source, _, rest = bind.partition(":")
    target, _, mode = rest.partition(":")
    return Mount(source, target or source, mode == "ro")


def _least(own: Iterable[Mount], users: Iterable[Mount]) -> list[Mount]:
    """Without mounts that another one, at the same path and with the same rights, holds already."""
    writable = {mount.target for mount in own if not mount.read_only}
    given = {mount.target for mount in users if mount.source == mount.target and not mount.read_only}
    readable = {mount.target for mount in own} | {m.target for m in users if m.source == m.target}
    least: dict[str, Mount] = {}
    for mount in sorted(own, key=lambda m: (_depth(m), m.target, m.read_only)):
        above = {str(parent) for parent in Path(mount.target).parents}
        covered = above & (readable if mount.read_only else writable | given)
        if not covered and mount.target not in least:
            least[mount.target] = mount
    return list(least.values())


def _depth(mount: Mount) -> int:
    return len(Path(mount.target).parts)


def _refuse_hiding(config: Config, container: ContainerSettings, mount: Mount) -> None:
    """A mount over the image's own system, GPT-NeoX or Python leaves nothing to run."""
    needed = [container.neox_dir, *([container.python] if os.path.isabs(container.python) else [])]
    target = Path(mount.target)
    hidden = [path for path in needed if target == Path(path) or target in Path(path).parents]
    if str(target) in _SYSTEM or hidden:
        what = (
            f"mounting {mount.source} at {mount.target} would hide {hidden[0] if hidden else 'the system'} of the image"
        )
        raise InputError(
            config.problem("container-mount", "gaff.container", what, "keep data and runs in other places")
        )
