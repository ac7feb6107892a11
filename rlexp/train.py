"""Train agents: python -m rlexp.train [algo=...] [env=...] [key=value ...]; -m: several jobs; --help: all keys."""

import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from rlexp.config.command_line import WANTS_TRACEBACK, exit_with, report_errors
from rlexp.config.help import help_text
from rlexp.config.identity import key_of, without_tuned
from rlexp.config.replaced import drop_replaced
from rlexp.config.schema import CONF_DIR, register_schema
from rlexp.config.search_path import check_local, check_optional, group_choices, require_unshadowed, untuned
from rlexp.errors import ConfigError, UserError
from rlexp.execute import remove_if_empty, train_job
from rlexp.jobs.job import Job, settings_of
from rlexp.jobs.log import console
from rlexp.run.names import register_resolvers
from rlexp.sweep.plugins import register_plugins
from rlexp.torchrun import processes, rank
from rlexp.user_code import was_quit

if TYPE_CHECKING:
    from rlexp.training.ranks import Ranks

log = logging.getLogger("rlexp")

QUESTIONS = {"-h", "--help", "-c", "--cfg", "-i", "--info", "--hydra-help", "--version"}  # that train nothing

register_schema()
register_resolvers(settings_of)
register_plugins()


def relative_to_cwd(folder: Path) -> Path:
    """The folder's path relative to the working directory, if it is inside it."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def task(cfg: DictConfig, ranks: "Ranks | None" = None) -> None:
    """Task function of Hydra: trains one job; ranks: processes that train it together."""
    chosen = HydraConfig.get()
    folder = relative_to_cwd(Path(chosen.runtime.output_dir))
    in_sweep = chosen.mode == RunMode.MULTIRUN
    with console():
        try:
            words = list(chosen.overrides.task)
            if not in_sweep:  # a sweep's plan has done it
                if "hydra.launcher.wait" in map(key_of, chosen.overrides.hydra) and chosen.launcher.wait is False:
                    raise ConfigError(
                        "hydra.launcher.wait=false: a single run is trained here; add -m to leave it queued"
                    )
                require_unshadowed(chosen)
                loader = GlobalHydra.instance().config_loader()
                check_local(cfg, chosen, lambda others: loader.load_configuration("config", others, RunMode.RUN))
                check_optional(loader, words)
                cfg = drop_replaced(cfg, chosen)
                for line in untuned([chosen]):
                    log.info("%s", line)
            train_job(Job(cfg, folder, words, group_choices(chosen), in_sweep), ranks)
        except Exception as error:
            if (ranks is None or ranks.first) and not (folder / "run.json").exists():
                remove_if_empty(folder)
            if in_sweep:
                raise  # to the sweep, which reports it and continues
            if was_quit(error):
                log.info("the debugger was quit, and with it the run; debug=true makes one update to inspect")
                sys.exit(1)
            if isinstance(error, UserError) and not WANTS_TRACEBACK:
                exit_with(error)
            raise


def main() -> None:
    """Entry point."""
    flags = [word for word in sys.argv[1:] if word in ("-m", "--multirun")]  # in any position
    sys.argv[1:] = flags[:1] + [word for word in sys.argv[1:] if word not in flags]
    words = [word for word in sys.argv[1:] if "=" in word]
    sys.argv += without_tuned(words)[len(words) :]
    asked = QUESTIONS & {word.partition("=")[0] for word in sys.argv[1:]}
    if asked and rank():  # one process answers
        return
    if {"-h", "--help"} & asked:
        report_errors(lambda: print(help_text(sys.argv[1:])))
        return
    if processes() > 1 and not asked:
        _together()
        return
    report_errors(_main(task))


def _main(function: Callable[[DictConfig], None]) -> Callable[[], Any]:
    return hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="config")(function)


def _together() -> None:
    """Train one run in the processes that torchrun has started, of which the first one alone decides and prints."""
    with contextlib.ExitStack() as stack:
        if rank():
            null = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(null))
            stack.enter_context(contextlib.redirect_stderr(null))  # but for tracebacks, which come after it
        from rlexp.training.ranks import Torchrun  # imports torch

        ranks = Torchrun()

        def move() -> None:  # to where the first one writes, which may be a folder with another number by now
            sys.argv.append(f"hydra.run.dir={json.dumps(ranks.tell(None), ensure_ascii=False)}")

        def together(cfg: DictConfig) -> None:
            if ranks.first:
                ranks.tell(HydraConfig.get().runtime.output_dir)
            ranks.use(str(cfg.device))
            task(cfg, ranks)

        with ranks.reporting():
            if not ranks.first:
                report_errors(move)
            report_errors(_main(together))
        ranks.close()


if __name__ == "__main__":
    from rlexp import train as imported  # not as __main__: other processes import the task by this name

    imported.main()
