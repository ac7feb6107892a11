"""Environments of one id that differ in arguments or wrappers, and were run with several arms: tasks of their own."""

from collections.abc import Collection
from typing import Any

from rlexp.compare.audit import abbreviate
from rlexp.compare.fairness import differing_in, fingerprint
from rlexp.compare.naming import text_of
from rlexp.study.runs import Run

MADE_WITH = ("env.kwargs.", "env.wrappers")  # prefixes of settings


def name_variants(runs: Collection[Run], allow: Collection[str] = ()) -> dict[str, str]:
    """Set `Run.variant` where arguments or wrappers of an environment vary, and two arms or more have each choice.

    Otherwise what varies may be the tested term, as it is if `allow` names it. A default is no variant. Returns of each
    environment where only some choices have two arms a remark that names the others.
    """
    remarks: dict[str, str] = {}
    by_env: dict[str, list[Run]] = {}
    for run in runs:
        by_env.setdefault(run.env, []).append(run)
    for env, group in by_env.items():
        varied = [key for key in differing_in(group) if key.startswith(MADE_WITH) and not {key, "all"} & {*allow}]
        arms: dict[str, set[str]] = {}
        for run in group:
            arms.setdefault(_made_with(run, varied), set()).add(fingerprint(run))
        lone = {made for made, ids in arms.items() if len(ids) == 1}
        if len(arms) > 1 and not lone:
            brief = {_variant(run, varied, with_arguments=False) for run in group}
            for run in group:
                run.variant = _variant(run, varied, with_arguments=len(brief) < len(arms))
        elif 0 < len(lone) < len(arms):
            remarks[env] = _told([run for run in group if _made_with(run, varied) in lone], varied)
    return remarks


def _told(lone: list[Run], varied: list[str]) -> str:
    made = sorted({_variant(run, varied, with_arguments=True) or "the default" for run in lone})
    return (
        f"With {' and with '.join(made)} only one arm was run ({abbreviate([str(run.folder) for run in lone])}): "
        "leave that out, or run a second arm, and each will be a task of its own"
    )


def _made_with(run: Run, varied: list[str]) -> str:
    return repr([run.settings.get(key) for key in varied])


def _variant(run: Run, varied: list[str], *, with_arguments: bool) -> str:
    """The settings that vary, as `size=8, TimeAware`, without those at their default."""
    told = []
    for key in varied:
        value = run.settings.get(key)
        if key.startswith("env.kwargs."):
            told += [f"{key.removeprefix('env.kwargs.')}={text_of(value)}"] if value is not None else []
        else:
            told += [_wrapper(wrapper, with_arguments=with_arguments) for wrapper in value or ()]
    return ", ".join(told)


def _wrapper(wrapper: Any, *, with_arguments: bool) -> str:
    if not isinstance(wrapper, dict):
        return str(wrapper)
    arguments = [f"{key}={text_of(value)}" for key, value in wrapper.items() if key != "_target_"]
    name = str(wrapper.get("_target_")).rpartition(".")[2]
    return f"{name}({', '.join(arguments)})" if with_arguments and arguments else name
