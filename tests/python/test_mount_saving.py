# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Collections: changed and saved without Python, beside others who change them."""

import contextlib
import errno
import functools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import arvados.collection
import llfuse
import pytest
from arvados_fuse import event_clients
from arvados_fuse.collection_dir import CollectionDirectory
from arvados_fuse.localcluster import LocalCluster
from conftest import poll, save_collection
from inprocess import mounted
from llfuse import _core


@pytest.fixture
def uuid(fresh_cluster: LocalCluster) -> str:
    return save_collection(fresh_cluster, "saved")


@pytest.fixture
def in_process(
    fresh_cluster: LocalCluster, uuid: str, tmp_path: Path
) -> Iterator[tuple[Path, Any]]:
    """A mount in this process whose root is a collection, and the directory."""
    api = fresh_cluster.api()

    def root(operations: Any) -> Any:
        record = {"uuid": uuid, "modified_at": None}
        return CollectionDirectory(
            llfuse.ROOT_INODE, operations.inodes, api, 2, True, collection_record=record
        )

    with mounted(tmp_path / "mnt", root, api=api, enable_write=True) as operations:
        yield tmp_path / "mnt", operations.inodes[llfuse.ROOT_INODE]


@pytest.fixture
def mounts(arv_mount: Callable, uuid: str) -> tuple[Path, Path]:
    """The collection in two mounts of their own."""
    first, second = (arv_mount("--read-write", "--collection", uuid).path for _ in range(2))
    return first, second


def contents(cluster: LocalCluster, uuid: str) -> dict[str, str | None]:
    """What the record has: the text of each file by path; None for a directory without files."""
    collection = arvados.collection.CollectionReader(uuid, api_client=cluster.api())
    found: dict[str, str | None] = {}

    def walk(path: str, directory: Any) -> None:
        for name, item in directory.items():
            if isinstance(item, arvados.collection.RichCollectionBase):
                walk(f"{path}{name}/", item)
            else:
                with collection.open(path + name) as file:
                    found[path + name] = file.read()
        if path and not len(directory):
            found[path.rstrip("/")] = None

    walk("", collection)
    return found


def shown(path: Path) -> dict[str, str | None]:
    """The same of what a mount shows."""
    found: dict[str, str | None] = {}
    for above, directories, files in os.walk(path):
        place = Path(above)
        for name in files:
            found[str((place / name).relative_to(path))] = (place / name).read_text()
        if not directories and not files and place != path:
            found[str(place.relative_to(path))] = None
    return found


def rewrite(cluster: LocalCluster, uuid: str, **files: str | None) -> None:
    """Change files elsewhere: by path, with `__` for a slash, the text of each; None removes it."""
    collection = arvados.collection.Collection(uuid, api_client=cluster.api())
    for name, text in files.items():
        path = name.replace("__", "/")
        if text is None:
            collection.remove(path, recursive=True)
        else:
            with collection.open(path, "w") as file:
                file.write(text)
    collection.save()


def test_nothing_of_it_is_an_object(
    in_process: tuple[Path, Any], fresh_cluster: LocalCluster, uuid: str
) -> None:
    path, directory = in_process
    (path / "d" / "e").mkdir(parents=True)
    (path / "d" / "new").write_text("new")
    assert contents(fresh_cluster, uuid) == {"f": "text", "d/new": "new", "d/e": None}
    (path / "d" / "new").rename(path / "d" / "e" / "moved")
    with open(path / "f", "a") as file:
        file.write(", more")
    assert contents(fresh_cluster, uuid) == {"f": "text, more", "d/e/moved": "new"}
    (path / "d").rename(path / "g")
    assert contents(fresh_cluster, uuid) == {"f": "text, more", "g/e/moved": "new"}
    (path / "g" / "e" / "moved").unlink()
    (path / "g" / "e").rmdir()
    (path / "f").rename(path / "g" / "f")
    assert contents(fresh_cluster, uuid) == {"g/f": "text, more"} == shown(path)
    assert _core.shows_tree(directory)


