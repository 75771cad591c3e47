"""An API key is planted, real campaigns run, and the key is looked for wherever it should not be.

The campaign asks a real HTTP server, which must have been sent the key. The program that this server writes looks for
the key from within the sandbox: environments, command lines, descriptors, its own memory. Meanwhile the environment and
the command line of every process of the machine are read, and the files of the campaign; afterwards, all that it left
and printed.

Not covered: the orchestrator's own memory and its own environment, which hold the key by necessity; programs in the
process sandbox, which isolates nothing, can read the latter.
"""

import ast
import os
import secrets
import subprocess
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from evaluator import catalogue
from sandbox import doctor
from sandbox.landlock import View
from tests.move37.conftest import ROOT, Cli
from tests.move37.scripted import ScriptedServer, fenced

pytestmark = pytest.mark.campaign

CAMPAIGNS = [
    pytest.param(("process", "environment"), marks=pytest.mark.thorough, id="process, key in the environment"),
    pytest.param(("process", ".env"), marks=pytest.mark.thorough, id="process, key in .env"),
    pytest.param(("bubblewrap", "environment"), marks=pytest.mark.bubblewrap, id="bubblewrap, key in the environment"),
    pytest.param(
        ("bubblewrap", ".env"), marks=[pytest.mark.bubblewrap, pytest.mark.thorough], id="bubblewrap, key in .env"
    ),
    pytest.param(
        ("landlock", "environment"),
        marks=[pytest.mark.landlock, pytest.mark.thorough],
        id="landlock, key in the environment",
    ),
    pytest.param(
        ("docker", "environment"), marks=[pytest.mark.docker, pytest.mark.thorough], id="docker, key in the environment"
    ),
]
# One task and one seed of the smallest tier, one starter, one proposal.
TINIEST = ("--tier", "micro", "--tasks", "recall", "--trial-seeds", "0", "--experiments", "2", "--starters", "mlp")

# Looks once per process. It searches for two halves in a row and never joins them, so that it does not find itself; the
# control is joined, so that a search that finds nothing is known to have looked. The memory comes first: what is read
# later is in it. Reports as one line of the log.
SNOOP = """
import warnings

_os = warnings.sys.modules["os"]


def _holds(data, halves):
    first, second = halves
    at = data.find(first)
    while at >= 0:
        if data[at + len(first) : at + len(first) + len(second)] == second:
            return True
        at = data.find(first, at + 1)
    return False


def _read(name):
    try:
        with open(name, "rb") as file:
            return file.read()
    except OSError:
        return None


def _names(directory, guesses):
    try:
        return [name for name in _os.listdir(directory) if name.isdecimal()]
    except OSError:  # it may not be listed: try what may be there
        return [str(number) for number in range(guesses)]


def _memory():
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
        for line in maps.read().splitlines():
            span, rights, _, _, _, *path = line.split()
            start, end = (int(part, 16) for part in span.split("-"))
            if "r" not in rights or (path and path[0].startswith(("/", "[v"))) or end - start > 1 << 29:
                continue
            for at in range(start, end, 1 << 20):
                try:
                    memory.seek(at)
                    yield memory.read(min((1 << 20) + 256, end - at))
                except (OSError, OverflowError, ValueError):
                    break


def _snoop():
    halves, control, outside = SETTINGS
    kept = bytearray(control[0])
    kept.extend(control[1])
    found, control_found = (any(_holds(piece, sought) for piece in _memory()) for sought in (halves, control))
    pids = _names("/proc", _os.getpid() + 100)
    environments = {int(pid): _read("/proc/" + pid + "/environ") for pid in pids}
    arguments = {int(pid): _read("/proc/" + pid + "/cmdline") for pid in pids}
    descriptors = []
    for name in _names("/proc/self/fd", 1024):
        try:
            descriptors.append(_os.readlink("/proc/self/fd/" + name))
        except OSError:
            pass
    report = dict(
        own=_holds(repr(dict(_os.environ)).encode(), halves),
        environments=[pid for pid, text in environments.items() if text and _holds(text, halves)],
        arguments=[pid for pid, text in arguments.items() if text and _holds(text, halves)],
        read=sum(text is not None for text in environments.values()),
        memory=found,
        control=control_found,
        descriptors=sorted(descriptors),
        outside=_read(outside) is not None,
    )
    print("SNOOPED", report)


if not hasattr(_os, "_snooped"):
    _os._snooped = True
    _snoop()
"""


