# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""What the released suite imports as `mount_test_base`: tests with a mount in their own process.

What a test does on the mount it mostly does in another process, `self.pool`: a system call that this
one makes with the interpreter's lock held would wait for the thread that is to answer it.
"""

import os
import shutil
import subprocess
import tempfile
import threading
import unittest
from pathlib import Path
from typing import Any

import arvados
import arvados.keep
import arvados.safeapi
import arvados_fuse
import llfuse
import pytest

from . import run_test_server
from .integration_test import workerPool

#: How long a mount may take to end, in seconds.
END = 60


class MountTestBase(unittest.TestCase):
    """Mounts what `make_mount` is told to, at `self.mounttmp`, as an administrator.

    Blocks are kept in a folder, unless a subclass calls `setUp` with `local_store=False`; `disk_cache`
    says where the SDK caches them.
    """

    disk_cache = False

    _block_cache: arvados.keep.KeepBlockCache

    @classmethod
    def setUpClass(cls) -> None:
        folder = tempfile.mkdtemp(prefix="blocks-") if cls.disk_cache else None
        if folder is not None:
            cls.addClassCleanup(shutil.rmtree, folder)
        cls._block_cache = arvados.keep.KeepBlockCache(
            disk_cache=cls.disk_cache, disk_cache_dir=folder
        )

    def setUp(self, api: Any = None, local_store: bool = True) -> None:
        self.pool = workerPool()
        self.llfuse_thread: threading.Thread | None = None
        self.keeptmp: str | None = None
        run_test_server.run()
        self.addCleanup(run_test_server.reset)
        run_test_server.authorize_with("admin")
        if local_store:
            self.keeptmp = tempfile.mkdtemp(prefix="keep-")
            os.environ["KEEP_LOCAL_STORE"] = self.keeptmp
            self.addCleanup(shutil.rmtree, self.keeptmp)
            self.addCleanup(os.environ.pop, "KEEP_LOCAL_STORE")
        self.mounttmp = tempfile.mkdtemp(prefix="mount-")
        self.addCleanup(os.rmdir, self.mounttmp)
        self.api = api or arvados.safeapi.ThreadSafeApiCache(
            arvados.config.settings(),
            keep_params={"block_cache": self._block_cache},
            version="v1",
        )

    def make_mount(
        self, root_class: Any, fuse_options: list[str] | None = None, **root_kwargs: Any
    ) -> Any:
        """Mount a directory of that class; return the directory.

        `enable_write` (True) and `filters` (none) are for the mount and its root alike; the rest is
        for the constructor of the class.
        """
        enable_write = root_kwargs.pop("enable_write", True)
        filters = root_kwargs.pop("filters", None)
        self.operations = arvados_fuse.Operations(
            os.getuid(), os.getgid(), api_client=self.api, enable_write=enable_write
        )
        inodes = self.operations.inodes
        root = root_class(
            llfuse.ROOT_INODE, inodes, self.api, 0, enable_write, filters, **root_kwargs
        )
        inodes.add_entry(root)
        llfuse.init(self.operations, self.mounttmp, list(fuse_options or []))
        self.llfuse_thread = threading.Thread(target=self._serve, daemon=True)
        self.llfuse_thread.start()
        self.addCleanup(self._end_mount)
        self.operations.initlock.wait()
        return inodes[llfuse.ROOT_INODE]

    @staticmethod
    def _serve() -> None:
        unmount = False
        try:
            llfuse.main()
            unmount = True
        finally:
            llfuse.close(unmount=unmount)

    def _end_mount(self) -> None:
        assert self.llfuse_thread is not None
        if self.operations.events:
            self.operations.events.close(timeout=10)
        subprocess.run(["fusermount", "-u", "-z", self.mounttmp], check=True)
        self.llfuse_thread.join(END)
        if self.llfuse_thread.is_alive():
            # One mount at a time in a process: no other test can run after this.
            pytest.exit(f"{self.id()}: the mount did not end within {END} seconds", 2)

    def assertDirContents(self, subdir: str | None, expect_content: Any) -> None:  # noqa: N802
        """Fail unless these are the names in a directory of the mount."""
        found = llfuse.listdir(str(Path(self.mounttmp, subdir or "")))
        self.assertEqual(sorted(expect_content), sorted(found))
