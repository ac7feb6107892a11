"""The default sweeper: a union of grids; Hydra's basic sweeper has only one grid."""

import itertools
from collections.abc import Iterable, Mapping, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from rlexp.config.identity import without_tuned
from rlexp.errors import ConfigError
from rlexp.sweep.compose import Composer
from rlexp.sweep.plan import plan
from rlexp.sweep.run import run_all
from rlexp.torchrun import processes


class Grids(Sweeper):
    """Passes the jobs of all grids to the launcher at once, without duplicates and jobs already done.

    Overrides of the command line win over `params`, which win over those of an arm, and they over those of a grid.
    """

    hydra_context: HydraContext
    launcher: Launcher
    config: DictConfig

    def __init__(
        self,
        params: Mapping[str, str] | None = None,
        grids: Sequence[Sequence[str]] | None = None,
        arms: Sequence[Sequence[str]] | None = None,
    ) -> None:
        self.params = params or {}
        for name, listed in (("grids", grids), ("arms", arms)):
            for index, words in enumerate(listed or []):
                if isinstance(words, str):
                    at = f"hydra.sweeper.{name}[{index}]"
                    raise ConfigError(f"{at}={words}: each is a list of overrides, as in [{words}]")
        self.grids = [[*grid, *arm] for grid in grids or [[]] for arm in arms or [[]]]

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store what Hydra passes to its plugins, and make the launcher; ConfigError among processes of torchrun."""
        if processes() > 1:  # here, as hydra.mode may be set by a yaml; each process would run all jobs
            what = f"{processes()} processes train one run together, and a sweep has several"
            raise ConfigError(f"hydra.mode=MULTIRUN: {what}; leave out torchrun, or -m and experiments that sweep")
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run the jobs that are not done; raises as `plan` and `run_all`."""
        composer = Composer(self.hydra_context.config_loader, self.config)
        common = [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        words = union(([*grid, *common] for grid in self.grids), composer.parser)
        jobs = plan(composer, list(map(without_tuned, words)))
        run_all(self.launcher, jobs, bool(self.config.retry_failed))


def union(grids: Iterable[Sequence[str]], parser: OverridesParser) -> list[list[str]]:
    """The jobs of all grids, each as a list of overrides; the last override of a key wins.

    Raises ConfigError for an interval, or any other sweep that is not a list of values.
    """
    jobs: dict[frozenset[str], list[str]] = {}
    for grid in grids:
        choices: dict[str, list[str]] = {}
        for override in parser.parse_overrides(list(grid)):
            key = override.get_key_element()
            name = key.lstrip("+")
            if not override.is_sweep_override():
                choices[name] = [f"{key}={override.get_value_element_as_str()}"]
            elif override.is_discrete_sweep():
                choices[name] = [f"{key}={value}" for value in override.sweep_string_iterator()]
            else:
                raise ConfigError(f"{override.input_line}: a grid needs a list of values, as in key=1,2,3")
        for job in itertools.product(*choices.values()):
            jobs.setdefault(frozenset(job), list(job))
    return list(jobs.values())
