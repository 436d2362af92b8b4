"""A real PostgreSQL server for the run, a fresh database of each kind for a test, and real faults:
a clock that jumps, a disk that is slow."""

from __future__ import annotations

import contextlib
import glob
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Read when torch is imported: each of pytest-xdist's workers has its share of the cores, else all.
if _workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // _workers)))


def _server_binaries() -> Path | None:
    """The folder with `initdb` and `pg_ctl`; Debian keeps it off the PATH."""
    found = [path for path in [shutil.which("initdb")] if path]
    found += sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"), reverse=True)
    for path in found:
        folder = Path(os.path.realpath(path)).parent
        if (folder / "pg_ctl").exists() and (folder / "postgres").exists():
            return folder
    return None


def _unprivileged() -> dict[str, Any]:
    """Arguments of `subprocess.run` for another user where we are root, whom the server refuses."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    pytest.skip("PostgreSQL does not run as root, and there is no other user to run it as")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


Control = Callable[..., None]


@pytest.fixture(scope="session")
def postgresql() -> Iterator[tuple[str, Control]]:
    """URL of a database on a running server, and what stops and starts it (`pg_ctl`).

    The server is gone after the run.
    """
    binaries = _server_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL server is installed (Debian: apt-get install postgresql)")
    who = _unprivileged()
    home = Path(tempfile.mkdtemp(prefix="nas-pg-"))
    if who:
        os.chown(home, who["user"], who["group"])
    port = _free_port()
    # No fsync: a test's database need not outlive a power cut.
    options = f"-c listen_addresses=127.0.0.1 -c fsync=off -p {port} -k {home}"
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "HOME": str(home)}

    def run(program: str, *arguments: str, check: bool = True) -> None:
        with (home / f"{program}.out").open("ab") as log:
            done = subprocess.run(
                [str(binaries / program), "-D", str(home / "data"), *arguments],
                cwd=home,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                check=False,
                timeout=60,
                **who,
            )
        if check and done.returncode != 0:
            said = "\n".join(path.read_text() for path in home.glob("*.out"))
            raise RuntimeError(f"{program} failed with {done.returncode}:\n{said}")

    try:
        run("initdb", "-U", "nas", "-A", "trust", "-E", "UTF8", "--no-sync", "--no-instructions")

        def control(what: str, *arguments: str) -> None:
            more = ("-o", options) if what == "start" else ()
            run("pg_ctl", what, "-w", "-t", "30", *more, *arguments)

        control("start")
        try:
            yield f"postgresql://nas@127.0.0.1:{port}/postgres", control
        finally:
            run("pg_ctl", "stop", "-m", "immediate", check=False)
    finally:
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def postgresql_control(postgresql: tuple[str, Control]) -> Iterator[Control]:
    """`control("stop", ...)` and `control("start")`; it runs again afterwards."""
    yield postgresql[1]
    with contextlib.suppress(RuntimeError):  # it runs already
        postgresql[1]("start")


@pytest.fixture
def postgresql_url(postgresql: tuple[str, Control]) -> str:
    """URL of an empty PostgreSQL database.

    Emptied rather than created for each test: a new one copies a thousand files.
    """
    import psycopg

    with psycopg.connect(postgresql[0], autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    return postgresql[0]


@pytest.fixture(params=["sqlite", "postgresql"])
def storage_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a fresh, empty database: once SQLite, once a real PostgreSQL server."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'nas.db'}"
    url: str = request.getfixturevalue("postgresql_url")
    return url


class JumpingClock:
    """The wall clock of processes that are started with `environment`; others keep theirs.

    Monotonic clocks go on as they do where a real clock is set. (Debian's libfaketime bends sleeps
    and waits too, which then fail.)

    Attributes:
        environment: for the processes.
        file: holds the seconds that are added to the clock.
    """

    def __init__(self, library: Path, file: Path) -> None:
        self.file = file
        self.environment = {"LD_PRELOAD": str(library), "CLOCK_OFFSET": str(file)}
        self.jump(0)

    def jump(self, seconds: int) -> None:
        """Set the clock to the true time and so much."""
        self.file.write_text(str(seconds))


@pytest.fixture
def jumping_clock(tmp_path: Path) -> JumpingClock:
    """A clock for processes of the test."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("there is no C compiler for Linux (Debian: apt-get install gcc)")
    library = tmp_path / "wall_clock.so"
    source = Path(__file__).parent / "wall_clock.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    return JumpingClock(library, tmp_path / "clock")


@pytest.fixture
def slow_disk() -> Callable[[float], list[str]]:
    """`slow_disk(seconds)`: what to put before a command so that its fsyncs take so much longer."""

    def command(seconds: float) -> list[str]:
        delay = f"inject=fsync,fdatasync:delay_enter={round(1e6 * seconds)}"
        which = "trace=fsync,fdatasync"
        return ["strace", "--seccomp-bpf", "-f", "-qq", "-o", os.devnull, "-e", which, "-e", delay]

    if shutil.which("strace") is None:
        pytest.skip("strace is not installed (Debian: apt-get install strace)")
    if subprocess.run([*command(0), "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine lets no process trace another")
    return command
