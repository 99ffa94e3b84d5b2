# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Settings as people write them."""

import os
import subprocess
from pathlib import Path

import pytest
from arvados_fuse.localcluster import LocalCluster
from conftest import ARV_MOUNT


def mount(home: Path, path: Path, text: str | None, **env: str) -> subprocess.CompletedProcess:
    """Mount with these settings only, list it and unmount."""
    folder = home / ".config" / "arvados"
    folder.mkdir(parents=True)
    path.mkdir()
    if text is not None:
        (folder / "settings.conf").write_text(text)
    plain = {k: v for k, v in os.environ.items() if not k.startswith("ARVADOS_")}
    return subprocess.run(
        [*ARV_MOUNT, "--foreground", "--retries=0", str(path), "--exec", "ls", str(path)],
        env={**plain, "HOME": str(home), **env},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    "text",
    [
        "ARVADOS_API_HOST={host}\nARVADOS_API_TOKEN={token}\n",
        'ARVADOS_API_HOST="{host}"\nARVADOS_API_TOKEN="{token}"\n',
        "ARVADOS_API_HOST='{host}'\nARVADOS_API_TOKEN='{token}'\n",
        "export ARVADOS_API_HOST={host}\n  export ARVADOS_API_TOKEN={token}\n",
        "ARVADOS_API_HOST = {host}\nARVADOS_API_TOKEN =  {token}  \n",
        "# mine\n\nARVADOS_API_HOST=https://{host}/\nARVADOS_API_TOKEN={token}\n",
        "ARVADOS_API_HOST=https://{host}\nARVADOS_API_TOKEN={token}\nOTHER=a=b=c\n",
        'export ARVADOS_API_HOST = "https://{host}/"\nARVADOS_API_TOKEN="{token}"\nX="a==="\n',
    ],
)
def test_what_a_shell_would_read_is_read(cluster: LocalCluster, tmp_path: Path, text: str) -> None:
    settings = text.format(host=cluster.api_host, token=cluster.token())
    done = mount(tmp_path, tmp_path / "mnt", settings, SSL_CERT_FILE=cluster.env()["SSL_CERT_FILE"])
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["README", "by_id", "by_tag", "home", "shared"]


@pytest.mark.parametrize("host", ["https://{}", "https://{}/", "{}/", " {} ", '"{}"'])
def test_the_environment_is_read_so_and_comes_first(
    cluster: LocalCluster, tmp_path: Path, host: str
) -> None:
    env = cluster.env() | {"ARVADOS_API_HOST": host.format(cluster.api_host)}
    settings = "ARVADOS_API_HOST=127.0.0.1:1\nexport ARVADOS_API_TOKEN=none\n"
    done = mount(tmp_path, tmp_path / "mnt", settings, **env)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "settings, env, says",
    [
        ("ARVADOS_API_HOST\n", {}, "settings.conf, line 1: not of the form NAME=VALUE"),
        (None, {"ARVADOS_API_HOST": "http://host"}, "spoken to by https only"),
        (None, {"ARVADOS_API_HOST": "https://host/path"}, "give a host name"),
        (None, {"ARVADOS_API_HOST": "two words"}, "give a host name"),
        (None, {"ARVADOS_API_HOST": "user:secret@host"}, "give a host name"),
        (None, {}, "ARVADOS_API_HOST is not set"),
    ],
)
def test_what_cannot_be_understood_is_named(
    tmp_path: Path, settings: str | None, env: dict, says: str
) -> None:
    token = {"ARVADOS_API_TOKEN": "x"} if env else {}
    done = mount(tmp_path, tmp_path / "mnt", settings, **env, **token)
    assert done.returncode == 1
    assert says in done.stderr and "Traceback" not in done.stderr
