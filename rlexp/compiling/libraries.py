"""Graphs of tensor operations as shared libraries, compiled by Inductor, here or in a process beside this one.

That process runs this very file, and knows nothing else of the package.
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
    "compile_threads": 1,  # one library is one file: a pool of compilers would only start and wait
    # precompiling headers takes 15 s and then saves two a library
    "aot_inductor.precompile_headers": False,
    "cpp_cache_precompile_headers": False,
}
# Inductor tries by compiling whether the compiler knows what the processor can do, which takes eight seconds. Here that
# is taken for granted, and tried where compiling fails.
_TRUSTING = {"cpp.vec_isa_ok": True}

UNFINISHED = "unfinished-"  # how folders in the cache begin in which a library is being made

Layout = tuple[torch.dtype, torch.device, tuple[int, ...], tuple[int, ...]]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hides the warnings with which one part of torch greets another's old names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def layout_of(x: Tensor) -> Layout:
    """What a library takes for granted of an argument."""
    return (x.dtype, x.device, tuple(x.shape), x.stride())


def examples_of(layouts: Sequence[Layout]) -> list[Tensor]:
    """Tensors of their own: arguments that are views of one storage would be taken for aliases."""
    return [torch.empty_strided(shape, stride, dtype=dtype, device=device) for dtype, device, shape, stride in layouts]


def build(traced: torch.fx.GraphModule, layouts: Sequence[Layout], library: Path, options: dict[str, Any]) -> None:
    """Compile into a folder of its own, then move into place: another process may be doing the same."""
    from torch._inductor import aot_compile, cpu_vec_isa

    library.parent.mkdir(parents=True, exist_ok=True)
    for left in library.parent.glob(f"{UNFINISHED}*"):  # by one that was killed
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > 3600:
                shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=library.parent) as folder, torch.no_grad(), quiet():
        made = Path(folder) / "graph.so"
        own = options | {"aot_inductor.output_path": str(made)}
        try:
            with _compilers_at_once():
                aot_compile(traced, tuple(examples_of(layouts)), options=own | _TRUSTING)
        except Exception:  # perhaps an old compiler beside a new processor
            cpu_vec_isa.valid_vec_isa_list.cache_clear()
            with _compilers_at_once():
                aot_compile(traced, tuple(examples_of(layouts)), options=own)
        os.replace(made, library)


@contextlib.contextmanager
def _compilers_at_once() -> Iterator[None]:
    """While entered, compilers of object files run at the same time, and whatever needs these waits for them.

    Inductor runs one after the other, which takes a seventh longer where a processor is idle. Each is of a session of
    its own: a terminal's Ctrl-C is not for them. Whatever ends this early ends those that run.
    """
    from torch._inductor import cpp_builder

    run = cpp_builder.run_compile_cmd
    begun: list[Future[None]] = []
    running: list[Future[None]] = []  # of those begun, the ones that nobody has waited for
    processes: list[subprocess.Popen[bytes]] = []

    def begin(words: list[str], folder: str) -> Future[None]:
        begun.append(pool.submit(_run_compiler, words, folder, processes))
        return begun[-1]

    def run_beside(cmd_line: str, cwd: str) -> None:
        words = shlex.split(cmd_line)
        if "-c" in words and any(word.endswith(".cpp") for word in words):
            # not where Inductor says, as it removes that folder when this returns
            running.append(begin(words, os.path.dirname(cwd)))
            return
        while running:
            running.pop().result()
        begin(words, cwd).result()

    with ThreadPoolExecutor(2) as pool:
        cpp_builder.run_compile_cmd = run_beside
        try:
            yield
        finally:
            cpp_builder.run_compile_cmd = run
            while not all(future.done() for future in begun):
                for process in processes:
                    if process.poll() is None:
                        with contextlib.suppress(ProcessLookupError):
                            os.killpg(process.pid, signal.SIGTERM)  # upon which they remove what they have begun
                time.sleep(0.05)


def _run_compiler(words: list[str], folder: str, processes: list[subprocess.Popen[bytes]]) -> None:
    """Run a compiler and wait for it.

    Raises:
        CppCompileError: what it said.
    """
    from torch._inductor.exc import CppCompileError

    process = subprocess.Popen(
        words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    processes.append(process)
    said = process.communicate()[0].decode(errors="replace")
    if process.returncode:
        raise CppCompileError(words, said)


def _pack(traced: torch.fx.GraphModule) -> tuple[list[tuple[Any, ...]], dict[str, Tensor]]:
    """A traced graph as plain data, node by node: pickled as a module it would be traced anew, which changes it.

    Names of nodes and of operations are namespaces, as the other process knows no class of this module.
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
    """The graph that `_pack` packed."""
    graph, made = torch.fx.Graph(), dict[str, torch.fx.Node]()
    for kind, name, target, args, kwargs in nodes:
        if isinstance(target, SimpleNamespace):
            target = functools.reduce(getattr, target.name.split("."), torch.ops)
        args, kwargs = (
            torch.fx.node.map_aggregate(own, lambda x: made[x.name] if isinstance(x, SimpleNamespace) else x)
            for own in (args, kwargs)
        )
        made[name] = graph.create_node(kind, target, args, kwargs, name)
    root = torch.nn.Module()
    for name, constant in constants.items():
        root.register_buffer(name, constant)
    return torch.fx.GraphModule(root, graph)


