# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Programs of others that write into a collection: git, tar, rsync, sqlite3."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..mounts import Mount
from ..results import OURS, PEER, Row
from ..runner import Failed, Scene, TimedOut, Turn, command, timed
from .bench import Bench
from .saving import ready
from .writing import IN_COLLECTIONS

INSERTS = 1_000
TRANSACTION = 100


@dataclass(frozen=True)
class Program:
    """A program, as lines for the shell that find the folder written to in $to.

    `setup` makes what it takes, in $made: from a folder of small files, $files, where it starts. It is
    done once. `check` fails where not all that was to be written is there.
    """

    row: Row
    setup: str
    run: str
    check: str


_GIT = (
    "env GIT_CONFIG_NOSYSTEM=1 git -c safe.directory='*' -c user.name=b -c user.email=b@localhost"
)
_SAME = 'diff -r --exclude=.git "$files" "$to"'

PROGRAMS = (
    Program(
        Row("program_git", "`git clone` into a collection", "s"),
        f'cp -r . "$made" && cd "$made" && {_GIT} init -q && {_GIT} add . && {_GIT} commit -q -m files',
        # As from another machine: a pack, not copies of the repository's files.
        f'{_GIT} clone -q --no-local "$made" "$to"',
        f'{_SAME} && {_GIT} -C "$to" fsck && test -z "$({_GIT} -C "$to" status --porcelain)"',
    ),
    Program(
        Row("program_tar", "`tar x` into a collection", "s"),
        'tar cf "$made" .',
        'tar x --no-same-owner -f "$made" -C "$to"',
        _SAME,
    ),
    Program(
        Row("program_rsync", "`rsync -a` into a collection", "s"),
        'touch "$made"',
        'rsync -a "$files/" "$to/"',
        _SAME,
    ),
    Program(
        Row("program_sqlite", "`sqlite3` in a collection, 100 inserts a transaction", "s"),
        'echo "CREATE TABLE t (n INTEGER, s TEXT);" > "$made.part"\n'
        f'for n in $(seq {INSERTS}); do [ $((n % {TRANSACTION})) != 1 ] || echo "BEGIN;"\n'
        "echo \"INSERT INTO t VALUES ($n, 'a text of some length, $n');\"\n"
        f'[ $((n % {TRANSACTION})) != 0 ] || echo "COMMIT;"; done >> "$made.part"\n'
        'mv "$made.part" "$made"',
        'sqlite3 -bail "$to/db" < "$made"',
        'test "$(sqlite3 "$to/db" "SELECT count(*), sum(n) FROM t")" = '
        f'"{INSERTS}|{INSERTS * (INSERTS + 1) // 2}"',
    ),
)


def scenes(bench: Bench) -> list[Scene]:
    """Return the scenes of this theme: one a program, as one that hangs is left out for the rest."""
    return [_scene(bench, program) for program in PROGRAMS]


def shell(how: Any, script: str, cwd: Path, timeout: float, **given: object) -> Any:
    """Run a line of a program, by `command` or by `timed`."""
    variables = [f"{name}={value}" for name, value in given.items()]
    return how("env", *variables, "sh", "-c", script, cwd=cwd, timeout=timeout)


def _scene(bench: Bench, program: Program) -> Scene:
    row = program.row
    files = bench.data.files(bench.sizes.program_files)
    made = files.with_name(f"{files.name}.{row.name}")
    is_database = row.name == "program_sqlite"
    params = {"inserts": INSERTS} if is_database else {"files": bench.sizes.program_files}

    def plan(turn: Turn) -> None:
        turn.plan(row, params)

    def play(turn: Turn) -> None:
        if not made.exists():
            shell(command, program.setup, files, bench.timeout, files=files, made=made)
        turn.contestant.forget_blocks()
        uuid = bench.cluster.new_collection()
        with kept(bench), turn.contestant.mounted(*IN_COLLECTIONS) as mount:
            turn.measure(row, work, mount, uuid, **params)

    def work(mount: Mount, uuid: str) -> float:
        to = f"{ready(bench, mount, uuid)}/to"
        command("mkdir", to, cwd=mount.path, timeout=bench.timeout)
        given = {"files": files, "made": made, "to": to}
        took = shell(timed, program.run, mount.path, bench.timeout, **given)
        try:
            shell(command, program.check, mount.path, bench.timeout, **given)
        except TimedOut:
            raise
        except Failed as failure:
            raise Failed(f"what was written is not what is there: {failure}") from None
        return took

    return Scene(row.title.replace("`", ""), (row,), plan, play, (OURS, PEER), rounds=2)


@contextlib.contextmanager
def kept(bench: Bench) -> Iterator[None]:
    """Have the Keep service serve what is put in the meantime: programs read what they wrote."""
    bench.cluster.keep.control("keep")
    try:
        yield
    finally:
        bench.cluster.keep.control("forget")
