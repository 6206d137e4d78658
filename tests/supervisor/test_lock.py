# SPDX-License-Identifier: Apache-2.0
"""The lock of a run directory, held by real processes, on one machine and on what passes for several."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gaff.errors import GaffError, InputError
from gaff.files import exclusive_lock
from gaff.supervisor.lock import run_lock
from gaff.supervisor.lock_owner import Owner, is_local, parse_record, read_owner, this_process
from gaff.supervisor.lock_presence import Onlooker, Periods, presence
from tests.supervisor.hold_lock import PERIODS, no_flock

SCRIPT = Path(__file__).with_name("hold_lock.py")
BRISK = Periods(beat_s=0.05, stale_s=0.2, settle_s=0.05)  # where nobody else is there to be taken for dead


class Holder:
    """A process that holds the lock, or tries to."""

    def __init__(self, path: Path, **options: Any) -> None:
        command = [sys.executable, str(SCRIPT), str(path), json.dumps(options)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pid = self._process.pid
        assert self.next()["event"] == "ready"

    def next(self) -> dict[str, Any]:
        """What it says next; nothing once it is dead."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        return json.loads(line) if line else {"event": "dead"}

    def until(self, event: str) -> dict[str, Any]:
        said = []
        while not said or said[-1]["event"] not in (event, "dead"):
            said.append(self.next())
        assert said[-1]["event"] == event, said
        return said[-1]

    def outcome(self) -> str:
        """``held`` or ``refused``."""
        while (said := self.next()["event"]) == "told":
            pass
        return str(said)

    def has_spoken(self) -> bool:
        return bool(select.select([self._process.stdout], [], [], 0)[0])

    def begin(self) -> None:
        assert self._process.stdin
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def release(self) -> dict[str, Any]:
        assert self._process.stdin
        self._process.stdin.close()
        done = self.until("done")
        assert self._process.wait(30) == 0
        return done

    def send(self, number: int) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(30)


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Callable[..., Holder]]:
    """Starts holders of ``tmp_path/run/lock``; ends them all."""
    started: list[Holder] = []
    (tmp_path / "run").mkdir()

    def start(**options: Any) -> Holder:
        started.append(Holder(tmp_path / "run" / "lock", **options))
        return started[-1]

    yield start
    for holder in started:
        holder.kill()


@pytest.fixture
def lock_file(tmp_path: Path, hold: Callable[..., Holder]) -> Path:
    return tmp_path / "run" / "lock"


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def elsewhere(**changes: Any) -> Owner:
    """A process of another node."""
    return replace(this_process("theirs"), host="node7", boot="another", **changes)


# One machine


def test_held_and_let_go(lock_file: Path) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    with run_lock(lock_file, periods=BRISK) as lock:
        owner = read_owner(lock_file)
        assert owner is not None
        assert (owner.pid, owner.is_of_this_machine, owner.lives, owner.beat) == (os.getpid(), True, True, 0)
        assert lock.taken_over is None
        wait_for(lambda: getattr(read_owner(lock_file), "beat", 0) > 2)
        assert (lock.lost, lock.confirm()) == (None, None)
    assert lock_file.read_bytes() == b""
    assert os.listdir(lock_file.parent) == ["lock"]
    assert "gaff-lock" not in [thread.name for thread in threading.enumerate()]
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_let_go_when_the_block_fails(lock_file: Path) -> None:
    with pytest.raises(OSError, match="mine"), run_lock(lock_file, periods=BRISK):
        raise OSError("mine")  # not to be told as trouble with the lock
    assert lock_file.read_bytes() == b""


@pytest.mark.parametrize("flock", [True, False])
def test_a_second_one_is_refused(flock: bool, lock_file: Path, hold: Callable[..., Holder]) -> None:
    first = hold(flock=flock)
    assert first.next() == {"event": "held", "taken_over": None}
    refused = hold(flock=flock).next()
    assert (refused["event"], refused["id"], refused["code"]) == ("refused", "run-locked", 2)
    assert f"process {first.pid} on " in refused["what"]
    assert first.release()["threads"] == ["MainThread"]
    assert hold(flock=flock).next() == {"event": "held", "taken_over": None}


@pytest.mark.parametrize("flock", [True, False])
def test_a_dead_one_is_replaced_at_once(flock: bool, lock_file: Path, hold: Callable[..., Holder]) -> None:
    first = hold(flock=flock)
    first.until("held")
    first.kill()
    assert hold(flock=flock).next() == {"event": "held", "taken_over": {"pid": first.pid, "silent_s": 0.0}}


def test_a_stopped_one_is_not_dead(hold: Callable[..., Holder]) -> None:
    first = hold(flock=False)
    first.until("held")
    first.send(signal.SIGSTOP)
    assert hold(flock=False).next()["event"] == "refused"


