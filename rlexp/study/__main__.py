"""Show the status of a study's jobs, or remove some of them.

    python -m rlexp.study status outputs/first                  status of every job, also while they run
    python -m rlexp.study status outputs/first traceback=true   with the traceback of each failed job
    python -m rlexp.study clean outputs/first                   remove the folders of failed and killed jobs; asks first
    python -m rlexp.study clean outputs/first what=checkpoints  remove checkpoint.pt of done jobs
    python -m rlexp.study clean outputs/first what=queued       forget that jobs are queued: a sweep submits them again

Both accept several studies. Settings of clean: what=failed,killed (the default; also interrupted, pruned, checkpoints,
queued, which cancels no job of a cluster, and waiting: entries of sweep.json) · yes=true (do not ask). Running jobs are
never touched.
"""

import functools

from rlexp.commands import Options, boolean, command, names, parse
from rlexp.errors import ConfigError
from rlexp.run.names import folder_named
from rlexp.text import nearest

OPTIONS: dict[str, Options] = {"status": {"traceback": boolean}, "clean": {"what": names, "yes": boolean}}


def run(words: list[str]) -> None:
    """Run the command; a ConfigError if there is no such command, setting or study."""
    from rlexp.study.clean import CLEANABLE, clean
    from rlexp.study.status import read_study
    from rlexp.study.table import table

    if words[0] not in OPTIONS:
        raise ConfigError(f"{words[0]}: there is no such command; {nearest(words[0], OPTIONS)}")
    folders, options = parse(words[1:], OPTIONS[words[0]], f"python -m rlexp.study {words[0]} outputs/<study>")
    studies = list(dict.fromkeys(map(folder_named, folders)))
    if words[0] == "clean":
        what = options.get("what", ["failed", "killed"])
        for word in what or [""]:
            if word not in CLEANABLE:
                raise ConfigError(f"what={word}: cannot be removed; {nearest(word, CLEANABLE)}")
        clean(studies, what, options.get("yes", False))
        return
    texts = []
    for study in studies:
        jobs = read_study(study)
        texts.append((f"{study}:\n" if len(studies) > 1 else "") + table(jobs, study))
        if options.get("traceback"):
            failed = [job for job in jobs if job.status == "failed"]
            texts += [f"{job.folder}:\n{(job.traceback or 'no traceback').rstrip()}" for job in failed]
    print("\n\n".join(texts))


main = functools.partial(command, "rlexp.study", __doc__, run)

if __name__ == "__main__":
    main()
