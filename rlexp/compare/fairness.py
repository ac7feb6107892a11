"""Whether comparing runs is fair: they differ in one term of the objective, and otherwise ran the same code."""

import itertools
from collections.abc import Collection, Mapping
from typing import Any

from rlexp.compare.audit import PER_SEED, code_differences
from rlexp.config.declaration import is_number
from rlexp.config.identity import COPIES, NEUTRAL, READ_WITH, config_hash, differing
from rlexp.config.signatures import added_fields
from rlexp.study.runs import Run, StudyError

OBJECTIVE = ("algo.", "bonus.")  # prefixes of the objective's settings
NOT_TRAINING = ("evaluation.",)  # prefixes of settings that do not affect training
WHICH = ("evaluation.weights", *itertools.chain(*READ_WITH.values()))  # but which policy it leaves, they do
CHOOSES = "evaluation.deterministic"  # the best weights: by the most likely actions, or by sampled ones
NONE = "—"  # stands for a value where there is none


def training_settings(run: Run) -> dict[str, Any]:
    """Settings that tell arms apart: without seeds, and what affects neither training nor which policy it leaves."""
    which = (*WHICH, CHOOSES) if run.settings.get("evaluation.weights") == "best" else WHICH
    found = {k: v for k, v in run.settings.items() if k not in PER_SEED}
    return {k: v for k, v in found.items() if k in which or not k.startswith(NOT_TRAINING)}


def fingerprint(run: Run) -> str:
    """Eight hex digits that the runs of an arm share, whatever arms are beside it."""
    return config_hash(training_settings(run))


def differing_in(runs: list[Run]) -> list[str]:
    """Keys of the settings in which runs differ."""
    return differing([training_settings(run) for run in runs])


def beyond_one_term(runs: list[Run], allow: Collection[str] = ()) -> set[str]:
    """Settings other than the tested term in which runs on one environment differ.

    Runs of one algorithm may differ in one setting; several algorithms, in settings that only one of them has. The
    population is none of them, unless all make equally many steps.
    """
    more = (
        set(differing_in(runs))
        - {*allow}
        - ({"population", *implied(runs)} if implied(runs) else set())
        - consequences(runs)
    )
    if len({run.algo for run in runs}) == 1:
        return more if len(more) > 1 or "population" in more else set()
    shared = set.intersection(*(set(training_settings(run)) for run in runs))
    # a setting of the objective that some runs lack belongs to the tested term
    return {key for key in more if key in shared or not key.startswith(OBJECTIVE)} - {"algo._target_"}


def implied(runs: list[Run]) -> set[str]:
    """total_steps, if populations of different sizes make equally many steps: then it differs as they do."""
    made = {(run.population, run.settings.get("total_steps")) for run in runs}
    if len({n for n, _ in made}) < 2 or not all(is_number(steps) for _, steps in made):
        return set()
    totals = [n * float(str(steps)) for n, steps in made]  # of seeds or populations, in rows
    return {"total_steps"} if max(totals) - min(totals) <= max(n for n, _ in made) else set()


def consequences(runs: list[Run]) -> set[str]:
    """Settings that only some evaluation.weights read, if the runs that do agree: it is the weights that differ."""
    found = [training_settings(run) for run in runs]
    had = {key: [x[key] for x in found if key in x] for key in (*WHICH[1:], CHOOSES)}
    return {key for key, values in had.items() if len(values) < len(found) and len({*values}) == 1}


def population_remarks(runs: list[Run]) -> list[str]:
    """What to know of arms whose units are not alike."""
    made = sorted({(run.population, str(run.settings.get("total_steps"))) for run in runs})
    if len({n for n, _ in made}) == 1:
        return []
    each = " and ".join(f"{n} x {steps}" for n, steps in made)
    counted = "equally" if implied(runs) else "not equally"
    return [
        f"the arms differ in population (agents x total_steps: {each}, {counted} many rows); a population counts as "
        f"one, by the mean of its members, and seeds and populations are not paired"
    ]


def said(settings: Mapping[str, Any], key: str, *, has: bool = True) -> Any:
    """The value of a key, also where the identity is silent on it; a dash if it `has` none, as of another algorithm."""
    if key in settings or not has:
        return settings.get(key, NONE)
    own = _added(settings, key)
    return own[0] if own else NEUTRAL.get(key, settings.get(COPIES.get(key, ""), NONE))


