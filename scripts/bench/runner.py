# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Runs scenes: round after round, contestant after contestant, A B C A B C.

A scene is a piece of work that measures several rows with one setting up. What fails in it fails
for that row, contestant and round; a time-out ends the contestant's part of that round, as its
mount can no longer be trusted. A contestant that timed out in two rounds of a scene is left out of
the others, so that one that hangs does not hold up the run.
"""

import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .results import BEFORE, LIMIT, OURS, PEER, Recorder, Row

#: Rounds of a contestant in a scene that may end by a time-out before it is left out.
PATIENCE = 2


class Failed(Exception):
    """A measurement gave nothing; the message says why."""


class TimedOut(Failed):
    """A measurement took longer than it may."""


def within(cwd: object, words: Sequence[object]) -> list[str]:
    """Return the command line that runs a program in a directory."""
    return [*(["env", "-C", str(cwd)] if cwd else []), *map(str, words)]


def command(*words: object, timeout: float, cwd: object = None, output: bool = False) -> str:
    """Run a program; return what it printed, if asked. Raises Failed where it fails, TimedOut.

    The program itself goes to `cwd`: within Popen, nothing would end a chdir(2) that a mount holds up.
    """
    arguments = within(cwd, words)
    try:
        done = subprocess.run(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if output else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        raise TimedOut(f"not done within {timeout:.0f} s") from None
    except OSError as error:
        raise Failed(f"{words[0]}: {error.strerror}") from None
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        program = str(words[0]).rpartition("/")[2]
        raise Failed(f"{program} exited {done.returncode}: {reason}")
    return done.stdout or ""


def timed(*words: object, timeout: float, cwd: object = None) -> float:
    """Run a program; return the seconds that it took. Raises as `command` does."""
    start = time.perf_counter()
    command(*words, timeout=timeout, cwd=cwd)
    return time.perf_counter() - start


class Contestant(Protocol):
    """Who is measured."""

    name: str


class Turn:
    """A contestant's part of a round: scenes measure through it."""

    def __init__(
        self, contestant: Any, number: int, recorder: Recorder, wanted: Callable[[str], bool]
    ) -> None:
        self.contestant = contestant
        #: Number of the round, from 0.
        self.number = number
        self.wanted = wanted
        self.log: list[str] = []
        self._recorder = recorder
        #: Measurements still to come, so that those which are not reached are known.
        self._planned: list[tuple[Row, dict[str, Any]]] = []

    @property
    def name(self) -> str:
        """The contestant's name."""
        return self.contestant.name

    def plan(self, row: Row, *params: dict[str, Any]) -> None:
        """Say that the row will be measured, with each of those parameters."""
        if self.wanted(row.name):
            self._planned += [(row, each) for each in params or ({},)]

    def wants(self, *rows: Row) -> bool:
        """Return whether any of the rows is to be measured."""
        return any(self.wanted(row.name) for row in rows)

    def measure(self, row: Row, work: Callable[..., float], *given: Any, **params: Any) -> None:
        """Call `work(*given)`, unless nobody wants the row, and note the value that it returns."""
        if not self.wanted(row.name):
            return
        try:
            self.value(row, work(*given), **params)
        except TimedOut:
            raise
        except Failed as failure:
            self.failure(row, str(failure), **params)

    def value(self, row: Row, value: float, **params: Any) -> None:
        """Note a value."""
        if self.wanted(row.name):
            self._reached(row, params)
            self._recorder.value(row, params, self.name, value)
            self.log.append(f"{row.name}{shown(params)} {human(value, row.unit)}")

    def failure(self, row: Row, reason: str, **params: Any) -> None:
        """Note that there is no value."""
        if self.wanted(row.name):
            self._reached(row, params)
            self._recorder.failure(row, params, self.name, reason)
            self.log.append(f"{row.name}{shown(params)} FAILED: {reason}")

    def _reached(self, row: Row, params: Mapping[str, Any]) -> None:
        self._planned = [p for p in self._planned if p != (row, dict(params))]

    def give_up(self, reason: str) -> None:
        """Note that what is still to come fails for that reason."""
        for row, params in list(self._planned):
            self.failure(row, reason, **params)


@dataclass
class Scene:
    """A piece of work, its rows, and who does it.

    `plan` says what a turn will measure, `play` measures it. One that takes long is played in the
    first `rounds` of a run only. Where ours does it, an earlier version does it, too.
    """

    name: str
    rows: Sequence[Row]
    plan: Callable[[Turn], None]
    play: Callable[[Turn], None]
    who: Collection[str] = (OURS, PEER, LIMIT)
    rounds: int | None = None


def run(
    scenes: Sequence[Scene],
    contestants: Sequence[Any],
    rounds: int,
    recorder: Recorder,
    wanted: Callable[[str], bool] = lambda row: True,
    say: Callable[[str], None] = print,
) -> None:
    """Play the scenes that have a wanted row; each round of a scene has all its contestants."""
    scenes = [scene for scene in scenes if any(wanted(row.name) for row in scene.rows)]
    for number, scene in enumerate(scenes, 1):
        timeouts: dict[str, int] = {}
        start = time.monotonic()
        say(f"== {number}/{len(scenes)} {scene.name}")
        most = min(rounds, scene.rounds or rounds)
        for turn in _turns(scene, contestants, most, recorder, wanted):
            scene.plan(turn)
            if timeouts.get(turn.name, 0) >= PATIENCE:
                turn.give_up("left out after time-outs")
                continue
            try:
                scene.play(turn)
            except Failed as failure:
                turn.give_up(str(failure))
                timeouts[turn.name] = timeouts.get(turn.name, 0) + isinstance(failure, TimedOut)
            say(f"   {turn.number + 1}/{most} {turn.name:6} " + ", ".join(turn.log))
        say(f"   took {time.monotonic() - start:.0f} s")


def _turns(
    scene: Scene,
    contestants: Sequence[Any],
    rounds: int,
    recorder: Recorder,
    wanted: Callable[[str], bool],
) -> Iterator[Turn]:
    for number in range(rounds):
        for contestant in contestants:
            name = OURS if contestant.name == BEFORE else contestant.name
            if name in scene.who:
                yield Turn(contestant, number, recorder, wanted)


def shown(params: Mapping[str, Any]) -> str:
    """Return parameters for reading: ` (4 processes)`."""
    texts = []
    for name, value in params.items():
        number = f"{value:,}" if isinstance(value, int) else str(value)
        one = number == "1" and name.endswith("s")
        name = (name[:-2] if name.endswith("sses") else name[:-1]) if one else name
        texts.append(number if name == "quantile" else f"{number} {name}")
    return f" ({', '.join(texts)})" if texts else ""


_STEPS: dict[str, Sequence[tuple[float, str]]] = {
    "s": ((1, "s"), (1e-3, "ms"), (1e-6, "µs")),
    "B": ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B")),
    "B/s": ((1e9, "GB/s"), (1e6, "MB/s"), (1, "B/s")),
    "1/s": ((1, "/s"),),
    "requests": ((1, "requests"),),
}


def human(value: float | None, unit: str) -> str:
    """Return a value for reading, with three digits and its unit."""
    if value is None:
        return "failed"
    steps = _STEPS[unit]
    factor, name = next((step for step in steps if abs(value) >= step[0]), steps[-1])
    value /= factor
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f} {name}"
