# SPDX-License-Identifier: Apache-2.0
"""Containers: the command lines of Apptainer and Docker, and a segment run by false engines that enforce them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from gaff.errors import InputError
from gaff.plan.config import Config
from gaff.trainers.contract import Launch, SegmentRequest
from gaff.trainers.neox.container import check_container, contained, inside_variables, look_inside
from gaff.trainers.neox.device import SHIM
from gaff.trainers.neox.launchers import Nodes, nodes_of
from gaff.trainers.neox.launching import build_launch
from gaff.trainers.neox.mounts import Mount, mounts_of
from tests.trainers.neox import false_engine
from tests.trainers.neox.launched import config_of, hostfile

ENGINES = ("apptainer", "docker")
INSIDE = Launch(("python", "deepy.py", "train.py", "/run/neox.yml"), Path("/opt/gpt-neox"), {"B": "a,\"b'", "A": "1"})


def with_container(folder: Path, engine: str = "docker", *overrides: str, **keys: Any) -> Config:
    container = {"engine": engine, "image": str(folder / "image"), **keys.pop("container", {})}
    return config_of(folder, *overrides, **{"gaff.container": container, **keys})


def everything(name: str) -> str:
    return f"/bin/{name}"


def outside(config: Config, mounts: tuple[Mount, ...] = (), inside: Launch = INSIDE) -> Launch:
    return contained(config, inside, mounts, name="gaff-r1", cwd=Path("/run"), which=everything)


def test_apptainers_command_line(tmp_path: Path) -> None:
    config = with_container(tmp_path, "apptainer", container={"options": ["--writable-tmpfs"]})
    launch = outside(config, (Mount("/a b", "/a b"), Mount("/c", "/d", read_only=True)))
    assert launch.argv == (
        *("apptainer", "exec", "--cleanenv", "--nv", "--bind", "/a b:/a b", "--bind", "/c:/d:ro"),
        *("--pwd", "/opt/gpt-neox", "--writable-tmpfs", str(tmp_path / "image"), *INSIDE.argv),
    )
    assert launch.env == {"APPTAINERENV_A": "1", "APPTAINERENV_B": "a,\"b'"}
    assert launch.cwd == Path("/run")
    assert launch.clean_up == ()


def test_dockers_command_line(tmp_path: Path) -> None:
    config = with_container(tmp_path, container={"options": ["--device=/dev/infiniband"]})
    launch = outside(config, (Mount("/a:b,c", "/a:b,c"), Mount('/q"', "/d", read_only=True)))
    words = list(launch.argv)
    assert words[:6] == ["docker", "run", "--rm", "--init", "--name", "gaff-r1"]
    for word in ("--ipc=host", "--network=host", "--ulimit=memlock=-1", "--gpus=all"):
        assert word in words
    assert f"--user={os.getuid()}:{os.getgid()}" in words
    assert '--mount=type=bind,"source=/a:b,c","target=/a:b,c"' in words
    assert '--mount=type=bind,"source=/q""",target=/d,readonly' in words
    assert words[words.index("--env=A") :] == [
        *("--env=A", "--env=B", "--workdir", "/opt/gpt-neox", "--device=/dev/infiniband"),
        *(str(tmp_path / "image"), *INSIDE.argv),
    ]
    assert launch.env == INSIDE.env  # values are never on the command line
    assert launch.clean_up == (("docker", "rm", "-f", "gaff-r1"),)


@pytest.mark.parametrize("engine", ENGINES)
def test_no_gpu_is_asked_for_on_the_cpu(tmp_path: Path, engine: str) -> None:
    launch = outside(with_container(tmp_path, engine, "gaff.device=cpu"))
    assert not {"--nv", "--gpus=all"} & set(launch.argv)


@pytest.mark.parametrize("path", ["/a:b", "/a,b", "/a\\b"])
def test_paths_that_apptainer_cannot_be_told_are_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(InputError, match="Apptainer cannot mount"):
        outside(with_container(tmp_path, "apptainer"), (Mount(path, path),))


def test_singularity_stands_in_for_apptainer(tmp_path: Path) -> None:
    config = with_container(tmp_path, "apptainer")
    launch = contained(
        config, INSIDE, (), name="x", cwd=Path("/"), which=lambda name: name if name == "singularity" else None
    )
    assert launch.argv[0] == "singularity"
    assert launch.env["SINGULARITYENV_A"] == "1"


