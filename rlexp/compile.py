"""Functions of tensors as single native calls: traced once, compiled ahead of time, kept on disk.

Training spends its time in two small computations repeated very often: acting on one observation of each environment,
and one minibatch update. On a CPU nearly all of either is the cost of dispatching operations one by one from Python.
Here such a function is traced to a graph of tensor operations, compiled by Inductor into a shared library, and called
without any Python in between. The library is kept under a hash of the graph itself: the code is traced anew in every
process, so an edited loss can never meet the library of the old one. On a GPU the same functions are recorded as CUDA
graphs.
"""

import contextlib
import functools
import hashlib
import logging
import os
import pickle
import platform
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

log = logging.getLogger(__name__)

_OPTIONS = {
    "cpp.use_decompose_tanh": True,  # 2·sigmoid(2x) − 1 through exp: a third of the time of the library's tanh
    "compile_threads": 1,  # one library is one file: a pool of compilers would only start and wait
    # precompiling headers takes 15 s and then saves two a library
    "aot_inductor.precompile_headers": False,
    "cpp_cache_precompile_headers": False,
}
# Inductor tries by compiling whether the compiler knows what the processor can do, which takes eight seconds. Here that
# is taken for granted, and tried where compiling fails.
_TRUSTING = {"cpp.vec_isa_ok": True}


