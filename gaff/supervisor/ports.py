# SPDX-License-Identifier: Apache-2.0
"""A TCP port for the ranks of one launch to meet at, which no other run of GAFF on this machine takes meanwhile.

The port must stay free for rank 0, seconds to minutes later, so it cannot be held by listening on it.  Instead each run
holds an abstract Unix socket named after its port (unix(7)): all users of a network namespace see the same names, no
file is left behind, and the name is free again when the process ends, however it ended.
"""

from __future__ import annotations

import errno
import hashlib
import socket
from collections.abc import Iterator
from pathlib import Path

from gaff.errors import GaffError, Problem

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_USUAL_RANGE = (32768, 60999)  # what Linux gives to outgoing connections unless told otherwise
_FIRST, _LAST = 10000, 65535
_STEP = 7919  # a prime that divides no count of ports here: neighbours by number are not neighbours in the search


class ReservedPort:
    """One port.  Use as a context manager, or close it once the launch has ended.

    Attributes:
        number: the port; nothing listened on it when it was reserved.
    """

    def __init__(self, number: int, holder: socket.socket | None) -> None:
        self.number = number
        self._holder = holder

    def close(self) -> None:
        """Give it up.  May be called again."""
        if self._holder is not None:
            self._holder.close()
            self._holder = None

    def __enter__(self) -> ReservedPort:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def reserve_port(run_id: str, wish: int | None = None, *, fixed: bool = False) -> ReservedPort:
    """Reserve a port: ``wish`` if it is free, else one that ``run_id`` gives a place to start looking from.

    The ports that the system gives to outgoing connections are left out, so that none of these takes it either.  Where
    there are no abstract sockets (off Linux), runs are kept apart by where they begin to look alone.

    Args:
        run_id: any text.
        wish: the config's ``master_port``.
        fixed: the launcher takes no other port than ``wish``.

    Raises:
        GaffError: there is no free port, or the fixed one is taken.
    """
    if wish is not None:
        port = _try(wish)
        if port is not None:
            return port
        if fixed:
            what = f"port {wish}, the only one that this launcher meets at, is taken on this machine"
            remedy = "end what uses it, or wait until the other run has ended"
            raise GaffError(Problem("port-taken", what, remedy))
    for number in candidates(run_id, _outgoing()):
        port = _try(number)
        if port is not None:
            return port
    what = f"no TCP port from {_FIRST} to {_LAST} is free on this machine"
    raise GaffError(Problem("no-port", what, "end what listens on them"))


def candidates(run_id: str, outgoing: tuple[int, int]) -> Iterator[int]:
    """Every port outside ``outgoing`` (first, last), each once, in an order that depends on ``run_id``."""
    first, last = outgoing
    allowed = [n for n in range(_FIRST, _LAST + 1) if not first <= n <= last]
    if not allowed:  # a machine set up to give away all of them
        allowed = list(range(_FIRST, _LAST + 1))
    begin = int.from_bytes(hashlib.sha256(run_id.encode()).digest()[:8], "big")
    step = _STEP if len(allowed) % _STEP else 1
    return (allowed[(begin + i * step) % len(allowed)] for i in range(len(allowed)))


def _outgoing() -> tuple[int, int]:
    try:
        first, last = _RANGE.read_text(encoding="ascii").split()
        return int(first), int(last)
    except (OSError, ValueError):
        return _USUAL_RANGE


def _try(number: int) -> ReservedPort | None:
    """Hold first, look then: of two runs that try at once, one alone gets to look."""
    try:
        holder = _hold(number)
    except OSError:
        return None
    if _is_free(number):
        return ReservedPort(number, holder)
    if holder is not None:
        holder.close()
    return None


def _hold(number: int) -> socket.socket | None:
    """The name of a port, taken; None where the system has no such names.

    Raises:
        OSError: another process holds it.
    """
    if not hasattr(socket, "AF_UNIX"):
        return None
    holder = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)  # not handed on to children (PEP 446)
    try:
        holder.bind(f"\0gaff-port-{number}")
    except (OSError, ValueError) as error:
        holder.close()
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise
        return None
    return holder


def _is_free(number: int) -> bool:
    """Whether nothing listens on it at any address of this machine, in IPv4 and, where there is any, in IPv6."""
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        try:
            listener = socket.socket(family)
        except OSError:
            continue
        with listener:
            # A port in TIME_WAIT is free for a listener; one that is listened on is not, at whatever address.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                if family == socket.AF_INET6:
                    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                listener.bind((address, number))
                listener.listen(1)
            except OSError as error:
                if error.errno in (errno.EADDRINUSE, errno.EACCES):
                    return False
    return True
