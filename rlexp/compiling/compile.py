"""Functions of tensors as single native calls: traced once, compiled ahead of time, kept on disk.

Training spends its time in two small computations repeated very often: acting on one observation of each environment,
and one minibatch update. On a CPU nearly all of either is the cost of dispatching operations one by one from Python.
Here such a function is traced to a graph of tensor operations, compiled by Inductor into a shared library, and called
without any Python in between. The library is kept under a hash of the graph itself: the code is traced anew in every
process, so an edited loss can never meet the library of the old one. On a GPU the same functions are recorded as CUDA
graphs.
"""

import contextlib
import hashlib
import logging
import os
import platform
import threading
import time
from bdb import BdbQuit
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from rlexp.compiling import libraries
from rlexp.compiling.tracing_prints import listening

log = logging.getLogger(__name__)

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
def recording() -> Iterator[None]:
    """Lets optimizers know that their arithmetic is recorded, so that step counts stay tensors."""
    before = torch.compiler._is_compiling_flag
    torch.compiler._is_compiling_flag = True
    try:
        yield
    finally:
        torch.compiler._is_compiling_flag = before


HELD = (
    "it reads a tensor that is held beside what it is given: an objective hands its own out by coefficients() or "
    "replay(), a network holds it by register_buffer"
)


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

    code: str  # what was traced, as text

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], *args: Any) -> None:
        from torch.fx.experimental.proxy_tensor import make_fx

        leaves, structure = tree_flatten(args)
        self.layouts = [libraries.layout_of(x) for x in leaves]

        def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
            return function(*tree_unflatten(list(tensors), structure))

        with torch.no_grad(), libraries.quiet(), recording():
            self.traced = make_fx(flat, decomposition_table=_PRODUCTS, tracing_mode="fake")(
                *libraries.examples_of(self.layouts)
            )
        self.code = self.traced.code
        self.key = self._key()
        self.library = cache_folder() / f"{self.key}.so"

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
        digest.update(repr((self.layouts, libraries.OPTIONS, torch.version.git_version, machine)).encode())
        return digest.hexdigest()[:32]

    def build(self) -> None:
        """Compile the library here and now."""
        libraries.build(self.traced, self.layouts, self.library, libraries.OPTIONS)

    def build_elsewhere(self) -> "libraries.Builder":
        """Have another process compile the library."""
        return libraries.Builder(self.traced, self.layouts, self.library)

    def load(self) -> Self:
        """Make `run` callable; the library must be there.

        Raises:
            OSError: it would end the process.
        """
        libraries.require_loadable(self.library)
        self.run = libraries.load(self.library)
        del self.traced
        return self

    def leaves(self, *args: Any) -> list[Tensor]:
        """The tensors of arguments nested like the example's, in the order in which `run` takes them.

        Raises:
            LayoutError: one is laid out otherwise than the example was.
        """
        found = tree_flatten(args)[0]
        _require_layouts([libraries.layout_of(x) for x in found], self.layouts)
        return found


class CudaGraph:
    """A function of nested tensors recorded as one CUDA graph: its kernels are replayed without any Python.

    A replay reads and writes where the recording did. The function may change its arguments in place, and what it
    changes while it is recorded is put back; tensors that have moved since are copied to where they were.

    Args:
        function: what to record; it must not wait for the device.
        args: nested tuples, lists and dicts of tensors on one CUDA device; they are held.
        pool: memory that all recordings of a learner share, as they are replayed one after the other.

    Raises:
        Exception: whatever recording raises.
    """

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], *args: Any, pool: Any = None) -> None:
        self.held = tree_flatten(args)[0]
        self.layouts = [libraries.layout_of(x) for x in self.held]
        with torch.no_grad():
            before = [x.clone() for x in self.held]
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(2):  # libraries set themselves up at their first calls, which cannot be recorded
                    function(*args)
            torch.cuda.current_stream().wait_stream(stream)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, pool=pool):
                self.outputs = function(*args)
            for tensor, old in zip(self.held, before, strict=True):
                tensor.copy_(old)

    def leaves(self, *args: Any) -> list[Tensor]:
        """Put arguments nested like the recording's in their places, and return those places, for `run`.

        Raises:
            LayoutError: one is laid out otherwise than the recording's was.
        """
        found = tree_flatten(args)[0]
        _require_layouts([libraries.layout_of(x) for x in found], self.layouts)
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


