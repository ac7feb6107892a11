"""`python -m rlexp.train` in a process of its own, without the five seconds of imports of a fresh one."""

import atexit
import multiprocessing
import os
import signal
import sys
import threading
from pathlib import Path

# forked from a process that has what a run imports; one for each of pytest's workers, begun at the first use
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["rlexp.train", "rlexp.parts", "torch._dynamo", "torch.utils.tensorboard"])


def _main(folder, words, environment, output):
    import rlexp.train

    multiprocessing.set_start_method(None, force=True)  # as in a fresh interpreter
    os.setsid()
    os.chdir(folder)
    os.environ.update(environment)
    with open(output, "wb", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["rlexp.train", *words]
    try:
        rlexp.train.main()
    finally:
        threading._shutdown()  # as an interpreter begins its end; else pools would be waited for until they are idle


class Process:
    """One that runs, as `subprocess.Popen` would have it.

    Args:
        folder: where it is started; what it prints goes to a file beside.
        words: of the command line.
        environment: variables of its own.
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
        assert self.returncode is not None, f"runs after {timeout} s"
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