def test_a_later_process_of_the_same_number_is_another(lock_file: Path) -> None:
    here = this_process("theirs")
    assert here.started is not None
    assert here.lives
    assert not replace(here, started=here.started - 1).lives


def test_a_zombie_is_dead() -> None:
    child = subprocess.Popen(["sleep", "60"])
    started = replace(this_process(""), pid=child.pid, started=None)
    assert started.lives
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not started.lives
    child.wait()


def test_the_lock_of_an_earlier_boot_is_nobodys(lock_file: Path) -> None:
    if not is_local(lock_file.parent):
        pytest.skip("the temporary directory may be another machine's too")
    lock_file.write_bytes(replace(this_process("theirs"), boot="earlier").record())
    assert presence(lock_file).at_work is False
    with run_lock(lock_file) as lock:
        assert lock.taken_over is not None
        assert lock.taken_over.silent_s == 0


# Several machines


@pytest.mark.parametrize("flock", [True, False])
def test_another_nodes_supervisor_is_refused(flock: bool, lock_file: Path, hold: Callable[..., Holder]) -> None:
    first = hold(node="node1", flock=False)
    first.until("held")
    refused = hold(node="node2", flock=flock).until("refused")
    assert f"process {first.pid} on node1" in refused["what"]
    first.release()
    assert hold(node="node2", flock=flock).next() == {"event": "held", "taken_over": None}


@pytest.mark.parametrize("flock", [True, False])
def test_another_nodes_stale_lock_is_taken_over_with_a_word(
    flock: bool, lock_file: Path, hold: Callable[..., Holder]
) -> None:
    first = hold(node="node1", flock=flock)
    first.until("held")
    first.kill()
    second = hold(node="node2", flock=flock)
    told = [second.next(), second.next()]
    assert told[0]["text"] == f"process {first.pid} on node1 did not release this run directory: watching it for 2 s"
    assert told[1]["text"] == f"process {first.pid} on node1 did not stir for 2 s: this run directory is taken over"
    before = second.next()["taken_over"]
    assert before["pid"] == first.pid
    assert before["silent_s"] >= PERIODS.stale_s
    second.release()
    assert os.listdir(lock_file.parent) == ["lock"]


def test_one_that_lets_go_while_it_is_watched(lock_file: Path, hold: Callable[..., Holder]) -> None:
    lock_file.write_bytes(elsewhere().record())
    second = hold(node="node2")
    assert second.next()["event"] == "told"
    lock_file.write_bytes(b"")
    assert second.next() == {"event": "held", "taken_over": None}


def test_a_kernels_lock_that_a_dead_machine_left_behind(lock_file: Path, hold: Callable[..., Holder]) -> None:
    """As an NFS server keeps it for a client that died."""
    lock_file.write_bytes(elsewhere().record())
    with open(lock_file, "rb") as file, exclusive_lock(file.fileno()):
        assert hold(node="node2").until("held")["taken_over"]["silent_s"] >= PERIODS.stale_s


@pytest.mark.parametrize("content", [b"", b"scribble", b'{"host": "node7", "pid": 12}'])
def test_a_kernels_lock_of_one_who_never_beats(content: bytes, lock_file: Path) -> None:
    lock_file.write_bytes(content)
    who = "process 12 on node7" if b"12" in content else "it left no name"
    with (
        open(lock_file, "rb") as file,
        exclusive_lock(file.fileno()),
        pytest.raises(InputError, match=f"at work in this run directory \\({who}\\); wait for it or stop it"),
        run_lock(lock_file, periods=BRISK),
    ):
        pass
    assert lock_file.read_bytes() == content


def test_one_that_was_frozen_learns_that_it_was_replaced(lock_file: Path, hold: Callable[..., Holder]) -> None:
    first = hold(node="node1", flock=False)
    first.until("held")
    first.send(signal.SIGSTOP)
    second = hold(node="node2", flock=False)
    second.until("held")
    first.send(signal.SIGCONT)
    assert first.next()["why"].startswith(f"process {second.pid} on node2 has taken this run directory over")
    assert first.next() == {"event": "done", "threads": ["MainThread"]}
    owner = read_owner(lock_file)
    assert owner is not None
    assert owner.host == "node2"  # the first left it alone when it ended
    assert second.release()["event"] == "done"


def test_one_that_was_frozen_learns_that_another_came_and_went(hold: Callable[..., Holder]) -> None:
    first = hold(node="node1", flock=False)
    first.until("held")
    first.send(signal.SIGSTOP)
    second = hold(node="node2", flock=False)
    second.until("held")
    second.release()
    first.send(signal.SIGCONT)
    assert first.next()["why"].startswith("another supervisor has worked in this run directory")


