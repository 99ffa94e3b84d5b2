# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""A read-only mount refuses every change with EROFS and sends no write to the API or Keep."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import arvados.collection
import pytest
from arvados_fuse.localcluster import LocalCluster


def save(cluster: LocalCluster, name: str, **files: str) -> str:
    collection = arvados.collection.Collection(api_client=cluster.api())
    for path, text in files.items():
        with collection.open(path, "w") as file:
            file.write(text)
    collection.save_new(name)
    return collection.manifest_locator()


MUTATIONS: dict[str, Callable[[Path], object]] = {
    "create": lambda p: open(p / "new", "w"),
    "open for writing": lambda p: open(p / "f", "r+"),
    "append": lambda p: open(p / "f", "a"),
    "truncate": lambda p: os.truncate(p / "f", 0),
    "open with O_TRUNC": lambda p: os.open(p / "f", os.O_RDONLY | os.O_TRUNC),
    "mkdir": lambda p: os.mkdir(p / "d2"),
    "unlink": lambda p: os.unlink(p / "f"),
    "rmdir": lambda p: os.rmdir(p / "d"),
    "rename": lambda p: os.rename(p / "f", p / "g"),
    "link": lambda p: os.link(p / "f", p / "g"),
    "symlink": lambda p: os.symlink("f", p / "g"),
    "mknod": lambda p: os.mknod(p / "g"),
    "mkfifo": lambda p: os.mkfifo(p / "g"),
    "chmod": lambda p: os.chmod(p / "f", 0o600),
    "chown": lambda p: os.chown(p / "f", 1, 1),
    "utime": lambda p: os.utime(p / "f", (1, 1)),
    "setxattr": lambda p: os.setxattr(p / "f", "user.x", b"x"),
    "removexattr": lambda p: os.removexattr(p / "f", "user.x"),
}


def test_every_change_is_refused(fresh_cluster: LocalCluster, arv_mount: Callable) -> None:
    uuid = save(fresh_cluster, "c", **{"f": "text", "d/x": "y"})
    mount = arv_mount()
    collection = mount.path / "home" / "c"
    assert (collection / "f").read_text() == "text"
    fresh_cluster.record_requests()
    for place in (collection, collection / "d", mount.path / "by_id" / uuid):
        for what, change in MUTATIONS.items():
            if place.name == "d" and what not in ("create", "mkdir", "symlink", "mknod", "mkfifo"):
                continue
            with pytest.raises(OSError) as error:
                change(place)
            assert error.value.errno == errno.EROFS, f"{what} in {place}"
    for place in (mount.path, mount.path / "home", mount.path / "by_tag", mount.path / "shared"):
        with pytest.raises(OSError) as error:
            os.mkdir(place / "new")
        assert error.value.errno == errno.EROFS
    assert not os.access(collection / "f", os.W_OK)
    record = json.loads((collection / ".arvados#collection").read_text())
    assert record["uuid"] == uuid and " 0:4:f" in record["manifest_text"]
    assert (collection / "f").read_text() == "text"
    assert mount.unmount() == 0
    assert list(fresh_cluster.writes()) == []
    assert fresh_cluster.requests(), "the mount read something"


def test_scratch_space_needs_read_write(fresh_cluster: LocalCluster, arv_mount: Callable) -> None:
    mount = arv_mount("--mount-tmp", "tmp")
    with pytest.raises(OSError) as error:
        (mount.path / "tmp" / "f").write_text("x")
    assert error.value.errno == errno.EROFS


def test_what_cannot_be_changed_in_a_read_write_mount(
    fresh_cluster: LocalCluster, arv_mount: Callable
) -> None:
    uuid = save(fresh_cluster, "c", f="text")
    digest = fresh_cluster.api().collections().get(uuid=uuid).execute()["portable_data_hash"]
    mount = arv_mount("--read-write")
    with pytest.raises(OSError) as error:
        open(mount.path / "by_id" / digest / "f", "r+")
    assert error.value.errno == errno.EPERM
    with pytest.raises(OSError) as error:
        os.truncate(mount.path / "by_id" / digest / "f", 0)
    assert error.value.errno == errno.EPERM
    assert (mount.path / "by_id" / digest / "f").read_text() == "text"
