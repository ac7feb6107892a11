"""Show the status of a study's jobs, or remove some of them.

    python -m rlexp.study status outputs/first                  status of every job, also while they run
    python -m rlexp.study status outputs/first traceback=true   with the traceback of each failed job
    python -m rlexp.study clean outputs/first                   remove the folders of failed and killed jobs; asks first
    python -m rlexp.study clean outputs/first what=checkpoints  remove checkpoint.pt of done jobs

Both accept several studies. Settings of clean: what=failed,killed (the default; also interrupted, pruned, checkpoints,
and waiting: entries of sweep.json) · yes=true (do not ask). Running jobs are never touched.
"""

from pathlib import Path

from rlexp.config.signatures import nearest
from rlexp.errors import ConfigError, command

OPTIONS = {"status": ("traceback",), "clean": ("what", "yes")}  # by command


def _parse(command: str, words: list[str]) -> tuple[list[Path], dict[str, str]]:
    """Split arguments into studies and settings."""
    if command not in OPTIONS:
        raise ConfigError(f"{command}: there is no such command; {nearest(command, tuple(OPTIONS))}")
    paths = [word for word in words if "=" not in word or Path(word).exists()]
    pairs = [word.partition("=") for word in words if word not in paths]
    options = {name: value for name, _, value in pairs}
    for name, value in options.items():
        if name not in OPTIONS[command]:
            raise ConfigError(f"{name}={value}: no such setting or folder; {nearest(name, OPTIONS[command])}")
        if name != "what" and value not in ("true", "false"):
            raise ConfigError(f"{name}={value}: must be true or false")
    if not paths:
        raise ConfigError(f"name a study: python -m rlexp.study {command} outputs/<study>")
    return list(dict.fromkeys(map(Path, paths))), options


def run(words: list[str]) -> None:
    """Run the command.

    Raises:
        ConfigError: no such command, setting or study.
    """
    from rlexp.study.clean import CLEANABLE, clean
    from rlexp.study.status import read_study, table

    studies, options = _parse(words[0], words[1:])
    if words[0] == "clean":
        what = list(dict.fromkeys(options.get("what", "failed,killed").split(",")))
        for word in what:
            if word not in CLEANABLE:
                raise ConfigError(f"what={word}: cannot be removed; {nearest(word, CLEANABLE)}")
        clean(studies, what, options.get("yes") == "true")
        return
    texts = []
    for study in studies:
        jobs = read_study(study)
        texts.append((f"{study}:\n" if len(studies) > 1 else "") + table(jobs, study))
        if options.get("traceback") == "true":
            failed = [job for job in jobs if job.status == "failed"]
            texts += [f"{job.folder}:\n{(job.traceback or 'no traceback').rstrip()}" for job in failed]
    print("\n\n".join(texts))


def main(arguments: list[str] | None = None) -> None:
    """Entry point."""
    command("rlexp.study", __doc__, run, arguments)


if __name__ == "__main__":
    main()
