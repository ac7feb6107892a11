"""The committed reports say what their csv files say: every number is computed again, from the scores of the seeds.

compare.csv from scores.csv; the sentences and tables of compare.md from compare.csv; the text of report.md, and of the
README where it tells results, from both.
"""

import functools
import math
import re

import claims
import numpy as np
import pytest
from reports import INTERVAL, MEASURES, REPORTS, Report, differing, flat, is_rounded, names, parse, read, unexplained
from scipy import stats

from rlexp.compare import report, sentences, statistics
from rlexp.compare.arms import Comparison
from rlexp.compare.decision import decide
from rlexp.compare.look_book import LookBooks
from rlexp.compare.permutation import permutation_p, permutation_test
from rlexp.compare.reference_scores import limits_of

ALPHA = 0.05
NAMES = names()
ROOT = REPORTS.parents[1]
STEP = 2e-3  # of an interval: its ends are steps of p(θ), which the sixth digit of a score may move
LAST = "last_100_episodes"
DECLARED = {"MiniGrid-": (0, 1), "CartpoleSwingupSparse-": (0, 1000), "CheetahRun-": (0, 1000)}  # by env.limits
LIMITED = ("ceiling", "floor", "one score")


@pytest.fixture(scope="module")
def report_of():
    return functools.cache(Report)


def near(cell, value, scale=1.0):
    """Whether a cell of six digits is this value, computed from scores of six digits; an empty one is NaN."""
    if not cell:
        return math.isnan(value)
    return abs(float(cell) - value) <= 1e-5 * (abs(value) + scale)


def same_p(cell, p, tolerance=1e-2):
    """Whether two p agree but for assignments that the sixth digit of a score moves."""
    return math.isnan(p) if not cell else math.isclose(float(cell), p, rel_tol=tolerance, abs_tol=1e-4)


@pytest.mark.few(3)
@pytest.mark.parametrize("name", NAMES)
def test_compare_csv_follows_from_the_scores(name, report_of):
    report = report_of(name)
    for (env, arm, measure), row in report.rows.items():
        x, y = report.scores(env, arm, measure), report.scores(env, baseline(report, env), measure)
        where = f"{env}, {arm}, {measure}"
        assert len(x) == int(row["n"]), where
        if not len(x):
            continue
        pooled = np.concatenate([x, y])
        size = float(np.abs(pooled).max())
        mean = statistics.mean_interval(x, limits(env) if measure != "retention" else (None, None))
        assert all(near(row[k], v, size) for k, v in zip(("mean", "mean_low", "mean_high"), mean, strict=True)), where
        iqm = statistics.iqm_interval(x)
        assert all(near(row[k], v, size) for k, v in zip(("iqm", "iqm_low", "iqm_high"), iqm, strict=True)), where
        if not row["alpha"]:
            continue
        alpha = level(row)
        d = permutation_test([(x, y)], alpha)
        assert near(row["difference"], x.mean() - y.mean(), size), where
        rounded = len({*pooled[pooled % 1 != 0]}) < (pooled % 1 != 0).sum()  # the sixth digit made ties, perhaps
        assert same_p(row["p"], d.p, 0.3 if rounded else 1e-2), where
        low, high, step = (
            *(float(row[f"difference_{end}"] or "nan") for end in ("low", "high")),
            STEP * (d.high - d.low),
        )
        farthest = span_of_limits(report, env) if measure not in ("retention",) else math.inf
        for found, wanted in ((low, max(d.low, -farthest)), (high, min(d.high, farthest))):
            assert abs(found - wanted) <= step or (math.isnan(d.low) and math.isnan(found)), where
        better = statistics.probability_of_improvement(x, y, alpha)
        iqms = statistics.iqm_difference(x, y, alpha)
        few = 100.0 if min(len(x), len(y)) < statistics.BOUNDED else 1.0  # whose interval multiplies the sixth digit
        broken = 1 + 1e5 * (np.equal.outer(x, y) & (x % 1 != 0)[:, None]).mean()  # ties that the sixth digit made
        for name, found, scale in (("improvement", better, broken), ("iqm_difference", iqms, few * size)):
            ends = zip(("", "_low", "_high"), (found.value, found.low, found.high), strict=True)
            assert all(near(row[f"{name}{end}"], value, scale) for end, value in ends), f"{where}: {name}"
        ranks = (pooled[:, None] > pooled).sum(1) + (pooled[:, None] == pooled).sum(1) / 2
        p_rank = permutation_p([(ranks[: len(x)], ranks[len(x) :])], alpha)
        assert same_p(row["p_rank"], p_rank, 5e-2 if rounded else 1e-2), where
        if row["role"] == "primary" and row["verdict"] != "interim" and row["why"] not in LIMITED:
            margin = float(row["margin"] or "nan")
            told = row["verdict"], row["within_margin"] == "True"
            found = decide(d, margin)
            assert told == (found.word, found.within), where


