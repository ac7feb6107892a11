"""Compiles graphs of tensor operations to shared libraries with Inductor, in this process or in a subprocess.

The subprocess runs this file as a script, without the rest of the package.
"""

import contextlib
import functools
import logging
import os
import pickle
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)

OPTIONS = {
    "cpp.use_decompose_tanh": True,  # 2·sigmoid(2x) − 1 through exp: a third of the time of the library's tanh
    "compile_threads": 1,  # a library is one file: a pool of compilers would be idle
    # precompiling headers takes 15 s and saves 2 s per library
    "aot_inductor.precompile_headers": False,
    "cpp_cache_precompile_headers": False,
}
# Inductor test-compiles whether the compiler supports the CPU's vector instructions, which takes eight seconds. Here
# that is assumed, and tested only if compilation fails.
_ASSUME_ISA = {"cpp.vec_isa_ok": True}

UNFINISHED = "unfinished-"  # prefix of cache folders in which a library is being compiled

Layout = tuple[torch.dtype, torch.device, tuple[int, ...], tuple[int, ...]]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress torch's internal deprecation warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def layout_of(x: Tensor) -> Layout:
    """The properties of an argument that are fixed in a library."""
    return (x.dtype, x.device, tuple(x.shape), x.stride())


def examples_of(layouts: Sequence[Layout]) -> list[Tensor]:
    """New tensors of these layouts: arguments that are views of one storage would be treated as aliases."""
    return [torch.empty_strided(shape, stride, dtype=dtype, device=device) for dtype, device, shape, stride in layouts]


def build(traced: torch.fx.GraphModule, layouts: Sequence[Layout], library: Path, options: dict[str, Any]) -> None:
    """Compile in a temporary folder, then rename: another process may be compiling the same library."""
    from torch._inductor import aot_compile, cpu_vec_isa

    library.parent.mkdir(parents=True, exist_ok=True)
    for leftover in library.parent.glob(f"{UNFINISHED}*"):  # of killed processes
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime > 3600:
                shutil.rmtree(leftover)
    with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=library.parent) as folder, torch.no_grad(), quiet():
        made = Path(folder) / "graph.so"
        all_options = options | {"aot_inductor.output_path": str(made)}
        try:
            with _parallel_compilers():
                aot_compile(traced, tuple(examples_of(layouts)), options=all_options | _ASSUME_ISA)
        except Exception:  # perhaps the compiler is too old for the CPU
            cpu_vec_isa.valid_vec_isa_list.cache_clear()
            with _parallel_compilers():
                aot_compile(traced, tuple(examples_of(layouts)), options=all_options)
        os.replace(made, library)


@contextlib.contextmanager
def _parallel_compilers() -> Iterator[None]:
    """Compile object files in parallel while entered; other commands, such as linking, wait for them.

    Inductor runs one compiler after the other, which takes a seventh longer if a core is idle. Each compiler runs in a
    separate session, so that Ctrl-C does not reach it. On an error or interrupt, running compilers are terminated.
    """
    from torch._inductor import cpp_builder

    run = cpp_builder.run_compile_cmd
    begun: list[Future[None]] = []
    running: list[Future[None]] = []  # begun, but not yet waited for
    processes: list[subprocess.Popen[bytes]] = []

    def begin(words: list[str], folder: str) -> Future[None]:
        begun.append(pool.submit(_run_compiler, words, folder, processes))
        return begun[-1]

    def run_in_parallel(cmd_line: str, cwd: str) -> None:
        words = shlex.split(cmd_line)
        if "-c" in words and any(word.endswith(".cpp") for word in words):
            # not in Inductor's folder, which it removes when this returns
            running.append(begin(words, os.path.dirname(cwd)))
            return
        while running:
            running.pop().result()
        begin(words, cwd).result()

    with ThreadPoolExecutor(2) as pool:
        cpp_builder.run_compile_cmd = run_in_parallel
        try:
            yield
        finally:
            cpp_builder.run_compile_cmd = run
            while not all(future.done() for future in begun):
                for process in processes:
                    if process.poll() is None:
                        with contextlib.suppress(ProcessLookupError):
                            os.killpg(process.pid, signal.SIGTERM)  # compilers then remove their temporary files
                time.sleep(0.05)


