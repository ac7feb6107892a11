"""Evaluate a finished run's frozen policies on a fixed list of seeds.

python -m rlexp.evaluate run=outputs/... [episodes=20] [deterministic=true] [max_steps=100000] [trust=package,...]
                         [video=true [observation=true]]

video: an mp4 of each episode in the run's folder videos/, which TensorBoard shows, too, and an evaluation.json that is
there of other settings stays; observation: what the policy sees beside each picture.

trust: packages besides rlexp and torch whose networks and environments may be built, which runs their code.
"""

import functools
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from rlexp.build import build_environment
from rlexp.commands import Options, boolean, command, names, parse, positive
from rlexp.config.schema import FinalEvaluation
from rlexp.envs import Environment
from rlexp.errors import ConfigError
from rlexp.run.record import RunRecord
from rlexp.run.video import require_encoder, write_video
from rlexp.run.writer import write_evaluation
from rlexp.saved import TO_ACT, SavedRun, load_run
from rlexp.seeding import evaluation_seeds
from rlexp.training.evaluation import evaluate, summarize
from rlexp.watch import Watch

SPELLINGS = dict.fromkeys(("yes", "on", "y", "1"), "true") | dict.fromkeys(("no", "off", "n", "0"), "false")  # as Hydra
OPTIONS: Options = {
    "run": str,
    "episodes": positive,
    "deterministic": lambda text: boolean(SPELLINGS.get(text.lower(), text.lower())),
    "max_steps": positive,
    "trust": names,
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
    if observation and not video:
        raise ConfigError("observation=true: is drawn in videos; add video=true")
    if not run:
        raise ConfigError("run=: name a run, as in run=outputs/<study>/<run>")
    settings = asdict(FinalEvaluation(**options))
    saved = load_run(run, wanted={**TO_ACT, "env": Environment}, trust=trust)
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
    if video and _has_another(saved.folder, content["settings"]):
        print("evaluation.json, which compare reads, stays as it is; without video=true this one would replace it")
    else:
        write_evaluation(saved.folder, content)
    record = RunRecord(saved.folder)
    for seed in sorted(set(record.data.get("seeds", ())) - set(saved.seeds)):
        print(f"seed {seed}: has diverged, and has no policy to evaluate")
    if record.status == "done":
        record.update(files=record.digests())
    for agent in content["agents"]:
        print(f"seed {agent['seed']}: mean return {agent['mean_return']:.2f} over {settings['episodes']} episodes")
    if video:
        with watch.on():
            _film(saved, environment, settings, watch, observation, results)


def _has_another(folder: Path, settings: dict[str, Any]) -> bool:
    """Whether there is an evaluation with other settings."""
    try:
        return bool(json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))["settings"] != settings)
    except (OSError, ValueError, TypeError, KeyError):  # none, or damaged
        return False


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
            same = episode.length == known["length"] and math.isclose(episode.total, known["return"], rel_tol=1e-4)
            note = (
                "" if same else f"; evaluated without pictures, it was {known['return']:.2f}, {known['length']} steps"
            )
            print(f"{path}: return {episode.total:.2f}, {episode.length} steps{note}")


main = functools.partial(command, "rlexp.evaluate", __doc__, run_command)

if __name__ == "__main__":
    main()