def limits(env):
    """Lowest and highest possible return of an environment as reports name it."""
    declared = [found for start, found in DECLARED.items() if env.startswith(start)]
    if declared:
        return declared[0]
    name, _, limit = env.partition(" (")
    time = {"env.kwargs.max_episode_steps": int(limit.split()[0])} if limit else {}
    return limits_of({"env.id": name} | time) or (None, None)


def span_of_limits(report, env):
    """No two means can be farther apart."""
    low, high = limits(env)
    return math.inf if low is None or high is None else high - low


def level(row):
    """The level of a comparison, of which csv files hold six digits: 5 % over a whole number."""
    return ALPHA / round(ALPHA / float(row["alpha"]))


def baseline(report, env):
    return next(arm for arm in report.arms(env) if not report.rows[env, arm, "final"]["alpha"])


@pytest.mark.parametrize("name", NAMES)
def test_levels_share_the_five_percent(name, report_of):
    rows = [row for row in report_of(name).rows.values() if row["alpha"]]
    primary = sum(float(row["alpha"]) for row in rows if row["role"] == "primary")
    others = sum(float(row["alpha"]) for row in rows if row["role"] == "secondary")
    assert primary <= ALPHA * 1.0001
    assert not rows or others == pytest.approx(ALPHA, rel=1e-3)


def cells_of(table):
    """Rows of a markdown table as dictionaries."""
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]
    return [dict(zip(head, row, strict=True)) for row in rows]


def sections(page):
    """(title, lines) of every section of a page."""
    for part in re.split(r"^##+ ", page, flags=re.MULTILINE)[1:]:
        title, *lines = part.splitlines()
        yield title, [line for line in lines if line.strip()]


