# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""The main job on real input: this machine's own files through a local cluster and a mount.

Loads the Python standard library, a large file and files with difficult names with `arv-put`, mounts
with `arv-mount`, reads everything back and compares, makes a collection through the mount, and
compares that after a remount. Exits 0 when everything was the same, otherwise names the first
difference. Leaves nothing mounted or running.
"""

import contextlib
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "target" / "demo"
BIN = Path(sys.executable).parent

#: Size of the large file: four blocks of Keep and a bit.
LARGE = 4 * 64 * 1024 * 1024 + 12345

NAMES = [
    "with space.txt",
    "ünïcode 名前.txt",
    "-leading-dash",
    "tab\there",
    "back\\slash",
    "percent%20",
]


class Difference(Exception):
    """Something is not what it should be."""


def say(text: str) -> None:
    print(f"== {text}", flush=True)


def progress(done: int, total: int, what: str) -> None:
    end = "\n" if done == total else ""
    if sys.stdout.isatty():
        print(f"\r   {done}/{total} {what}", end=end, flush=True)
    elif done == total or done % 1000 == 0:
        print(f"   {done}/{total} {what}", flush=True)


def make_input(folder: Path) -> None:
    """Put together what is loaded."""
    library = Path(sysconfig.get_paths()["stdlib"])
    shutil.copytree(
        library,
        folder / "python",
        ignore=shutil.ignore_patterns("__pycache__", "site-packages", "*.a"),
        symlinks=False,
        ignore_dangling_symlinks=True,
    )
    names = folder / "names"
    names.mkdir()
    for name in NAMES:
        (names / name).write_text(f"the file {name}\n")
    (names / "empty").touch()
    numbers = random.Random(2017)
    with open(folder / "large.bin", "wb") as file:
        left = LARGE
        while left:
            piece = numbers.randbytes(min(left, 1 << 20))
            file.write(piece)
            left -= len(piece)


def digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest() if _HAS_FILE_DIGEST else _md5(file)


_HAS_FILE_DIGEST = hasattr(hashlib, "file_digest")


def _md5(file: object) -> str:
    result = hashlib.md5()
    for piece in iter(lambda: file.read(1 << 20), b""):  # type: ignore[attr-defined]
        result.update(piece)
    return result.hexdigest()


def files_of(tree: Path) -> list[Path]:
    return sorted(p.relative_to(tree) for p in tree.rglob("*") if p.is_file())


def compare(expected: Path, found: Path, what: str) -> tuple[int, int]:
    """Compare two trees; return how many files and bytes they have. Raises Difference."""
    wanted, there = files_of(expected), files_of(found)
    for path in sorted(set(wanted) ^ set(there)):
        where = "missing from" if path in set(wanted) else "too much in"
        raise Difference(f"{path} is {where} {what}")
    size = 0
    for number, path in enumerate(wanted, 1):
        if digest(expected / path) != digest(found / path):
            raise Difference(f"{path} differs in {what}")
        size += (found / path).stat().st_size
        progress(number, len(wanted), f"files compared in {what}")
    return len(wanted), size


def run(*command: object, env: dict[str, str]) -> str:
    words = [str(word) for word in command]
    done = subprocess.run(words, env=env, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise Difference(f"{Path(words[0]).name} exited with status {done.returncode}")
    return done.stdout


@contextlib.contextmanager
def mounted(path: Path, env: dict[str, str], *options: str) -> Iterator[Path]:
    """Mount in the background, as a user does, and unmount afterwards."""
    path.mkdir(exist_ok=True)
    run(BIN / "arv-mount", *options, path, env=env)
    try:
        yield path
    finally:
        run(BIN / "arv-mount", "--unmount", path, env=env)


def look_around(top: Path, uuid: str, shared_by: str) -> None:
    """List every part of the mount."""
    for part in ("home", "by_id", "by_tag", "shared"):
        print(f"   {part}: {', '.join(sorted(os.listdir(top / part))) or '(empty)'}")
    if "library" not in os.listdir(top / "home"):
        raise Difference("home does not list the collection 'library'")
    if uuid not in os.listdir(top / "by_tag" / "demo"):
        raise Difference("by_tag/demo does not list the tagged collection")
    if "handbook" not in os.listdir(top / "shared" / shared_by / "common"):
        raise Difference(f"shared/{shared_by}/common does not list the collection 'handbook'")
    text = (top / "shared" / shared_by / "common" / "handbook" / "page").read_text()
    if text != "read me\n":
        raise Difference("the shared file reads differently")
    if sorted(os.listdir(top / "by_id" / uuid)) != ["large.bin", "names", "python"]:
        raise Difference("by_id lists something else than what was loaded")


def share_something(cluster: object, api: object) -> str:
    """Have another user share a project; return that user's name."""
    import arvados.collection

    other, token = cluster.create_user("Grace Hopper")  # type: ignore[attr-defined]
    theirs = cluster.api(token=token)  # type: ignore[attr-defined]
    group = {"name": "common", "group_class": "project"}
    project = theirs.groups().create(body={"group": group}).execute()
    user = api.users().current().execute()  # type: ignore[attr-defined]
    link = {
        "link_class": "permission",
        "name": "can_read",
        "tail_uuid": user["uuid"],
        "head_uuid": project["uuid"],
    }
    theirs.links().create(body={"link": link}).execute()
    collection = arvados.collection.Collection(api_client=theirs)
    with collection.open("page", "w") as file:
        file.write("read me\n")
    collection.save_new("handbook", owner_uuid=project["uuid"])
    return f"{other['first_name']} {other['last_name']}"


