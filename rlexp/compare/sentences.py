"""The answer in sentences: one per arm and environment, or one per verdict where they are many."""

import math

from rlexp.compare.measures import MEASURES, RETURNS
from rlexp.compare.results import Judgement, Overall, Result, corrected, span
from rlexp.compare.statistics import Interval, bounds
from rlexp.text import number

MOST_SENTENCES = 6  # with more verdicts, one line per environment and verdict
ORDER = ("better", "worse", "equivalent", "inconclusive", "interim")
THAN = {"better": "than", "worse": "than", "equivalent": "to"}  # against, with other words


def verdicts(judgement: Judgement) -> list[str]:
    """The answer: one sentence per arm and environment, or one per environment and verdict if they are many."""
    found = judgement.primary
    if len(found) <= MOST_SENTENCES:
        lines = [sentence(r, judgement) for r in found]
    else:
        lines = _verdict_lines(found, judgement)
    overall = _overall_lines(judgement)
    return (lines + overall if len(found) <= MOST_SENTENCES else overall + lines) + _reservations(judgement)


def _nothing_compared(judgement: Judgement) -> str:
    """Why there is no verdict at all; empty if there is one."""
    primary = judgement.question.primary
    if judgement.primary:
        return ""
    scored = [m for m in MEASURES if any(r.measure == m and len(r.scores) for r in judgement.results)]
    if primary in scored:
        return f"There is nothing to compare with {judgement.baseline}: {_lacking(judgement)}."
    remedy = {
        "evaluation": "train with evaluation.episodes, or run python -m rlexp.evaluate run=... on each run",
        "evaluation_sampled": "train with evaluation.every",
        "retention": "no seed reached the threshold early enough, there is none, or log_every is too large",
    }.get(primary, "train longer")
    others = f"; or choose one that the runs have, as in primary={scored[0]}" if scored else ""
    return f"No seed has a score by the primary measure, {primary}: {remedy}{others}."


def _lacking(judgement: Judgement) -> str:
    """What keeps arms from being compared, some of which have a score by the primary measure."""
    primary = judgement.question.primary
    without = [r.arm for r in judgement.results if r.measure == primary and not len(r.scores)]
    if not without:
        return "no other arm has a score on its environments"
    remedy = "; run python -m rlexp.evaluate run=... on each of its runs" if primary == "evaluation" else ""
    return f"{', '.join(dict.fromkeys(without))} has no score by the primary measure, {primary}{remedy}"


def sentence(r: Result, judgement: Judgement) -> str:
    """The verdict on one arm, and in the same sentence what the other measures say."""
    interim = r.verdict is not None and r.verdict.word == "interim"
    parts = [f"{_claim(r, judgement)}: {size(r, judgement)}, {_seeds(r, judgement)}"]
    if r.verdict and r.verdict.why:
        parts.append(_why(r))
    if r.ranks_differ and not interim:
        share = f"{r.improvement.value:.0%}{_percent(r.improvement)}"
        told = f"by ranks they differ (p = {corrected(r.p_rank, r.against.alpha)})"
        parts.append(f"{told}: a seed of {r.arm} is above one of the baseline in {share}")
    others = judgement.secondary(r)
    if apart := [other for other in others if _disagrees(r, other) and not interim]:
        parts.append("but " + ", ".join(f"{x.measure} is {_direction(x)}, {x.against}" for x in apart))
    if rest := [other for other in others if other not in apart and other.measure != "retention"]:
        parts.append("secondary: " + ", ".join(f"{x.measure} {x.against}" for x in rest))
    return "; ".join(parts) + "."


def _claim(r: Result, judgement: Judgement) -> str:
    word, within = (r.verdict.word, r.verdict.within) if r.verdict else ("inconclusive", False)
    if word in ("better", "worse"):
        margin = f" (within {_margin(r, judgement)})" if within else ""
        return f"{r.arm} is **{word}** than {judgement.baseline} on {r.env}{margin}"
    if word == "equivalent":
        return f"{r.arm} is **equivalent** to {judgement.baseline} on {r.env} within {_margin(r, judgement)}"
    return f"{r.arm} against {judgement.baseline} on {r.env} is **{word}**"