# --- mounts ---


def request_in(folder: Path) -> SegmentRequest:
    directory = folder / "runs" / "r" / "segments" / "0001"
    directory.mkdir(parents=True, exist_ok=True)
    return SegmentRequest(0, 10, folder / "runs" / "r" / "checkpoints", directory, 23456, "r1")


def mounted(config: Config, folder: Path, shim: Path | None = None) -> dict[str, bool]:
    """Path -> whether it is mounted for reading alone."""
    (folder / "data").mkdir(exist_ok=True)
    request = request_in(folder)
    cache = request.directory.parents[1] / "container-cache"
    found = mounts_of(config, request, {}, cache=cache, shim=shim)
    assert len({mount.target for mount in found}) == len(found)
    return {mount.source: mount.read_only for mount in found if mount.source == mount.target}


def test_everything_the_config_names_is_mounted_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "tokens").mkdir()
    vocab = tmp_path / "tokens" / "vocab.json"
    vocab.write_text("{}")
    config = with_container(
        tmp_path, tokenizer_type="HFTokenizer", vocab_file=str(vocab), tensorboard_dir=str(tmp_path / "tb")
    )
    run = tmp_path / "runs" / "r"
    assert mounted(config, tmp_path, SHIM) == {
        str(run / "segments" / "0001"): False,
        str(run / "checkpoints"): False,
        str(run / "container-cache"): False,
        str(tmp_path / "data"): False,  # index maps are made beside the data
        str(tmp_path / "tb"): False,
        str(vocab): True,
        str(SHIM): True,
    }
    assert (tmp_path / "tb").is_dir()


def test_what_a_mount_holds_already_is_not_mounted_again(tmp_path: Path) -> None:
    config = with_container(tmp_path, container={"binds": [str(tmp_path)]}, tensorboard_dir=str(tmp_path / "tb"))
    assert mounted(config, tmp_path) == {str(tmp_path): False}
    read_only = with_container(tmp_path, container={"binds": [f"{tmp_path}:{tmp_path}:ro"]})
    found = mounted(read_only, tmp_path)
    assert found[str(tmp_path)] is True
    assert found[str(tmp_path / "data")] is False  # it is written to, so it needs a mount of its own
    assert next(iter(found)) == str(tmp_path)  # mounted later, it would hide what was mounted in it


def test_links_are_followed_because_they_lead_nowhere_inside(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "data").mkdir()
    for suffix in (".bin", ".idx"):
        (tmp_path / "store" / f"x{suffix}").touch()
        (tmp_path / "data" / f"text{suffix}").symlink_to(tmp_path / "store" / f"x{suffix}")
    found = mounted(with_container(tmp_path), tmp_path)
    assert found[str(tmp_path / "store" / "x.bin")] is True
    assert found[str(tmp_path / "store" / "x.idx")] is True


@pytest.mark.parametrize(
    "container",
    [
        {"binds": ["TMP:/usr"]},
        {"binds": ["TMP:/opt"]},
        {"neox_dir": "TMP/data/neox"},
        {"python": "TMP/data/bin/python"},
    ],
)
def test_a_mount_must_not_hide_the_image(tmp_path: Path, container: dict[str, Any]) -> None:
    filled = json.loads(json.dumps(container).replace("TMP", str(tmp_path)))
    with pytest.raises(InputError, match="would hide"):
        mounted(with_container(tmp_path, container=filled), tmp_path)


# --- variables ---


