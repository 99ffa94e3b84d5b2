# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""The harness of `make bench`: what it makes of contestants that are slow, fail or hang."""

import hashlib
import json
import os
import subprocess
import sys
import time
import types
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from arvados_fuse.localcluster import LocalCluster
from conftest import ROOT

sys.path.insert(0, str(ROOT / "scripts"))

from bench import compare, picture, report, results  # noqa: E402
from bench.cluster import BlockServer, Cluster  # noqa: E402
from bench.dataset import DataSet, Sizes  # noqa: E402
from bench.mounts import CoreMount, LimitMount, Mount, is_mounted  # noqa: E402
from bench.results import BEFORE, CORE, LIMIT, OURS, PEER, Recorder, Result, Row, cost_ratio  # noqa: E402
from bench.rows import Bench, far, projects, saving, writing  # noqa: E402
from bench.rows import programs as program_rows  # noqa: E402
from bench.rows.programs import PROGRAMS, shell  # noqa: E402
from bench.rows.programs import Program as ProgramRow  # noqa: E402
from bench.runner import Failed, Scene, TimedOut, Turn, command, human, run, shown, timed  # noqa: E402

TIME = Row("time", "sleeping", "s")
RATE = Row("rate", "a rate", "1/s")


class Program:
    """A contestant that is a command line."""

    def __init__(self, name: str, *words: str) -> None:
        self.name = name
        self.words = words


def scene(timeout: float = 10, name: str = "scene") -> Scene:
    """Times the contestant's program."""

    def plan(turn: Turn) -> None:
        turn.plan(TIME)

    def play(turn: Turn) -> None:
        turn.measure(TIME, lambda: timed(*turn.contestant.words, timeout=timeout))

    return Scene(name, [TIME], plan, play)


def played(
    scenes: list[Scene], *contestants: Program, rounds: int = 3, **options: object
) -> tuple[dict[tuple[str, str], Result], list[str]]:
    recorder, said = Recorder(), []
    run(scenes, contestants, rounds, recorder, say=said.append, **options)  # type: ignore[arg-type]
    return {(r.row, r.contestant): r for r in recorder.results()}, said


def about(rows: list[Row]) -> report.About:
    return report.About(
        date="2026-01-01",
        machine={"processor": "one"},
        versions={OURS: "1", PEER: "2"},
        rounds=3,
        sizes=Sizes(),
        complete=True,
        rows={row.name: row for row in rows},
    )


def test_twice_as_slow_shows_as_two() -> None:
    found, _ = played(
        [scene()], Program(OURS, "sleep", "0.6"), Program(LIMIT, "sleep", "0.3"), rounds=3
    )
    ours, limit = found["time", OURS], found["time", LIMIT]
    assert cost_ratio(ours, limit) == pytest.approx(2.0, rel=0.15)
    assert ours.rounds == limit.rounds == 3
    assert ours.min is not None and ours.median is not None and ours.max is not None
    assert 0.6 <= ours.min <= ours.median <= ours.max
    assert ours.error is None


@pytest.mark.parametrize("row, ours, limit", [(TIME, 4.0, 2.0), (RATE, 50.0, 100.0)])
def test_a_ratio_is_of_costs_whatever_the_unit(row: Row, ours: float, limit: float) -> None:
    recorder = Recorder()
    for value in (ours * 0.9, ours, ours * 7):
        recorder.value(row, {"files": 10}, OURS, value)
    recorder.value(row, {"files": 10}, LIMIT, limit)
    (line,) = results.lines(recorder.results())
    assert cost_ratio(line[OURS], line[LIMIT]) == pytest.approx(2.0)
    assert "2.00" in report.table(recorder.results(), about([row]))
    assert cost_ratio(line[OURS], line.get(PEER)) is None


