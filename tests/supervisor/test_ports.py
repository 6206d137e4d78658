# SPDX-License-Identifier: Apache-2.0
"""Ports: two runs never hold the same one, nothing listens on it, and it is free again when its process is gone."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from itertools import islice

import pytest

from gaff.errors import GaffError
from gaff.supervisor import ports
from gaff.supervisor.ports import candidates, reserve_port

HOLDER = """
import json, sys
from gaff.supervisor.ports import reserve_port
held = [reserve_port(sys.argv[1], int(sys.argv[2]) or None) for _ in range(int(sys.argv[3]))]
print(json.dumps([port.number for port in held]), flush=True)
sys.stdin.read()
"""

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="abstract Unix sockets are Linux's")


def start_holder(run_id: str, wish: int = 0, count: int = 1) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLDER, run_id, str(wish), str(count)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def numbers(holder: subprocess.Popen[str]) -> list[int]:
    assert holder.stdout is not None
    return list(json.loads(holder.stdout.readline()))


def listening(address: str, family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
    listener = socket.socket(family)
    listener.bind((address, 0))
    listener.listen()
    return listener


@linux
def test_racing_processes_never_share_a_port() -> None:
    holders = [start_holder("the same run id", count=40) for _ in range(4)]  # all look in the same order
    try:
        taken = [number for holder in holders for number in numbers(holder)]
    finally:
        for holder in holders:
            holder.communicate()
    assert len(taken) == 160
    assert len(set(taken)) == 160


@linux
def test_a_port_that_another_process_holds_is_not_given_and_free_when_that_was_killed() -> None:
    with reserve_port("a") as mine:
        wish = mine.number
    holder = start_holder("b", wish)
    assert numbers(holder) == [wish]
    with reserve_port("c", wish) as other:
        assert other.number != wish
    holder.kill()
    holder.communicate()
    with reserve_port("c", wish) as again:
        assert again.number == wish


@linux
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process of another user")
def test_other_users_are_kept_away_as_well() -> None:
    with reserve_port("a") as mine:
        code = (
            "import os, socket, sys; os.setgid(65534); os.setuid(65534)\n"
            "held = socket.socket(socket.AF_UNIX)\n"
            "try:\n    held.bind(chr(0) + 'gaff-port-' + sys.argv[1])\n"
            "except OSError:\n    print('taken')"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(mine.number)], capture_output=True, text=True, check=True
        )
    assert done.stdout == "taken\n"


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2", "0.0.0.0"])
def test_a_port_that_is_listened_on_at_any_address_is_not_given(address: str) -> None:
    with listening(address) as listener:
        wish = listener.getsockname()[1]
        with reserve_port("a", wish) as port:
            assert port.number != wish
        with pytest.raises(GaffError, match=f"port {wish}, the only one"):
            reserve_port("a", wish, fixed=True)


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_a_port_that_is_listened_on_in_ipv6_alone_is_not_given() -> None:
    try:
        listener = listening("::1", socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 on the loopback device")
    with listener:
        wish = listener.getsockname()[1]
        with reserve_port("a", wish) as port:
            assert port.number != wish


def test_a_reserved_port_can_be_listened_on_by_the_ranks() -> None:
    with reserve_port("a") as port, socket.socket() as rank_0:
        rank_0.bind(("", port.number))
        rank_0.listen()


def test_a_closed_port_can_be_reserved_again() -> None:
    port = reserve_port("a")
    port.close()
    port.close()
    with reserve_port("a", port.number, fixed=True) as again:
        assert again.number == port.number


def test_ports_of_outgoing_connections_are_left_out_and_every_other_is_tried_once() -> None:
    found = list(candidates("a", (32768, 60999)))
    assert len(found) == len(set(found)) == (32768 - 10000) + (65535 - 60999)
    assert not [n for n in found if 32768 <= n <= 60999]
    assert sorted(candidates("a", (1024, 65535))) == list(range(10000, 65536))  # none would be left
    assert list(islice(candidates("a", (32768, 60999)), 5)) != list(islice(candidates("b", (32768, 60999)), 5))


def test_without_abstract_sockets_a_free_port_is_given_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "AF_UNIX")
    with listening("0.0.0.0") as listener, ports.reserve_port("a", listener.getsockname()[1]) as port:
        assert port.number != listener.getsockname()[1]
