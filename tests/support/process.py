"""`python -m rlexp.train` in a process of its own, without the five seconds of imports of a fresh one."""

import atexit
import errno
import fcntl
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

# forked from a process that has what a run imports; one for each of pytest's workers, begun at the first use
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["rlexp.train", "rlexp.build", "torch._dynamo", "torch.utils.tensorboard"])


LOCKLESS = ("ENOSYS", "ENOTSUP", "ENOLCK")  # what file systems without locks say


def without_locks(name):
    """What `fcntl.flock` is on a file system without locks."""

    def flock(descriptor, kind):
        number = getattr(errno, name)
        raise OSError(number, os.strerror(number))

    return flock


def child(code, folder, kind="locks"):
    """A process that runs the code with the folder's lock at hand; returns once it has printed a line, and that line.

    kind: "locks", or one of LOCKLESS.
    """
    preamble = "import os, time\nfrom pathlib import Path\nfrom rlexp.run.lock import FolderLock\n"
    if kind != "locks":
        preamble += "import errno, fcntl\ndef refuse(*_): raise OSError(errno." + kind + ", 'no locks')\n"
        preamble += "fcntl.flock = refuse\n"
    preamble += f"lock = FolderLock(Path({str(folder)!r}))\n"
    process = subprocess.Popen([sys.executable, "-c", preamble + code], stdout=subprocess.PIPE, text=True)
    return process, process.stdout.readline()


def _main(folder, words, environment, output):
    import rlexp.train

    multiprocessing.set_start_method(None, force=True)  # as in a fresh interpreter
    os.setsid()
    os.chdir(folder)
    os.environ.update(environment)
    with open(output, "wb", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if "NO_LOCKS" in environment:
        fcntl.flock = without_locks(environment["NO_LOCKS"])
    sys.argv = ["rlexp.train", *words]
    sys.path.insert(0, folder)  # as `python -m` does
    try:
        rlexp.train.main()
    finally:
        threading._shutdown()  # as an interpreter begins its end; else pools would be waited for until they are idle


class Process:
    """One that runs, as `subprocess.Popen` would have it.

    Args:
        folder: where it is started; what it prints goes to a file beside.
        words: of the command line.
        environment: variables of its own; NO_LOCKS, one of LOCKLESS: the file system has none.
    """

    started = 0

    def __init__(self, folder, *words, **environment):
        Process.started += 1
        self.output = Path(folder).parent / f"{Path(folder).name}.{Process.started}.out"
        self.process = _context.Process(target=_main, args=(str(folder), words, environment, str(self.output)))
        self.process.start()
        self.pid = self.process.pid
        atexit.register(self.kill)  # what a failed test has left would be waited for

    @property
    def returncode(self):
        return self.process.exitcode

    def wait(self, timeout=60):
        self.process.join(timeout)
        if self.returncode is None:
            self.kill()  # else it would take part of the machine from the tests that follow
            raise AssertionError(f"runs after {timeout} s:\n{self.output.read_text()[-2000:]}")
        return self.returncode

    def communicate(self, timeout=60):
        """Wait for its end; what it printed."""
        self.wait(timeout)
        return self.output.read_text()

    def send_signal(self, number):
        os.kill(self.pid, number)

    def kill(self):
        if self.returncode is None:
            self.send_signal(signal.SIGKILL)


def wait_until(condition, process, seconds=60):
    deadline = time.time() + seconds
    while not condition():
        assert process.returncode is None, process.communicate()
        assert time.time() < deadline
        time.sleep(0.02)
