# SPDX-License-Identifier: Apache-2.0
"""What of this machine a build has to be given: where its pip and apt get packages from.

Nothing of it is written into an image: pip's settings and what they name are mounted while steps run, and apt's go into
the stand-in for a base image alone.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

CERTIFICATES = "/mnt/host-certificates.crt"  # inside
_NOT_FOR_IMAGES = frozenset(
    {"require-virtualenv", "target", "prefix", "root", "user", "dry-run", "python", "cache-dir"}
)


def pip_mounts(folder: Path) -> dict[str, str]:
    """Path here -> path inside, of what pip needs to find packages as it does here.

    Args:
        folder: where a file may be written.
    """
    settings = dict(_pip_settings())
    mounts: dict[str, str] = {}
    for key in ("find-links", "index-url", "extra-index-url"):
        for word in settings.get(key, "").split():
            path = word.removeprefix("file://")
            if path.startswith("/") and os.path.isdir(path):
                path = path.rstrip("/").removesuffix("/simple")  # an index's files lie beside its pages
                mounts[path] = path
    if os.path.isfile(settings.get("cert", "")):
        mounts[settings["cert"]] = CERTIFICATES
        settings["cert"] = CERTIFICATES
    if settings:
        file = folder / "pip.conf"
        lines = (f"{key} = {' '.join(value.split())}\n" for key, value in sorted(settings.items()))
        file.write_text("[global]\n" + "".join(lines), encoding="utf-8")
        mounts[str(file)] = "/etc/pip.conf"
    return mounts


def _pip_settings() -> Iterator[tuple[str, str]]:
    """Key and value as pip says them, those of the environment, which win, last."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    found = re.findall(r"^(global|install|:env:)\.([\w-]+)=(.+)$", said, re.MULTILINE)
    for _, key, value in sorted(found, key=lambda entry: entry[0] == ":env:"):
        if key.lstrip(".") not in _NOT_FOR_IMAGES:
            yield key.lstrip("."), str(ast.literal_eval(value))


def debian_mirror() -> str | None:
    """Where this machine's apt gets Debian from; None for debootstrap's own default."""
    command = ["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages", "Origin: Debian"]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return next((site for site in said if not site.endswith("security")), None)


def give_apt_settings(tree: Path) -> None:
    """Let apt in a Debian tree fetch as it does here: sources, keys, credentials and the Acquire options."""
    for name in ("sources.list", "sources.list.d", "trusted.gpg.d", "keyrings", "auth.conf.d"):
        source, target = Path("/etc/apt", name), tree / "etc" / "apt" / name
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        elif name == "sources.list":
            target.unlink(missing_ok=True)
            if source.is_file():
                shutil.copy2(source, target)
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout
    wanted = [line for line in dump.splitlines() if re.match(r"Acquire::(Check|https?|Retries)", line)]
    (tree / "etc/apt/apt.conf.d/90host").write_text("".join(line + "\n" for line in wanted), encoding="utf-8")
