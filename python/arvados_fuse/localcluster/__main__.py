# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""`python -m arvados_fuse.localcluster`: run a cluster until it is stopped."""

import argparse
import asyncio
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m arvados_fuse.localcluster",
        description="Run a small Arvados cluster (API, Keep, event bus) on this machine. It prints "
        "the settings that clients need, and runs until it gets SIGINT or SIGTERM.",
    )
    parser.add_argument("--data", required=True, metavar="DIR", help="Where it keeps its data")
    parser.add_argument("--host", default="127.0.0.1", help="Address to listen at (%(default)s)")
    parser.add_argument("--port", type=int, default=0, help="Port of the API (any that is free)")
    parser.add_argument("--cluster-id", default="xlocl", help="Five letters (%(default)s)")
    parser.add_argument(
        "--keepstores", type=int, default=2, metavar="N", help="Keep services (%(default)s)"
    )
    parser.add_argument(
        "--replication", type=int, metavar="N", help="Copies of a block (all services, at most 2)"
    )
    parser.add_argument(
        "--storage-classes",
        type=lambda names: tuple(names.split(",")),
        default=("default", "fast", "cold"),
        metavar="NAMES",
        help="Storage classes, separated by commas; all are kept alike (default,fast,cold)",
    )
    parser.add_argument(
        "--blob-signing-ttl",
        type=int,
        default=14 * 24 * 3600,
        metavar="SECONDS",
        help="How long block signatures are good for (two weeks)",
    )
    parser.add_argument(
        "--no-blob-signing",
        action="store_false",
        dest="blob_signing",
        help="Neither make nor ask for block signatures",
    )
    parser.add_argument(
        "--no-replace-files",
        action="store_false",
        dest="replace_files",
        help="Know neither replace_files nor replace_segments, as Arvados before 2.4",
    )
    parser.add_argument("--test-hooks", action="store_true", help="Let tests cause faults")
    parser.add_argument(
        "--exec",
        nargs=argparse.REMAINDER,
        dest="command",
        metavar="COMMAND",
        help="Run a command with the settings in its environment, then stop and exit as it did",
    )
    parser.add_argument("--quiet", action="store_true", help="Print no settings")
    parser.add_argument("--description", help=argparse.SUPPRESS)
    parser.add_argument("--until-end-of-input", action="store_true", help=argparse.SUPPRESS)
    return parser


def _settings(description: dict[str, Any]) -> dict[str, str]:
    return {
        "ARVADOS_API_HOST": description["api_host"],
        "ARVADOS_API_TOKEN": description["tokens"]["active"],
        "SSL_CERT_FILE": description["ca_file"],
    }


def _stop_at_end_of_input(loop: asyncio.AbstractEventLoop, until: asyncio.Event) -> None:
    """Stop when nobody holds the other end of stdin any more: whoever started the cluster, or what
    that forked, has gone."""

    def read() -> None:
        if not os.read(0, 1024):
            loop.remove_reader(0)
            until.set()

    loop.add_reader(0, read)


async def _run(args: argparse.Namespace) -> int:
    from .private import write_privately
    from .server import Cluster, Options, serve

    options = Options(
        data=args.data,
        host=args.host,
        port=args.port,
        cluster_id=args.cluster_id,
        keepstores=args.keepstores,
        replication=args.replication or min(2, args.keepstores),
        storage_classes=args.storage_classes,
        blob_signing_ttl=args.blob_signing_ttl,
        blob_signing=args.blob_signing,
        replace_files=args.replace_files,
        test_hooks=args.test_hooks,
    )
    until = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, until.set)
    if args.until_end_of_input:
        _stop_at_end_of_input(loop, until)
    status = 0

    async def run_command(env: dict[str, str]) -> None:
        nonlocal status
        child = await asyncio.create_subprocess_exec(*args.command, env={**os.environ, **env})
        status = await child.wait()
        until.set()

    tasks = []

    def ready(cluster: Cluster) -> None:
        description = cluster.description()
        settings = _settings(description)
        lines = [f"export {name}={shlex.quote(value)}" for name, value in settings.items()]
        write_privately(cluster.folder / "env.sh", "\n".join(lines) + "\n")
        if args.command:
            tasks.append(asyncio.ensure_future(run_command(settings)))
        elif not args.quiet:
            print("\n".join(lines), flush=True)
        if args.description:
            write_privately(Path(args.description), json.dumps(description))

    await serve(options, ready, until)
    return status


def main() -> int:
    """Run a cluster as the command line says; return an exit status."""
    args = _parser().parse_args()
    try:
        return asyncio.run(_run(args))
    except ImportError as error:
        print(
            f"local cluster: a package is not installed ({error.name}): "
            "pip install 'arvados_fuse[local]'",
            file=sys.stderr,
        )
        return 1
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        print(f"local cluster: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