def test_one_that_fails_shows_as_failed_and_the_run_goes_on() -> None:
    found, said = played(
        [scene(name="first"), scene(name="second")],
        Program(OURS, "sh", "-c", "echo no such luck >&2; exit 3"),
        Program(PEER, "true"),
        rounds=2,
    )
    ours, peer = found["time", OURS], found["time", PEER]
    assert ours.median is None and ours.rounds == 0
    assert ours.error == "failed in 4 of 4 rounds: sh exited 3: no such luck"
    assert peer.rounds == 4 and peer.error is None
    assert cost_ratio(ours, peer) is None
    assert any("FAILED" in line and "ours" in line for line in said)
    for text in (report.table, report.page):
        shows = text(list(found.values()), about([TIME]))
        assert "failed" in shows and "no such luck" in shows


def test_a_row_that_fails_leaves_the_others_of_its_scene() -> None:
    def plan(turn: Turn) -> None:
        turn.plan(TIME)
        turn.plan(RATE)

    def play(turn: Turn) -> None:
        turn.measure(TIME, lambda: timed("false", timeout=5))
        turn.value(RATE, 7)

    found, _ = played([Scene("two", [TIME, RATE], plan, play)], Program(OURS, ""), rounds=1)
    assert found["time", OURS].error
    assert found["rate", OURS].median == 7


def test_what_was_not_reached_says_why() -> None:
    def plan(turn: Turn) -> None:
        turn.plan(TIME)
        turn.plan(RATE, {"files": 1}, {"files": 2})

    def play(turn: Turn) -> None:
        turn.value(TIME, 1)
        raise Failed("cannot mount")

    recorder = Recorder()
    run([Scene("two", [TIME, RATE], plan, play)], [Program(OURS, "")], 1, recorder)
    errors = {(r.row, str(r.params)): r.error for r in recorder.results()}
    assert errors["time", "{}"] is None
    for files in (1, 2):
        assert "cannot mount" in errors["rate", str({"files": files})]


def test_one_that_hangs_is_ended_and_in_the_end_left_out() -> None:
    start = time.monotonic()
    found, _ = played(
        [scene(timeout=0.3)], Program(OURS, "sleep", "60"), Program(PEER, "true"), rounds=5
    )
    assert time.monotonic() - start < 30
    assert found["time", OURS].error == "failed in 5 of 5 rounds: not done within 0 s"
    assert found["time", PEER].rounds == 5


def test_rounds_are_interleaved() -> None:
    order = []

    def play(turn: Turn) -> None:
        order.append((turn.number, turn.name))

    both = [Program(OURS), Program(PEER)]
    run([Scene("s", [TIME], lambda turn: None, play)], both, 2, Recorder())
    assert order == [(0, OURS), (0, PEER), (1, OURS), (1, PEER)]


def test_a_scene_that_takes_long_is_played_in_the_first_rounds() -> None:
    played_in = []

    def play(turn: Turn) -> None:
        played_in.append(turn.number)

    both = [
        Scene(str(rounds), [TIME], lambda turn: None, play, rounds=rounds)
        for rounds in (2, 9, None)
    ]
    run(both, [Program(OURS)], 3, Recorder())
    assert played_in == [0, 1, 0, 1, 2, 0, 1, 2]


def test_only_wanted_rows_are_measured() -> None:
    def never() -> float:
        raise AssertionError("nobody wants this row")

    def plan(turn: Turn) -> None:
        turn.plan(TIME)
        turn.plan(RATE)

    def play(turn: Turn) -> None:
        turn.measure(TIME, never)
        turn.value(RATE, 1)

    scenes = [Scene("s", [TIME, RATE], plan, play), Scene("t", [TIME], plan, play)]
    found, said = played(scenes, Program(OURS), rounds=1, wanted={"rate"}.__contains__)
    assert set(found) == {("rate", OURS)}
    assert "== 1/1 s" in said


def test_a_program_that_is_missing_is_a_failure() -> None:
    with pytest.raises(Failed, match="no-such-program"):
        command("no-such-program", timeout=5)
    with pytest.raises(TimedOut):
        command("sleep", "60", timeout=0.2)


