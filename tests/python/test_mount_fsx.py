# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Files under fsx (the crate of that name): what is written, cut, mapped and copied is what is read.

`FSX_N` says how many operations (2,000), `make soak` does 50,000.
"""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import arvados.collection
import pytest
from arvados_fuse.localcluster import LocalCluster
from conftest import save_collection

FSX = Path(__file__).parents[2] / "target" / "tools" / "bin" / "fsx"

#: Length of the longest file in bytes, and which operations there are besides writes, reads and mappings.
CONFIG = """
flen = {length}
[weights]
truncate = 1
invalidate = 1
fsync = 1
sendfile = 1
posix_fallocate = 1
punch_hole = 1
copy_file_range = 1
"""


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("where", ["scratch", "collection"])
def test_fsx(
    arv_mount: Callable, fresh_cluster: LocalCluster, tmp_path: Path, where: str, seed: int
) -> None:
    assert FSX.exists(), "make fsx"
    mount = arv_mount("--read-write", "--mount-tmp", "tmp", "--mount-by-id", "by_id")
    uuid = save_collection(fresh_cluster, "c")
    place = mount.path / "tmp" if where == "scratch" else mount.path / "by_id" / uuid
    length = {1: 256 << 10, 2: 1 << 20, 3: 4 << 20}[seed]
    config = tmp_path / "fsx.toml"
    config.write_text(CONFIG.format(length=length))
    count = os.environ.get("FSX_N") or "2000"
    words = [FSX, "-N", count, "-S", str(seed), "-f", config, "-P", tmp_path, "-q"]
    done = subprocess.run([*words, place / "file"], capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stdout + done.stderr
    if where == "collection":
        data = (place / "file").read_bytes()
        saved = arvados.collection.CollectionReader(uuid, api_client=fresh_cluster.api())
        with saved.open("file", "rb") as file:
            assert file.read() == data
