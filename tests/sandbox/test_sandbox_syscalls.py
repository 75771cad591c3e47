"""The filter on system calls: what it is made of, and what the kernel answers once it is in force.

The calls are made in a child of `launcher.py` that carries the filter and nothing else, and again inside the backends
that install it. Numbers are x86-64's, so the calls are tried there only.
"""

import asyncio
import base64
import ctypes.util
import errno
import json
import platform
import signal
import socket
import subprocess
import sys
import textwrap

import pytest

from sandbox import launcher, syscalls
from sandbox.bubblewrap import BubblewrapSandbox
from sandbox.errors import SandboxUnavailable
from sandbox.landlock import LandlockSandbox
from tests.sandbox.test_sandbox_containment import job, light

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers of the calls are x86-64's")

# Prints or leaves in `found` what each call said: "ok" or the name of the error.
CALLS = """
import ctypes, errno, mmap, os, resource, socket, threading
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    ctypes.set_errno(0)
    whole = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    failed = libc.syscall(ctypes.c_long(number), *whole) == -1
    return errno.errorcode[ctypes.get_errno()] if failed else "ok"
def attempt(action):
    try: action()
    except OSError as error: return errno.errorcode[error.errno]
    except ValueError: return "EPERM"  # how the resource module says it
    return "ok"
def datagram():
    left, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
room = ctypes.create_string_buffer(256)
parent = os.getppid()
found.update({
    "io_uring_setup": call(425, 8, room),
    "ptrace": call(101, 16, 0, 0, 0),  # nobody: attached to, the parent would stay stopped
    "process_vm_readv": call(310, parent, room, 1, room, 1, 0),
    "pidfd_getfd": call(438, 0, 0, 0),
    "unshare": call(272, 0x10000000),
    "setns": call(308, 0, 0),
    "clone into a user namespace": call(56, 0x10000000, 0, 0, 0, 0),
    "clone3": call(435, room, 0),
    "mount": call(165, b"none", b"/", b"tmpfs", 0, 0),
    "chroot": call(161, b"/"),
    "keyctl": call(250, 0, -3, 0),
    "bpf": call(321, 0, room, 8),
    "perf_event_open": call(298, room, 0, -1, -1, 0),
    "userfaultfd": call(323, 0),
    "open_by_handle_at": call(304, -1, room, 0),
    "name_to_handle_at": call(303, -100, b"/", room, room, 0),
    "shmget": call(29, 0, 4096, 0o1600),
    "msgget": call(68, 0, 0o1600),
    "semget": call(64, 0, 1, 0o1600),
    "mq_open": call(240, b"queue", 0o102, 0o600, 0),
    "setuid": call(105, 0),
    "clock_settime": call(227, 0, room),
    "limits of the parent": call(302, parent, 7, 0, room),
    "CPUs of the parent": call(203, parent, 0, room),
    "AF_INET": attempt(lambda: socket.socket(socket.AF_INET)),
    "AF_INET6": attempt(lambda: socket.socket(socket.AF_INET6)),
    "AF_NETLINK": attempt(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)),
    "AF_VSOCK": attempt(lambda: socket.socket(socket.AF_VSOCK)),
    "AF_ALG": attempt(lambda: socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)),
    "AF_INET pair": attempt(lambda: socket.socketpair(socket.AF_INET)),
    "own limits": attempt(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))),
    "own CPUs": attempt(lambda: os.sched_setaffinity(0, os.sched_getaffinity(0))),
    "fork": attempt(lambda: os.waitpid(os.fork() or os._exit(0), 0)),
    "thread": attempt(lambda: threading.Thread(target=int).start()),
    "AF_UNIX": attempt(lambda: socket.socket(socket.AF_UNIX)),
    "stream pair": attempt(socket.socketpair),
    "datagram pair": attempt(datagram),
    "memory file": attempt(lambda: os.memfd_create("x")),
    "chmod": attempt(lambda: os.chmod("/nowhere", 0o644)),
    "chown": attempt(lambda: os.lchown("/nowhere", -1, -1)),
    "times": attempt(lambda: os.utime("/nowhere")),
    "truncate": attempt(lambda: os.truncate("/nowhere", 0)),
})
"""