def test_inside_are_the_images_own_compilers_and_paths(tmp_path: Path) -> None:
    environ = {
        "PATH": "/host/bin",
        "LD_LIBRARY_PATH": "/host/lib",
        "CUDA_HOME": "/host/cuda",
        "CXX": "/host/g++",
        "NCCL_DEBUG": "INFO",
        "HF_TOKEN": "t",
        "CUDA_VISIBLE_DEVICES": "1",
        "PYTHONPATH": "/host/packages",
    }
    own = {
        "PATH": "/venv/bin",
        "GAFF_RUN_ID": "r1",
        "TORCH_EXTENSIONS_DIR": "/host/ops",
        "PYTHONPATH": "/host/packages",
    }
    config = with_container(tmp_path)
    found = inside_variables(config, environ, own, cache=tmp_path / "cache", shim=None)
    assert not {"PATH", "LD_LIBRARY_PATH", "CUDA_HOME", "PYTHONPATH"} & set(found)
    assert (found["CXX"], found["CC"], found["PYTHONNOUSERSITE"]) == ("g++", "gcc", "1")
    assert (found["NCCL_DEBUG"], found["HF_TOKEN"], found["CUDA_VISIBLE_DEVICES"]) == ("INFO", "t", "1")
    assert found["TORCH_EXTENSIONS_DIR"] == str(tmp_path / "cache" / "torch_extensions")
    on_cpu = inside_variables(config, environ, own, cache=tmp_path / "cache", shim=SHIM)
    assert on_cpu["PYTHONPATH"] == str(SHIM)
    asked = with_container(tmp_path, **{"gaff.environment": {"PATH": "/image/conda/bin:/bin"}})
    given = inside_variables(asked, environ, own, cache=tmp_path, shim=None)
    assert given["PATH"] == "/image/conda/bin:/bin"


# --- problems ---


def test_problems_are_told_before_the_launch(tmp_path: Path) -> None:
    def ids(config: Config, nodes: Nodes, which: Any = everything) -> list[str]:
        return [problem.id for problem in check_container(config, nodes, which)]

    here = Nodes("local", {})
    assert ids(config_of(tmp_path), here) == []
    assert ids(with_container(tmp_path), here) == []  # whether Docker has the image only Docker knows
    assert ids(with_container(tmp_path), here, lambda name: None) == ["container-engine"]
    assert ids(with_container(tmp_path, "apptainer"), here) == ["container-image"]
    assert ids(with_container(tmp_path, container={"binds": ["/not/there:/x"]}), here) == ["container-bind"]
    several = with_container(tmp_path, hostfile=str(hostfile(tmp_path)))
    assert ids(several, nodes_of(several, {})) == ["container-nodes"]


# --- false engines ---

DEEPY = """
import json, os, sys
open(os.path.join(os.path.dirname(sys.argv[2]), "inside.json"), "w").write(json.dumps(dict(os.environ)))
print("trained in", os.getcwd())
"""


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Both engines on PATH, and an image.  Returns the record of their calls."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for engine in ENGINES:
        path = programs / engine
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{false_engine.__file__}" {engine} "$@"\n')
        path.chmod(0o755)
    checkout = tmp_path / "image" / "opt" / "gpt-neox"
    checkout.mkdir(parents=True)
    (checkout / "deepy.py").write_text(DEEPY)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setenv("FALSE_ENGINE_RECORD", str(tmp_path / "calls.jsonl"))
    monkeypatch.setenv("HOST_ONLY", "1")
    return tmp_path / "calls.jsonl"


