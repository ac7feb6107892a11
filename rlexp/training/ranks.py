"""One run over several processes: what ranks exchange.

Every rank steps its share of each agent's environments and computes the gradient on its share of each minibatch's rows.
Rollouts are gathered and gradients averaged, so that all ranks hold the same agents, memories and random streams; the
first one alone writes.
"""

import contextlib
import datetime
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from rlexp.errors import ConfigError, RankError
from rlexp.signals import Interrupted
from rlexp.text import one_line

PATIENCE = datetime.timedelta(days=1)  # for the others: the first rank may evaluate for hours
LAST_WORDS = 2.0  # seconds for a rank that ends to say why
REPORT = "report"  # key of the store
GONE = (
    "another process of this run has ended without a word, as when it is killed or out of memory; the same command "
    "goes on from the last checkpoint, if there is one"
)


class Ranks:
    """The ranks of a run in one process: nothing to exchange."""

    rank, size = 0, 1
    threads: int | None = None  # of the processor, for this rank; None: all

    @property
    def first(self) -> bool:
        """Whether this is the rank that decides and writes."""
        return self.rank == 0

    def share(self, count: int, rank: int | None = None) -> slice:
        """Of `count` things in a row those of a rank, by default this one."""
        each, number = count // self.size, self.rank if rank is None else rank
        return slice(number * each, (number + 1) * each)

    def complete(self, tensors: Sequence[Tensor]) -> None:
        """Fill the other ranks' environments in (A, T, E, ...), in place; this rank's share is there."""

    def mean(self, tensors: list[Tensor]) -> list[Tensor]:
        """Each tensor's mean over ranks."""
        return tensors

    def highest(self, number: int) -> int:
        """The highest number of any rank."""
        return number

    def gather(self, value: Any) -> list[Any]:
        """The value of each rank, in the first; of the others nothing."""
        return [value]

    def tell(self, value: Any) -> Any:
        """The first rank's value."""
        return value

    @contextlib.contextmanager
    def reporting(self) -> Iterator[None]:
        """While entered, an error or exit is reported to the other ranks, which it ends too."""
        yield

    def close(self) -> None:
        """No more is exchanged."""


class Torchrun(Ranks):
    """Several processes, by torch.distributed: gloo on the CPU, NCCL between GPUs."""

    def __init__(self) -> None:
        self.rank, self.size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.local, self.here = int(os.environ["LOCAL_RANK"]), int(os.environ.get("LOCAL_WORLD_SIZE", self.size))
        # not what torch takes, as torchrun sets OMP_NUM_THREADS=1
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.threads = max(1, cores // self.here)
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        store, *_ = next(dist.rendezvous("env://"))
        # torchrun keeps the store when it restarts all (--max-restarts): addresses and reports of before are not read
        self.store = dist.PrefixStore(f"attempt_{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        dist.init_process_group(backend, store=self.store, rank=self.rank, world_size=self.size, timeout=PATIENCE)

    def use(self, device: str) -> None:
        """Give each rank of a machine its own GPU, if the run's device is cuda; ConfigError if there are too few."""
        found = torch.cuda.device_count()
        if device == "cuda" and found < self.here:
            raise ConfigError(f"device=cuda: torch sees {found} here for {self.here} processes; start at most as many")
        if device == "cuda":
            torch.cuda.set_device(self.local)

    def _call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except RuntimeError as error:  # of gloo and NCCL: a connection is closed
            raise self._lost() from error

    def _lost(self) -> Exception:
        """Why an exchange failed, as the rank that ended has reported."""
        deadline = time.monotonic() + LAST_WORDS
        try:
            while not self.store.check([REPORT]) and time.monotonic() < deadline:
                time.sleep(0.05)
            report = json.loads(self.store.get(REPORT)) if self.store.check([REPORT]) else None
        except RuntimeError:  # the store's server has ended too
            report = None
        if report is None:
            return RankError(GONE)
        if report["signum"]:
            return Interrupted(report["signum"], saved=False, because="")
        return RankError(f"process {report['rank']} of {self.size} ended: {report['error']}")

    def complete(self, tensors: Sequence[Tensor]) -> None:
        """As bytes, in one exchange per device."""
        for device in dict.fromkeys(x.device for x in tensors):
            held = sorted((x for x in tensors if x.device == device), key=lambda x: -x.element_size())  # aligned
            mine = [x[:, :, self.share(x.shape[2])].contiguous() for x in held]
            sent = torch.cat([x.flatten().view(torch.uint8) for x in mine])
            received = [torch.empty_like(sent) for _ in range(self.size)]
            self._call(dist.all_gather, received, sent)
            sizes = [x.numel() * x.element_size() for x in mine]
            for rank in [rank for rank in range(self.size) if rank != self.rank]:
                for whole, own, part in zip(held, mine, received[rank].split(sizes), strict=True):
                    whole[:, :, self.share(whole.shape[2], rank)] = part.view(own.dtype).view(own.shape)

    def mean(self, tensors: list[Tensor]) -> list[Tensor]:
        """In one exchange."""
        flat = torch.cat([x.detach().flatten() for x in tensors])
        self._call(dist.all_reduce, flat)
        parts = (flat / self.size).split([x.numel() for x in tensors])
        # of whole numbers, as a metric may be, the mean is none
        kinds = [x.dtype if x.is_floating_point() else torch.float32 for x in tensors]
        return [part.view(x.shape).to(k) for part, x, k in zip(parts, tensors, kinds, strict=True)]

    def highest(self, number: int) -> int:
        """The highest number of any rank."""
        held = torch.tensor([number])
        self._call(dist.all_reduce, held, dist.ReduceOp.MAX)
        return int(held)

    def gather(self, value: Any) -> list[Any]:
        """The value of each rank, in the first; of the others nothing."""
        found: list[Any] | None = [None] * self.size if self.first else None
        self._call(dist.gather_object, value, found)
        return found or []

    def tell(self, value: Any) -> Any:
        """The first rank's value."""
        held = [value]
        self._call(dist.broadcast_object_list, held)
        return held[0]

    @contextlib.contextmanager
    def reporting(self) -> Iterator[None]:
        """The first report counts, and is of a cause: not of another rank that has ended.

        Outside of all that prints errors and ends the process: an exit is reported as the error that it is made of.
        """
        try:
            yield
        except BaseException as error:
            cause = (error.__context__ if isinstance(error, SystemExit) else None) or error
            if not isinstance(cause, RankError):
                signum = cause.signum if isinstance(cause, Interrupted) else 0
                content = {"rank": self.rank, "error": one_line(cause), "signum": signum}
                with contextlib.suppress(RuntimeError):  # its server has ended
                    self.store.compare_set(REPORT, "", json.dumps(content))
            raise

    def close(self) -> None:
        """Leave the others."""
        dist.destroy_process_group()
