"""Compiles functions of tensors: traced once, compiled ahead of time, cached on disk.

Training spends its time in two small computations: acting on one observation of each environment, and one minibatch
update. On a CPU nearly all of that time goes into dispatching operations one by one from Python. Here such a function
is traced to a graph of tensor operations, compiled by Inductor into a shared library, and called without Python in
between. Libraries are cached under a hash of the graph: every process traces the code again, so an edited loss never
uses the library of the old one. On a GPU the same functions are recorded as CUDA graphs.
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
from rlexp.compiling.tracing_prints import detecting_prints

log = logging.getLogger(__name__)

# Products with at most this many multiplications become loops, which fuse with neighbouring operations: for the few
# rows of acting, a BLAS call costs more than the arithmetic.
_FEW = {2: 2**15, 3: 2**12}  # by number of dimensions: BLAS is efficient for batches


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Matrix product of (..., M, K) and (..., K, N); NotImplemented where the plain call is best."""
    rows, columns = a.shape[-2], b.shape[-1]
    if a.numel() * columns <= _FEW[a.dim()]:
        return (a.unsqueeze(-1) * b.unsqueeze(-3)).sum(-2)
    if columns <= 16 < rows and b.stride(-1) == 1:
        # (bᵀ aᵀ)ᵀ: BLAS is several times slower for few columns than for few rows, as in gradients of a first layer
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
    """Folder of compiled libraries: $RLEXP_CACHE, else $XDG_CACHE_HOME/rlexp, else ~/.cache/rlexp."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("RLEXP_CACHE") or caches / "rlexp")


@contextlib.contextmanager
def recording() -> Iterator[None]:
    """Tell optimizers that they are being recorded, so that step counts stay tensors."""
    before = torch.compiler._is_compiling_flag
    torch.compiler._is_compiling_flag = True
    try:
        yield
    finally:
        torch.compiler._is_compiling_flag = before


CAPTURED = (
    "it reads a tensor that is not one of its arguments: an objective must return its tensors from coefficients() or "
    "replay(), a network must register its own by register_buffer"
)


class Graph:
    """A function of nested tensors, compiled for the layouts of its example arguments.

    The function may change its arguments in place and returns a tuple of tensors. It is traced on construction, so
    everything that it reads besides its arguments becomes constant. It can be run after `build` and `load`.

    Args:
        function: to compile.
        args: example arguments: nested tuples, lists and dicts of tensors; not modified.

    Raises:
        Exception: any error of tracing.
    """

    code: str  # of the traced graph

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], *args: Any) -> None:
        from torch.fx.experimental.proxy_tensor import make_fx

        leaves, structure = tree_flatten(args)
        self.layouts = [libraries.layout_of(x) for x in leaves]

        def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
            return function(*tree_unflatten(list(tensors), structure))

        trace = make_fx(flat, decomposition_table=_PRODUCTS, tracing_mode="fake")
        with torch.no_grad(), libraries.quiet(), recording():
            self.traced = trace(*libraries.examples_of(self.layouts))
        self.code = self.traced.code
        self.key = self._key()
        self.library = cache_folder() / f"{self.key}.so"

    @property
    def is_built(self) -> bool:
        """Whether the library is cached on disk."""
        return self.library.exists()

    def _key(self) -> str:
        """Hash of everything that determines what the library computes, and on which machines it runs."""
        digest = hashlib.sha256(self.traced.code.encode())
        for node in self.traced.graph.nodes:
            if node.op == "get_attr":
                constant = getattr(self.traced, node.target)
                digest.update(repr((constant.dtype, constant.shape, constant.tolist())).encode())
        machine = (platform.machine(), torch.backends.cpu.get_cpu_capability(), torch.get_num_threads())
        digest.update(repr((self.layouts, libraries.OPTIONS, torch.version.git_version, machine)).encode())
        return digest.hexdigest()[:32]

    def build(self) -> None:
        """Compile the library in this process."""
        libraries.build(self.traced, self.layouts, self.library, libraries.OPTIONS)

    def load(self) -> Self:
        """Load the library, which must have been built, and set `run`.

        Raises:
            OSError: loading it would crash the process.
        """
        libraries.require_loadable(self.library)
        self.run = libraries.load(self.library)
        del self.traced
        return self

    def leaves(self, *args: Any) -> list[Tensor]:
        """Flatten arguments nested like the examples, as the argument of `run`.

        Raises:
            LayoutError: a layout differs from the example's.
        """
        found = tree_flatten(args)[0]
        _require_layouts([libraries.layout_of(x) for x in found], self.layouts)
        return found


class CudaGraph:
    """A function of nested tensors recorded as one CUDA graph, whose kernels are replayed without Python.

    A replay reads and writes the tensors of the recording; other tensors are copied into them first. The function may
    change its arguments in place; changes made while recording are undone.

    Args:
        function: to record; it must not synchronise with the device.
        args: nested tuples, lists and dicts of tensors on one CUDA device; kept as static inputs.
        pool: memory pool shared by all graphs of a learner, which are replayed one after the other.

    Raises:
        Exception: any error of recording.
    """

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], *args: Any, pool: Any = None) -> None:
        self.static_inputs = tree_flatten(args)[0]
        self.layouts = [libraries.layout_of(x) for x in self.static_inputs]
        with torch.no_grad():
            before = [x.clone() for x in self.static_inputs]
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(2):  # libraries initialise in their first calls, which cannot be recorded
                    function(*args)
            torch.cuda.current_stream().wait_stream(stream)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, pool=pool):
                self.outputs = function(*args)
            for tensor, old in zip(self.static_inputs, before, strict=True):
                tensor.copy_(old)

    def leaves(self, *args: Any) -> list[Tensor]:
        """Copy arguments nested like the recording's into the static inputs, and return those, for `run`.

        Raises:
            LayoutError: a layout differs from the recording's.
        """
        found = tree_flatten(args)[0]
        _require_layouts([libraries.layout_of(x) for x in found], self.layouts)
        self._copy_in(found)
        return list(self.static_inputs)

    @torch.no_grad()
    def _copy_in(self, tensors: list[Tensor]) -> None:
        for static, tensor in zip(self.static_inputs, tensors, strict=True):
            if static.data_ptr() != tensor.data_ptr():
                static.copy_(tensor)

    def run(self, tensors: list[Tensor]) -> list[Tensor]:
        """Replay on these tensors. Returns copies of the function's results."""
        self._copy_in(tensors)
        self.graph.replay()
        return [x.clone() for x in self.outputs]