def _margin(r: Result, judgement: Judgement) -> str:
    question = judgement.question
    return question.written[r.env].replace("%", " %") if question.in_percent(r.env) else number(r.margin)


def size(r: Result, judgement: Judgement) -> str:
    """The difference and its interval, in percent of the span if the margin is."""
    d = r.against
    if not judgement.question.in_percent(r.env):
        return str(d)
    value, least, most = (100 * x / span(r) for x in (d.value, d.low, d.high))
    return f"{value:+.3g} %{bounds(least, most)}"


def _seeds(r: Result, judgement: Judgement) -> str:
    """How many seeds of each arm were scored, of how many; and how many of them diverged."""
    base = judgement.baseline_of(r)
    counts = [scored(x) for x in (r, base)]
    units = [_unit(x, "" if count == "1" else "s") for x, count in zip((r, base), counts, strict=True)]
    text = f"{counts[0]} {units[0]}"
    if r.agents != base.agents:
        text += f" against {counts[1]} {units[1]}"
    else:
        text += " each" if counts[0] == counts[1] else f" against {counts[1]}"
    for x in (r, base):
        if x.diverged:  # they are the last
            text += f" ({x.diverged} of {x.arm} diverged and scored {number(float(x.scores[-1]))})"
    return text


def _unit(r: Result, plural: str) -> str:
    return f"seed{plural}" if r.agents == 1 else f"population{plural} of {r.agents}"


def _why(r: Result) -> str:
    why = r.verdict.why if r.verdict else ""
    if why == "one score":
        return "nearly all seeds of both arms score exactly the same, as at a limit, where no difference can show"
    if why in ("ceiling", "floor"):
        return f"{why}: nearly all seeds of both arms are at it, where no difference can show"
    return why


def _disagrees(r: Result, other: Result) -> bool:
    """Whether a secondary measure tells arms apart where the primary one does not, or the other way round."""
    return other.differs and not (r.differs and (r.against.value > 0) == (other.against.value > 0))


def _direction(r: Result) -> str:
    return "higher" if r.against.value > 0 else "lower"


def _percent(x: Interval) -> str:
    return "" if math.isnan(x.low) else f" of pairs [{100 * x.low:.0f}, {100 * x.high:.0f}]"


def _verdict_lines(found: list[Result], judgement: Judgement) -> list[str]:
    """One line per environment and verdict, with the arms of that verdict."""
    lines = []
    for env in dict.fromkeys(r.env for r in found):
        for word in ORDER:
            group = [r for r in found if r.env == env and r.verdict and r.verdict.word == word]
            by_why: dict[str, list[Result]] = {}
            for r in group:
                by_why.setdefault(_why(r), []).append(r)
            for why, same in by_why.items():
                than = THAN.get(word, "against")
                margin = f" within {_margin(same[0], judgement)}" if word == "equivalent" else ""
                head = f"On {env} **{word}** {than} {judgement.baseline}{margin}" + (f" ({why})" if why else "")
                lines.append(f"{head}: " + "; ".join(_short(r, judgement) for r in same) + ".")
    return lines


def _short(r: Result, judgement: Judgement) -> str:
    interim = r.verdict is not None and r.verdict.word == "interim"
    parts = [f"{r.arm} {size(r, judgement)}"]
    base = judgement.baseline_of(r)
    if r.missing or r.diverged or base.missing or base.diverged:
        parts.append(_seeds(r, judgement))
    if r.verdict and r.verdict.within:
        parts.append(f"within {_margin(r, judgement)}")
    if r.ranks_differ and not interim:
        told = f"P(better) {r.improvement.value:.2f}, p = {corrected(r.p_rank, r.against.alpha)}"
        parts.append(f"by ranks they differ, {told}")
    if not interim:
        parts += [f"but {x.measure} {x.against}" for x in judgement.secondary(r) if _disagrees(r, x)]
    return ", ".join(parts)