def test_what_an_owner_has_on_its_way_does_not_undo_a_takeover(lock_file: Path) -> None:
    """A file that was opened before is not the one that the newcomer's name is in."""
    lock_file.write_bytes(elsewhere().record())
    with open(lock_file, "r+b") as late, run_lock(lock_file, periods=BRISK) as lock:
        late.write(elsewhere(beat=1).record())
        late.flush()
        assert lock.confirm() is None


@pytest.mark.parametrize("round_number", range(3))
def test_of_several_that_start_at_once_one_goes_on(round_number: int, hold: Callable[..., Holder]) -> None:
    racing = [hold(node=f"node{number}", flock=False, waits=True) for number in range(4)]
    for holder in racing:
        holder.begin()
    ends = [holder.outcome() for holder in racing]
    assert sorted(ends) == ["held", "refused", "refused", "refused"]


def test_one_whose_name_arrives_late_does_not_leave_two(hold: Callable[..., Holder]) -> None:
    """It looked while the file was free, and its name arrives when another is at work already."""
    periods = {"beat_s": 1.0, "stale_s": 10.0, "settle_s": 0.05}
    late = hold(node="node1", flock=False, late=True, periods=periods)
    assert late.next()["event"] == "writes"
    prompt = hold(node="node2", flock=False, periods=periods)
    assert prompt.next()["event"] == "held"
    late.begin()
    assert late.next()["event"] == "held"
    assert prompt.has_spoken()  # it has noticed before the other went on
    assert prompt.next()["why"].startswith(f"process {late.pid} on node1")
    late.release()


# The beat


def test_a_beat_outlives_trouble_with_the_file_system(lock_file: Path) -> None:
    away = lock_file.parent.with_name("away")
    with run_lock(lock_file, periods=BRISK) as lock:
        lock_file.parent.rename(away)
        time.sleep(5 * BRISK.beat_s)
        away.rename(lock_file.parent)
        beat = getattr(read_owner(lock_file), "beat", 0)
        wait_for(lambda: getattr(read_owner(lock_file), "beat", 0) > beat)
        assert lock.lost is None


def test_a_lock_file_that_was_removed_or_scribbled_into_is_put_right(lock_file: Path) -> None:
    with run_lock(lock_file, periods=BRISK) as lock:
        lock_file.unlink()
        wait_for(lambda: read_owner(lock_file))
        lock_file.write_text("scribble" * 1000)
        wait_for(lambda: read_owner(lock_file))
        wait_for(lambda: len(lock_file.read_bytes()) < 1000)
        assert lock.lost is None


def test_a_removed_lock_file_lets_nobody_in(lock_file: Path, hold: Callable[..., Holder]) -> None:
    first = hold()
    first.until("held")
    lock_file.unlink()
    wait_for(lambda: read_owner(lock_file))
    assert f"process {first.pid} " in hold().next()["what"]


def test_the_beat_takes_no_signals(lock_file: Path) -> None:
    """They are to end the waiting of the main thread."""
    with run_lock(lock_file, periods=BRISK):
        wait_for(lambda: getattr(read_owner(lock_file), "beat", 0) > 0)
        number = next(thread.native_id for thread in threading.enumerate() if thread.name == "gaff-lock")
        status = Path(f"/proc/self/task/{number}/status").read_text()
        blocked = int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigBlk")), 16)
        assert all(blocked >> (n - 1) & 1 for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD))


def test_a_process_that_forgets_its_lock_ends(lock_file: Path) -> None:
    program = (
        f"from gaff.supervisor.lock import run_lock\nheld = run_lock(__import__('pathlib').Path({str(lock_file)!r}))"
    )
    subprocess.run([sys.executable, "-c", f"{program}\nheld.__enter__()"], check=True, timeout=30)


# Files that are none, or not right


