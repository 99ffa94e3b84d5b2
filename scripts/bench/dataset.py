# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""What is mounted: the same on every machine and in every run.

Contents come from a random generator with a fixed seed, one for each block. The manifests are
written here; nothing is uploaded.
"""

import hashlib
import itertools
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

#: Size of a small file, in bytes.
SMALL = 4096
#: Size of a full block of Keep, in bytes.
BLOCK = 64 << 20
#: Directories of small files share this many blocks: a directory's files are all in one.
SHARED_BLOCKS = 8


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    directories: int = 100
    files: int = 1000
    large: int = 512 << 20
    random_reads: int = 16_000
    waiting_reads: int = 200
    stall_seconds: float = 8
    opened: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    project: int = 10_000
    walked: int = 100
    soak_collections: int = 30
    soak_files: int = 3_000
    soak_passes: int = 3
    soak_cache: int = 16 << 20
    write_mib: int = 1024
    creates: int = 3_000
    #: Files closed in a collection, and as many where the API is far away.
    closes: int = 300
    far_closes: int = 20
    #: Files of collections in which so many more are closed.
    closed_in: tuple[int, ...] = (100, 10_000, 100_000)
    closes_in: int = 10
    copied: int = 1_000
    #: The first of them, where all would take minutes.
    copied_by_peer: int = 100
    #: What is written while memory is looked at.
    memory_mib: int = 4_096
    program_files: int = 40


#: What `QUICK=1` does.
QUICK = Sizes(
    directories=20,
    files=500,
    large=128 << 20,
    random_reads=4_000,
    stall_seconds=3,
    opened=(1_000, 10_000, 100_000),
    project=2_000,
    walked=40,
    soak_collections=10,
    soak_files=1_000,
    soak_passes=2,
    soak_cache=2 << 20,
    write_mib=384,
    creates=500,
    closes=60,
    far_closes=10,
    closed_in=(100, 10_000),
    copied=200,
    copied_by_peer=40,
    memory_mib=768,
    program_files=10,
)


@dataclass
class Collection:
    """A collection of the data set: where it is kept, and what is in it.

    What is only read is mounted by its portable data hash, as workflows do. By its uuid the peer
    fetches and reads all of it again whenever a directory of it is closed: one `ls -lR` of a hundred
    directories would take it a quarter of an hour.
    """

    uuid: str
    manifest: str
    #: Paths of its files, relative to it.
    files: list[str] = field(default_factory=list)
    by_uuid: bool = False

    @cached_property
    def portable_data_hash(self) -> str:
        """Its portable data hash."""
        data = self.manifest.encode()
        return f"{hashlib.md5(data).hexdigest()}+{len(data)}"

    @property
    def name(self) -> str:
        """What it is mounted by."""
        return self.uuid if self.by_uuid else self.portable_data_hash

    @property
    def path(self) -> str:
        """Where every mount shows it."""
        return f"by_id/{self.name}"


def uuid(infix: str, number: int) -> str:
    """Return the uuid of a record of the data set."""
    return f"xlocl-{infix}-bench{number:010d}"


def scattered_uuid(infix: str, number: int) -> str:
    """Return a uuid whose last part looks as random as that of a record that a cluster made."""
    value, digits = int(hashlib.md5(f"{number}".encode()).hexdigest(), 16), ""
    for _ in range(15):
        value, digit = divmod(value, 36)
        digits += "0123456789abcdefghijklmnopqrstuvwxyz"[digit]
    return f"xlocl-{infix}-{digits}"


class DataSet:
    """The blocks, in a folder, and the collections."""

    def __init__(self, folder: Path, sizes: Sizes) -> None:
        self.sizes = sizes
        self.folder = folder
        self.blocks = folder / "blocks"
        self.project = uuid("j7d0g", 1)
        self._owner = uuid("j7d0g", 2)
        self.walked = uuid("j7d0g", 3)

    def build(self) -> "DataSet":
        """Write blocks and lists, or find them as an earlier run left them."""
        self.blocks.mkdir(parents=True, exist_ok=True)
        self.small = self._small()
        self.large = self._large()
        self.waiting = self._waiting()
        self.opened = {n: self._flat(10 + i, n) for i, n in enumerate(self.sizes.opened)}
        self.closed_in = {n: self._flat(50 + i, n) for i, n in enumerate(self.sizes.closed_in)}
        soak = range(self.sizes.soak_collections)
        self.soak = [self._flat(100 + i, self.sizes.soak_files, by_uuid=True) for i in soak]
        self.edited = Collection(uuid("4zz18", 4), manifest_of_empty("file"), by_uuid=True)
        for name in ("small", "large", "waiting"):
            collection = getattr(self, name)
            (self.folder / f"{name}.manifest").write_text(collection.manifest)
            paths = "".join(f"{collection.path}/{file}\n" for file in collection.files)
            (self.folder / f"{name}.list").write_text(paths)
        return self

    def list_of(self, name: str) -> Path:
        """Return the file that lists the paths of a collection's files, in a mount."""
        return self.folder / f"{name}.list"

    def parts(self) -> dict[str, tuple[str, Path]]:
        """Return where the collections are that every contestant shows, and their manifests."""
        named = ("small", "large", "waiting")
        return {n: (getattr(self, n).path, self.folder / f"{n}.manifest") for n in named}

    def shown(self) -> dict[str, Path]:
        """Return the manifests that every contestant shows, by where."""
        return dict(self.parts().values())

    # Contents

    def _block(self, seed: int, size: int) -> str:
        """Have a block in the folder; return its locator."""
        known = self.folder / f"block.{seed}.{size}"
        if known.exists():
            return known.read_text()
        data = random.Random(seed).randbytes(size)
        name = hashlib.md5(data).hexdigest()
        (self.blocks / name).write_bytes(data)
        known.write_text(f"{name}+{size}")
        return f"{name}+{size}"

    def _small(self) -> Collection:
        files = [f"f{n:05d}" for n in range(self.sizes.files)]
        words = " ".join(f"{n * SMALL}:{SMALL}:{name}" for n, name in enumerate(files))
        shared = [self._block(seed, SMALL * len(files)) for seed in range(SHARED_BLOCKS)]
        names = [f"dir{n:04d}" for n in range(self.sizes.directories)]
        lines = [f"./{d} {shared[n % SHARED_BLOCKS]} {words}\n" for n, d in enumerate(names)]
        paths = [f"{d}/{file}" for d in names for file in files]
        return Collection(uuid("4zz18", 1), "".join(lines), paths)

    def _large(self) -> Collection:
        count = self.sizes.large // BLOCK
        locators = [self._block(1000 + seed, BLOCK) for seed in range(count)]
        text = f". {' '.join(locators)} 0:{self.sizes.large}:large.bin\n"
        return Collection(uuid("4zz18", 2), text, ["large.bin"])

    def large_md5(self) -> str:
        """Return the md5 of the large file."""
        digest = hashlib.md5()
        for locator in self.large_blocks():
            digest.update((self.blocks / locator[:32]).read_bytes())
        return digest.hexdigest()

    def large_blocks(self) -> list[str]:
        """Return the locators of the large file's blocks."""
        return self.large.manifest.split()[1:-1]

    def repeated(self, size: int) -> str:
        """Return the manifest of a file of a size that has the large file's blocks over and over."""
        words = itertools.islice(itertools.cycle(self.large_blocks()), size // BLOCK)
        return f". {' '.join(words)} 0:{size}:large.bin\n"

    def files(self, count: int) -> Path:
        """Return a folder of so many small files."""
        folder = self.folder / f"files.{count}"
        if not folder.exists():
            contents = random.Random(count)
            part = folder.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            for number in range(count):
                (part / f"f{number:05d}").write_bytes(contents.randbytes(SMALL))
            part.rename(folder)
        return folder

    def _waiting(self) -> Collection:
        """Files that have a block each."""
        count = self.sizes.waiting_reads
        locators = [self._block(2000 + seed, SMALL) for seed in range(count)]
        names = [f"w{n:05d}" for n in range(count)]
        words = " ".join(f"{n * SMALL}:{SMALL}:{name}" for n, name in enumerate(names))
        return Collection(uuid("4zz18", 3), f". {' '.join(locators)} {words}\n", names)

    def _flat(self, number: int, count: int, by_uuid: bool = False) -> Collection:
        """A collection of so many files, a thousand a directory: 14 bytes of manifest a file."""
        block = self._block(0, SMALL * self.sizes.files)

        def directory(at: int) -> str:
            names = range(at, min(at + 1000, count))
            words = " ".join(f"0:{SMALL}:f{n % 100_000:05d}" for n in names)
            return f"./d{at // 1000:04d} {block} {words}\n"

        text = "".join(directory(at) for at in range(0, count, 1000))
        return Collection(uuid("4zz18", number), text, by_uuid=by_uuid)

    # Records

    def records(self, user: str) -> Iterator[dict[str, list[dict[str, Any]]]]:
        """Yield tables of records to load, in portions; all belong to a user's projects."""
        yield {
            "groups": [
                _group(self.project, "listed", user),
                _group(self._owner, "measured", user),
                _group(self.walked, "walked", user),
            ]
        }
        named = [self.small, self.large, self.waiting, self.edited, *self.soak]
        for collection in (*named, *self.opened.values()):
            yield {"collections": [self._record(collection, self._owner)]}
        text = manifest_of_empty("file")
        few = [Collection(uuid("4zz18", 10_000 + n), text) for n in range(self.sizes.walked)]
        yield {"collections": [self._record(c, self.walked) for c in few]}
        for start in range(0, self.sizes.project, 1000):
            numbers = range(start, min(start + 1000, self.sizes.project))
            collections = [Collection(scattered_uuid("4zz18", n), text) for n in numbers]
            yield {"collections": [self._record(c, self.project) for c in collections]}

    def _record(self, collection: Collection, owner: str) -> dict[str, Any]:
        return {
            **_common(collection.uuid, owner),
            "current_version_uuid": collection.uuid,
            "name": f"collection {collection.uuid[-10:]}",
            "description": None,
            "properties": {},
            "manifest_text": collection.manifest,
            "portable_data_hash": collection.portable_data_hash,
            "file_count": len(collection.files),
            "file_size_total": 0,
            "replication_desired": None,
            "replication_confirmed": None,
            "replication_confirmed_at": None,
            "storage_classes_desired": ["default"],
            "storage_classes_confirmed": [],
            "storage_classes_confirmed_at": None,
            "preserve_version": False,
            "trash_at": None,
            "delete_at": None,
            "is_trashed": False,
            "version": 1,
        }


def manifest_of_empty(name: str) -> str:
    """Return the manifest of one empty file."""
    return f". d41d8cd98f00b204e9800998ecf8427e+0 0:0:{name}\n"


def _common(uuid: str, owner: str) -> dict[str, Any]:
    when = "2026-01-01T00:00:00.000000000Z"
    return {
        "uuid": uuid,
        "owner_uuid": owner,
        "created_at": when,
        "modified_at": when,
        "modified_by_user_uuid": owner,
    }


def _group(uuid: str, name: str, owner: str) -> dict[str, Any]:
    return {
        **_common(uuid, owner),
        "name": name,
        "group_class": "project",
        "description": None,
        "properties": {},
        "frozen_by_uuid": None,
        "trash_at": None,
        "delete_at": None,
        "is_trashed": False,
    }
