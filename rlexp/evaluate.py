"""Evaluate a finished run's frozen policies on a fixed list of seeds.

python -m rlexp.evaluate run=outputs/... [episodes=...] [deterministic=...] [max_steps=...] [trust=package,...]
                         [video=true [seed=0] [observation=true]]

episodes, deterministic, max_steps: by default as the run's own config has them.

video: instead of evaluation.json an mp4 of each episode, by default of three, in the run's folder videos/, which
TensorBoard shows, too; seed: of one agent; observation: what the policy sees beside each picture.

trust: packages besides rlexp and torch whose networks and environments may be built, which runs their code.
"""

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from rlexp.commands import Options, boolean, command, names, parse, positive, whole
from rlexp.config.schema import FinalEvaluation
from rlexp.envs import Environment
from rlexp.errors import ConfigError
from rlexp.parts import build_environment
from rlexp.run.record import RunRecord, diverged_in
from rlexp.run.video import require_encoder, write_video
from rlexp.run.writer import write_evaluation
from rlexp.saved import TO_ACT, SavedRun, load_run
from rlexp.seeding import evaluation_seeds
from rlexp.text import one_line, sanitize
from rlexp.training.evaluation import evaluate, summarize
from rlexp.watch import Watch

MOST = 1_000_000  # episodes
FILMED = 3  # episodes of which there are videos, by default
SPELLINGS = dict.fromkeys(("yes", "on", "y", "1"), "true") | dict.fromkeys(("no", "off", "n", "0"), "false")  # as Hydra


def _episodes(text: str) -> int:
    if (number := positive(text)) > MOST:
        raise ValueError(f"must be at most {MOST:,}")
    return number


OPTIONS: Options = {
    "run": str,
    "episodes": _episodes,
    "deterministic": lambda text: boolean(SPELLINGS.get(text.lower(), text.lower())),
    "max_steps": positive,
    "trust": names,
    "seed": whole,
    "video": lambda text: boolean(SPELLINGS.get(text.lower(), text.lower())),
    "observation": lambda text: boolean(SPELLINGS.get(text.lower(), text.lower())),
}


def run_command(words: list[str]) -> None:
    """Evaluate every agent of a run and write evaluation.json into its folder."""
    _, options = parse(words, OPTIONS)
    run, trust = options.pop("run", ""), options.pop("trust", [])
    video, observation = options.pop("video", False), options.pop("observation", False)
    if video:
        require_encoder("video=true")
    seeds = [options.pop("seed")] if "seed" in options else None
    if observation and not video:
        raise ConfigError("observation=true: is drawn in videos; add video=true")
    if seeds and not video:
        raise ConfigError(f"seed={seeds[0]}: evaluation.json is of all agents; it is for videos: add video=true")
    if not run:
        raise ConfigError("run=: name a run, as in run=outputs/<study>/<run>")
    saved = load_run(run, seeds, wanted={**TO_ACT, "env": Environment}, trust=trust)
    record = RunRecord(saved.folder)
    settings = _own_settings(record) | ({"episodes": FILMED} if video else {}) | options
    environment = build_environment(saved.config)
    watch = Watch(environment.timeout, environment.id)
    with watch.on():
        results = evaluate(
            saved.policy,
            saved.networks[0].distribution,
            environment,
            len(saved.seeds),
            device=torch.device("cpu"),
            watch=watch,
            **settings,
        )
    content = summarize(saved.seeds, results, settings)
    if not video:
        before = _settings_before(saved.folder)
        if before not in (None, content["settings"]):
            print(f"evaluation.json is replaced; it was of {_listed(before)}, and this one is of {_listed(settings)}")
        write_evaluation(saved.folder, content)
        if record.status == "done":
            record.update(files=record.data.get("files", {}) | record.digests("evaluation.json"))
    for seed in sorted(diverged_in(record.data)) if seeds is None else ():
        print(f"seed {seed}: has diverged, and has no policy to evaluate")
    for agent in content["agents"]:
        print(f"seed {agent['seed']}: mean return {agent['mean_return']:.2f} over {settings['episodes']} episodes")
    if video:
        with watch.on():
            _film(saved, environment, settings, watch, observation, results)


def _own_settings(record: RunRecord) -> dict[str, Any]:
    """The settings of the run's own final evaluation; the default where it had none, or run.json has no such value."""
    default = asdict(FinalEvaluation())
    own = record.data.get("config", {}).get("evaluation")
    own = own if isinstance(own, dict) else {}
    usable = {
        "episodes": type(own.get("episodes")) is int and 1 <= own["episodes"] <= MOST,
        "deterministic": type(own.get("deterministic")) is bool,
        "max_steps": type(own.get("max_steps")) is int and own["max_steps"] >= 1,
    }
    return {name: own[name] if usable[name] else x for name, x in default.items()}


def _settings_before(folder: Path) -> dict[str, Any] | None:
    """The settings of the evaluation that is there; None if there is none, or it is damaged."""
    try:
        settings = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))["settings"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return settings if isinstance(settings, dict) else None


def _listed(settings: Mapping[str, Any] | None) -> str:
    return sanitize(one_line(", ".join(f"{name}={str(x).lower()}" for name, x in (settings or {}).items()), 160))


def _film(
    saved: SavedRun,
    environment: Environment,
    settings: dict[str, Any],
    watch: Watch,
    observation: bool,
    results: list[list[dict[str, Any]]],
) -> None:
    """Write a video of each episode of each agent; results: of the same episodes, evaluated."""
    for agent, seed in enumerate(saved.seeds):
        for number, episode_seed in enumerate(evaluation_seeds(settings["episodes"])):
            episode = saved.episode(environment, agent, episode_seed, observation=observation, watch=watch)
            episode.deterministic, episode.max_steps = settings["deterministic"], settings["max_steps"]
            name = f"evaluation_seed_{seed}-episode_{number}"
            path = write_video(saved.folder, name, number, episode)
            known = results[agent][number]
            same = not settings["deterministic"]  # noise is drawn otherwise for a single environment
            same |= episode.length == known["length"] and math.isclose(episode.total, known["return"], rel_tol=1e-4)
            note = (
                "" if same else f"; evaluated without pictures, it was {known['return']:.2f}, {known['length']} steps"
            )
            print(f"{path}: return {episode.total:.2f}, {episode.length} steps{note}")


main = functools.partial(command, "rlexp.evaluate", __doc__, run_command)

if __name__ == "__main__":
    main()
