# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""The options of `arv-mount`."""

import argparse
import contextlib
import math
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import arvados.commands._util as arv_cmd

from ._version import __version__
from .api_requests import DEFAULT_TIMEOUT


def _at_least(least: int, parse: Callable[[str], Any] = int) -> Callable[[str], Any]:
    """Return an argparse type: a number that is not smaller than `least`."""

    def number(text: str) -> Any:
        try:
            value = parse(text)
        except ValueError:
            value = math.nan
        if not least <= value < math.inf:
            whole = "a whole number" if parse is int else "a number"
            raise argparse.ArgumentTypeError(f"{text!r} is not {whole} of {least} or more")
        return value

    return number


#: What a unit multiplies by; `K`, `KB` and `KiB` are the same.
_UNITS = {unit: 1024**power for power, unit in enumerate(("", "K", "M", "G", "T"))}
_SIZE = re.compile(r"(\d+|\d+\.\d+)\s*([KMGT]?)(?:i?B)?", re.ASCII | re.IGNORECASE)


def size(text: str) -> int:
    """Return a size in bytes: a number, with a binary unit or without; an argparse type."""
    match = _SIZE.fullmatch(text.strip())
    if match:
        unit = _UNITS[match[2].upper()]
        value = int(match[1]) * unit if match[1].isdigit() else int(float(match[1]) * unit)
        # What the core and the SDK count with.
        if value < 1 << 63 and (match[1].isdigit() or unit > 1):
            return value
    raise argparse.ArgumentTypeError(
        f"{text!r} is not a size: give a whole number of bytes, or a number with K, M, G or T "
        "(1024 bytes, 1024 K, ...)"
    )


def _filters(text: str) -> Any:
    # argparse passes on what an ArgumentTypeError says, but not what a ValueError says.
    try:
        return arv_cmd.JSONArgument(arv_cmd.validate_filters)(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error} (see --help)") from error


def _encoding(name: str) -> str:
    try:
        suitable = "a/.".encode(name) == b"a/."
    except (LookupError, UnicodeError):
        raise argparse.ArgumentTypeError(
            f"Python knows no character encoding {name!r}; try 'utf-8' or 'latin-1'"
        ) from None
    if not suitable:
        # The kernel looks for a slash, and for a byte 0 at the end.
        raise argparse.ArgumentTypeError(
            f"{name!r} does not write ASCII characters as ASCII, as file names need it"
        )
    return name


def _storage_classes(text: str) -> str:
    if not all(name.strip() for name in text.split(",")):
        raise argparse.ArgumentTypeError(
            f"{text!r} has a class without a name: give names separated by commas"
        )
    return text


def _subtype(text: str) -> str:
    if "," in text:
        raise argparse.ArgumentTypeError(f"{text!r} has a comma, which separates mount options")
    return text


def period(text: str) -> float:
    """Return a time in seconds, from 0 to a day.

    Raises argparse.ArgumentTypeError for anything else.
    """
    with contextlib.suppress(ValueError):
        if 0 <= (seconds := float(text)) <= 86_400:
            return seconds
    raise argparse.ArgumentTypeError(f"{text!r} is no time in seconds, from 0 to 86400")