ALLOWED = {"own limits", "own CPUs", "fork", "thread", "stream pair"}
NAMESPACED = {"AF_UNIX": "ok", "datagram pair": "ok", "memory file": "ok"} | dict.fromkeys(
    ("chmod", "chown", "times", "truncate"), "ENOENT"
)


def expected(*, namespaces, of):
    answers = dict.fromkeys(of, "EPERM") | dict.fromkeys(ALLOWED, "ok") | {"clone3": "ENOSYS"}
    return answers | (NAMESPACED if namespaces else {})


def filtered(program, *, namespaces):
    """Runs `program` in a fresh interpreter that has the filter and is otherwise as we are."""
    bpf = base64.b64encode(syscalls.program("process", namespaces=namespaces)).decode()
    command = [sys.executable, "-I", "-S", launcher.__file__, json.dumps({"seccomp": bpf}), sys.executable, "-c"]
    return subprocess.run([*command, textwrap.dedent(program)], capture_output=True, timeout=30, check=False)


@pytest.mark.parametrize("namespaces", [True, False])
def test_the_filter_denies_what_the_profile_does_not_allow_and_nothing_else(namespaces):
    done = filtered(f"import json\nfound = {{}}\n{CALLS}\nprint(json.dumps(found))", namespaces=namespaces)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == expected(namespaces=namespaces, of=found)


@pytest.mark.parametrize(
    "backend",
    [
        pytest.param(BubblewrapSandbox, marks=pytest.mark.bubblewrap),
        pytest.param(LandlockSandbox, marks=pytest.mark.landlock),
    ],
)
async def test_the_filter_is_in_force_inside(backend):
    try:
        sandbox = backend()
    except SandboxUnavailable as unavailable:
        pytest.skip(str(unavailable))
    outcome = await light(sandbox).run(job(CALLS))
    assert outcome.completed, outcome
    found = outcome.replies[0]["found"]
    answers = expected(namespaces=sandbox.level == "bubblewrap", of=found)
    del found["chroot"], answers["chroot"]  # EPERM from either of two, whichever is asked first
    assert found == answers


def test_without_the_filter_the_same_calls_get_through():
    """That the tries are tries: most of these are open to anybody."""
    alone = CALLS.replace("call(56, 0x10000000, 0, 0, 0, 0)", "'ok'")  # there would be two of us
    for lasting in ("call(29, 0, 4096, 0o1600)", "call(68, 0, 0o1600)", "call(64, 0, 1, 0o1600)"):
        assert lasting in alone
        alone = alone.replace(lasting, "'ok'")  # what they make stays on the machine
    code = f"import json\nfound = {{}}\n{alone}\nprint(json.dumps(found))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=30, check=True)
    found = json.loads(done.stdout)
    for name in ("AF_INET", "AF_UNIX", "datagram pair", "memory file", "limits of the parent", "own limits"):
        assert found[name] == "ok"
    for name in ("io_uring_setup", "ptrace", "clone3", "bpf"):
        assert found[name] != "ENOSYS"


def test_no_process_of_the_user_can_be_stopped_by_a_cpu_limit():
    victim = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        attack = f"""
            import resource
            try: resource.prlimit({victim.pid}, resource.RLIMIT_CPU, (0, 0))
            except PermissionError: print("denied")
        """
        assert filtered(attack, namespaces=False).stdout == b"denied\n"
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


def test_a_call_of_another_architecture_ends_the_process():
    """`int 0x80` reaches 32-bit calls, whose numbers mean something else."""
    program = """
        import ctypes, mmap
        page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        page.write(bytes.fromhex("b814000000cd80c3"))  # mov eax, 20 (getpid); int 0x80; ret
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        ctypes.CFUNCTYPE(ctypes.c_int)(address)()
        print("survived")
    """
    done = filtered(program, namespaces=True)
    assert (done.returncode, done.stdout) == (-signal.SIGSYS, b"")