def test_a_close_is_one_request(
    arv_mount: Callable, fresh_cluster: LocalCluster, uuid: str
) -> None:
    path = arv_mount("--read-write", "--mount-by-id", "by_id").path / "by_id" / uuid
    # The thread that saves gets a client of its own.
    (path / "f").write_text("text")
    fresh_cluster.record_requests()
    for number in range(5):
        (path / f"new{number}").write_text(f"{number}")
    requests = [r for r in fresh_cluster.requests() if r["service"] == "api"]
    assert [r["method"] for r in requests] == ["PUT"] * 5, requests
    assert len(contents(fresh_cluster, uuid)) == 6


def test_others_changes_stay(
    mounts: tuple[Path, Path], fresh_cluster: LocalCluster, uuid: str
) -> None:
    first, second = mounts
    assert os.listdir(first) == os.listdir(second) == ["f"]
    (first / "one").write_text("1")
    (second / "two").write_text("2")
    rewrite(fresh_cluster, uuid, api="3")
    (first / "four").write_text("4")
    expected = {"f": "text", "one": "1", "two": "2", "api": "3", "four": "4"}
    assert contents(fresh_cluster, uuid) == expected
    for path in mounts:
        poll("shown", lambda path=path: shown(path) == expected)


def test_both_versions_of_a_file_are_kept(
    arv_mount: Callable, fresh_cluster: LocalCluster, uuid: str
) -> None:
    mount = arv_mount("--read-write", "--collection", uuid)
    with open(mount.path / "f", "w") as file:
        file.write("ours")
        file.flush()
        rewrite(fresh_cluster, uuid, f="theirs", d__g="other")
        poll("it is seen", lambda: (mount.path / "d").exists())
        names = [name for name in os.listdir(mount.path) if name.startswith("f.conflict-")]
        assert len(names) == 1
        assert (mount.path / names[0]).read_text() == "theirs"
    expected = {"f": "ours", names[0]: "theirs", "d/g": "other"}
    assert contents(fresh_cluster, uuid) == expected == shown(mount.path)
    assert '"f" was changed here and elsewhere' in mount.log.read_text()


def test_what_is_removed_there_and_written_here_is_here(
    mounts: tuple[Path, Path], fresh_cluster: LocalCluster, uuid: str
) -> None:
    first, second = mounts
    (first / "d").mkdir()
    (first / "d" / "g").write_text("1")
    poll("it is seen", lambda: (second / "d" / "g").exists())
    with open(second / "d" / "g", "a") as file:
        file.write("2")
        file.flush()
        (first / "d").rename(first / "e")
        poll("it is seen", lambda: (second / "e").exists())
        file.write("3")
    expected = {"f": "text", "e/g": "1", "d/g": "123"}
    assert contents(fresh_cluster, uuid) == expected == shown(second)