def run_segment(config: Config, folder: Path, shim: Path | None = None) -> subprocess.CompletedProcess[str]:
    (folder / "data").mkdir(exist_ok=True)
    request = request_in(folder)
    script = request.directory / "neox.yml"
    script.write_text(yaml.safe_dump({**config.neox, "save": str(request.save)}))
    container = config.gaff.container
    assert container is not None
    inside = Launch((container.python, "deepy.py", "train.py", str(script)), Path(container.neox_dir), {"OWN": "x y,z"})
    launch = build_launch(config, request, inside, os.environ, shim=shim)
    environment = {**os.environ, **launch.env}
    for command in launch.clean_up:
        subprocess.run(command, env=environment, cwd=launch.cwd, check=False)
    return subprocess.run(launch.argv, env=environment, cwd=launch.cwd, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("device", ["gpu", "cpu"])
def test_a_segment_runs_inside(tmp_path: Path, engines: Path, engine: str, device: str) -> None:
    vocab = tmp_path / "vocab.json"
    vocab.write_text("{}")
    keys: dict[str, Any] = {"vocab_file": str(vocab), "tokenizer_type": "HFTokenizer"}
    config = with_container(tmp_path, engine, f"gaff.device={device}", tensorboard_dir=str(tmp_path / "tb"), **keys)
    done = run_segment(config, tmp_path, SHIM if device == "cpu" else None)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"trained in {tmp_path}/image/opt/gpt-neox" in done.stdout
    inside = json.loads((request_in(tmp_path).directory / "inside.json").read_text())
    assert inside["OWN"] == "x y,z"
    assert inside["GAFF_RUN_ID"] == "r1"
    assert inside["CXX"] == "g++"
    assert inside["PATH"].startswith("/image/bin")
    assert "HOST_ONLY" not in inside
    assert ("PYTHONPATH" in inside) == (device == "cpu")
    calls = [json.loads(line) for line in engines.read_text().splitlines()]
    assert [call[:4] for call in calls[:-1]] == ([["docker", "rm", "-f", "gaff-r1"]] if engine == "docker" else [])


@pytest.mark.parametrize("engine", ENGINES)
def test_the_false_engines_do_enforce_the_mounts(tmp_path: Path, engines: Path, engine: str) -> None:
    (tmp_path / "data").mkdir()
    request = request_in(tmp_path)
    request.save.mkdir()
    script = request.directory / "neox.yml"
    script.write_text(yaml.safe_dump({"save": str(request.save)}))
    inside = Launch(("python", "deepy.py", "train.py", str(script)), Path("/opt/gpt-neox"), {})
    config = with_container(tmp_path, engine)
    here, save = str(request.directory), str(request.save)
    for mounts, code in (
        ((Mount(here, here),), 125),
        ((Mount(here, here), Mount(save, save, read_only=True)), 125),
        ((Mount(here, here), Mount(save, save)), 0),
    ):
        launch = contained(config, inside, mounts, name="gaff-r1", cwd=tmp_path)
        done = subprocess.run(launch.argv, env={**os.environ, **launch.env}, capture_output=True, text=True)
        assert done.returncode == code, done.stderr


@pytest.mark.parametrize("engine", ENGINES)
def test_an_image_without_gpt_neox_or_that_does_not_start_is_told(tmp_path: Path, engines: Path, engine: str) -> None:
    (tmp_path / "image" / "srv" / "neox").mkdir(parents=True)
    assert look_inside(with_container(tmp_path, engine)) == []
    (problem,) = look_inside(with_container(tmp_path, engine, container={"neox_dir": "/srv/neox"}))
    assert problem.id == "container-neox"
    (problem,) = look_inside(with_container(tmp_path, engine, container={"options": ["--no-such-option"]}))
    assert problem.id == "container-image"
    assert "unknown flag" in problem.what


@pytest.mark.skipif(shutil.which("docker") is None, reason="there is no docker")
def test_the_real_docker_takes_the_command_line(tmp_path: Path) -> None:
    config = with_container(tmp_path, container={"image": "gpt-neox:24.02"})
    launch = outside(config, (Mount("/a,b", "/a,b", read_only=True),))
    nobody = {**os.environ, **launch.env, "DOCKER_HOST": f"unix://{tmp_path}/nobody-listens"}
    done = subprocess.run(launch.argv, env=nobody, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert "nobody-listens" in done.stderr  # it has read all options and goes to its daemon
    wrong = [word.replace("source=", "sauce=") for word in launch.argv]
    done = subprocess.run(wrong, env=nobody, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert "sauce" in done.stderr


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_that_fails_in_any_encoding_is_told(
    tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / engine
    words = r"d\351mon arr\352t\351\n\nRun \047docker run --help\047 for more information\n"
    program.write_text(f"#!/bin/sh\nprintf '{words}' >&2; exit 125\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (problem,) = look_inside(with_container(tmp_path, engine))
    assert "does not run (d\ufffdmon arr\ufffdt\ufffd)" in problem.what


def test_an_engine_that_answers_nothing_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither is the command that would remove what it was told to start."""
    (tmp_path / "docker").write_text("#!/bin/sh\nexec sleep 600\n")
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("gaff.trainers.neox.container._TIMEOUT_S", 0.5)
    (problem,) = look_inside(with_container(tmp_path))
    assert "it did not answer within" in problem.what


@pytest.mark.parametrize("key", ["binds", "options"])
def test_words_that_no_command_line_can_have_are_refused(tmp_path: Path, key: str) -> None:
    (tmp_path / "image").touch()
    config = with_container(tmp_path, container={key: ["a\0b"]})
    assert [problem.id for problem in check_container(config, Nodes("local", {}), everything)] == ["container-text"]
