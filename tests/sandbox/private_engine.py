"""A Docker engine of the tests' own: it may be killed and restarted, and its GPU driver and a runtime only pretend.

In a network namespace of its own (else `--bridge=none` would take the host's bridge away), with data, socket and
containerd under one directory. Needs root.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

STARTS_WITHIN_S = 60.0
RUNTIME = "pretended-runtime"

# What the engine calls for a container that asks for a GPU, and for one that asks for RUNTIME. Both leave a trace.
_HOOK = """#!/bin/sh
echo "$@" >> {trace}
cat >> {trace}
"""
_RUNTIME = """#!/bin/sh
echo "$@" >> {trace}
exec runc "$@"
"""


class PrivateEngine:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "engine.sock"
        self.hook_trace, self.runtime_trace = directory / "hook.txt", directory / "runtime.txt"
        self._process: subprocess.Popen[bytes] | None = None
        tools = directory / "tools"
        tools.mkdir()
        self._write(tools / "nvidia-container-runtime-hook", _HOOK.format(trace=self.hook_trace))
        self._write(tools / "runtime", _RUNTIME.format(trace=self.runtime_trace))
        self._tools = tools

    @property
    def address(self) -> str:
        return f"unix://{self.socket}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        where = self.directory
        command = ["unshare", "-n", "dockerd", "--bridge=none", "--iptables=false", "--ip6tables=false"]
        command += ["--data-root", str(where / "data"), "--exec-root", str(where / "exec")]
        command += ["--pidfile", str(where / "engine.pid"), "-H", self.address]
        command += ["--add-runtime", f"{RUNTIME}={self._tools / 'runtime'}"]
        environment = {**os.environ, "PATH": f"{self._tools}:{os.environ['PATH']}"}
        # A containerd that was killed with its engine may still be listed, unreaped: the engine would wait for it.
        where.joinpath("exec", "containerd", "containerd.pid").unlink(missing_ok=True)
        with where.joinpath("engine.log").open("ab") as log:
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        ends = time.monotonic() + STARTS_WITHIN_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > ends:
                raise RuntimeError(f"the engine did not start: {where.joinpath('engine.log').read_text()[-2000:]}")
            time.sleep(0.1)

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        self._process.wait(60)
        self._process = None

    def close(self) -> None:
        """Ends the engine, what it managed, and its data."""
        if self._process is None:  # it was killed: only another start ends its containers and its containerd
            with contextlib.suppress(RuntimeError):
                self.start()
        self.stop()
        for _ in range(20):
            mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
            inside = [mount for mount in mounts if mount.startswith(str(self.directory))]
            if not inside:
                break
            for mount in reversed(inside):
                subprocess.run(["umount", "-l", mount], check=False, capture_output=True)
        shutil.rmtree(self.directory, ignore_errors=True)

    def load(self, tag: str) -> None:
        """Copies an image from the engine that the environment names."""
        with subprocess.Popen(["docker", "save", tag], stdout=subprocess.PIPE) as save:
            subprocess.run(
                ["docker", "-H", self.address, "load"], stdin=save.stdout, check=True, capture_output=True, timeout=300
            )

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as attempt:
            attempt.settimeout(5)
            try:
                attempt.connect(str(self.socket))
                attempt.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                return b" 200 " in attempt.recv(1000)
            except OSError:
                return False

    @staticmethod
    def _write(path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)


def unavailable() -> str:
    """Why there can be none here; empty when there can."""
    if os.geteuid() != 0:
        return "starting a private Docker engine needs root"
    lacking = [tool for tool in ("dockerd", "docker", "unshare", "runc") if shutil.which(tool) is None]
    return f"a private Docker engine needs {', '.join(lacking)}" if lacking else ""
