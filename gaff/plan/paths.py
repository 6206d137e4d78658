# SPDX-License-Identifier: Apache-2.0
"""Relative paths in a config made absolute, against the directory GAFF was started in, for the keys that are paths.

The trainer runs in another directory (GPT-NeoX's own), where a relative path would name another file.
"""

from __future__ import annotations

import os.path
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gaff.plan.neox_keys import PATH_LISTS, PATHS
from gaff.plan.settings import ContainerSettings, GaffSettings

#: tokenizer_type (lower case) whose ``vocab_file`` is no path: ignored, or the name of an encoding.
_NO_VOCAB_PATH = ("charleveltokenizer", "tiktokentokenizer")


def absolute(path: str, cwd: Path) -> str:
    """``path`` seen from ``cwd``; ``none``, ``null``, the empty text and URLs stay as they are."""
    if not path or path.lower() in ("none", "null") or "://" in path:
        return path
    return os.path.normpath(cwd / os.path.expanduser(path))


def absolute_paths(neox: Mapping[str, Any], cwd: Path) -> dict[str, Any]:
    """A copy of the GPT-NeoX keys with every path absolute."""
    result = dict(neox)
    tokenizer = str(neox.get("tokenizer_type", "")).lower()
    for key in PATHS:
        value = neox.get(key)
        if not isinstance(value, str) or (key == "vocab_file" and _is_name(value, tokenizer, cwd)):
            continue
        result[key] = absolute(value, cwd)
    for key in PATH_LISTS:
        value = neox.get(key)
        if isinstance(value, list):
            result[key] = [absolute(item, cwd) if isinstance(item, str) else item for item in value]
    return result


def absolute_settings(settings: GaffSettings, cwd: Path) -> GaffSettings:
    """The ``gaff:`` block with every path absolute."""
    if settings.neox_dir is not None:
        settings = replace(settings, neox_dir=absolute(settings.neox_dir, cwd))
    if settings.neox_python is not None and "/" in settings.neox_python:  # else a name on PATH
        settings = replace(settings, neox_python=absolute(settings.neox_python, cwd))
    if settings.init.path is not None:
        settings = replace(settings, init=replace(settings.init, path=absolute(settings.init.path, cwd)))
    if settings.container is not None:
        settings = replace(settings, container=_absolute_container(settings.container, cwd))
    return settings


def _absolute_container(container: ContainerSettings, cwd: Path) -> ContainerSettings:
    """The host's side of every bind mount, and the image where it is a file and not a name."""
    binds = []
    for bind in container.binds:
        host, colon, inside = bind.partition(":")
        binds.append(absolute(host, cwd) + colon + inside)
    is_file = container.engine == "apptainer" and "://" not in container.image
    image = absolute(container.image, cwd) if is_file else container.image
    return replace(container, binds=tuple(binds), image=image)


def _is_name(vocab_file: str, tokenizer: str, cwd: Path) -> bool:
    if tokenizer == "hfgpt2tokenizer":  # a folder, or a model's name on the Hugging Face hub
        return not os.path.exists(cwd / vocab_file)
    return tokenizer in _NO_VOCAB_PATH