class ArgumentParser(argparse.ArgumentParser):
    """Parses the command line of `arv-mount`."""

    def __init__(self) -> None:
        super().__init__(
            prog="arv-mount",
            description="Work with Arvados data as files in a local directory",
        )
        self.add_argument(
            "--retries",
            type=_at_least(0),
            default=10,
            help="How often to repeat requests that failed for a passing reason, such as a server "
            "that is down (default %(default)s)",
        )
        self.add_argument(
            "--version",
            action="version",
            version="%s %s" % (sys.argv[0], __version__),
            help="Print version and exit",
        )
        self.add_argument("mountpoint", metavar="MOUNT_DIR", help="Directory to mount at")
        self._add_contents()
        self._add_layout()
        self._add_permissions()
        self._add_lifecycle()
        self._add_reporting()
        self._add_cache()
        self._add_plumbing()

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        parsed, rest = super().parse_known_args(args, namespace)
        if parsed.exec_args == []:
            self.error("argument --exec: a command must follow")
        return parsed, rest

    def _add_contents(self) -> None:
        mode = self.add_argument_group("Mount contents").add_mutually_exclusive_group()

        def add_mode(option: str, const: str | None, text: str) -> None:
            mode.add_argument(option, action="store_const", const=const, dest="mode", help=text)

        add_mode(
            "--all",
            "all",
            "Mount directories `home`, `shared`, `by_id` and `by_tag` "
            "(default if there is no `--mount-*` option)",
        )
        add_mode(
            "--custom",
            None,
            "Mount a directory for each `--mount-*` option (default if there is one; "
            'see "Mount custom layout and filtering")',
        )
        mode.add_argument("--collection", metavar="UUID_OR_PDH", help="Mount one collection")
        add_mode("--home", "home", "Mount your home project")
        mode.add_argument("--project", metavar="UUID", help="Mount one project")
        add_mode("--shared", "shared", "Mount the projects shared with you")
        add_mode(
            "--by-id",
            "by_id",
            "Mount a directory in which collections and projects are found by their UUID "
            "or portable data hash",
        )
        add_mode(
            "--by-pdh",
            "by_pdh",
            "Mount a directory in which collections are found by their portable data hash",
        )
        add_mode("--by-tag", "by_tag", "Mount a directory of tags, each with what is tagged so")

    def _add_layout(self) -> None:
        mounts = self.add_argument_group("Mount custom layout and filtering")
        mounts.add_argument(
            "--filters",
            type=_filters,
            help="Show only what these filters let through, in projects, tags and shared data. "
            "A JSON list in the syntax of the API's list filters, or the path of a file with one",
        )
        for option, text in (
            ("home", "Make your home project available at `PATH` in the mount"),
            ("shared", "Make the projects shared with you available at `PATH` in the mount"),
            (
                "tmp",
                "Make a new writable collection available at `PATH` in the mount; "
                "it is gone when the mount is",
            ),
            (
                "by-id",
                "Make a directory available at `PATH` in the mount in which collections and "
                "projects are found by their UUID or portable data hash",
            ),
            (
                "by-pdh",
                "Make a directory available at `PATH` in the mount in which collections are "
                "found by their portable data hash",
            ),
            ("by-tag", "Make a directory of tags available at `PATH` in the mount"),
        ):
            mounts.add_argument(
                "--mount-" + option, metavar="PATH", action="append", default=[], help=text
            )

    def _add_permissions(self) -> None:
        perms = self.add_argument_group("Mount access and permissions")
        perms.add_argument(
            "--allow-other",
            action="store_true",
            help="Let other users of this machine read what is mounted (default: only you)",
        )
        perms.add_argument(
            "--read-only",
            action="store_false",
            default=False,
            dest="enable_write",
            help="Nothing can be changed through the mount (default)",
        )
        perms.add_argument(
            "--read-write",
            action="store_true",
            default=False,
            dest="enable_write",
            help="Data can be changed through the mount",
        )

    def _add_lifecycle(self) -> None:
        lifecycle = self.add_argument_group("Mount lifecycle management")
        lifecycle.add_argument(
            "--exec",
            nargs=argparse.REMAINDER,
            dest="exec_args",
            help="Mount, run a command, unmount, and exit with the command's status (127 where there is "
            "no such command, 126 where it cannot be run). "
            "All that follows belongs to the command, so this comes last, "
            "behind MOUNT_DIR or with `--` before it",
        )
        lifecycle.add_argument(
            "--foreground",
            action="store_true",
            default=False,
            help="Stay in the foreground (default: serve the mount in the background)",
        )
        lifecycle.add_argument(
            "--subtype",
            type=_subtype,
            help="Show the mount as type `fuse.SUBTYPE` (default: `fuse`)",
        )
        lifecycle.add_argument(
            "--nonempty",
            action="store_true",
            default=False,
            help="Mount over a directory that is not empty or has a FUSE mount, too; what is there "
            "is out of sight meanwhile (default: refuse)",
        )
        warning = (
            " With `--subtype`, only a mount of that subtype. "
            "WARNING: this concerns FUSE mounts of any kind, not only those of arv-mount"
        )
        unmount = lifecycle.add_mutually_exclusive_group()
        for option, text in (
            ("--replace", "Unmount what FUSE mount is at the directory before mounting."),
            ("--unmount", "Unmount the FUSE mount at the directory, if any, and exit."),
            ("--unmount-all", "Unmount all FUSE mounts at and below the directory, and exit."),
        ):
            unmount.add_argument(option, action="store_true", default=False, help=text + warning)
        lifecycle.add_argument(
            "--unmount-timeout",
            type=_at_least(0, float),
            default=2.0,
            metavar="SECONDS",
            help="How long to wait for a clean unmount before it is forced (default %(default).01f)",
        )

    def _add_reporting(self) -> None:
        reporting = self.add_argument_group("Mount logging and statistics")
        reporting.add_argument(
            "--crunchstat-interval",
            type=_at_least(0, float),
            default=0.0,
            metavar="SECONDS",
            help="Write statistics at this interval: to stderr, in the background to the log "
            "(default: never)",
        )
        reporting.add_argument("--debug", action="store_true", help="Log debug information")
        reporting.add_argument(
            "--logfile",
            help="Append the log to this file; it is begun anew when it was moved away (default: to "
            "stderr; in the background, to syslog or journald as `arv-mount`)",
        )

    def _add_cache(self) -> None:
        cache = self.add_argument_group("Mount local cache setup")
        cachetype = cache.add_mutually_exclusive_group()
        cachetype.add_argument(
            "--disk-cache",
            action="store_true",
            default=True,
            dest="disk_cache",
            help="Cache data on the local disk (default)",
        )
        cachetype.add_argument(
            "--ram-cache",
            action="store_false",
            default=True,
            dest="disk_cache",
            help="Cache data in memory",
        )
        cache.add_argument(
            "--disk-cache-dir", metavar="DIRECTORY", help="Where to cache data on the local disk"
        )
        cache.add_argument(
            "--directory-cache",
            type=size,
            default=128 * 1024 * 1024,
            metavar="SIZE",
            help="How much to cache of directories, in bytes or with a unit: 512M, 2GiB; units are "
            "binary (default 128M)",
        )
        cache.add_argument(
            "--file-cache",
            type=size,
            default=0,
            metavar="SIZE",
            help="How much to cache of files, likewise (default 8G on disk, 256M in memory)",
        )
        cache.add_argument(
            "--write-buffer",
            type=size,
            default=256 * 1024 * 1024,
            metavar="SIZE",
            help="How much may be written and not stored yet, likewise: whoever writes more waits "
            "(default 256M)",
        )
        cache.add_argument(
            "--save-after",
            type=period,
            default=0.0,
            metavar="SECONDS",
            help="Have closing a file return at once, and save what was changed in this time "
            "together; fsync and unmounting still save and tell (default 0: closing saves)",
        )

    def _add_plumbing(self) -> None:
        plumbing = self.add_argument_group("Mount interactions with Arvados and Linux")
        plumbing.add_argument(
            "--local",
            metavar="DIRECTORY",
            help="Mount no Arvados cluster but one of this machine's own, with its data in "
            "DIRECTORY; it runs as long as the mount",
        )
        plumbing.add_argument(
            "--disable-event-listening",
            action="store_true",
            dest="disable_event_listening",
            default=False,
            help="Do not subscribe to the cluster's events to hear of changes",
        )
        plumbing.add_argument(
            "--api-timeout",
            type=_at_least(1, float),
            default=DEFAULT_TIMEOUT,
            metavar="SECONDS",
            help="How long a request to the Arvados API may take in all, however often it is tried "
            "again, before it is an error (default %(default).0f)",
        )
        plumbing.add_argument(
            "--encoding",
            type=_encoding,
            default="utf-8",
            help="Character encoding of file names, a name from Python's codec registry "
            "(default %(default)r)",
        )
        plumbing.add_argument(
            "--storage-classes",
            type=_storage_classes,
            metavar="CLASSES",
            help="Storage classes to ask for in new collections, separated by commas",
        )
        plumbing.add_argument(
            "--refresh-time",
            metavar="SECONDS",
            default=15,
            type=_at_least(0),
            help="How far what is shown may be behind the cluster, at most, before it is looked "
            "at again (default 15 seconds)",
        )
        # Overrides what the cluster is configured to put in the place of a slash; for tests.
        plumbing.add_argument("--fsns", type=str, default=None, help=argparse.SUPPRESS)