def _added(settings: Mapping[str, Any], key: str) -> list[Any]:
    """The default of a field that was added to the class of a group, in a list; of foreign classes no code is run."""
    group, _, name = key.rpartition(".")
    target = str(settings.get(f"{group}._target_", ""))
    return [x for field, x in added_fields(target).items() if field == name] if target.startswith("rlexp.") else []


def _short(run: Run, key: str) -> Any:
    return said(run.settings, key, has=not key.startswith("algo.") or bool(_added(run.settings, key)))


def require_one_term(env: str, runs: list[Run], allow: Collection[str], hint: str = "") -> None:
    """Refuse runs that differ in more than the tested term, by a StudyError that says how to train them alike.

    hint: what else may be the matter, if anything.
    """
    if "all" not in allow and (more := beyond_one_term(runs, allow)):
        values = "; ".join(f"{key}: {_values(runs, key)}" for key in sorted(more))
        equal = ", which may differ together where population x total_steps is the same" if "population" in more else ""
        raise StudyError(
            f"{env}: the arms differ in more than the tested term ({values}){equal}. {_remedy(runs)}, or allow it: "
            f"allow={','.join(sorted(more))}{hint and f'. {hint}'}"
        )


def _values(runs: list[Run], key: str) -> str:
    """What each algorithm has for a key, or how many of its arms.

    If most algorithms, three or more, have the same and no other, their number.
    """
    had: dict[str, set[str]] = {}
    arms: dict[str, dict[str, str]] = {}  # algorithm -> arm -> value
    for run in runs:
        found = _short(run, key)
        value = "null" if found is None else str(found)
        had.setdefault(value, set()).add(run.algo)
        arms.setdefault(run.algo, {})[fingerprint(run)] = value

    def told(value: str) -> str:
        each = [(algo, list(arms[algo].values())) for algo in sorted(had[value])]
        some = [
            algo if {*all_} == {value} else f"{all_.count(value)} of {len(all_)} arms of {algo}" for algo, all_ in each
        ]
        return f"{value} in {', '.join(some)}"

    most = max(had, key=lambda value: (len(had[value]), value))
    rest = set().union(*(had[value] for value in had if value != most))
    others = had[most] - rest
    if len(others) >= 3 and 2 * len(others) > len(had[most] | rest):
        named = sorted(told(value) for value in had if value != most)
        return ", ".join([*named, f"{most} in {'all others' if had[most] & rest else f'the other {len(others)}'}"])
    return ", ".join(sorted(map(told, had)))


def _remedy(runs: list[Run]) -> str:
    """How to train the runs with the same settings; `tuned` may be why they differ."""
    chosen = {(run.algo, str(run.record.get("choices", {}).get("tuned", ""))) for run in runs}
    pairs = sorted((pair for pair in chosen if pair[1]), key=lambda pair: (pair[1] == "none", pair))
    choices = {tuned for _, tuned in pairs}
    if "none" not in choices or len(choices) == 1:
        return "Train them with the same values"
    names = [f"tuned={tuned}" if tuned != "none" else tuned for _, tuned in pairs]
    trained = [f"{algo}{'' if k else ' was trained'} with {names[k]}" for k, (algo, _) in enumerate(pairs)]
    remedies = " or ".join(f"tuned={tuned}" for tuned in dict.fromkeys(tuned for _, tuned in pairs))
    return f"{', '.join(trained[:-1])} and {trained[-1]}: train all with {remedies}"


def require_one_code(
    env: str, arms: Mapping[str, Mapping[int, Run]], allow: Collection[str], remarks: list[str]
) -> None:
    """Refuse seeds of an arm, or arms, whose objective, network or environment code differs; arms: each seed's run."""
    allowed = bool({"code", "all"} & set(allow))
    remedy = "Rerun them with the same code (stale=rerun), or allow it: allow=code"
    for name, runs in arms.items():
        differences = code_differences({seed: [run] for seed, run in runs.items()}, seeds=True)
        if differences and not allowed:
            told = "; ".join(differences)
            raise StudyError(f"{env}, {name}: its seeds ran different code ({told}). {remedy}")
        remarks += [f"{env}, {name}: pools seeds that ran different code: {line}" for line in differences]
    differences = code_differences({name: [*runs.values()] for name, runs in arms.items()})
    told = "; ".join(differences)
    if differences and not allowed:
        raise StudyError(f"{env}: the arms ran different code of the same files ({told}). {remedy}")
    if differences:
        remarks.append(f"{env}: compares arms that ran different code: {told}")