def _run_compiler(words: list[str], folder: str, processes: list[subprocess.Popen[bytes]]) -> None:
    """Run a compiler and wait for it.

    Raises:
        CppCompileError: it failed; holds its output.
    """
    from torch._inductor.exc import CppCompileError

    process = subprocess.Popen(
        words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    processes.append(process)
    output = process.communicate()[0].decode(errors="replace")
    if process.returncode:
        raise CppCompileError(words, output)


def _pack(traced: torch.fx.GraphModule) -> tuple[list[tuple[Any, ...]], dict[str, Tensor]]:
    """A traced graph as plain data, node by node: pickled as a module it would be traced again, which changes it.

    Names of nodes and operations are wrapped in namespaces, as the subprocess cannot import this module's classes.
    """

    def target(node: torch.fx.Node) -> Any:
        return SimpleNamespace(name=str(node.target)) if isinstance(node.target, torch._ops.OpOverload) else node.target

    def named(x: Any) -> Any:
        return SimpleNamespace(name=x.name) if isinstance(x, torch.fx.Node) else x

    def plain(argument: Any) -> Any:
        return torch.fx.node.map_aggregate(argument, named)

    nodes = [(node.op, node.name, target(node), plain(node.args), plain(node.kwargs)) for node in traced.graph.nodes]
    constants = {str(n.target): getattr(traced, str(n.target)) for n in traced.graph.nodes if n.op == "get_attr"}
    return nodes, constants


def _unpack(nodes: list[tuple[Any, ...]], constants: dict[str, Tensor]) -> torch.fx.GraphModule:
    """The inverse of `_pack`."""
    graph, made = torch.fx.Graph(), dict[str, torch.fx.Node]()
    for kind, name, target, args, kwargs in nodes:
        if isinstance(target, SimpleNamespace):
            target = functools.reduce(getattr, target.name.split("."), torch.ops)
        args, kwargs = (
            torch.fx.node.map_aggregate(packed, lambda x: made[x.name] if isinstance(x, SimpleNamespace) else x)
            for packed in (args, kwargs)
        )
        made[name] = graph.create_node(kind, target, args, kwargs, name)
    root = torch.nn.Module()
    for name, constant in constants.items():
        root.register_buffer(name, constant)
    return torch.fx.GraphModule(root, graph)


class Builder:
    """A subprocess that compiles one library, given the graph alone.

    Ctrl-C does not stop it, as later runs can use the library.
    """

    def __init__(self, traced: torch.fx.GraphModule, layouts: Sequence[Layout], library: Path) -> None:
        job = pickle.dumps((_pack(traced), layouts, library, OPTIONS, torch.get_num_threads()))
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen(_script(), **pipes, start_new_session=True)
        self.feeder = threading.Thread(target=self._feed, args=(job,), daemon=True)
        self.feeder.start()

    def _feed(self, job: bytes) -> None:
        self.errors = self.process.communicate(job)[1].decode(errors="replace")

    def succeeded(self) -> bool:
        """Wait for the process. Returns whether the library was built."""
        self.feeder.join()
        if self.process.returncode:
            log.debug("a library could not be compiled in a subprocess: %s", self.errors)
        return self.process.returncode == 0

    @staticmethod
    def main() -> None:
        """Entry point of the subprocess."""
        packed, layouts, library, options, threads = pickle.load(sys.stdin.buffer)
        torch.set_num_threads(threads)  # affects the generated code
        build(_unpack(*packed), layouts, library, options)
        load(library)
        _load_marker(library).touch()


def _script(*words: str) -> list[str]:
    """A command that runs this file; -P: this folder's modules must not shadow the standard library."""
    return [sys.executable, "-P", str(Path(__file__).resolve()), *words]


# Loading -------------------------------------------------------------------------------------------------------------


def load(library: Path) -> Any:
    """Load a library. Returns the function that runs it."""
    return torch._C._aoti.AOTIModelContainerRunnerCpu(str(library), 1).run


def _load_marker(library: Path) -> Path:
    """A file that exists once a process has loaded a library of this torch version without crashing."""
    return library.with_name(f"loads-{(torch.version.git_version or torch.__version__)[:12]}")


def require_loadable(library: Path) -> None:
    """Check in a subprocess that a library can be loaded, unless one has been before.

    Some compilers link the C++ library statically, which crashes a process that has loaded another one.

    Raises:
        OSError: it cannot.
    """
    if _load_marker(library).exists():
        return
    silent: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    code = subprocess.run(_script(str(library)), **silent, start_new_session=True).returncode
    if code:
        how = f"is killed by signal {-code}" if code < 0 else f"exits with {code}"
        raise OSError(f"a process that loads {library} {how}; does the compiler's C++ library differ from torch's?")
    _load_marker(library).touch()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        load(Path(sys.argv[1]))
    else:
        Builder.main()
