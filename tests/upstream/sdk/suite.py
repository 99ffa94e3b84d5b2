# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Runs the SDK's released tests against the local cluster, and says what became of each.

They are those that need a server: of the API client, collections and their files, the Keep client,
events, arv-put, arv-get and arv-ls. `tests.txt` lists them; `LEFT_OUT` says why others do not run.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import released  # noqa: E402
from run_test_server import start_cluster  # noqa: E402

SDIST = HERE / "sdist.txt"
TESTS = HERE / "tests.txt"
HELPERS = (
    HERE / "arvados_testutil.py",
    HERE / "conftest.py",
    HERE / "keepstub.py",
    released.HERE / "outcomes.py",
    released.HERE / "run_test_server.py",
)

#: Files that run one after another, beside the other parts: most of the time they wait. In the order
#: of their names, as where they come from: test_collections.py leaves settings behind.
PARTS = (
    (
        "test_api.py", "test_arv_get.py", "test_arv_ls.py", "test_arv_put.py", "test_arvfile.py",
        "test_collections.py", "test_events.py", "test_http_cache.py", "test_retry_job_helpers.py",
        "test_vocabulary.py",
    ),
    ("test_keep_client.py",),
)  # fmt: skip

_NO_SERVER = "asks no server for anything"
#: The release's other files, and why they do not run.
LEFT_OUT = {
    "test_arv_copy.py": "arv-copy copies workflows too, which the local cluster does not have",
    "test_arv_keepdocker.py": "wants images of Docker that the release does not contain",
    "test_benchmark_collections.py": "measures; it tests nothing",
    "test_computed_permissions.py": "tests a table of the API service, computed_permissions",
    "test_stream.py": "has what test_arvfile.py takes over, and no tests of its own",
    **dict.fromkeys(
        (
            "test_arv_normalize.py", "test_arv_ws.py", "test_arvcli.py", "test_basedirs.py",
            "test_cmd_util.py", "test_config.py", "test_errors.py", "test_http_to_keep.py",
            "test_internal.py", "test_keep_locator.py", "test_retry.py",
            "test_s3_to_keep.py", "test_storage_classes.py", "test_util.py",
        ),
        _NO_SERVER,
    ),
}  # fmt: skip

#: What root has to do without, for tests that take rights to a file away.
_RIGHTS = "-dac_override,-dac_read_search"


def bound_by_modes() -> list[str]:
    """Return a command that runs another so that the modes of files bind it."""
    if os.geteuid() != 0:
        return []
    return ["setpriv", f"--bounding-set={_RIGHTS}", f"--inh-caps={_RIGHTS}"]


def check_files(source: Path) -> None:
    """Exit where the release has a file of tests that neither runs nor is left out for a reason."""
    there = {path.name for path in (source / "tests").glob("test_*.py")}
    known = {file for part in PARTS for file in part} | set(LEFT_OUT)
    if there != known:
        sys.exit(f"the release's files are others than expected: {sorted(there ^ known)}")


class Part:
    """Some of the tests, with a cluster of their own."""

    def __init__(self, name: str, source: Path, words: list[str]) -> None:
        self.folder = released.lay_out(name, source, HELPERS)
        self.cluster = start_cluster(str(released.cluster_folder(self.folder)))
        env = released.environment(self.folder, Path(sys.executable).parent)
        self._log = open(self.folder / "log", "w+")  # noqa: SIM115
        self._pytest = released.start_pytest(
            self.folder, env, words, prefix=bound_by_modes(), output=self._log
        )

    def finish(self) -> tuple[released.Outcomes, list[str]]:
        """Wait until they are done; show what pytest said and return what became of them."""
        status = self._pytest.wait()
        self.stop()
        self._log.seek(0)
        print(self._log.read(), flush=True)
        return released.results(self.folder, status)

    def stop(self) -> None:
        """End it. Safe to call twice."""
        if self._pytest.poll() is None:
            self._pytest.terminate()
            try:
                self._pytest.wait(10)
            except subprocess.TimeoutExpired:
                self._pytest.kill()
                self._pytest.wait()
        self.cluster.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", action="store_true", help="Write tests.txt anew")
    parser.epilog = "Other arguments go to pytest: with files or -k, what ran is not compared."
    args, for_pytest = parser.parse_known_args()
    words = [[f"tests/{file}" for file in part] for part in PARTS]
    if any(word.startswith("tests/") for word in for_pytest):
        words = [for_pytest]
    else:
        words = [[*for_pytest, *files] for files in words]
    print("== running the SDK's released tests against the local cluster", flush=True)
    started = time.monotonic()
    outcomes: released.Outcomes = {}
    wrong: list[str] = []
    parts: list[Part] = []
    try:
        with released.unpacked(SDIST) as source:
            check_files(source)
            for number, part in enumerate(words):
                parts.append(Part(f"sdk-{number}", source, part))
        for part in parts:
            happened, problems = part.finish()
            outcomes |= happened
            wrong += problems
    finally:
        for part in parts:
            part.stop()
    for file, reason in LEFT_OUT.items():
        print(f"left out: tests/{file}: {reason}")
    if args.record:
        released.record(outcomes, TESTS)
    if not for_pytest:
        wrong += released.differences(outcomes, released.expected(TESTS))
    return released.conclude(outcomes, wrong, started)


if __name__ == "__main__":
    sys.exit(main())
