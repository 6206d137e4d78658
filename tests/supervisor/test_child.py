# SPDX-License-Identifier: Apache-2.0
import socket
import sys
import time
from pathlib import Path

from gaff.supervisor.child import Child, free_port
from gaff.trainers.contract import Launch


def test_the_port_that_is_wished_for_is_taken_when_it_is_free() -> None:
    port = free_port()
    assert free_port(port) == port


def test_another_port_is_taken_when_somebody_listens_there() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        assert free_port(taken) != taken


def test_words_that_were_never_ended_by_a_newline_are_read_at_the_end(tmp_path: Path) -> None:
    launch = Launch((sys.executable, "-c", "print('one'); print('and out', end='')"), tmp_path, {})
    with Child(launch, tmp_path / "log", "some-run") as child:
        while child.poll() is None:
            time.sleep(0.01)
        assert list(child.new_lines(last=True)) == ["one", "and out"]