@dataclass
class Notes:
    """What is known of all that is compiled for one learner."""

    uncompiled: dict[str, str] = field(default_factory=dict)  # what runs without a graph, and why
    told_of_prints: bool = False
    pool: Any = None  # of CUDA graphs; another run's may be gone with its recordings


class LayoutError(ValueError):
    """Tensors laid out otherwise than those that a graph was compiled for."""


def _require_layouts(given: list[Any], wanted: list[Any]) -> None:
    if given != wanted:
        wrong = [(a, b) for a, b in zip(given, wanted, strict=False) if a != b][:1]
        raise LayoutError(f"compiled for {len(wanted)} tensors, given {len(given)}; differing: {wrong}")


def compile_or_warn(
    wanted: Mapping[str, tuple[Any, ...]], notes: Notes | None = None, heed: Callable[[], None] | None = None
) -> dict[str, Graph | CudaGraph | None]:
    """The graphs of some functions; None, and one warning, for each that cannot be had.

    What is not on disk yet is compiled at the same time: the last one here, others in processes of their own.

    Args:
        wanted: by what the warning calls it, a function and its arguments.
        notes: what is told, and what was before.
        heed: raises if the run is to stop, so that nothing is said of a compiler that the same signal has ended.
    """
    began, notes = time.perf_counter(), notes or Notes()
    graphs: dict[str, Graph | CudaGraph | None] = {}
    builders: dict[str, libraries.Builder] = {}
    talking = threading.Event()

    def attempt(name: str, step: Callable[[], Any]) -> None:
        try:
            step()
        except BdbQuit:
            raise
        except Exception as error:  # whatever the tracer, the compiler or the linker says: training goes on without
            if heed is not None:
                heed()
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            if "FakeTensor" in reason:  # the tracer met a tensor that no argument holds
                reason = HELD
            log.warning("%s runs uncompiled: %s", name, reason)
            graphs[name], notes.uncompiled[name] = None, reason

    def trace(name: str) -> None:
        on_cuda = tree_flatten(wanted[name][1:])[0][0].is_cuda
        with listening(talking):
            if on_cuda:
                notes.pool = notes.pool or torch.cuda.graph_pool_handle()
            graphs[name] = CudaGraph(*wanted[name], pool=notes.pool) if on_cuda else Graph(*wanted[name])

    def build(name: str, graph: Graph, here: bool) -> None:
        if here:
            graph.build()
        else:
            builders[name] = graph.build_elsewhere()

    for name in wanted:
        attempt(name, partial(trace, name))
    if talking.is_set() and not notes.told_of_prints:
        notes.told_of_prints = True
        log.info(
            "what is compiled prints, or has breakpoints: they fire in the first update and while it is traced, where "
            "values are placeholders, and then hardly ever; debug=true shows all of one update"
        )
    new = {name: graph for name, graph in graphs.items() if isinstance(graph, Graph) and not graph.is_built}
    if new:
        log.info("compiling, for twenty seconds or so; later runs find it in %s", cache_folder())
    for number, (name, graph) in enumerate(new.items(), 1):
        attempt(name, partial(build, name, graph, here=number == len(new)))
    for name, graph in new.items():
        if name in builders and not builders[name].succeeded():  # as where no process may be started
            attempt(name, partial(build, name, graph, here=True))
    for name, own in list(graphs.items()):
        if isinstance(own, Graph):
            attempt(name, own.load)
    log.debug("compiled or loaded in %.1f s", time.perf_counter() - began)
    return graphs
