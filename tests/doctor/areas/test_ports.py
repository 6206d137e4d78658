# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from gaff.doctor.areas.ports import PortFacts, examine, judge
from gaff.doctor.subject import Subject
from tests.doctor.conftest import a100s


def test_a_port_that_is_listened_on(load: Callable[..., Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        config = load(f"master_port={port}")
        (finding,) = examine(Subject({}, config, given_gpus=a100s(0)))
        assert (finding.id, finding.level) == ("port", "warning")
        assert f":{port}'" in (finding.remedy or "")
    (finding,) = examine(Subject({}, config, given_gpus=a100s(0)))
    assert finding.level == "ok"


def test_mpi_meets_at_one_port_only() -> None:
    (finding,) = judge(PortFacts(29500, False, False, True, None))
    assert finding.level == "problem"


def test_master_port_in_the_environment_has_no_effect() -> None:
    findings = {finding.id: finding for finding in examine(Subject({"MASTER_PORT": "1234"}, given_gpus=a100s(0)))}
    assert findings["master-port-variable"].remedy == "-o master_port=1234"
