# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gaff.doctor.areas import compilers, neox
from gaff.doctor.areas.container import examine
from gaff.doctor.finding import Finding
from gaff.doctor.subject import Subject
from tests.doctor.conftest import a100s

Programs = Callable[..., dict[str, str]]


def found(environment: dict[str, str], config: Any) -> dict[str, Finding]:
    return {finding.id: finding for finding in examine(Subject(environment, config, given_gpus=a100s(1)))}


def test_no_container_is_asked_for(load: Callable[..., Any], programs: Programs) -> None:
    assert found(programs(), load()) == {}


def test_apptainer(load: Callable[..., Any], programs: Programs) -> None:
    config = load("gaff.container={engine: apptainer, image: neox.sif}")
    assert found({"PATH": ""}, config)["container-engine"].level == "problem"
    environment = programs(apptainer="echo apptainer version 1.3.4")
    findings = found(environment, config)
    assert (findings["container-engine"].what, findings["container-image"].level) == ("apptainer 1.3.4", "problem")
    Path("neox.sif").touch()
    assert "container-image" not in found(environment, config)


def test_an_image_with_a_blank_in_its_path(load: Callable[..., Any], programs: Programs) -> None:
    config = load("gaff.container={engine: apptainer, image: my images/neox.sif}")
    findings = found(programs(apptainer="echo apptainer version 1.3.4"), config)
    image = str(Path("my images/neox.sif").absolute())
    assert (findings["container-image"].remedy or "").startswith(f"apptainer build '{image}' ")
    assert f" '{image}' python -m gaff" in (findings["container-inside"].remedy or "")


def test_docker_without_its_daemon(load: Callable[..., Any], programs: Programs) -> None:
    config = load("gaff.container={engine: docker, image: gpt-neox}")
    denied = 'case "$1" in info) echo "permission denied" >&2; exit 1;; *) echo Docker version 27.1.1;; esac'
    finding = found(programs(docker=denied), config)["container-engine"]
    assert (finding.level, "permission denied" in finding.what) == ("problem", True)


def test_docker_without_the_image(load: Callable[..., Any], programs: Programs) -> None:
    config = load("gaff.container={engine: docker, image: gpt-neox}")
    lacking = 'case "$1" in image) exit 1;; *) echo Docker version 27.1.1;; esac'
    assert found(programs(docker=lacking), config)["container-image"].remedy == "docker pull gpt-neox"


def test_what_is_inside_is_not_looked_for_outside(load: Callable[..., Any], programs: Programs) -> None:
    subject = Subject(programs(), load("gaff.container={engine: docker, image: x}"), given_gpus=a100s(1))
    assert [*compilers.examine(subject), *neox.examine(subject)] == []