def holds(text, row, column, factor=1.0):
    """Whether an interval as printed is that of these columns of compare.csv."""
    match = INTERVAL.fullmatch(text)
    if match is None:
        return is_rounded(text, factor * float(row[column]))
    wanted = [factor * float(row[key]) for key in (column, f"{column}_low", f"{column}_high")]
    return all(is_rounded(match[key], x) for key, x in zip(("value", "low", "high"), wanted, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_the_tables_of_compare_md_are_those_of_compare_csv(name, report_of):
    report = report_of(name)
    seen = set()
    for title, lines in sections((report.folder / "compare.md").read_text(encoding="utf-8")):
        if not (match := re.match(rf"(.*), ({'|'.join(MEASURES)}) \((primary|secondary)\): ", title)):
            continue
        for cells in cells_of([line for line in lines if line.startswith("|")]):
            key = match[1], cells["arm"], match[2]
            row = report.rows[key]
            seen.add(key)
            assert row["role"] == match[3], key
            assert cells["n"].split()[0] == row["n"], key
            assert holds(cells["mean [95 %]"], row, "mean"), key
            assert holds(cells["IQM [95 %]"], row, "iqm"), key
            if row["alpha"]:
                assert holds(cells["difference"], row, "difference"), key
                assert holds(cells["of IQMs"], row, "iqm_difference"), key
                assert holds(cells["P(better)"], row, "improvement"), key
                times = ALPHA / level(row)
                for told, column in (("p", "p"), ("p by ranks", "p_rank")):
                    assert cells[told] == "–" or is_rounded(cells[told], min(1.0, float(row[column]) * times)), key
            if row["verdict"]:
                assert cells["verdict"].startswith(row["verdict"]), key
    assert seen == {key for key, row in report.rows.items() if row["n"] != "0"}


def percent(row):
    """What a difference is multiplied by in sentences, whose margin is 5 %."""
    return 5 / float(row["margin"])


def parts_of(line, report):
    """(row, column, text, factor) of every interval in a sentence of the answer."""
    if match := re.match(r"On (.+?) (better|worse|equivalent|inconclusive|interim)\b", line):
        told = re.sub(r" \([^()]*\)", "", line[match.end() :])  # without why, if there is no verdict
        env, said = match[1], re.split(r"; ", told.split(": ", 1)[1])
        arms = [(max((a for a in report.arms(env) if part.startswith(a)), key=len), part) for part in said]
    else:
        env = max((env for env in report.envs if f" on {env}" in line), key=len)
        arms = [(max((a for a in report.arms(env) if line.startswith(a)), key=len), line)]
    for arm, text in arms:
        for index, found in enumerate(INTERVAL.finditer(text)):
            before = re.search(rf"({'|'.join(MEASURES)})(?: is (?:higher|lower),)? $", text[: found.start()])
            row = report.rows[env, arm, before[1] if before else report.primary]
            if before or index == 0:
                yield row, "difference", found[0].replace(" %", ""), percent(row) if found["percent"] else 1.0


@pytest.mark.parametrize("name", NAMES)
def test_the_sentences_of_compare_md_are_true(name, report_of):
    report = report_of(name)
    answer = dict(sections((report.folder / "compare.md").read_text(encoding="utf-8")))["Verdict"]
    count = 0
    for line in (line.removeprefix("- ").replace("**", "") for line in answer):
        if line.startswith("Over "):
            check_overall(line, report)
        elif INTERVAL.search(line):
            for row, column, text, factor in parts_of(line, report):
                assert holds(text, row, column, factor), f"{text} in {line}"
                count += row["role"] == "primary"
                said = row["verdict"]
                assert not said or re.search(rf"\b{said}\b", line), line
    assert count == sum(row["verdict"] != "" for row in report.rows.values())


@pytest.mark.parametrize("name", NAMES)
def test_the_answer_in_compare_md_is_what_the_tables_give(name, report_of):
    found = report_of(name)
    page = dict(sections((found.folder / "compare.md").read_text(encoding="utf-8")))
    told = [line.removeprefix("- ") for line in page["Verdict"] if not line.startswith("- Over ")]
    wanted = sentences.verdicts(found.judgement)
    assert len(told) == len(wanted)
    assert [apart for line, x in zip(told, wanted, strict=True) if (apart := differing(line, x))] == []
    asked = [line.removeprefix("- ") for line in page["What was asked"]]
    judgement = found.judgement
    tasks = {r.env: r.task for r in judgement.results}
    wanted = report.declared(Comparison([*tasks.values()], []), judgement, LookBooks())
    assert asked[0].startswith(wanted[0])
    if not judgement.primary:  # whose margins are in no table
        return
    assert [apart for line, x in zip(asked[1:], wanted[1:], strict=True) if (apart := differing(line, x))] == []


@pytest.mark.parametrize("name", [name for name in NAMES if (REPORTS / name / "published.csv").exists()])
def test_published_scores_stand_beside_those_of_the_seeds(name, report_of):
    report = report_of(name)
    lines = dict(sections((report.folder / "compare.md").read_text(encoding="utf-8")))["Published scores"]
    published = {row["env"]: row for row in read(report.folder / "published.csv")}
    table = cells_of([line for line in lines if line.startswith("|")])
    assert {cells["environment"] for cells in table} == set(report.envs)
    for cells in table:
        x, there = report.scores(cells["environment"], cells["arm"], LAST), published.get(cells["environment"])
        assert told(cells["here"], x.mean(), x.std(ddof=1), len(x)), cells
        if there is None:
            assert cells["published"] == "none"
            continue
        mean, deviation, n = float(there["score"]), float(there["deviation"]), int(there["seeds"])
        assert told(cells["published"], mean, deviation, n), cells
        variances = x.var(ddof=1) / len(x), deviation**2 / n
        error = math.sqrt(sum(variances))
        if error > 0:
            freedom = error**4 / (variances[0] ** 2 / (len(x) - 1) + variances[1] ** 2 / (n - 1))
            half = stats.t.ppf(0.975, freedom) * error
            d, found = x.mean() - mean, INTERVAL.fullmatch(cells["difference [95 %]"])
            for key, value in (("value", d), ("low", d - half), ("high", d + half)):
                assert abs(parse(found[key])[0] - value) <= 0.01 * half, cells
            assert is_rounded(cells["p"], 2 * stats.t.sf(abs(d) / error, freedom), 1e-2), cells


def told(cell, mean, deviation, n):
    """Whether a cell says `mean ± deviation (n seeds)`."""
    found = re.fullmatch(r"(\S+) ± (\S+) \((\d+) seeds\)", cell)
    return is_rounded(found[1], mean) and is_rounded(found[2], deviation) and int(found[3]) == n


def check_overall(line, report):
    """Over n environments: the mean of the differences in shares of the span, tested within environments."""
    word = re.search(r"\b(better|worse|equivalent|inconclusive|interim)\b", line)[0]
    excused = "(" in line.partition(":")[0]
    if match := re.match(rf"Over \d+ environments {word} [^:]+: (.+)\.$", line):  # several arms
        for part in match[1].split("; "):
            arm = max((arm for arm in report.arms(report.envs[0]) if part.startswith(f"{arm} ")), key=len)
            check_difference_over_all(arm, part, word, excused, report)
        return
    arm = next(
        arm for arm in report.arms(report.envs[0]) if re.search(rf"environments {re.escape(arm)} (is|against)", line)
    )
    check_difference_over_all(arm, line, word, excused, report)
    for word in ("better", "worse"):
        rows = [env for env in report.envs if report.rows[env, arm, report.primary]["verdict"] == word]
        mixed = re.search(rf"\b{word} on (.+?)(?: and worse on|\.$)", line)
        assert (mixed[1] if mixed else "") in (", ".join(rows), ""), line


def check_difference_over_all(arm, text, word, excused, report):
    """excused: the verdict has another reason than the interval."""
    pairs, alphas = [], []
    for env in report.envs:
        row = report.rows[env, arm, report.primary]
        span = 100 / percent(row)
        pairs.append(tuple(report.scores(env, a, report.primary) / span for a in (arm, baseline(report, env))))
        alphas.append(level(row))
    d = permutation_test(pairs, min(alphas))
    found = INTERVAL.search(text)
    values = (100 * x for x in (d.value, d.low, d.high))
    assert all(is_rounded(found[k], x, 1e-3) for k, x in zip(("value", "low", "high"), values, strict=True)), text
    assert word in (decide(d, 0.05).word, "interim") or (word == "inconclusive" and excused), text


@pytest.mark.parametrize("name", sorted(claims.CLAIMS))
def test_every_number_of_a_report_is_computed_from_its_scores(name, report_of):
    text = (REPORTS / name / "report.md").read_text(encoding="utf-8")
    quotable = " ".join(report_of(part).quotable for part in NAMES if part.split("/")[0] == name)
    assert unexplained(text, quotable, claims.CLAIMS[name](report_of)) == []


@pytest.mark.parametrize(("page", "heading"), sorted(claims.PAGES))
def test_every_number_of_a_page_that_tells_results_is_computed_from_scores(page, heading, report_of):
    text = (ROOT / page).read_text(encoding="utf-8")
    section = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", text, re.M | re.S))[heading]
    quotable = " ".join(report_of(name).quotable for name in NAMES)
    assert unexplained(section, quotable, claims.PAGES[page, heading](report_of)) == []


@pytest.mark.parametrize("page", sorted(claims.SENTENCES))
def test_what_other_pages_tell_was_measured(page, report_of):
    text = flat((ROOT / page).read_text(encoding="utf-8"))
    told = [claim for claims_of in claims.SENTENCES[page] for claim in claims_of(report_of)]
    assert told
    assert [claim for claim in told if claim not in text] == []


def test_a_number_that_nothing_accounts_for_is_found():
    page = "It is +1.5 [0.1, 2.9] on Hopper-v5, of 40 seeds.\n\n    apo is better: 3.25,\n      10 seeds each.\n"
    quotable = "so: apo is better: 3.25, 10 seeds each."
    assert unexplained(page, quotable, ["+1.5 [0.1, 2.9]", "40 seeds"]) == []
    assert unexplained(page, quotable, ["+1.5 [0.1, 2.9]"]) == ["40"]
    with pytest.raises(AssertionError, match="not in the text"):
        unexplained(page, quotable, ["41 seeds"])
    with pytest.raises(AssertionError, match=re.escape("3.25")):
        unexplained(page, "apo is better: 3.26, 10 seeds each.", [])
