"""Watch a policy play, in a window.

python -m rlexp.play run=outputs/... [seed=0] [episodes=3] [deterministic=true] [observation=true] [speed=1]
                     [trust=package,...]

seed: of the agent; observation: what the policy sees beside each picture; speed: of the time. Space halts, q ends.
"""

import functools
import os
import sys
from typing import Any

import numpy as np

from rlexp.commands import Options, command, names, parse, positive, whole
from rlexp.envs import Environment
from rlexp.errors import ConfigError
from rlexp.evaluate import OPTIONS
from rlexp.extras import cannot_be_imported
from rlexp.parts import build_environment
from rlexp.saved import TO_ACT, load_run
from rlexp.seeding import evaluation_seeds
from rlexp.watch import Watch


def _speed(text: str) -> float:
    speed = float(text) if text.replace(".", "", 1).isdecimal() else 0.0
    if speed <= 0:
        raise ValueError("must be a number above 0")
    return speed


PLAY_OPTIONS: Options = {
    "run": str,
    "seed": whole,
    "episodes": positive,
    "deterministic": OPTIONS["deterministic"],
    "observation": OPTIONS["observation"],
    "speed": _speed,
    "trust": names,
}


INSTEAD = "rlexp.evaluate with video=true writes videos instead"


class Window:
    """Shows pictures at a rate; made with the first."""

    def __init__(self, title: str) -> None:
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        try:
            import pygame  # here, as only this command opens a window
        except Exception as error:
            raise ConfigError(
                f"a window {cannot_be_imported(error, 'pygame')}: pip install --force-reinstall pygame"
            ) from error

        self.pygame: Any = pygame
        self.title = title
        self.screen: Any = None
        self._open()
        if pygame.display.get_driver() == "offscreen" != os.environ.get("SDL_VIDEODRIVER"):
            raise ConfigError(
                f"no window can be opened (DISPLAY={os.environ.get('DISPLAY')} does not answer); {INSTEAD}"
            )
        self.clock = pygame.time.Clock()

    def _open(self) -> None:
        try:
            self.pygame.display.init()
        except self.pygame.error as error:
            raise ConfigError(f"no window can be opened ({error}); {INSTEAD}") from None

    def show(self, picture: np.ndarray, fps: float) -> bool:
        """Show a picture (H, W, 3), small ones enlarged, and wait; returns whether to go on."""
        pygame = self.pygame
        scale = max(1, 480 // picture.shape[0])
        size = picture.shape[1] * scale, picture.shape[0] * scale
        self._open()
        if self.screen is None or pygame.display.get_surface() is not self.screen:
            self.screen = pygame.display.set_mode(size)  # anew, where the environment before has quit pygame
            pygame.display.set_caption(self.title)
        surface = pygame.surfarray.make_surface(picture.swapaxes(0, 1))
        self.screen.blit(pygame.transform.scale(surface, size), (0, 0))
        pygame.display.flip()
        self.clock.tick(fps)
        halted = False
        while True:
            for event in pygame.event.get():
                key = getattr(event, "key", None) if event.type == pygame.KEYDOWN else None
                if event.type == pygame.QUIT or key in (pygame.K_q, pygame.K_ESCAPE):
                    return False
                halted ^= key == pygame.K_SPACE
            if not halted:
                return True
            self.clock.tick(20)

    def close(self) -> None:
        """Close the window."""
        self.pygame.display.quit()


def require_screen(run: str) -> None:
    """Refuse (ConfigError) to open a window where there is no screen."""
    shown = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") or os.environ.get("SDL_VIDEODRIVER")
    if sys.platform.startswith("linux") and not shown:
        instead = f"python -m rlexp.evaluate run={run} video=true writes videos instead"
        raise ConfigError(f"there is no screen here (DISPLAY is not set); {instead}")


def run_command(words: list[str]) -> None:
    """Play episodes of an agent in a window."""
    _, options = parse(words, PLAY_OPTIONS)
    run = options.get("run", "")
    if not run:
        raise ConfigError("run=: name a run, as in run=outputs/<study>/<run>")
    require_screen(run)
    seeds = [options["seed"]] if "seed" in options else None
    saved = load_run(run, seeds, wanted={**TO_ACT, "env": Environment}, trust=options.get("trust", []))
    environment = build_environment(saved.config)
    watch = Watch(environment.timeout, environment.id)
    window = Window(f"{environment.name}, seed {saved.seeds[0]} of {saved.folder}")
    try:
        with watch.on():
            for seed in evaluation_seeds(options.get("episodes", 3)):
                shown = options.get("observation", False)
                episode = saved.episode(environment, 0, seed, observation=shown, watch=watch)
                episode.deterministic = options.get("deterministic", True)
                for picture in episode:
                    if not window.show(picture, episode.fps * options.get("speed", 1.0)):
                        return
                print(f"return {episode.total:.2f}, {episode.length} steps", flush=True)
    finally:
        window.close()


main = functools.partial(command, "rlexp.play", __doc__, run_command)

if __name__ == "__main__":
    main()