def demo() -> None:
    from arvados_fuse.localcluster import LocalCluster

    source, mount = WORK / "source", WORK / "mnt"
    home = WORK / "home"
    home.mkdir(parents=True)
    say("putting together the input")
    source.mkdir()
    make_input(source)
    count = len(files_of(source))
    size = sum((source / p).stat().st_size for p in files_of(source))
    print(f"   {count} files, {size / 1e6:.0f} MB")

    with LocalCluster(WORK / "cluster", test_hooks=True) as cluster:
        say(f"a local cluster runs at {cluster.api_host}")
        env = {**os.environ, **cluster.env(), "HOME": str(home)}
        env.pop("XDG_CACHE_HOME", None)
        os.environ.update(cluster.env(), HOME=str(home))
        api = cluster.api()

        say("loading it with arv-put")
        start = time.monotonic()
        uuid = run(
            BIN / "arv-put", "--no-resume", "--name", "library", "--no-progress",
            *(source / name for name in ("python", "names", "large.bin")), env=env,
        ).strip()  # fmt: skip
        print(f"   collection {uuid} in {time.monotonic() - start:.1f} s")
        link = {"link_class": "tag", "name": "demo", "head_uuid": uuid}
        api.links().create(body={"link": link}).execute()
        owner = share_something(cluster, api)

        say("mounting and looking around")
        with mounted(mount, env) as top:
            look_around(top, uuid, owner)
            say("reading every file through the mount")
            start = time.monotonic()
            files, octets = compare(source, top / "home" / "library", "the mount")
            seconds = time.monotonic() - start
            read = f"{octets / 1e6 / seconds:.0f} MB/s, {files / seconds:.0f} files/s"

        say("copying a tree into a new collection through the mount")
        start = time.monotonic()
        tree = source / "python" / "email"
        with mounted(mount, env, "--read-write", "--home") as top:
            (top / "copied").mkdir()
            shutil.copytree(tree, top / "copied" / "email")
            shutil.copytree(source / "names", top / "copied" / "names")
        with mounted(mount, env, "--home") as top:
            copied, _ = compare(tree, top / "copied" / "email", "the remounted copy")
            more, _ = compare(source / "names", top / "copied" / "names", "the remounted names")
            written = f"{(copied + more) / (time.monotonic() - start):.0f} files/s"

    say("everything is the same")
    print(f"   read and compared {files} files, {octets} bytes: {read}")
    print(f"   copied, remounted and compared {copied + more} files: {written}")


def main() -> int:
    def stop(number: int, _frame: object) -> None:
        raise KeyboardInterrupt(number)

    signal.signal(signal.SIGTERM, stop)
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    try:
        demo()
    except Difference as difference:
        print(f"DIFFERENT: {difference}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    finally:
        shutil.rmtree(WORK, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