def test_results_are_kept_as_promised(tmp_path: Path) -> None:
    recorder = Recorder()
    for value in (1.0, 2.0, 9.0):
        recorder.value(TIME, {"files": 1000}, OURS, value)
    recorder.failure(TIME, {"files": 1000}, OURS, "late")
    path = tmp_path / "made" / "latest.json"
    results.save(path, recorder.results())
    assert json.loads(path.read_text()) == [
        {
            "row": "time",
            "params": {"files": 1000},
            "contestant": "ours",
            "unit": "s",
            "better": "lower",
            "median": 2.0,
            "min": 1.0,
            "max": 9.0,
            "rounds": 3,
            "error": "failed in 1 of 4 rounds: late",
        }
    ]
    assert results.load(path) == recorder.results()


def test_two_runs_are_compared(tmp_path: Path) -> None:
    def saved(name: str, values: dict[Row, list[float]]) -> Path:
        recorder = Recorder()
        for row, taken in values.items():
            for value in taken:
                recorder.value(row, {}, OURS, value)
        results.save(tmp_path / name, recorder.results())
        return tmp_path / name

    a = saved("a.json", {TIME: [1.0, 1.1, 1.2], RATE: [10, 11, 12]})
    b = saved("b.json", {TIME: [2.0, 2.2, 2.4], RATE: [11, 12, 13]})
    words = [sys.executable, "-m", "bench.compare"]
    env = {"PYTHONPATH": str(ROOT / "scripts"), "PATH": ""}
    done = subprocess.run([*words, a, b], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    time_line, rate_line = done.stdout.splitlines()[1:]
    assert "2.00" in time_line and time_line.endswith("worse")
    assert "0.92" in rate_line and not rate_line.endswith(("worse", "better")), "they overlap"
    missing = subprocess.run([*words, a, tmp_path / "no"], capture_output=True, text=True, env=env)
    assert missing.returncode == 2 and "no" in missing.stderr
    assert compare.verdict(results.load(b)[0], results.load(a)[0]) == "better"


def test_an_earlier_version_does_what_ours_does() -> None:
    contestants = [Program("ours", "sleep", "0.1"), Program("before", "sleep", "0")]
    recorder = Recorder()
    run([scene()], contestants, 3, recorder, say=lambda text: None)
    found = recorder.results()
    assert [r.contestant for r in found] == [OURS, BEFORE]
    table = compare.compare(found, found, (BEFORE, OURS))
    assert table.endswith("worse")
    assert "before" not in report.table(found, about([TIME]))


def test_the_report_is_a_table_and_a_picture(tmp_path: Path) -> None:
    recorder = Recorder()
    for name, value in ((OURS, 2.0), (CORE, 1.6), (PEER, 8.0), (LIMIT, 1.0)):
        recorder.value(TIME, {"processes": 4}, name, value)
    page, drawing = report.write(tmp_path, recorder.results(), about([TIME]))
    line = "| sleeping (4 processes) | 2.00 s | 1.60 s | 8.00 s | 1.00 s | 1.25 | 2.00 | 0.25 |"
    assert line in page.read_text()
    svg = ElementTree.fromstring(drawing.read_text())
    texts = [element.text for element in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert "sleeping (4 processes)" in texts and "2.00" in texts and "0.25" in texts
    bars = [e for e in svg.iter("{http://www.w3.org/2000/svg}rect") if e.get("height") == "12"]
    to_limit, to_peer = (float(bar.get("width", "0")) for bar in bars[-2:])
    assert to_peer == pytest.approx(2 * to_limit, abs=0.5), "a quarter is twice as far as a half"


def test_pictures_stand_extremes() -> None:
    ElementTree.fromstring(picture.draw([]))
    drawing = picture.draw([picture.Bar("a < b", 1e-9, 1e9), picture.Bar("none", None, 1.0)])
    width = float(ElementTree.fromstring(drawing).get("viewBox", "").split()[2])
    for element in ElementTree.fromstring(drawing).iter("{http://www.w3.org/2000/svg}rect"):
        assert 0 <= float(element.get("x", 0)) <= width


@pytest.mark.parametrize(
    "value, unit, text",
    [
        (0.000025, "s", "25.0 µs"),
        (1.5, "s", "1.50 s"),
        (123456.0, "1/s", "123,456 /s"),
        (2.5e9, "B/s", "2.50 GB/s"),
        (3 << 20, "B", "3.00 MiB"),
        (0.0, "B", "0.00 B"),
        (20.0, "requests", "20.0 requests"),
        (None, "s", "failed"),
    ],
)
def test_values_are_readable(value: float | None, unit: str, text: str) -> None:
    assert human(value, unit) == text


def test_parameters_are_readable() -> None:
    assert shown({"processes": 1}) == " (1 process)"
    assert shown({"files": 1_000_000}) == " (1,000,000 files)"
    assert shown({"reads": 200, "quantile": "p99"}) == " (200 reads, p99)"


# The programs


@pytest.fixture(scope="module")
def programs() -> Path:
    """The benchmark's own programs."""
    folder = ROOT / "target" / "debug" / "examples"
    assert (folder / "bench-limit").exists(), "run `make test-python`, which builds them"
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    sizes = Sizes(
        directories=3,
        files=10,
        large=128 << 20,
        waiting_reads=4,
        opened=(1000,),
        soak_collections=1,
        soak_files=10,
    )
    return DataSet(tmp_path_factory.mktemp("data"), sizes).build()


@pytest.fixture
def limit(programs: Path, data: DataSet, tmp_path: Path) -> Iterator[Mount]:
    contestant = LimitMount(
        LIMIT, programs / "bench-limit", data.blocks, data.shown(), tmp_path / "run"
    )
    with contestant.mounted() as mount:
        yield mount
    assert not is_mounted(mount.path)
    assert mount.process.returncode is not None


def loaded(programs: Path, mount: Mount, *words: object) -> dict:
    printed = command(programs / "bench-load", *words, cwd=mount.path, timeout=60, output=True)
    return json.loads(printed)


def test_the_limit_shows_the_data_set(limit: Mount, data: DataSet) -> None:
    small, large = (limit.path / c.path for c in (data.small, data.large))
    found = sorted(str(p.relative_to(small)) for p in small.rglob("*") if p.is_file())
    assert found == sorted(data.small.files)
    digest = hashlib.md5((large / "large.bin").read_bytes()).hexdigest()
    assert digest == data.large_md5()
    # Across the boundary of the blocks.
    with open(large / "large.bin", "rb") as file:
        file.seek((64 << 20) - 1000)
        across = file.read(2000)
    blocks = [(data.blocks / locator[:32]).read_bytes() for locator in data.large_blocks()]
    assert across == blocks[0][-1000:] + blocks[1][:1000]
    (block,) = {line.split()[1][:32] for line in data.small.manifest.splitlines()[1:2]}
    content = (small / data.small.files[10 + 3]).read_bytes()
    assert content == (data.blocks / block).read_bytes()[3 * 4096 : 4 * 4096]


@pytest.mark.parametrize("procs", [1, 4])
def test_the_load_is_what_it_says(limit: Mount, programs: Path, data: DataSet, procs: int) -> None:
    large = f"{data.large.path}/large.bin"
    done = loaded(programs, limit, "stat", "--procs", procs, "--list", data.list_of("small"))
    assert done["ops"] == 30 and done["seconds"] > 0
    done = loaded(programs, limit, "read", "--procs", procs, large)
    assert done["bytes"] == data.sizes.large
    done = loaded(programs, limit, "random", "--procs", procs, "--count", 500, large)
    assert done["ops"] == 500 and done["bytes"] == 500 * 4096
    with pytest.raises(Failed, match="No such file"):
        loaded(programs, limit, "read", "--procs", procs, "no-such-file")


def test_what_is_written_to_the_limit_is_counted(limit: Mount, programs: Path) -> None:
    done = loaded(programs, limit, "write", "--mib", 3, "tmp/written")
    assert done["bytes"] == 3 << 20 == (limit.path / "tmp/written").stat().st_size
    done = loaded(programs, limit, "create", "--count", 20, "tmp")
    assert done["ops"] == 20 and (limit.path / "tmp/made000019").stat().st_size == 4096
    done = loaded(programs, limit, "writers", "--procs", 4, "--mib", 10, "tmp")
    assert done["bytes"] == 10 << 20
    # Listed by nobody: what is made there is counted only.
    sizes = [(limit.path / f"tmp/from{first:06}").stat().st_size for first in (0, 2, 5, 7)]
    assert sizes == [2 << 20, 3 << 20, 2 << 20, 3 << 20]
    with pytest.raises(Failed, match="File exists"):
        loaded(programs, limit, "writers", "--procs", 4, "--mib", 10, "tmp")


def test_what_a_mount_takes_is_known(limit: Mount, programs: Path, data: DataSet) -> None:
    before = limit.processor()
    loaded(programs, limit, "create", "--count", 500, "tmp")
    used = limit.processor() - before
    fields = Path(f"/proc/{limit.process.pid}/stat").read_text().rpartition(")")[2].split()
    ticks = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    assert 0 < used <= limit.processor() == pytest.approx(ticks, abs=0.05)
    assert limit.peak_memory() >= limit.memory() > 1 << 20


def test_the_keep_service_serves_counts_and_stalls(
    programs: Path, data: DataSet, tmp_path: Path
) -> None:
    server = BlockServer(programs / "bench-blocks", data.blocks)
    try:
        locators = data.large_blocks()
        urls = server.urls(f"{locator}+Asignature@7fffffff" for locator in locators)
        fetched = command(
            "sh", "-c", f"curl -sSf {' '.join(urls)} | md5sum", timeout=60, output=True
        )
        assert fetched.split()[0] == data.large_md5()
        assert server.served() == data.sizes.large
        with pytest.raises(Failed, match="404"):
            command("curl", "-sSf", *server.urls(["0" * 32 + "+1"]), timeout=10)

        body = tmp_path / "body"
        body.write_bytes(bytes(2 << 20))
        (url,) = server.urls([hashlib.md5(body.read_bytes()).hexdigest()])
        locator = command("curl", "-sSf", "-T", body, url, timeout=10, output=True)
        assert locator.startswith(url[-32:] + f"+{2 << 20}+A")
        assert server.control("stats")["put_bytes"] == 2 << 20

        with pytest.raises(Failed, match="404"):
            command("curl", "-sSf", url, timeout=10)
        server.control("keep")
        command("curl", "-sSf", "-T", body, url, timeout=10)
        command("sh", "-c", f"curl -sSf {url} | cmp - {body}", timeout=10)
        server.control("forget")
        with pytest.raises(Failed, match="404"):
            command("curl", "-sSf", url, timeout=10)

        server.stall(locators[:1])
        with pytest.raises(TimedOut):
            command("curl", "-sSf", urls[0], timeout=0.5)
        command("curl", "-sSf", urls[1], timeout=10)
        assert server.control("stats")["waiting"] == 1
        server.clear()
        command("curl", "-sSf", urls[0], timeout=10)
    finally:
        server.close()


@pytest.fixture
def bench(programs: Path, data: DataSet) -> Iterator[Bench]:
    """A bench whose cluster has a Keep service only."""
    server = BlockServer(programs / "bench-blocks", data.blocks)
    try:
        cluster: Any = types.SimpleNamespace(keep=server)
        yield Bench(data, cluster, programs / "bench-load", 60)
    finally:
        server.close()


def test_the_limit_of_writing_sends_all_of_it(bench: Bench) -> None:
    start = time.perf_counter()
    rate = writing.put(bench, 256)
    took = time.perf_counter() - start
    stats = bench.cluster.keep.control("stats")
    assert stats["put_bytes"] == 256 << 20 and stats["puts"] == 4
    assert (256 << 20) / took <= rate < 1 << 40


def test_a_link_is_late_and_slow(bench: Bench, data: DataSet) -> None:
    keep = bench.cluster.keep
    (url,) = keep.urls(data.large_blocks()[:1])
    size, words = int(url.rpartition("+")[2]), ("curl", "-sSf", "-o", "/dev/null", url)
    with keep.far(0.3, size / 0.7):
        took = timed(*words, timeout=60)
    # The last bytes are sent together.
    assert took >= 0.3 + 0.7 * (1 - (256 << 10) / size)
    assert timed(*words, timeout=60) < took


def test_rows_with_goals_are_documented_with_them(bench: Bench) -> None:
    text = (ROOT / "docs" / "benchmarking.md").read_text()
    table = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    documented = {name for cell in table for name in cell.split("`")[1::2]}
    scenes = [
        each
        for theme in (projects, far, writing, saving, program_rows)
        for each in theme.scenes(bench)
    ]
    assert documented == {row.name for scene in scenes for row in scene.rows}


def test_data_to_write_is_what_it_says(data: DataSet) -> None:
    files = list(data.files(7).iterdir())
    assert len({path.read_bytes() for path in files}) == 7
    assert {path.stat().st_size for path in files} == {4096}
    *blocks, segment = data.repeated(256 << 20).split()[1:]
    assert segment == f"0:{256 << 20}:large.bin"
    assert sum(int(locator.split("+")[1]) for locator in blocks) == 256 << 20
    for count, collection in data.closed_in.items():
        segments = [word for word in collection.manifest.split() if word.count(":") == 2]
        assert len(segments) == count


def test_what_the_api_is_asked_is_counted(fresh_cluster: LocalCluster) -> None:
    cluster = Cluster(fresh_cluster, None)  # type: ignore[arg-type]
    api = cluster.api()
    uuid = cluster.new_collection(". d41d8cd98f00b204e9800998ecf8427e+0 0:0:a 0:0:b\n")
    with cluster.counted() as asked:
        assert cluster.saved(uuid)["file_count"] == 2
        asked.own += 1
        api.collections().update(uuid=uuid, body={"collection": {"name": "n" * 1000}}).execute()
    assert asked.requests == 1
    assert 1000 < asked.sent < 1200, "what updates it, and no more"
    start = time.monotonic()
    with cluster.far(0.3):
        cluster.saved(uuid)
    took = time.monotonic() - start
    assert took >= 0.3
    start = time.monotonic()
    cluster.saved(uuid)
    assert time.monotonic() - start < took


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.row.name)
def test_programs_write_what_is_looked_for(program: ProgramRow, tmp_path: Path) -> None:
    files, made, to = tmp_path / "files", tmp_path / "made", tmp_path / "to"
    for folder in (files, to):
        folder.mkdir()
    for number in range(3):
        (files / f"f{number}").write_text(f"contents {number}")
    given = {"files": files, "made": made, "to": to}
    shell(command, program.setup, files, 60, **given)
    with pytest.raises(Failed):
        shell(command, program.check, tmp_path, 60, **given)
    assert shell(timed, program.run, tmp_path, 60, **given) > 0
    shell(command, program.check, tmp_path, 60, **given)
    for path in to.iterdir():
        if path.is_file():
            path.write_text("something else")
    with pytest.raises(Failed):
        shell(command, program.check, tmp_path, 60, **given)


def test_the_core_alone_shows_the_data_set(programs: Path, data: DataSet, tmp_path: Path) -> None:
    server = BlockServer(programs / "bench-blocks", data.blocks)
    keep = f"http://127.0.0.1:{server.port}/"
    program = programs / "mount-collection"
    contestant = CoreMount(CORE, program, keep, data.parts(), tmp_path / "run", {})
    try:
        with contestant.mounted() as mount:
            small = mount.path / data.small.path
            found = sorted(str(p.relative_to(small)) for p in small.rglob("*") if p.is_file())
            assert found == sorted(data.small.files)
        for fetched in (data.sizes.large, 0):
            before = server.served()
            with contestant.mounted(shows="large") as mount:
                content = (mount.path / data.large.path / "large.bin").read_bytes()
                assert hashlib.md5(content).hexdigest() == data.large_md5()
            assert server.served() - before == fetched, "the cache on disk is used"
    finally:
        server.close()


def test_a_mount_that_cannot_be_is_a_failure(programs: Path, tmp_path: Path) -> None:
    shown_at = {"by_id/x": tmp_path / "no-such-manifest"}
    contestant = LimitMount(LIMIT, programs / "bench-limit", tmp_path, shown_at, tmp_path / "run")
    with pytest.raises(Failed, match="No such file"), contestant.mounted():
        pass
