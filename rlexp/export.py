"""Take policies away: files that act without rlexp.

python -m rlexp.export run=outputs/... [seed=0] [format=onnx,torch] [trust=package,...]

Writes export/seed_<k>.onnx (ONNX) and export/seed_<k>.pt2 (torch.export) into the run's folder, of all agents or one.
Input: obs, a batch of raw observations; outputs: action, as the environment takes it, by the most likely action, and
dist_params, of the action distribution. Spaces, units and the run's hash are in their metadata.
"""

import contextlib
import functools
import io
import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlexp import spaces
from rlexp.commands import Options, command, names, parse, whole
from rlexp.errors import ConfigError, UserError
from rlexp.extras import require
from rlexp.files import storage_errors
from rlexp.networks.actor_critic import ActorCritic
from rlexp.run.record import RunRecord
from rlexp.run.trust import require_no_links_in
from rlexp.saved import SavedRun, load_run
from rlexp.text import one_line

ROWS = 1000  # observations on which a file is compared with the policy


class Exported(nn.Module):
    """A policy: raw observations (N, ...) to the environment's actions (N, ...) and distribution parameters (N, P)."""

    def __init__(self, network: ActorCritic) -> None:
        super().__init__()
        self.network = network

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """The most likely actions, and parameters."""
        params = self.network(obs, True)[0]
        distribution = self.network.distribution
        return distribution.to_env_tensor(distribution.mode(params)), params


def metadata(saved: SavedRun, agent: int) -> dict[str, str]:
    """What a file says of itself."""
    record = RunRecord(saved.folder).data
    return {
        "observation_space": json.dumps(_plain(saved.spaces["observation"])),
        "action_space": json.dumps(_plain(saved.spaces["action"])),
        "input": f"obs (N, ...) {str(saved.observation_dtype).removeprefix('torch.')}, raw observations",
        "output": "action (N, ...), the most likely one, as the environment takes it; dist_params (N, P)",
        "env": str(saved.config.env.get("id")),
        "algo": str(record.get("choices", {}).get("algo", "")),
        "seed": str(saved.seeds[agent]),
        "run": saved.folder.name,
        "config_hash": str(record.get("config_hash", "")),
        "commit": str(record.get("commit") or ""),
        "rlexp": str(record.get("versions", {}).get("rlexp", "")),
    }


def _plain(space: dict[str, Any]) -> dict[str, Any]:
    return {key: value.tolist() if isinstance(value, Tensor) else value for key, value in space.items()}


def sample(saved: SavedRun, rows: int = ROWS) -> Tensor:
    """Observations of the run's space (rows, ...)."""
    space = spaces.restore(saved.spaces["observation"])
    space.seed(0)
    return torch.from_numpy(np.stack([np.asarray(space.sample()) for _ in range(rows)])).to(saved.observation_dtype)


LIBRARIES = ("onnx", "onnxruntime", "onnxscript")


def write_torch(policy: Exported, obs: Tensor, about: dict[str, str], path: Path) -> Callable[[Tensor], Any]:
    """Write a torch.export file; returns what the file computes."""
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(policy, (obs,), dynamic_shapes=({0: batch},))
    torch.export.save(program, path, extra_files={"metadata.json": json.dumps(about)})
    return torch.export.load(path).module()


def write_onnx(policy: Exported, obs: Tensor, about: dict[str, str], path: Path) -> Callable[[Tensor], Any]:
    """Write an ONNX file; returns what the file computes, by onnxruntime."""
    onnx, runtime, _ = map(require_library, LIBRARIES)  # the third is torch's
    batch = torch.export.Dim("batch", min=1)
    program = torch.onnx.export(
        policy,
        (obs,),
        input_names=["obs"],
        output_names=["action", "dist_params"],
        dynamic_shapes=({0: batch},),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    onnx.helper.set_model_props(model, about)
    path.write_bytes(model.SerializeToString())
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda x: [torch.from_numpy(found) for found in session.run(None, {"obs": x.numpy()})]


WRITERS = {"onnx": (".onnx", write_onnx), "torch": (".pt2", write_torch)}


def require_library(name: str) -> Any:
    """A library of the extra; ConfigError if it is missing."""
    return require(name, "export", "format=onnx", "; format=torch needs none")


@torch.no_grad()
def export(saved: SavedRun, agent: int, kind: str) -> Path:
    """Write one agent's policy and compare the file with it.

    Raises:
        ConfigError: the network cannot be exported, or the file computes something else.
        TrustError: the folder export/ is a symbolic link, or has one.
    """
    suffix, write = WRITERS[kind]
    path = saved.folder / "export" / f"seed_{saved.seeds[agent]}{suffix}"
    require_no_links_in(path.parent)
    temporary = path.with_name(f".{path.stem}.tmp{suffix}")
    policy, obs = Exported(saved.networks[agent]), sample(saved)
    with storage_errors(path):
        path.parent.mkdir(exist_ok=True)
        try:
            with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
                warnings.simplefilter("ignore")  # of the exporters, about themselves
                logging.getLogger("torch.onnx").setLevel(logging.ERROR)
                found = write(policy, obs[:2].clone(), metadata(saved, agent), temporary)(obs)
            _require_same(policy(obs), found, path)
        except Exception as error:
            temporary.unlink(missing_ok=True)
            if isinstance(error, UserError | OSError):
                raise
            cause: BaseException = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            why = one_line(f"{type(cause).__name__}: {cause}", 160)
            raise ConfigError(f"{saved.folder}: its network cannot be exported to {kind} ({why})") from error
        temporary.replace(path)
    return path


def _require_same(ours: tuple[Tensor, Tensor], theirs: Any, path: Path) -> None:
    """Refuse (ConfigError) a file that acts otherwise than the policy, but for ties up to rounding."""
    (action, params), (other, other_params) = ours, theirs
    if not torch.allclose(params, other_params, rtol=1e-4, atol=1e-5):
        apart = (params - other_params).abs().max()
        raise ConfigError(f"{path}: computes other distributions than the policy, by up to {apart:.2g}; not written")
    rows = (action - other).abs().reshape(len(action), -1).max(1).values > 1e-4
    if action.dtype != other.dtype or rows.float().mean() > 0.001:
        raise ConfigError(
            f"{path}: acts otherwise than the policy on {int(rows.sum())} of {len(rows)} rows; not written"
        )


def _formats(text: str) -> list[str]:
    chosen = names(text)
    if not chosen or set(chosen) - set(WRITERS):
        raise ValueError(f"must be {' or '.join(WRITERS)}, or both with a comma")
    return chosen


OPTIONS: Options = {"run": str, "seed": whole, "format": _formats, "trust": names}


def run_command(words: list[str]) -> None:
    """Export the policies of a run."""
    _, options = parse(words, OPTIONS)
    if not options.get("run"):
        raise ConfigError("run=: name a run, as in run=outputs/<study>/<run>")
    formats = options.get("format", list(WRITERS))
    if "onnx" in formats:
        for name in LIBRARIES:
            require_library(name)
    seeds = [options["seed"]] if "seed" in options else None
    saved = load_run(options["run"], seeds, trust=options.get("trust", []))
    for agent in range(len(saved.seeds)):
        for kind in formats:
            path = export(saved, agent, kind)
            print(f"{path}: as the policy on {ROWS} observations", flush=True)


main = functools.partial(command, "rlexp.export", __doc__, run_command)

if __name__ == "__main__":
    main()
