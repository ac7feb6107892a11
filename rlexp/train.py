"""Train agents: python -m rlexp.train [algo=...] [env=...] [key=value ...]; -m: several jobs; --help: all keys."""

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from rlexp.config.command_line import WANTS_TRACEBACK, end_with, report_errors
from rlexp.config.help import help_text
from rlexp.config.overrides import key_of, names_an_environment
from rlexp.config.replaced import without_inherited
from rlexp.config.schema import CONF_DIR, register_schema
from rlexp.config.search_path import group_choices, require_unshadowed
from rlexp.config.tuned import check_tuned, untuned
from rlexp.errors import UserError
from rlexp.execute import console, leave_no_trace, run
from rlexp.jobs.job import Job, settings_of
from rlexp.run.names import register_resolvers
from rlexp.sweep.plugins import register_plugins
from rlexp.user_code import was_quit

if TYPE_CHECKING:
    pass

log = logging.getLogger("rlexp")

register_schema()
register_resolvers(settings_of)
register_plugins()


def beside(folder: Path) -> Path:
    """The folder as seen from here, if it lies below."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def job(cfg: DictConfig) -> None:
    """One job, as Hydra calls it."""
    chosen = HydraConfig.get()
    folder = beside(Path(chosen.runtime.output_dir))
    in_sweep = chosen.mode == RunMode.MULTIRUN
    with console():
        try:
            words = list(chosen.overrides.task)
            if not in_sweep:  # whose plan did it
                require_unshadowed(chosen)
                check_tuned(GlobalHydra.instance().config_loader(), words)
                cfg = without_inherited(cfg, chosen)
                for line in untuned([chosen]):
                    log.info("%s", line)
            run(Job(cfg, folder, words, group_choices(chosen), in_sweep))
        except Exception as error:
            if not (folder / "run.json").exists():
                leave_no_trace(folder)
            if in_sweep:
                raise  # to the sweep, which goes on and reports it
            if was_quit(error):
                log.info("the debugger was quit, and with it the run; debug=true makes one update to look into")
                sys.exit(1)
            if isinstance(error, UserError) and not WANTS_TRACEBACK:
                end_with(error)
            raise


def main() -> None:
    """Entry point."""
    flags = [word for word in sys.argv[1:] if word in ("-m", "--multirun")]  # wherever they stand
    sys.argv[1:] = flags[:1] + [word for word in sys.argv[1:] if word not in flags]
    words = [word for word in sys.argv[1:] if "=" in word]
    if names_an_environment(words) and not {"tuned", "experiment"} & set(map(key_of, words)):
        sys.argv.append("tuned=none")  # what is tuned for the default environment is nothing to this one
    if {"-h", "--help"} & set(sys.argv[1:]):
        report_errors(lambda: print(help_text(sys.argv[1:])))
        return
    report_errors(hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="config")(job))


if __name__ == "__main__":
    from rlexp import train as imported  # by its own name, under which other processes find the job

    imported.main()