class Builder:
    """A process that compiles one library, and needs nothing of this one but the graph.

    It is not this process's to stop by Ctrl-C, as what it makes is of use to whoever comes next.
    """

    def __init__(self, traced: torch.fx.GraphModule, layouts: Sequence[Layout], library: Path) -> None:
        job = pickle.dumps((_pack(traced), layouts, library, OPTIONS, torch.get_num_threads()))
        words = [sys.executable, "-P", str(Path(__file__).resolve())]  # -P: not with this folder's modules for Python's
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
        )
        self.feeder = threading.Thread(target=self._feed, args=(job,), daemon=True)
        self.feeder.start()

    def _feed(self, job: bytes) -> None:
        self.told = self.process.communicate(job)[1].decode(errors="replace")

    def succeeded(self) -> bool:
        """Wait for the process; whether the library is there."""
        self.feeder.join()
        if self.process.returncode:
            log.debug("a library could not be compiled beside: %s", self.told)
        return self.process.returncode == 0

    @staticmethod
    def main() -> None:
        """What the process does."""
        packed, layouts, library, options, threads = pickle.load(sys.stdin.buffer)
        torch.set_num_threads(threads)  # which is part of what is compiled
        build(_unpack(*packed), layouts, library, options)
        load(library)
        _sign_of_life(library).touch()


# Loading -------------------------------------------------------------------------------------------------------------


def load(library: Path) -> Any:
    """What runs a library."""
    return torch._C._aoti.AOTIModelContainerRunnerCpu(str(library), 1).run


def _sign_of_life(library: Path) -> Path:
    """A file that is there once a process has loaded a library of this torch here and lived."""
    return library.with_name(f"loads-{(torch.version.git_version or torch.__version__)[:12]}")


def require_loadable(library: Path) -> None:
    """Try in another process whether a library can be loaded, unless one has been before.

    Some compilers link the C++ library statically, which ends a process that has another: no error, but a signal.

    Raises:
        OSError: it cannot; the line says how it was tried.
    """
    if _sign_of_life(library).exists():
        return
    words = [sys.executable, "-P", str(Path(__file__).resolve()), str(library)]
    code = subprocess.run(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ).returncode
    if code:
        how = f"ends by signal {-code}" if code < 0 else f"fails with {code}"
        raise OSError(f"a process that loads {library} {how}; is the compiler's C++ library another than torch's?")
    _sign_of_life(library).touch()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        load(Path(sys.argv[1]))
    else:
        Builder.main()