@dataclass
class Notes:
    """State shared by all compilations of one learner."""

    uncompiled: dict[str, str] = field(default_factory=dict)  # part that runs without a graph -> why
    warned_of_prints: bool = False
    pool: Any = None  # of CUDA graphs; not shared between runs, as it may be freed with their graphs


class LayoutError(ValueError):
    """Tensors whose layout differs from those that a graph was compiled for."""


def _require_layouts(found: list[Any], expected: list[Any]) -> None:
    if found != expected:
        wrong = [(a, b) for a, b in zip(found, expected, strict=False) if a != b][:1]
        raise LayoutError(f"compiled for {len(expected)} tensors, got {len(found)}; differing: {wrong}")


def compile_or_warn(
    functions: Mapping[str, tuple[Any, ...]],
    notes: Notes | None = None,
    check_stop: Callable[[], None] | None = None,
) -> dict[str, Graph | CudaGraph | None]:
    """Compile some functions; None, with one warning, for each that does not compile.

    Libraries that are not cached are compiled in parallel: the last one in this process, the others in subprocesses.

    Args:
        functions: name in warnings -> (function, *arguments).
        notes: of the learner.
        check_stop: raises if the run is to stop, to suppress warnings about a compiler killed by the same signal.
    """
    began, notes = time.perf_counter(), notes or Notes()
    graphs: dict[str, Graph | CudaGraph | None] = {}
    builders: dict[str, libraries.Builder] = {}
    printed = threading.Event()

    def attempt(name: str, step: Callable[[], Any]) -> None:
        try:
            step()
        except BdbQuit:
            raise
        except Exception as error:  # any error of the tracer, compiler or linker: training continues uncompiled
            if check_stop is not None:
                check_stop()
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            if "FakeTensor" in reason:  # the tracer met a tensor that is not an argument
                reason = CAPTURED
            log.warning("%s runs uncompiled: %s", name, reason)
            graphs[name], notes.uncompiled[name] = None, reason

    def trace(name: str) -> None:
        on_cuda = tree_flatten(functions[name][1:])[0][0].is_cuda
        with detecting_prints(printed):
            if on_cuda:
                notes.pool = notes.pool or torch.cuda.graph_pool_handle()
            graphs[name] = CudaGraph(*functions[name], pool=notes.pool) if on_cuda else Graph(*functions[name])

    def build_beside(name: str, graph: Graph) -> None:
        builders[name] = libraries.Builder(graph.traced, graph.layouts, graph.library)

    for name in functions:
        attempt(name, partial(trace, name))
    if printed.is_set() and not notes.warned_of_prints:
        notes.warned_of_prints = True
        log.info(
            "compiled code prints or has breakpoints: they fire in the first update and during tracing, where values "
            "are placeholders, and rarely after that; use debug=true to run one update eagerly"
        )
    new = {name: graph for name, graph in graphs.items() if isinstance(graph, Graph) and not graph.is_built}
    if new:
        log.info("compiling, which takes about 20 seconds; cached for later runs in %s", cache_folder())
    for number, (name, graph) in enumerate(new.items(), 1):
        attempt(name, graph.build if number == len(new) else partial(build_beside, name, graph))
    for name, graph in new.items():
        if name in builders and not builders[name].succeeded():  # e.g. where no process can be started
            attempt(name, graph.build)
    for name, made in list(graphs.items()):
        if isinstance(made, Graph):
            attempt(name, made.load)
    log.debug("compiled or loaded in %.1f s", time.perf_counter() - began)
    return graphs