def snooping(canary: str, outside: Path) -> str:
    """A reference architecture that looks for `canary` when it is loaded, and for the file `outside`."""
    half, control = len(canary) // 2, secrets.token_hex(24)
    settings = (
        (canary[:half].encode(), canary[half:].encode()),
        (control[:24].encode(), control[24:].encode()),
        str(outside),
    )
    return catalogue.source("softmax_attention") + f"\n\nSETTINGS = {settings!r}\n" + textwrap.dedent(SNOOP)


class Keyed(ScriptedServer):
    """Remembers which keys it was sent."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: set[str | None] = set()

    async def _complete(self, request: Request) -> Response:
        self.keys.add(request.headers.get("authorization"))
        return await super()._complete(request)


@dataclass
class Watch:
    """Reads, again and again, what a running campaign shows to the rest of the machine."""

    canary: bytes
    runs: Path
    orchestrator: int
    exposed: set[str] = field(default_factory=set)
    processes: set[int] = field(default_factory=set)
    files: set[str] = field(default_factory=set)

    def look(self) -> None:
        ours = _bytes(Path(f"/proc/{self.orchestrator}/cmdline"))
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal() or int(entry.name) in {self.orchestrator, os.getpid()}:
                continue
            shown = _bytes(entry / "cmdline")
            if shown == ours:  # forked by the orchestrator, and not yet what it is about to become
                continue
            self.processes.add(int(entry.name))
            if self.canary in _bytes(entry / "environ") or self.canary in shown:
                self.exposed.add(f"process {entry.name}: {shown!r}")
        self.look_at_files()

    def look_at_files(self) -> None:
        for file in self.runs.rglob("*"):
            if file.is_file():
                self.files.add(str(file.relative_to(self.runs)))
                if self.canary in _bytes(file):
                    self.exposed.add(str(file))


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has gone, or is not ours to read
        return b""


@dataclass
class Ran:
    """A campaign that has run, and what was seen of it."""

    backend: str
    planted: str
    canary: str
    cli: Cli
    environment: dict[str, str]
    keys: set[str | None]
    code: int
    said: str
    watch: Watch

    def __call__(self, *arguments: str) -> str:
        """A further command, with the same key at hand; all that it prints."""
        environment = self.environment | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            self.cli.command(*arguments),
            cwd=self.cli.outside,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def reports(self) -> list[dict[str, Any]]:
        """What the program found, once per training run."""
        store = self.cli.store()
        try:
            logs = [trial.log for trial in store.trials(experiment_id="secret-0001")]
        finally:
            store.close()
        lines = [line for log in logs for line in log.splitlines() if line.startswith("SNOOPED ")]
        return [ast.literal_eval(line.removeprefix("SNOOPED ")) for line in lines]


def campaign(directory: Path, backend: str, planted: str, reply: Callable[[str, Path], str | Response]) -> Ran:
    """Runs a campaign of a starter and one proposal, `reply(canary, file of the host)`, with a key at hand."""
    canary = f"sk-{secrets.token_hex(24)}"
    cli = Cli(directory / "runs")
    environment = cli.environment
    if planted == "environment":
        environment["MOVE37_API_KEY"] = canary
    else:
        (cli.outside / ".env").write_text(f"OPENAI_API_KEY={canary}\n")
    outside = cli.outside / "outside"
    outside.write_text("a file of the host")
    with Keyed() as server, (directory / "said").open("w+") as said:
        server.replies = [reply(canary, outside)]
        model = ("--base-url", f"http://127.0.0.1:{server.port}/v1", "--model", "scripted")
        sandbox = ("--sandbox", backend, "--accept-unsafe")
        process = subprocess.Popen(
            cli.command("run", *TINIEST, "--name", "secret", *model, *sandbox),
            cwd=cli.outside,
            env=environment | {"PYTHONPATH": str(ROOT)},
            stdout=said,
            stderr=said,
        )
        watch = Watch(canary.encode(), cli.runs, process.pid)
        try:
            deadline = time.monotonic() + 240
            while process.poll() is None and time.monotonic() < deadline:
                watch.look()
                time.sleep(0.05)
        finally:
            process.kill()
            process.wait()
        watch.look_at_files()
        text = (directory / "said").read_text()
        return Ran(backend, planted, canary, cli, environment, server.keys, process.returncode, text, watch)


@pytest.fixture(scope="module", params=CAMPAIGNS)
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    backend, planted = request.param
    if backend != "process" and backend not in doctor.usable(doctor.checks()):
        pytest.skip(f"{backend} cannot be used here: `move37 doctor` says why")
    directory = tmp_path_factory.mktemp("secret")
    made = campaign(directory, backend, planted, lambda canary, outside: fenced(snooping(canary, outside)))
    assert made.code == 0, made.said
    return made


def test_the_key_was_there_and_the_model_was_sent_it(ran: Ran) -> None:
    assert ran.keys == {f"Bearer {ran.canary}"}


def test_a_program_finds_no_key_in_its_sandbox(ran: Ran) -> None:
    reports = ran.reports()
    assert reports
    for report in reports:
        assert report["control"], "the search of the memory did not find what was put there for it"
        assert report["read"] >= 1
        assert (report["own"], report["memory"], report["arguments"]) == (False, False, [])
        assert not any(ran.canary in name for name in report["descriptors"])
        if ran.backend == "process":  # not covered: the orchestrator's environment, where the user put it
            visible = {ran.watch.orchestrator} if ran.planted == "environment" else set()
            assert set(report["environments"]) == visible
        else:
            assert report["environments"] == []
            assert not report["outside"]


def test_a_program_s_descriptors_are_its_streams_and_nothing_of_the_orchestrator_s(ran: Ran) -> None:
    """Neither the store nor the connection to the model is inherited."""
    reports = ran.reports()
    assert reports
    handed_in: set[str] = set()
    if ran.backend == "landlock":  # the interpreter's directories, where they lie in one that is closed to the worker
        handed_in |= {str(path) for path in View.of_this_interpreter(as_root=os.geteuid() == 0).handed_in}
    for report in reports:
        assert report["descriptors"]
        named = {name for name in report["descriptors"] if name.startswith("/")}
        assert {name for name in named if not name.startswith(("/dev/", "/proc/"))} <= handed_in
        assert not any(str(ran.cli.outside) in name for name in named)


def test_no_other_process_of_the_machine_and_no_file_of_the_campaign_ever_held_the_key(ran: Ran) -> None:
    assert ran.watch.exposed == set()
    assert len(ran.watch.processes) > 3
    seen = {name.partition("/")[0] for name in ran.watch.files}
    assert {"move37.db", "checkpoints", "reports"} <= seen, seen
    assert any(name.endswith("-wal") for name in ran.watch.files)


def test_nothing_that_is_printed_or_exported_holds_the_key(ran: Ran) -> None:
    page = ran.cli.outside / "page.html"
    said = [
        ran.said,
        ran("status", "--json"),
        ran("status"),
        ran("lineage", "--json"),
        ran("lineage", "--format", "html", "--out", str(page)),
        ran("show", "secret-0001", "--json"),
        ran("show", "secret-0001", "--code", "--diff", "--analysis"),
        ran("replay", "secret", "--json"),
        ran("replay", "secret"),
        ran("doctor", "--json"),
        page.read_text(),
    ]
    assert all(said[index] for index in (0, 1, 2, 3, 5, 6, 7, 8, 9, 10))
    assert not any(ran.canary in text for text in said)


def test_a_server_that_repeats_the_key_in_its_refusal_does_not_get_it_printed_or_stored(tmp_path: Path) -> None:
    def refusal(canary: str, _: Path) -> Response:
        message = f"Incorrect API key provided: {canary}. You sent Bearer {canary}."
        return JSONResponse({"error": {"message": message, "code": "invalid_api_key"}}, status_code=401)

    refused = campaign(tmp_path, "process", "environment", refusal)
    assert refused.code == 4
    assert refused.keys == {f"Bearer {refused.canary}"}
    assert "Incorrect API key" in refused.said
    assert refused.canary not in refused.said
    assert refused.watch.exposed == set()


def test_the_watch_sees_a_key_in_another_process_s_environment_and_in_a_file(tmp_path: Path) -> None:
    """That it finds nothing in a campaign means something."""
    canary = secrets.token_hex(24)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_text(f"a key: {canary}")
    watch = Watch(canary.encode(), tmp_path, orchestrator=1)
    with subprocess.Popen(["sleep", "30"], env={"PATH": os.environ["PATH"], "KEY": canary}) as leaky:
        while b"sleep" not in _bytes(Path(f"/proc/{leaky.pid}/cmdline")):
            time.sleep(0.01)
        watch.look()
        leaky.kill()
    assert len(watch.exposed) == 2
    assert any(f"process {leaky.pid}:" in what for what in watch.exposed)