def _overall_lines(judgement: Judgement) -> list[str]:
    """The verdicts over environments: one sentence per arm, or one line per verdict where they are many."""
    if len(judgement.overall) <= MOST_SENTENCES:
        return [overall_sentence(o, judgement) for o in judgement.overall]
    groups: dict[tuple[int, int, str], list[Overall]] = {}
    for o in judgement.overall:
        groups.setdefault((ORDER.index(o.verdict.word), o.envs, o.verdict.why), []).append(o)
    lines = []
    for (k, envs, why), same in sorted(groups.items()):
        head = f"Over {envs} environments **{ORDER[k]}** {THAN.get(ORDER[k], 'against')} {judgement.baseline}"
        told = [f"{o.arm} {_share(o)}" + (f" from {o.seeds}" if o.seeds else "") for o in same]
        lines.append(f"{head}{f' ({why})' if why else ''}: {'; '.join(told)}.")
    return lines


def _share(o: Overall) -> str:
    within = f" within {100 * o.margin:.3g} %" if o.verdict.word == "equivalent" or o.verdict.within else ""
    d = o.against
    return f"{100 * d.value:+.3g} %{bounds(100 * d.low, 100 * d.high)}{within}"


def overall_sentence(o: Overall, judgement: Judgement) -> str:
    """The verdict over all environments."""
    d, word = o.against, o.verdict.word
    share = f"{100 * d.value:+.3g} %{bounds(100 * d.low, 100 * d.high)}"
    share += " of the span of scores" if judgement.question.primary in RETURNS else ""
    words = {r.env: r.verdict.word for r in judgement.primary if r.arm == o.arm and r.verdict}
    apart = [f"{what} on {', '.join(env for env, x in words.items() if x == what)}" for what in ("better", "worse")]
    mixed = f"; {' and '.join(apart)}" if {"better", "worse"} <= {*words.values()} else ""
    within = f" within {100 * o.margin:.3g} %" if word == "equivalent" or o.verdict.within else ""
    if word in ("better", "worse", "equivalent"):
        claim = f"{o.arm} is **{word}** {'to' if word == 'equivalent' else 'than'} {judgement.baseline}{within}"
    else:
        claim = f"{o.arm} against {judgement.baseline} is **{word}**" + (f" ({o.verdict.why})" if o.verdict.why else "")
    seeds = f", from {o.seeds}" if o.seeds else ""
    return f"Over {o.envs} environments {claim}: {share}{seeds}{mixed}."


def _reservations(judgement: Judgement) -> list[str]:
    """What a reader has to know of all verdicts together."""
    question = judgement.question
    compared = any(r.compared for r in judgement.results)
    lines = [f"Chosen after the runs: {late}." for late in question.late if compared]
    for env in dict.fromkeys(env for env, _ in judgement.added):
        arms = [arm for where, arm in judgement.added if where == env]
        named = "; ".join(arms) if len(arms) <= MOST_SENTENCES else f"{len(arms)} arms"
        told = f"{named} on {env} {'were' if len(arms) > 1 else 'was'} added after the study's first verdict"
        lines.append(f"{told}: the chance of a false one is now above 5 %.")
    lines += [
        f"Differences of {' and '.join(map(str, seeds))} seeds on {env} were shown before: if they decided how many "
        f"more were trained, the chance of a false verdict is above 5 %."
        for env, seeds in judgement.early.items()
    ]
    lines += [why] if (why := _nothing_compared(judgement)) else []
    for (env, arm), absent in judgement.lost.items():
        reasons = [*absent.values()]
        counts = ", ".join(f"{reasons.count(why)} {why}" for why in dict.fromkeys(reasons))
        lines.append(f"{arm} on {env} has no seed to compare: {counts}. That is an outcome too, without a verdict.")
    without = list(dict.fromkeys(r.env for r in judgement.primary if math.isnan(question.margin(r.env))))
    if without:
        on = f" on {', '.join(without)}" if question.margins else ""
        lines.append(
            f"No margin was declared{on}, so no arm can be called equivalent{on and ' there, nor over all'}: declare "
            f"one with the study, as margin=5% (of the span of scores) or a number."
        )
    return lines


def scored(r: Result) -> str:
    """How many seeds were scored, of how many if some are missing."""
    return str(len(r.scores)) + (f" of {r.planned}" if r.missing else "")