# Products of so few multiplications are written out as loops, which fuse with what stands around them: for the few
# rows that acting has, the call of a matrix library costs more than the arithmetic.
_FEW = {2: 2**15, 3: 2**12}  # by dimensions: libraries do well by batches


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Matrix product of (..., M, K) and (..., K, N), unless the plain call is best."""
    rows, columns = a.shape[-2], b.shape[-1]
    if a.numel() * columns <= _FEW[a.dim()]:
        return (a.unsqueeze(-1) * b.unsqueeze(-3)).sum(-2)
    if columns <= 16 < rows and b.stride(-1) == 1:
        # (bᵀ aᵀ)ᵀ: libraries are several times slower at few columns than at few rows; gradients of a first layer
        return (b.mT @ a.mT).mT
    return NotImplemented


def _product_plus(c: Tensor, a: Tensor, b: Tensor) -> Tensor:
    product = _product(a, b)
    return product if product is NotImplemented else product + c


_aten = torch.ops.aten
_PRODUCTS: dict[Any, Callable[..., Any]] = {
    _aten.mm.default: _product,
    _aten.bmm.default: _product,
    _aten.addmm.default: _product_plus,
    _aten.baddbmm.default: _product_plus,
}


def cache_folder() -> Path:
    """Where libraries are kept: $RLEXP_CACHE, else $XDG_CACHE_HOME/rlexp, else ~/.cache/rlexp."""
    chosen = os.environ.get("RLEXP_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rlexp"


@contextlib.contextmanager
def _recording() -> Iterator[None]:
    """Lets optimizers know that their arithmetic is recorded, so that step counts stay tensors."""
    before = torch.compiler._is_compiling_flag
    torch.compiler._is_compiling_flag = True
    try:
        yield
    finally:
        torch.compiler._is_compiling_flag = before


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides the warnings with which one part of torch greets another's old names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


Layout = tuple[torch.dtype, torch.device, tuple[int, ...], tuple[int, ...]]


def _layout(x: Tensor) -> Layout:
    return (x.dtype, x.device, tuple(x.shape), x.stride())


def _examples(layouts: Sequence[Layout]) -> list[Tensor]:
    """Tensors of their own: arguments that are views of one storage would be taken for aliases."""
    return [torch.empty_strided(shape, stride, dtype=dtype, device=device) for dtype, device, shape, stride in layouts]


def _build(traced: torch.fx.GraphModule, layouts: Sequence[Layout], library: Path, options: dict[str, Any]) -> None:
    """Compile into a folder of its own, then move into place: another process may be doing the same."""
    from torch._inductor import aot_compile, cpu_vec_isa

    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder, torch.no_grad(), _quiet():
        made = Path(folder) / "graph.so"
        own = options | {"aot_inductor.output_path": str(made)}
        try:
            aot_compile(traced, tuple(_examples(layouts)), options=own | _TRUSTING)
        except Exception:  # perhaps an old compiler beside a new processor
            cpu_vec_isa.valid_vec_isa_list.cache_clear()
            aot_compile(traced, tuple(_examples(layouts)), options=own)
        os.replace(made, library)


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
        job = pickle.dumps((_pack(traced), layouts, library, _OPTIONS, torch.get_num_threads()))
        words = [sys.executable, "-P", str(Path(__file__).resolve())]  # -P: not with this folder's modules for Python's
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
        )
        self.feeder = threading.Thread(target=self._feed, args=(job,), daemon=True)
        self.feeder.start()

    def _feed(self, job: bytes) -> None:
        self.told = self.process.communicate(job)[1].decode(errors="replace")

    def wait(self) -> None:
        """Until the library is there.

        Raises:
            RuntimeError: it could not be made, and why.
        """
        self.feeder.join()
        if self.process.returncode:
            lines = [line for line in self.told.splitlines() if line and not line.startswith((" ", "Traceback"))]
            raise RuntimeError(lines[0] if lines else f"its process ended with {self.process.returncode}")

    @staticmethod
    def main() -> None:
        """What the process does."""
        packed, layouts, library, options, threads = pickle.load(sys.stdin.buffer)
        torch.set_num_threads(threads)  # which is part of what is compiled
        _build(_unpack(*packed), layouts, library, options)


class Graph:
    """A function of nested tensors, compiled for tensors laid out like those it is made with.

    The function may change its arguments in place and returns a tuple of tensors; it is traced, so what it reads
    besides its arguments is fixed from then on. Made, it is traced; it can be run once it is built and loaded.

    Args:
        function: what to compile.
        args: example arguments, nested tuples, lists and dicts of tensors; they are not changed.

    Raises:
        Exception: whatever tracing or compiling raises.
    """

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], *args: Any) -> None:
        from torch.fx.experimental.proxy_tensor import make_fx

        leaves, structure = tree_flatten(args)
        self.layouts = [_layout(x) for x in leaves]

        def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
            return function(*tree_unflatten(list(tensors), structure))

        with torch.no_grad(), _quiet(), _recording():
            self.traced = make_fx(flat, decomposition_table=_PRODUCTS, tracing_mode="fake")(*_examples(self.layouts))
        self.library = cache_folder() / f"{self._key()}.so"

    @property
    def is_built(self) -> bool:
        """Whether the library is on disk."""
        return self.library.exists()

    def _key(self) -> str:
        """Hash of everything that decides what the library does, and on which machine it may run."""
        digest = hashlib.sha256(self.traced.code.encode())
        for node in self.traced.graph.nodes:
            if node.op == "get_attr":
                digest.update(repr(getattr(self.traced, node.target).tolist()).encode())
        machine = (platform.machine(), torch.backends.cpu.get_cpu_capability(), torch.get_num_threads())
        digest.update(repr((self.layouts, _OPTIONS, torch.version.git_version, machine)).encode())
        return digest.hexdigest()[:32]

    def build(self) -> None:
        """Compile the library here and now."""
        _build(self.traced, self.layouts, self.library, _OPTIONS)

    def build_elsewhere(self) -> "Builder":
        """Have another process compile the library."""
        return Builder(self.traced, self.layouts, self.library)

    def load(self) -> Self:
        """Make `run` callable; the library must be there."""
        self.run = torch._C._aoti.AOTIModelContainerRunnerCpu(str(self.library), 1).run
        del self.traced
        return self

    def leaves(self, *args: Any) -> list[Tensor]:
        """The tensors of arguments nested like the example's, in the order in which `run` takes them.

        Raises:
            ValueError: one is laid out otherwise than the example was.
        """
        found = tree_flatten(args)[0]
        _require_layouts([_layout(x) for x in found], self.layouts)
        return found


class CudaGraph:
    """A function of nested tensors recorded as one CUDA graph: its kernels are replayed without any Python.

    A replay reads and writes where the recording did. The function may change its arguments in place, and what it
    changes while it is recorded is put back; tensors that have moved since are copied to where they were.

    Args:
        function: what to record; it must not wait for the device.
        args: nested tuples, lists and dicts of tensors on one CUDA device; they are held.

    Raises:
        Exception: whatever recording raises.
    """

    pool: Any = None  # memory that all recordings of a process share, as they are replayed one after the other

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], *args: Any) -> None:
        self.held = tree_flatten(args)[0]
        self.layouts = [_layout(x) for x in self.held]
        if CudaGraph.pool is None:
            CudaGraph.pool = torch.cuda.graph_pool_handle()
        with torch.no_grad():
            before = [x.clone() for x in self.held]
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(2):  # libraries set themselves up at their first calls, which cannot be recorded
                    function(*args)
            torch.cuda.current_stream().wait_stream(stream)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, pool=CudaGraph.pool):
                self.outputs = function(*args)
            for tensor, old in zip(self.held, before, strict=True):
                tensor.copy_(old)

    def leaves(self, *args: Any) -> list[Tensor]:
        """Put arguments nested like the recording's in their places, and return those places, for `run`.

        Raises:
            ValueError: one is laid out otherwise than the recording's was.
        """
        found = tree_flatten(args)[0]
        _require_layouts([_layout(x) for x in found], self.layouts)
        self._place(found)
        return list(self.held)

    @torch.no_grad()
    def _place(self, tensors: list[Tensor]) -> None:
        for mine, given in zip(self.held, tensors, strict=True):
            if mine.data_ptr() != given.data_ptr():
                mine.copy_(given)

    def run(self, tensors: list[Tensor]) -> list[Tensor]:
        """Replay on these; what the function returned, until the next replay."""
        self._place(tensors)
        self.graph.replay()
        return [x.clone() for x in self.outputs]


def _require_layouts(given: list[Any], wanted: list[Any]) -> None:
    if given != wanted:
        wrong = [(a, b) for a, b in zip(given, wanted, strict=False) if a != b][:1]
        raise ValueError(f"compiled for {len(wanted)} tensors, given {len(given)}; differing: {wrong}")


def compile_or_warn(wanted: Mapping[str, tuple[Any, ...]]) -> dict[str, Graph | CudaGraph | None]:
    """The graphs of some functions; None, and one warning, for each that cannot be had.

    What is not on disk yet is compiled at the same time: the last one here, others in processes of their own.

    Args:
        wanted: by what the warning calls it, a function and its arguments.
    """
    began = time.perf_counter()
    graphs: dict[str, Graph | CudaGraph | None] = {}
    builders: dict[str, Builder] = {}

    def attempt(name: str, step: Callable[[], Any]) -> None:
        try:
            step()
        except Exception as error:  # whatever the tracer, the compiler or the linker says: training goes on without
            reason = " ".join(str(error).split())[:200]
            log.warning("%s runs uncompiled: %s: %s", name, type(error).__name__, reason)
            graphs[name] = None

    def trace(name: str) -> None:
        on_cuda = tree_flatten(wanted[name][1:])[0][0].is_cuda
        graphs[name] = CudaGraph(*wanted[name]) if on_cuda else Graph(*wanted[name])

    def build(name: str, graph: Graph, here: bool) -> None:
        if here:
            graph.build()
        else:
            builders[name] = graph.build_elsewhere()

    for name in wanted:
        attempt(name, partial(trace, name))
    new = {name: graph for name, graph in graphs.items() if isinstance(graph, Graph) and not graph.is_built}
    if new:
        log.info("compiling, for twenty seconds or so; later runs find it in %s", cache_folder())
    for number, (name, graph) in enumerate(new.items(), 1):
        attempt(name, partial(build, name, graph, here=number == len(new)))
    for name, builder in builders.items():
        attempt(name, builder.wait)
    for name, own in list(graphs.items()):
        if isinstance(own, Graph):
            attempt(name, own.load)
    log.debug("compiled or loaded in %.1f s", time.perf_counter() - began)
    return graphs


if __name__ == "__main__":
    Builder.main()