def test_the_services_of_the_user_cannot_be_reached_through_their_paths(tmp_path):
    """Landlock lets anybody connect to a socket that has a path: the filter must not."""
    streams, datagrams = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with streams, datagrams:
        streams.bind(str(tmp_path / "streams"))
        streams.listen()
        datagrams.bind(str(tmp_path / "datagrams"))
        program = f"""
            import errno, socket
            def attempt(action):
                try: action()
                except TimeoutError: return "elsewhere"
                except OSError as error: return errno.errorcode[error.errno]
                return "reached"
            def through_a_pair(kind):
                left, right = socket.socketpair(socket.AF_UNIX, kind)
                right.settimeout(1)
                left.sendmsg([b"hello"], [], 0, {str(tmp_path / "datagrams")!r})
                left.shutdown(socket.SHUT_WR)
                if right.recv(5) == b"hello": raise OSError(errno.EISCONN, "it went to the other end of the pair")
            print(
                attempt(lambda: socket.socket(socket.AF_UNIX).connect({str(tmp_path / "streams")!r})),
                *(attempt(lambda: through_a_pair(kind)) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)),
                attempt(lambda: through_a_pair(socket.SOCK_SEQPACKET)),
            )
        """
        assert filtered(program, namespaces=True).stdout.split()[0] == b"reached"
        streams.accept()[0].close()
        assert filtered(program, namespaces=False).stdout.split() == [b"EPERM", b"EISCONN", b"EPERM", b"EPERM"]
        datagrams.setblocking(False)
        received = datagrams.recv(16) if namespaced_datagram_arrived(datagrams) else b""
        assert received in {b"", b"hello"}


def namespaced_datagram_arrived(datagrams):
    try:
        return bool(datagrams.recv(16, socket.MSG_PEEK))
    except BlockingIOError:
        return False


def test_names_that_libseccomp_does_not_know_are_denied_and_no_others_are_left_out():
    import pyseccomp

    profile = json.loads(syscalls.PROFILE.read_text())
    names = [name for rule in profile["syscalls"] for name in rule["names"]]
    assert len(names) == len(set(names))
    unknown = {name for name in names if pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name) == -1}
    assert unknown <= {"futex_waitv", "epoll_pwait2", "memfd_secret", "close_range", "faccessat2", "openat2"}


def test_the_program_is_made_once():
    first = syscalls.program("bubblewrap")
    assert syscalls.program("bubblewrap") is first
    assert len(first) % 8 == 0
    assert first != syscalls.program("bubblewrap", namespaces=False)


def test_a_missing_libseccomp_is_said_with_its_remedy(monkeypatch):
    find = ctypes.util.find_library
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None if name == "seccomp" else find(name))
    monkeypatch.delitem(sys.modules, "pyseccomp", raising=False)
    with pytest.raises(SandboxUnavailable, match="apt install libseccomp2"):
        syscalls.program("a backend that was not asked for yet")


def test_an_architecture_without_rules_is_refused(monkeypatch):
    import pyseccomp

    monkeypatch.setattr(pyseccomp, "system_arch", lambda: pyseccomp.Arch.RISCV64)
    with pytest.raises(SandboxUnavailable, match="no rules for this architecture"):
        syscalls.program("a backend on another machine")


def test_asyncio_and_error_codes_still_work_under_the_stricter_form():
    program = """
        import asyncio
        asyncio.run(asyncio.sleep(0))
        print("done")
    """
    done = filtered(program, namespaces=False)
    assert (done.returncode, done.stdout) == (0, b"done\n"), done.stderr
    assert asyncio.iscoroutinefunction(asyncio.sleep)
    assert errno.ENOSYS == 38
