"""Probes that look for files of the host, or write where they should not."""

from __future__ import annotations

import errno

from tests.sandbox.probes.probe import Evidence, Probe, refused

_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM, errno.EBUSY, errno.ETXTBSY}  # the last: it is running


def _only_scratch(evidence: Evidence) -> None:
    """And queues, which hold no file's contents: those of an ipc namespace that goes with the container."""
    assert evidence.found["tried"] >= 10
    allowed = (f"{evidence.found['scratch']}/", *(("/dev/mqueue/",) if evidence.backend == "docker" else ()))
    assert [place for place in evidence.found["writable"] if not f"{place}/".startswith(allowed)] == []


def _read_only(evidence: Evidence) -> None:
    assert evidence.found["done"] == []
    assert len(evidence.found["refused"]) >= 8
    assert set(evidence.found["refused"].values()) <= _READ_ONLY, evidence.found


def _created_nothing(evidence: Evidence) -> None:
    assert set(evidence.found["created"].values()) == {0}


def _environment_clean(evidence: Evidence) -> None:
    assert "OPENAI_API_KEY" not in str(evidence.found["environments"])
    assert evidence.found["environments"], "not even its own was read"


def _few_handles(evidence: Evidence) -> None:
    targets = evidence.found["files"]
    assert len(targets) <= 16
    for number, target in targets.items():
        handed_in = evidence.backend == "landlock" and int(number) >= 100  # read-only directories of the interpreter
        assert handed_in or target.startswith(("pipe:", "socket:", "/dev/null")), (number, target)
    assert set(evidence.found["environment"]) <= _VARIABLES, evidence.found["environment"]


def _unread(evidence: Evidence) -> None:
    """The canary's absence is the bench's to assert; here, no device was made that can be read."""
    assert "disk" not in evidence.found


def _secrets(evidence: Evidence) -> None:
    assert len(evidence.found["refused"]) >= 25
    assert evidence.found["reached"] == {}


def _nothing_left(evidence: Evidence) -> None:
    assert evidence.found["left"] == []


