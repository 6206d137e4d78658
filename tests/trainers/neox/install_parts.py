# SPDX-License-Identifier: Apache-2.0
"""What tests of `gaff neox install` need instead of the network: a tiny git repository, and wheels for a real pip."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

#: Distribution -> version and files.  deepspeed's builder does what the real one does, as far as GAFF sees it.
PACKAGES: dict[str, tuple[str, dict[str, str]]] = {
    "torch": ("2.13.0", {"torch/__init__.py": ""}),
    "deepspeed": (
        "0.16.5",
        {
            "deepspeed/__init__.py": "",
            "deepspeed/ops/__init__.py": "",
            "deepspeed/ops/op_builder.py": (
                "import os, pathlib\n"
                "class FusedAdamBuilder:\n"
                "    def load(self):\n"
                "        assert os.environ['DS_ACCELERATOR'] == 'cpu' and os.environ['CXX'] == 'g++'\n"
                "        folder = pathlib.Path(os.environ['TORCH_EXTENSIONS_DIR']) / 'fused_adam'\n"
                "        folder.mkdir()\n"
                "        (folder / 'fused_adam.so').touch()\n"
            ),
        },
    ),
    "setuptools": ("79.0.1", {"setuptools/__init__.py": "", "pkg_resources/__init__.py": ""}),
    **{
        name: (version, {f"{name}/__init__.py": ""})
        for name, version in {
            "transformers": "4.38.0",
            "numpy": "1.26.4",
            "tokenizers": "0.15.2",
            "ftfy": "6.3.1",
            "sentencepiece": "0.2.0",
            "tiktoken": "0.9.0",
            "lm_dataformat": "0.0.20",
            "pybind11": "2.13.6",
            "requests": "2.32.0",
            "regex": "2024.1.1",
            "six": "1.17.0",
            "wheel": "0.45.0",
            "ninja": "1.11.1",
            "packaging": "24.0",
        }.items()
    },
}
MAKEFILE = """\
helpers$(shell python3-config --extension-suffix): helpers.cpp
\t$(CXX) -shared -fPIC $< -o $@
"""


def write_wheels(folder: Path, padding: int = 0) -> Path:
    """One wheel of each package.  That of torch also holds a file of ``padding`` zero bytes, unpacked late."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (version, files) in PACKAGES.items():
        contents = {path: text.encode() for path, text in files.items()}
        if name == "torch" and padding:
            contents["torch/padding.bin"] = bytes(padding)
        needs = "Requires-Dist: tokenizers\n" if name == "transformers" else ""
        info = f"{name}-{version}.dist-info"
        contents[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}".encode()
        contents[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        rows = [f"{path},sha256={_digest(data)},{len(data)}" for path, data in contents.items()]
        contents[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,", ""]).encode()
        with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
            for path, data in contents.items():
                wheel.writestr(path, data)
    return folder


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def write_tree(root: Path) -> Path:
    """A work tree that looks like GPT-NeoX and whose data helper compiles; no git."""
    for path, text in {
        "deepy.py": "",
        "train.py": "",
        "megatron/__init__.py": "",
        "megatron/training.py": "import deepspeed, torch\n",
        "megatron/data/Makefile": MAKEFILE,
        "megatron/data/helpers.cpp": "int answer() { return 42; }\n",
        "requirements/requirements.txt": "".join(
            f"{name}\n" for name in PACKAGES if name not in ("torch", "setuptools", "wheel", "ninja", "packaging")
        ),
        ".gitignore": "*.so\n",
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def git(root: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.invalid", "-c", "init.defaultBranch=main")
    done = subprocess.run(
        ["git", *identity, "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


def write_repository(root: Path) -> Path:
    """The same in git, on branch ``main`` with a tag ``v1`` on its first of two commits."""
    write_tree(root)
    git(root, "init", "--quiet")
    for number in (1, 2):
        (root / "version").write_text(f"{number}\n")
        git(root, "add", "--all")
        git(root, "commit", "--quiet", "--message", f"number {number}")
        if number == 1:
            git(root, "tag", "--annotate", "--message", "the first", "v1")
    return root


def offline(wheels: Path) -> dict[str, str]:
    """The environment of a `gaff neox install` whose pip knows these wheels and nothing else."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "GPT_NEOX", "GAFF_"))}
    return {**kept, "PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}


def start(environment: dict[str, str], *arguments: str | Path, **options: object) -> subprocess.Popen[str]:
    """``gaff neox …`` in a process group of its own."""
    return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
        [sys.executable, "-m", "gaff", "neox", *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, output, errors."""
    output, errors = process.communicate(timeout=240)
    return process.returncode, output, errors