def test_what_both_rename_and_one_makes_anew_is_there(
    arv_mount: Callable, fresh_cluster: LocalCluster, uuid: str
) -> None:
    mount = arv_mount("--read-write", "--collection", uuid, "--save-after", "600")
    (mount.path / "f").rename(mount.path / "g")
    there = arvados.collection.Collection(uuid, api_client=fresh_cluster.api())
    there.rename("f", "g")
    with there.open("f", "w") as file:
        file.write("new")
    there.save()
    poll("the event", lambda: "g" in os.listdir(mount.path) and len(os.listdir(mount.path)) == 2)
    descriptor = os.open(mount.path / "g", os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    assert sorted(shown(mount.path).values()) == ["new", "text"]
    assert contents(fresh_cluster, uuid) == shown(mount.path)


def test_what_cannot_be_saved_is_told_and_saved_later(
    arv_mount: Callable, fresh_cluster: LocalCluster, uuid: str
) -> None:
    path = arv_mount("--read-write", "--collection", uuid, "--retries", "0").path
    assert os.listdir(path) == ["f"]
    fresh_cluster.faults.add(service="api", method="PUT", action="status", value=500)
    with pytest.raises(OSError) as caught:
        (path / "new").write_text("new")
    assert caught.value.errno == errno.EIO
    assert (path / "new").read_text() == "new"
    assert contents(fresh_cluster, uuid) == {"f": "text"}
    fresh_cluster.faults.clear()
    (path / "other").write_text("other")
    assert contents(fresh_cluster, uuid) == {"f": "text", "new": "new", "other": "other"}


def test_what_is_unsaved_goes_along_when_python_asks(
    in_process: tuple[Path, Any], fresh_cluster: LocalCluster, uuid: str
) -> None:
    path, directory = in_process
    (path / "d").mkdir()
    with open(path / "d" / "open", "w") as file, open(path / "gone", "w+") as gone:
        file.write("written")
        file.flush()
        gone.write("of no name")
        gone.flush()
        (path / "gone").unlink()
        number = (path / "d" / "open").stat().st_ino
        fresh_cluster.faults.add(service="api", method="PUT", action="status", value=500)
        with llfuse.lock:
            assert sorted(directory.collection.find("d")) == ["open"]
        assert not _core.shows_tree(directory)
        fresh_cluster.faults.clear()
        assert (path / "d" / "open").stat().st_ino == number
        file.write(", and more")
        gone.seek(0)
        assert gone.read() == "of no name"
    assert contents(fresh_cluster, uuid) == {"f": "text", "d/open": "written, and more"}


def test_two_who_save_at_once_lose_nothing(
    mounts: tuple[Path, Path], fresh_cluster: LocalCluster, uuid: str
) -> None:
    for path in mounts:
        assert os.listdir(path) == ["f"]
    written = set()
    number, at_once = 0, False
    # The last time is one at which both were done soon after each other.
    while number < 15 or not at_once:
        assert number < 200, "this machine is too slow for two to save at once"
        number += 1
        barrier, ended = threading.Barrier(2), []

        def save(
            path: Path, number: int = number, barrier: Any = barrier, ended: Any = ended
        ) -> None:
            text = f"{number} by {path.name}"
            written.add(text)
            with open(path / "same", "w") as same, open(path / text, "w") as own:
                same.write(text)
                own.write(text)
                barrier.wait()
                began = time.monotonic()
            ended.append(time.monotonic() - began)

        threads = [threading.Thread(target=save, args=(path,)) for path in mounts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        at_once = max(ended) < 0.5

    def all_there() -> bool:
        found = contents(fresh_cluster, uuid)
        return all(found.get(text) == text for text in written)

    poll("files of their own", all_there)
    last = {f"{number} by {path.name}" for path in mounts}
    poll(
        "both versions of the last",
        lambda: (
            last <= {text for name, text in contents(fresh_cluster, uuid).items() if "same" in name}
        ),
    )
    poll("both show it", lambda: shown(mounts[0]) == shown(mounts[1]))
    poll("the record has it", lambda: shown(mounts[0]) == contents(fresh_cluster, uuid))


def test_who_was_slow_to_hear_of_it_loses_nothing(
    arv_mount: Callable, fresh_cluster: LocalCluster, uuid: str
) -> None:
    mount = arv_mount("--read-write", "--collection", uuid)
    (mount.path / "f").write_text("ours")
    # As on a machine that is busy with something else.
    os.kill(mount.pid(), signal.SIGSTOP)
    rewrite(fresh_cluster, uuid, f="theirs")
    time.sleep(4)
    os.kill(mount.pid(), signal.SIGCONT)
    poll("both are kept", lambda: set(contents(fresh_cluster, uuid).values()) == {"ours", "theirs"})
    assert contents(fresh_cluster, uuid)["f"] == "theirs"
    poll("the mount shows it", lambda: shown(mount.path) == contents(fresh_cluster, uuid))


def test_what_both_append_at_once_is_kept(
    arv_mount: Callable, fresh_cluster: LocalCluster, uuid: str
) -> None:
    mount = arv_mount("--read-write", "--collection", uuid)
    theirs = arvados.collection.Collection(uuid, api_client=fresh_cluster.api())
    with theirs.open("f", "a") as file:
        file.write(", theirs")
    # What it began with is in both.
    with open(mount.path / "f", "a") as file:
        file.write(", ours")
    body = {"manifest_text": theirs.manifest_text()}
    fresh_cluster.api().collections().update(uuid=uuid, body={"collection": body}).execute()
    both = {"text, ours", "text, theirs"}
    poll("both are kept", lambda: set(contents(fresh_cluster, uuid).values()) == both)


def test_what_was_seen_and_replaced_is_gone(
    mounts: tuple[Path, Path], fresh_cluster: LocalCluster, uuid: str
) -> None:
    first, second = mounts
    for number in range(5):
        with open(first / "f", "a") as file:
            file.write(f"{number}")
        seen = (first / "f").read_text()
        poll("it is seen", lambda: (second / "f").read_text() == seen)  # noqa: B023
        with open(second / "f", "a") as file:
            file.write("+")
        poll("that, too", lambda: (first / "f").read_text() == seen + "+")  # noqa: B023
    assert contents(fresh_cluster, uuid) == {"f": "text0+1+2+3+4+"} == shown(first)


def test_what_nobody_waits_for_is_saved_by_itself(
    mounts: tuple[Path, Path], fresh_cluster: LocalCluster, uuid: str
) -> None:
    first, _ = mounts
    (first / "d").mkdir()
    os.truncate(first / "f", 2)
    poll("it is saved", lambda: contents(fresh_cluster, uuid) == {"d": None, "f": "te"})


def test_many_closes_are_one_save_where_that_is_asked_for(
    arv_mount: Callable, fresh_cluster: LocalCluster, uuid: str
) -> None:
    mount = arv_mount("--read-write", "--collection", uuid, "--save-after", "600")
    fresh_cluster.record_requests()

    def updates() -> int:
        return len([r for r in fresh_cluster.writes() if r["service"] == "api"])

    for number in range(20):
        (mount.path / f"{number}").write_text(f"{number}")
    (mount.path / "0").rename(mount.path / "renamed")
    (mount.path / "1").unlink()
    assert updates() == 0 and contents(fresh_cluster, uuid) == {"f": "text"}
    with open(mount.path / "2", "a") as file:
        file.write("2")
        file.flush()
        os.fsync(file.fileno())
    assert updates() == 1
    expected = {"f": "text", "renamed": "0", "2": "22", **{f"{n}": f"{n}" for n in range(3, 20)}}
    assert contents(fresh_cluster, uuid) == expected
    (mount.path / "last").write_text("saved when the mount ends")
    assert updates() == 1
    assert mount.unmount() == 0
    assert contents(fresh_cluster, uuid) == {**expected, "last": "saved when the mount ends"}


def test_a_save_that_comes_later_and_fails_is_told(
    arv_mount: Callable, fresh_cluster: LocalCluster, uuid: str
) -> None:
    options = ("--read-write", "--collection", uuid, "--save-after", "0.1", "--retries", "0")
    mount = arv_mount(*options)
    assert os.listdir(mount.path) == ["f"]
    fresh_cluster.faults.add(service="api", method="PUT", action="status", value=500)
    (mount.path / "new").write_text("new")
    poll("the log says so", lambda: "answered 500" in mount.log.read_text())
    with open(mount.path / "new") as file, pytest.raises(OSError) as caught:
        os.fsync(file.fileno())
    assert caught.value.errno == errno.EIO
    assert mount.unmount() == 1
    assert f"could not save {uuid}" in mount.log.read_text()
    fresh_cluster.faults.clear()


@contextlib.contextmanager
def waiting_for_a_save(
    cluster: LocalCluster, changes: list[Callable[[], object]]
) -> Iterator[None]:
    """Make changes at once, and let them be saved when the block ends."""
    cluster.faults.add(service="api", method="PUT", action="stall")
    threads = [threading.Thread(target=change) for change in changes]
    try:
        for thread in threads:
            thread.start()
        poll("a save is under way", cluster.faults.stalled)
        yield
    finally:
        cluster.faults.clear()
        for thread in threads:
            thread.join(60)


def test_readers_do_not_wait_for_those_who_save(
    arv_mount: Callable, fresh_cluster: LocalCluster, uuid: str
) -> None:
    path = arv_mount("--read-write", "--collection", uuid).path
    assert (path / "f").read_text() == "text"
    files = [open(path / f"{number}", "w") for number in range(40)]
    for file in files:
        file.write(file.name)
        file.flush()
    with waiting_for_a_save(fresh_cluster, [file.close for file in files]):
        assert (path / "f").read_text() == "text"
        assert len(os.listdir(path)) == 41
    assert len(contents(fresh_cluster, uuid)) == 41


def test_readers_do_not_wait_for_those_who_remove_and_rename(
    arv_mount: Callable, fresh_cluster: LocalCluster, uuid: str
) -> None:
    # The kernel lets one at a time change a directory.
    rewrite(fresh_cluster, uuid, **{f"d{number}__f": "text" for number in range(40)})
    path = arv_mount("--read-write", "--collection", uuid).path
    directories = [path / f"d{number}" for number in range(40)]
    assert all((directory / "f").read_text() == "text" for directory in directories)
    changes = [
        functools.partial(os.unlink, directory / "f")
        if number % 2
        else functools.partial(os.rename, directory / "f", directory / "g")
        for number, directory in enumerate(directories)
    ]
    with waiting_for_a_save(fresh_cluster, changes):
        assert (path / "f").read_text() == "text"
        assert len(os.listdir(path)) == 41
    expected = {
        d.name + ("" if n % 2 else "/g"): None if n % 2 else "text"
        for n, d in enumerate(directories)
    }
    assert contents(fresh_cluster, uuid) == {"f": "text", **expected}


def test_a_rename_over_a_file_is_one_version(
    mounts: tuple[Path, Path], fresh_cluster: LocalCluster, uuid: str
) -> None:
    first, _ = mounts
    (first / "f.new").write_text("new")
    assert contents(fresh_cluster, uuid) == {"f": "text", "f.new": "new"}
    fresh_cluster.record_requests()
    (first / "f.new").rename(first / "f")
    assert len(list(fresh_cluster.writes())) == 1
    assert contents(fresh_cluster, uuid) == {"f": "new"}


def _change_record(cluster: LocalCluster, uuid: str, how: str) -> None:
    """One request, as a program makes it that never looked at the collection."""
    if how == "remove":
        body: dict[str, Any] = {"replace_files": {"/f": ""}}
    else:
        new = arvados.collection.Collection(api_client=cluster.api())
        with new.open("f", "w") as file:
            file.write("API" if how == "add" else "textAPI")
        source = {f"/{'api' if how == 'add' else 'f'}": "manifest_text/f"}
        body = {"collection": {"manifest_text": new.manifest_text()}, "replace_files": source}
    cluster.api().collections().update(uuid=uuid, body=body).execute()


def _change_mount(path: Path, how: str) -> None:
    if how == "remove":
        with contextlib.suppress(FileNotFoundError):
            (path / "f").unlink()
    else:
        with open(path / ("mount" if how == "add" else "f"), "a") as file:
            file.write("FUSE")


#: What may be in `f`, and beside it, after both changed it at once: in some order, nothing is lost.
_OUTCOMES: dict[tuple[str, str], list[set[str]]] = {
    ("remove", "remove"): [set()],
    ("remove", "modify"): [set(), {"textAPI"}],
    # It was there when it was opened, or was not.
    ("modify", "remove"): [set(), {"FUSE"}, {"textFUSE"}],
    ("modify", "modify"): [{"textAPIFUSE"}, {"textAPI", "textFUSE"}],
}


@pytest.mark.parametrize("here", ["add", "remove", "modify"])
@pytest.mark.parametrize("there", ["add", "remove", "modify"])
def test_a_mount_and_the_api_at_once(
    arv_mount: Callable, fresh_cluster: LocalCluster, here: str, there: str
) -> None:
    for number in range(4):
        uuid = save_collection(fresh_cluster, f"{number}")
        mount = arv_mount("--read-write", "--collection", uuid)
        assert os.listdir(mount.path) == ["f"]
        threads = [
            threading.Thread(target=_change_mount, args=(mount.path, here)),
            threading.Thread(target=_change_record, args=(fresh_cluster, uuid, there)),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        def as_expected(uuid: str = uuid, log: Path = mount.log) -> bool:
            found = contents(fresh_cluster, uuid)
            added = {"mount": ("FUSE", here), "api": ("API", there)}
            for name, (text, how) in added.items():
                if (found.pop(name, None) == text) != (how == "add"):
                    return False
            if "add" in (here, there):
                other = there if here == "add" else here
                changed = "textFUSE" if here == "modify" else "textAPI"
                text_of_f = {"add": "text", "modify": changed}
                return found == ({"f": text_of_f[other]} if other in text_of_f else {})
            if set(found.values()) in _OUTCOMES[here, there]:
                return True
            # The mount's came last, before it could hear of the other: at least, it says so.
            said = "was changed elsewhere in the moment in which it was saved"
            return found == {"f": "textFUSE"} and said in log.read_text()

        poll("an outcome of some order", as_expected)
        poll("the mount shows it", lambda: shown(mount.path) == contents(fresh_cluster, uuid))  # noqa: B023
        assert mount.unmount() == 0


@pytest.mark.parametrize("events", [True, False])
def test_what_came_between_is_told(
    arv_mount: Callable, fresh_cluster: LocalCluster, uuid: str, events: bool
) -> None:
    options = ("--read-write", "--collection", uuid)
    mount = arv_mount(*options, *(() if events else ("--disable-event-listening",)))
    assert (mount.path / "f").read_text() == "text"
    # What events tell of either change comes before the answer.
    hold = {"action": "hold", "count": 1, "value": 1}
    fresh_cluster.faults.add(service="api", method="PUT", **hold)
    saving = threading.Thread(target=_change_mount, args=(mount.path, "modify"))
    saving.start()
    poll("a save is under way", fresh_cluster.faults.stalled)
    _change_record(fresh_cluster, uuid, "modify")
    fresh_cluster.faults.clear()
    saving.join()
    assert contents(fresh_cluster, uuid) == {"f": "textFUSE"} == shown(mount.path)
    assert mount.unmount() == 0
    assert "was changed elsewhere in the moment in which it was saved" in mount.log.read_text()


def test_a_file_that_is_removed_is_gone(
    arv_mount: Callable, fresh_cluster: LocalCluster, uuid: str
) -> None:
    options = ("--read-write", "--collection", uuid, "--disable-event-listening")
    mount = arv_mount(*options)
    assert (mount.path / "f").read_text() == "text"
    # Whoever removes it cannot have seen that.
    _change_record(fresh_cluster, uuid, "modify")
    (mount.path / "f").unlink()
    assert contents(fresh_cluster, uuid) == {} == shown(mount.path)
    assert mount.unmount() == 0
    assert "was changed elsewhere in the moment in which it was saved" in mount.log.read_text()


def test_a_directory_that_is_removed_takes_nothing_along(
    arv_mount: Callable, fresh_cluster: LocalCluster, uuid: str
) -> None:
    rewrite(fresh_cluster, uuid, d__f="text")
    options = ("--read-write", "--collection", uuid, "--disable-event-listening")
    mount = arv_mount(*options)
    (mount.path / "d" / "f").unlink()
    rewrite(fresh_cluster, uuid, d__new="theirs")
    (mount.path / "d").rmdir()
    assert contents(fresh_cluster, uuid) == {"f": "text", "d/new": "theirs"} == shown(mount.path)


def test_events_vouch_only_for_what_was_loaded_since(
    in_process: tuple[Path, Any],
    fresh_cluster: LocalCluster,
    uuid: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, directory = in_process
    with open(path / "f", "a") as file:
        file.write("FUSE")
        file.flush()
        _change_record(fresh_cluster, uuid, "modify")
        monkeypatch.setattr(event_clients, "subscriptions", lambda: frozenset([1]))
    found = contents(fresh_cluster, uuid)
    assert set(found.values()) == {"textAPI", "textFUSE"} and found["f"] == "textFUSE"


def test_what_was_written_to_a_collection_that_is_gone_can_be_read(
    arv_mount: Callable, fresh_cluster: LocalCluster, uuid: str
) -> None:
    mount = arv_mount("--read-write", "--collection", uuid)
    assert os.listdir(mount.path) == ["f"]
    file = open(mount.path / "new", "w")
    file.write("new")
    file.flush()
    fresh_cluster.api().collections().delete(uuid=uuid).execute()
    with pytest.raises(OSError) as caught:
        file.close()
    assert caught.value.errno == errno.EIO
    assert (mount.path / "new").read_text() == "new"
    assert mount.unmount() == 1
    assert f"could not save {uuid}" in mount.log.read_text()