@pytest.mark.parametrize("flock", [True, False])
def test_the_file_of_an_earlier_gaff(flock: bool, lock_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It named host and process, and left them there when it was done."""
    if not flock:
        monkeypatch.setattr(fcntl, "flock", no_flock)
    old = this_process("")
    lock_file.write_text(json.dumps({"host": old.host, "pid": old.pid}))
    if flock:
        with run_lock(lock_file, periods=BRISK) as lock:
            assert lock.taken_over is None
    else:  # it may be at work
        with pytest.raises(InputError, match=f"process {old.pid} on "), run_lock(lock_file, periods=BRISK):
            pass


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"\n"])
def test_an_empty_file_names_nobody(content: bytes, lock_file: Path) -> None:
    lock_file.write_bytes(content)
    told: list[str] = []
    with run_lock(lock_file, told.append) as lock:
        assert (lock.taken_over, told) == (None, [])


@pytest.mark.parametrize(
    "content",
    [
        *(b"{", b"[]", b"3", b"null", b"\xff\xfe", b'"host pid"', b"{}", b"[" * 100_000, b"x" * 100_000),
        *(b'{"host": 1, "pid": 2}', b'{"host": "a", "pid": "2"}', b'{"host": "a\\nb", "pid": 2}'),
        *(b'{"host": "a", "pid": 0}', b'{"host": "a", "pid": 1e3}', b'{"host": "a", "pid": 99999999999999999999}'),
    ],
)
def test_garbage_is_no_record(content: bytes) -> None:
    assert parse_record(content) is None


@pytest.mark.parametrize("content", [b"{", b"x" * 100_000])
def test_garbage_is_watched_and_replaced(content: bytes, lock_file: Path) -> None:
    lock_file.write_bytes(content)
    told: list[str] = []
    with run_lock(lock_file, told.append, BRISK) as lock:
        assert lock.taken_over is not None
        assert lock.taken_over.owner is None
        owner = read_owner(lock_file)
        assert owner is not None
        assert owner.pid == os.getpid()
    assert "a supervisor that left no name did not stir" in told[-1]


def unusable(path: Path) -> GaffError:
    with pytest.raises(GaffError) as caught, run_lock(path, periods=BRISK):
        pass
    assert caught.value.problems[0].id == "lock-unusable"
    assert str(path) in str(caught.value)
    return caught.value


def test_a_lock_that_is_no_file(lock_file: Path) -> None:
    lock_file.mkdir()
    assert "Is a directory" in str(unusable(lock_file))
    lock_file.rmdir()
    os.mkfifo(lock_file)
    assert "it is not a file" in str(unusable(lock_file))
    assert read_owner(lock_file) is None
    lock_file.unlink()
    lock_file.symlink_to("nowhere/at/all")
    assert isinstance(unusable(lock_file), InputError)
    lock_file.unlink()
    lock_file.symlink_to("lock")
    assert "symbolic links" in str(unusable(lock_file))


@pytest.mark.parametrize("content", [b"", b"\0" * 512])
def test_a_lock_that_cannot_be_written(content: bytes, lock_file: Path) -> None:
    lock_file.write_bytes(content)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        error = unusable(lock_file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert error.exit_code == 1
    assert "free some space, then give the same command again" in str(error)
    assert lock_file.read_bytes() == b""


def test_a_full_file_system(lock_file: Path) -> None:
    mount = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    small = 'mount -t tmpfs -o size=4k none "$0" && cat /dev/zero > "$0/filler" 2>&-; [ -e "$0/filler" ] && exec "$@"'
    if shutil.which("unshare") is None or subprocess.run([*mount, small, lock_file.parent, "true"]).returncode:
        pytest.skip("no file system can be mounted here")
    command = [*mount, small, lock_file.parent, sys.executable, SCRIPT, lock_file, "{}"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["event"], told["code"], done.stderr) == ("refused", 1, "")
    assert "No space left on device" in told["what"]


# From outside


def test_presence_on_this_machine(lock_file: Path, hold: Callable[..., Holder]) -> None:
    assert presence(lock_file).at_work is False
    first = hold()
    first.until("held")
    here = presence(lock_file)
    assert here.owner is not None
    assert (here.at_work, here.owner.pid) == (True, first.pid)
    first.kill()
    assert presence(lock_file).at_work is False


def test_presence_seen_from_another_node(lock_file: Path, hold: Callable[..., Holder]) -> None:
    first = hold(node="node1")
    first.until("held")
    assert presence(lock_file).at_work is True
    first.kill()
    content = lock_file.read_bytes()
    dead = presence(lock_file, PERIODS)
    assert (dead.at_work, getattr(dead.owner, "pid", None)) == (None, first.pid)
    assert dead.silent_s > 0
    onlooker = Onlooker(lock_file, BRISK)
    assert onlooker.look().at_work is None
    wait_for(lambda: onlooker.look().at_work is not None)
    assert onlooker.look().at_work is False
    assert onlooker.look().silent_s >= BRISK.stale_s
    assert (lock_file.read_bytes(), os.listdir(lock_file.parent)) == (content, ["lock"])


def test_a_file_system_that_hangs_makes_nobody_silent(lock_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner was kept waiting just as the onlooker was."""
    lock_file.write_bytes(elsewhere().record())
    onlooker = Onlooker(lock_file, BRISK)
    onlooker.look()
    later = time.monotonic() + 1000
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert onlooker.look().at_work is None


def test_where_there_are_no_locks_none_is_held(lock_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open(lock_file, "wb") as file:
        with exclusive_lock(file.fileno()) as held:
            assert held
        monkeypatch.setattr(fcntl, "flock", no_flock)
        with exclusive_lock(file.fileno()) as held:
            assert not held
