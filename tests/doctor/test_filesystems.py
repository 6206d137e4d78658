# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from gaff.doctor.filesystems import existing, file_system, kind_of, write_speed

MOUNTS = """\
/dev/sda1 / ext4 rw,relatime 0 0
tmpfs /dev/shm tmpfs rw 0 0
server:/export /net/scratch nfs4 rw,vers=4.2 0 0
10.0.0.1@tcp:/lus /net/scratch/fast lustre rw,flock 0 0
overlay /mnt/with\\040blank overlay rw 0 0
"""


@pytest.mark.parametrize(
    ("directory", "kind"),
    [
        ("/home/me", "ext4"),
        ("/net/scratch/me", "nfs4"),
        ("/net/scratch/fast/me", "lustre"),
        ("/net/scratchy", "ext4"),
        ("/dev/shm", "tmpfs"),
        ("/mnt/with blank/x", "overlay"),
    ],
)
def test_the_deepest_mount_decides_the_kind(directory: str, kind: str) -> None:
    assert kind_of(Path(directory), MOUNTS) == kind


def test_a_later_mount_hides_an_earlier_one_at_the_same_place() -> None:
    assert kind_of(Path("/data"), "a /data ext4 rw 0 0\nb /data nfs rw 0 0\n") == "nfs"


def test_without_mounts_the_kind_is_unknown() -> None:
    assert kind_of(Path("/data"), "") == "unknown"


def test_the_nearest_directory_that_is_there_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert existing(tmp_path / "a" / "b") == tmp_path
    assert existing(tmp_path / "file" / "b") == tmp_path
    place = file_system(tmp_path / "a" / "b")
    assert place.directory == tmp_path
    assert 0 < place.free <= place.total


def test_measuring_leaves_nothing_behind(tmp_path: Path) -> None:
    assert write_speed(tmp_path) > 0
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_error_not_a_speed(tiny_disk: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        write_speed(tiny_disk)
    assert list(tiny_disk.iterdir()) == []


def test_a_path_that_the_system_refuses_lies_on_what_is_above_it(tmp_path: Path) -> None:
    assert existing(tmp_path / ("x" * 300) / "y") == tmp_path