_VARIABLES = {
    *("HOME", "TMPDIR", "USER", "LANG", "PATH", "PWD", "HOSTNAME", "LC_CTYPE", "PYTHONHASHSEED", "PYTHONPATH"),
    *("PYTHONHOME", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
    *("TORCHINDUCTOR_CACHE_DIR", "PYTHON_VERSION", "PYTHON_SHA256", "GPG_KEY", "NVIDIA_VISIBLE_DEVICES"),
    *("NVIDIA_DRIVER_CAPABILITIES", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"),
}

# Files and directories that a worker is made of, as far as it can name them.
MADE_OF = """
    import json, os, struct, sys
    def parts():
        yield from (sys.executable, json.__file__, struct.__file__, os.path.dirname(os.__file__), sys.prefix, "/")
        yield from ("/etc/passwd", "/etc/ld.so.cache", "/usr/lib", "/usr/lib/os-release", "/opt/move37/evaluator")
        yield from ("/opt/move37/launcher.py", "/opt/move37/evaluator/wire.py", "/lib", "/bin")
        yield from (path for path in sys.path if path)
"""

FILES = (
    Probe(
        "fills any other place",
        "4",
        "tries to create a file in every directory it can find, /out and the current one among them",
        "read-only mounts, or Landlock: nothing but the scratch directory can be written to",
        """
        import os, sys
        places = {"/out", os.getcwd(), "/", sys.prefix, "/var/tmp", "/run", "/dev/shm", "/tmp", "/home", "/root"}
        for top in ("/", "/dev", "/etc", "/opt", "/usr", "/var", "/sys", "/proc", *sys.path):
            try: places |= {os.path.join(top, name) for name in os.listdir(top)[:200]} | {top}
            except OSError: pass
        writable = []
        for place in places:
            try:
                path = os.path.join(place, asked["token"])
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
                os.unlink(path)
                writable.append(place)
            except OSError: pass
        found.update(tried=len(places), writable=writable, scratch=os.environ["TMPDIR"])
        """,
        check=_only_scratch,
    ),
    Probe(
        "links and pipes for the host to follow",
        "8",
        "makes symbolic links, hard links, FIFOs and devices, and names them in its answer",
        "the host reads no file that a program made: results are bytes on a pipe",
        """
        import os, stat, sys
        for place in (os.environ["TMPDIR"], os.getcwd(), "/out"):
            for name, act in {
                "link": lambda path: os.symlink(asked["file"], path),
                "pipe": lambda path: os.mkfifo(path),
                "hard": lambda path: os.link(sys.executable, path),
                "disk": lambda path: os.mknod(path, 0o600 | stat.S_IFBLK, os.makedev(254, 0)),
            }.items():
                path = f"{place}/{asked['token']}-{name}"
                try:
                    act(path)
                    if name != "pipe": note(**{name: open(path, "rb").read(200).decode("latin-1")})
                except OSError: continue
        send({"type": "done", "phase": "only", "file": asked["file"], "path": "../../etc/passwd"})
        """,
        check=_unread,
    ),
    Probe(
        "rewrites what it is made of",
        "12",
        "opens the interpreter, the standard library, the evaluator and the system's files for writing",
        "read-only mounts, or Landlock",
        MADE_OF
        + """
    found.update(done=[], refused={})
    for path in parts():
        try:
            directory = os.path.isdir(path)
            target = os.path.join(path, asked["token"]) if directory else path
            os.close(os.open(target, os.O_WRONLY | os.O_APPEND | (os.O_CREAT if directory else 0)))
            if directory: os.unlink(target)
            found["done"].append(path)
        except FileNotFoundError: pass
        except OSError as error: found["refused"][path] = error.errno
    """,
        check=_read_only,
        fast=True,
    ),
    Probe(
        "deletes what it is made of",
        "20",
        "renames, removes and changes the mode and times of the interpreter and the evaluator (each to what it is)",
        "read-only mounts, or Landlock and the filter on system calls",
        MADE_OF
        + """
    found.update(done=[], refused={})
    for path in parts():
        try: kept = os.stat(path)
        except OSError: continue
        acts = {
            "rename": lambda: os.rename(path, path),
            "mode": lambda: os.chmod(path, kept.st_mode & 0o7777),
            "times": lambda: os.utime(path, ns=(kept.st_atime_ns, kept.st_mtime_ns)),
        }
        if os.path.isdir(path): acts["remove"] = lambda: os.rmdir(path)  # harmless: it is not empty
        for name, act in acts.items():
            try:
                act()
                found["done"].append(f"{name} {path}")
            except OSError as error: found["refused"][f"{name} {path}"] = error.errno
    """,
        check=_read_only,
    ),
    Probe(
        "fifty thousand files",
        "26",
        "creates 50,000 files in /out, the current directory and the root",
        "there is no directory to return results in; all three are read-only",
        """
        import os
        found["created"] = {}
        for place in ("/out", os.getcwd(), "/"):
            made = 0
            try:
                for made in range(50_000): os.close(os.open(f"{place}/{asked['token']}-{made}", os.O_CREAT))
            except OSError: pass
            found["created"][place] = made
        """,
        check=_created_nothing,
    ),
    Probe(
        "reads every environment",
        "10",
        "reads /proc/*/environ of all processes it can see, looking for API keys",
        "its own process tree, an environment written out in full, bwrap itself started with none; Landlock",
        """
        import glob, os
        environments = {"own": str(dict(os.environ))}
        for name in glob.glob("/proc/[0-9]*/environ"):
            try: environments[name] = open(name, "rb").read().decode("latin-1")[:1500]
            except OSError: pass
        found["environments"] = dict(list(environments.items())[:20])
        """,
        check=_environment_clean,
        fast=True,
    ),
    Probe(
        "the host's secrets",
        "28",
        "opens password files, disks, memory, the engine's socket, a file of the orchestrator's user, kernel switches",
        "its own root, or Landlock; devices other than null, zero and random do not exist or cannot be opened",
        """
        import os
        for path in (
            "/etc/shadow", "/dev/mem", "/dev/kmem", "/dev/port", "/dev/sda", "/dev/vda", "/dev/nvme0n1", "/dev/kmsg",
            "/dev/fuse", "/dev/kvm", "/dev/net/tun", "/dev/vsock", "/proc/kcore", "/proc/kmsg", asked["file"],
            "/root/.ssh/id_rsa", "/root/.bash_history", "/proc/1/root" + asked["file"], "/sys/firmware/dmi/tables/DMI",
        ):
            attempt("read " + path, lambda: open(path, "rb").read(64))
        for path in (
            "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sysrq-trigger",
            "/proc/sys/vm/drop_caches",
            "/proc/sys/kernel/hostname", "/sys/kernel/uevent_helper", f"/proc/{asked['orchestrator']}/mem",
        ):
            attempt("write " + path, lambda: os.close(os.open(path, os.O_WRONLY)))
        for path in (asked["directory"], os.path.dirname(asked["file"]), "/var/lib/docker", "/home", "/boot"):
            attempt("list " + path, lambda: os.listdir(path) or 1 / 0)
        """,
        check=_secrets,
        fast=True,
    ),
    Probe(
        "inherited files and variables",
        "36",
        "lists its open files and its environment",
        "files are closed at exec; the environment is written out in full",
        """
        import os
        files = {}
        for number in os.listdir("/proc/self/fd"):
            try: files[number] = os.readlink("/proc/self/fd/" + number)
            except OSError: pass
        found.update(files=files, environment=dict(os.environ))
        """,
        check=_few_handles,
    ),
    Probe(
        "leaked directory handles",
        "own",
        "walks to the host through the root, current directory and open files of every process, its own included",
        "no process inside holds a directory outside; Landlock judges the file, not the way to it",
        """
        import glob, os
        ways = [*glob.glob("/proc/[0-9]*/root"), *glob.glob("/proc/[0-9]*/cwd"), *glob.glob("/proc/[0-9]*/fd/*")]
        ways += [f"/proc/self/fd/{number}" for number in range(128)] + ["/proc/self/cwd", "/proc/thread-self/root"]
        for way in ways[:400]:
            for up in ("", "/..", "/../../../../../../..", ):
                name = f"{way}{up}{asked['file']}"
                attempt(name[-80:], lambda: open(name).read())
        found["refused"] = dict(list(found["refused"].items())[:20])
        """,
        check=refused(),
    ),
    Probe(
        "what an earlier program left",
        "own",
        "looks for files, shared memory and processes of the jobs before it",
        "every job has a worker, a scratch directory and a user id or process tree of its own",
        """
        import os
        left = []
        for place in {os.environ["TMPDIR"], "/dev/shm", "/var/tmp"}:
            try: left += [f"{place}/{name}" for name in os.listdir(place)]
            except OSError: pass
        found["left"] = left
        """,
        check=_nothing_left,
    ),
    Probe(
        "raises its own limits",
        "own",
        "opens every file of its control groups for writing, and asks the kernel for higher limits",
        "control groups are out of sight, read-only or another user's; a hard limit can only go down",
        """
        import glob, os, resource
        names = ("memory.limit_in_bytes", "memory.max", "pids.max", "cgroup.procs", "release_agent", "tasks")
        found["looked"] = True
        attempt("missing", lambda: open("/sys/fs/cgroup/none"))
        for top, _, files in os.walk("/sys/fs/cgroup"):
            for name in set(files) & set(names):
                path = os.path.join(top, name)
                attempt(path, lambda: os.close(os.open(path, os.O_WRONLY)))
        for name in ("RLIMIT_NOFILE", "RLIMIT_CORE", "RLIMIT_FSIZE", "RLIMIT_NPROC", "RLIMIT_AS"):
            which = getattr(resource, name)
            _, hard = resource.getrlimit(which)
            if hard == resource.RLIM_INFINITY: continue
            attempt(name, lambda: resource.setrlimit(which, (hard + 1, hard + 1)))
        found["refused"] = dict(list(found["refused"].items())[-40:])
        """,
        check=refused("RLIMIT_NOFILE", "RLIMIT_CORE", "RLIMIT_FSIZE"),
    ),
)
