"""Looks at a study's data: the first is remembered, declared ones share the 5 %, all others give no verdict."""

import json
import os
import re
import shutil

import numpy as np
import pytest
from runs import write_run
from scored import TEN, comparison, task

from rlexp.compare import __main__ as compare
from rlexp.compare import sentences, verdict
from rlexp.compare.fairness import fingerprint
from rlexp.compare.look_book import LookBooks
from rlexp.compare.looks import SHARES, Looks, Seeds, spans
from rlexp.compare.question import Question, against_records, to_record
from rlexp.compare.verdict import ALPHA
from rlexp.errors import ConfigError
from rlexp.study.runs import find_runs


def scores(n, shift=0.0):
    return np.linspace(-4.5, 4.5, n) + shift


def judge(folder, *tasks, book=None, margin=None):
    margins = {} if margin is None else {t.env: margin for t in tasks}
    book = book or LookBooks(folder)
    return verdict.judge(comparison(*tasks), "ppo", Question("evaluation", margins, margins), book), book


def looks_at(book, env="E"):
    """Those at an environment, of the only study."""
    (looks,) = book.of(env)
    return looks


def words(judgement):
    return [r.verdict.word for r in judgement.primary]


def write_looks(folder, planned=(), taken=(), env="E", **more):
    folder.mkdir(exist_ok=True, parents=True)
    entry = {"planned": [*planned], "taken": [*taken]}
    (folder / "looks.json").write_text(json.dumps({"envs": {env: entry}} | more))


def held(folder):
    return json.loads((folder / "looks.json").read_text())


def study(folder, n=5, level=160.0, **more):
    for algo, start in (("ppo", 100.0), ("apo", level)):
        shutil.rmtree(folder / algo, ignore_errors=True)
        write_run(folder / algo, algo, seeds=range(n), level=start, **more)
    return str(folder)


def run(capsys, *settings):
    """What the command prints, in one line."""
    compare.main([*settings, *([] if "plan=true" in settings else ["figures=false"])])
    return " ".join(capsys.readouterr().out.split())


def refused(capsys, *settings):
    with pytest.raises(SystemExit) as end:
        compare.main([*settings])
    said = capsys.readouterr()
    assert end.value.code == 1
    assert said.err.startswith("rlexp.compare: ")
    assert said.err.count("\n") == 1
    return said.err


# The rule ------------------------------------------------------------------------------------------------------------


def test_shares_are_of_the_whole_error():
    for looks, shares in SHARES.items():
        assert len(shares) == looks
        assert sum(shares) == pytest.approx(1)
        assert list(shares) == sorted(shares)  # most is left to the end

    def share(looks, n, m=None):
        return looks.share(
            *(Seeds(arm, arm, {*range(k)}, {*range(k)}, k, 0) for arm, k in (("apo", n), ("ppo", m or n)))
        )

    assert share(Looks(), 7) == share(Looks(), 7, 9) == share(Looks(taken=[7]), 7) == (1, "")
    assert share(Looks(taken=[7]), 8)[1] == share(Looks(taken=[7]), 6)[1] != ""
    for planned in ([9], [9, 12], [9, 12, 20]):
        assert [share(Looks(planned), n) for n in planned] == [(each, "") for each in SHARES[len(planned)]]
        assert share(Looks(planned), 10)[1] != ""
        assert share(Looks(planned), 9, 12)[1] != ""
        assert share(Looks(planned, taken=[9]), 9)[1] == ""
        assert share(Looks(planned, taken=[9]), 13)[1] != ""


def test_the_first_look_is_taken_and_remembered(tmp_path, capsys):
    folder = study(tmp_path / "s", 5)
    first = run(capsys, folder)
    assert "apo is better than ppo on CartPole-v1" in first
    ids = {run.algo: fingerprint(run) for run in find_runs([folder])}
    assert held(tmp_path / "s")["envs"] == {
        "CartPole-v1": {
            "planned": [],
            "taken": [5],
            "pilot": 0,
            "seen": False,
            "shown": [],
            "seeds": {"5": {ids["ppo"]: "0-4", ids["apo"]: "0-4"}},
            "compared": {ids["apo"]: "apo"},
            "late": {},
            "awaited": {},
            "known": {ids["ppo"]: [*range(5)], ids["apo"]: [*range(5)]},
        }
    }
    assert held(tmp_path / "s")["primary"] == "evaluation"
    content = (tmp_path / "s" / "looks.json").read_bytes()
    assert run(capsys, folder) == first  # as often as one likes
    assert (tmp_path / "s" / "looks.json").read_bytes() == content
    seeds = held(tmp_path / "s")["envs"]["CartPole-v1"]["seeds"]
    study(tmp_path / "s", 6)
    said = run(capsys, folder)
    assert "apo against ppo on CartPole-v1 is interim: +60 [" in said
    assert "; the 5 % were spent on seeds 0-4 of ppo and seeds 0-4 of apo; new seeds take a study of their own" in said
    assert not re.search("better|worse|equivalent to", said.split("No margin")[0])
    assert held(tmp_path / "s")["envs"]["CartPole-v1"]["seeds"] == seeds
    study(tmp_path / "s", 5)
    assert "apo is better than ppo" in run(capsys, folder)


def test_only_what_could_have_given_a_verdict_is_a_look(tmp_path):
    few = task({"ppo": scores(4), "apo": scores(4, 50)})
    _, book = judge(tmp_path, few)
    assert looks_at(book).taken == []
    many = {f"apo{k}": scores(5, 50) for k in range(16)} | {"ppo": scores(5)}
    judgement, book = judge(tmp_path, task(many))  # 5 seeds cannot tell 16 arms apart
    assert words(judgement) == ["inconclusive"] * 16
    assert looks_at(book).taken == []
    # a verdict on one arm is a look, however few seeds another has
    judgement, book = judge(tmp_path, task({"ppo": scores(9), "apo": scores(9, 50), "other": scores(9)[:2]}))
    assert words(judgement) == ["better", "inconclusive"]
    assert looks_at(book).taken == [9]
    # and so is one over all environments alone
    tasks = [task(many, env) for env in "ABC"]
    judgement, book = judge(tmp_path, *tasks)
    assert set(words(judgement)) == {"inconclusive"}
    assert {o.verdict.word for o in judgement.overall} == {"better"}
    assert {env: looks_at(book, env).taken for env in "ABC"} == {"A": [5], "B": [5], "C": [5]}


def test_environments_have_looks_of_their_own(tmp_path):
    write_looks(tmp_path, taken=[10], env="A")
    arms = {"ppo": scores(12), "apo": scores(12, 50)}
    judgement, book = judge(tmp_path, task(arms, "A"), task(arms, "B"))
    assert words(judgement) == ["interim", "better"]
    assert judgement.overall[0].verdict.word == "interim"
    assert (looks_at(book, "A").taken, looks_at(book, "B").taken) == ([10], [12])


def test_missing_seeds_do_not_make_it_another_look(tmp_path):
    write_looks(tmp_path, planned=[10])
    absent = {"apo": {8: "unreadable", 9: "failed"}}
    judgement, _ = judge(tmp_path, task({"ppo": scores(10), "apo": scores(8, 50)}, absent=absent))
    assert words(judgement) == ["better"]
    judgement, _ = judge(tmp_path, task({"ppo": scores(8), "apo": scores(8, 50)}))
    assert words(judgement) == ["interim"]


@pytest.mark.parametrize("planned", [[10], [6, 10], [6, 8, 10]])
def test_declared_looks_share_the_error(tmp_path, planned):
    write_looks(tmp_path, planned=planned)
    book = LookBooks(tmp_path)
    spent = 0.0
    for n in range(5, 12):
        judgement, _ = judge(tmp_path, task({"ppo": scores(n), "apo": scores(n, 0.5), "other": scores(n)}), book=book)
        (level,) = {r.against.alpha for r in judgement.primary}
        if n in planned:
            spent += level
            assert level == pytest.approx(ALPHA / 2 * SHARES[len(planned)][planned.index(n)])
            assert "interim" not in words(judgement)
        else:
            assert words(judgement) == ["interim"] * 2
            later = [k for k in planned if k > n]
            told = f"declared looks are at {', '.join(map(str, planned))} seeds" + (
                f": next at {later[0]}" if later else "; new seeds take a study of their own"
            )
            assert judgement.primary[0].verdict.why == told
    assert spent == pytest.approx(ALPHA / 2)
    # those whose few seeds could not reach their share of the error gave no verdict, and are not taken
    assert set(looks_at(book).taken) <= set(planned)
    assert looks_at(book).taken[-1] == 10


def test_a_look_is_saved_before_its_verdict_is_told(tmp_path, monkeypatch):
    folder = study(tmp_path / "s")

    class Seen(Exception):
        pass

    def printed(*_):
        assert held(tmp_path / "s")["envs"]["CartPole-v1"]["taken"] == [5]
        raise Seen

    monkeypatch.setattr("builtins.print", printed)
    with pytest.raises(Seen):
        compare.main([folder, "figures=false"])


def test_a_study_that_cannot_be_written_to_is_compared_all_the_same(tmp_path, capsys, monkeypatch):
    folder = study(tmp_path / "s")
    before = os.replace

    def replace(source, target, **more):
        if str(target).endswith("looks.json"):
            raise PermissionError(13, "Permission denied")
        return before(source, target, **more)

    monkeypatch.setattr(os, "replace", replace)
    said = run(capsys, folder, f"out={tmp_path / 'out'}")
    assert "apo is better" in said
    assert f"note: {folder}/looks.json: this look could not be recorded (Permission denied)" in said
    assert "cannot be written (Permission denied), and declares the plan" in refused(
        capsys, folder, "plan=true", "margin=3", "most=6"
    )


# Another question after the answer -----------------------------------------------------------------------------------


def test_another_question_than_that_of_the_first_verdict_is_told(tmp_path, capsys):
    folder = study(tmp_path / "s")
    run(capsys, folder, "margin=5%")
    assert held(tmp_path / "s")["margins"] == {"CartPole-v1": "5%"}
    assert "Chosen after" not in run(capsys, folder, "margin=5%")
    said = run(capsys, folder, "margin=40", "primary=area")
    assert "Chosen after the runs: primary=area, where the study was planned or shown by evaluation." in said
    assert "Chosen after the runs: margin=40 on CartPole-v1, where the study was planned or shown with 5%." in said
    assert held(tmp_path / "s")["primary"] == "evaluation"


def test_another_threshold_than_that_of_the_first_verdict_on_retention_is_told():
    retention, evaluation = (Question(primary, {}, {}) for primary in ("retention", "evaluation"))
    content = to_record(comparison(task({"ppo": TEN}, threshold=400.0)), retention, "ppo")
    assert content["thresholds"] == {"E": 400.0}
    assert against_records(retention, content, [content]).late == ()
    other = to_record(comparison(task({"ppo": TEN}, threshold=450.0)), retention, "ppo")
    told = "threshold=450 on E, where the study was planned or shown with 400"
    assert against_records(retention, other, [content]).late == (told,)
    assert "thresholds" not in to_record(comparison(task({"ppo": TEN}, threshold=450.0)), evaluation, "ppo")


def test_another_question_than_the_runs_declared_is_told(tmp_path, capsys):
    folder = study(tmp_path / "s")
    for algo in ("ppo", "apo"):
        path = tmp_path / "s" / algo / "run.json"
        declared = {"primary": "area", "margin": "5%"}
        path.write_text(json.dumps(json.loads(path.read_text()) | {"declared": declared}))
    said = run(capsys, folder)
    assert "area: mean height of the learning curve" in said
    assert "(within" not in said.split(":")[0]
    assert "Chosen after" not in said
    said = run(capsys, folder, "primary=final", "margin=20%")
    assert "Chosen after the runs: primary=final, where the runs declared area." in said
    assert "Chosen after the runs: margin=20%, where the runs on CartPole-v1 declared 5%." in said


# The file ------------------------------------------------------------------------------------------------------------

DAMAGED = [
    "{",
    "[]",
    "5",
    "null",
    '{"envs": []}',
    '{"envs": {"E": 5}}',
    '{"envs": {"E": {"planned": []}}}',
    '{"envs": {"E": {"planned": ["x"], "taken": []}}}',
    '{"envs": {"E": {"planned": [1e999], "taken": []}}}',
    '{"envs": {"E": {"planned": null, "taken": []}}}',
    '{"envs": {"E": {"planned": [], "taken": [], "pilot": []}}}',
    '{"envs": {"E": {"planned": [9, 8], "taken": []}}}',
    '{"envs": {"E": {"planned": [8, 8], "taken": []}}}',
    '{"envs": {"E": {"planned": [5, 6, 7, 8], "taken": []}}}',
    "[" * 100_000,
    "\udcff",
]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_file_is_told_in_one_line(tmp_path, capsys, content):
    folder = study(tmp_path / "s")
    (tmp_path / "s" / "looks.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    said = refused(capsys, folder, "figures=false")
    assert f"{folder}/looks.json: cannot be read (" in said
    assert said.endswith("); restore or remove it\n")
    assert not (tmp_path / "s" / "compare").exists()


def test_what_is_odd_in_it_and_beside_the_point_does_no_harm(tmp_path, capsys):
    folder = study(tmp_path / "s")
    write_looks(tmp_path / "s", env="=cmd()<script>", taken=[3], primary=["x"] * 99, margins=5, other={"a": 1})
    assert "apo is better" in run(capsys, folder)
    assert held(tmp_path / "s")["other"] == {"a": 1}
    assert held(tmp_path / "s")["envs"]["CartPole-v1"]["taken"] == [5]


@pytest.mark.parametrize("target", ["mine.json", "nowhere.json"])
def test_a_link_is_refused(tmp_path, capsys, target):
    folder = study(tmp_path / "s")
    (tmp_path / "mine.json").write_text('{"envs": {}}')
    (tmp_path / "s" / "looks.json").symlink_to(tmp_path / target)
    assert refused(capsys, folder) == f"rlexp.compare: {folder}/looks.json: is a symbolic link; remove it\n"
    assert (tmp_path / "mine.json").read_text() == '{"envs": {}}'
    assert not (tmp_path / "nowhere.json").exists()


def test_an_unknown_number_of_looks_is_no_plan(tmp_path):
    write_looks(tmp_path, planned=range(5, 9))
    with pytest.raises(ConfigError, match="cannot be read"):
        LookBooks(tmp_path)
    book = LookBooks(tmp_path / "new")
    assert looks_at(book) == Looks()
    book.books[0].take("E", *(Seeds(arm, arm, {*range(7)}, {*range(7)}, 7, 0) for arm in ("ppo", "apo")))
    (tmp_path / "new").mkdir()
    book.save(primary="final")
    assert looks_at(LookBooks(tmp_path / "new")).taken == [7]
    assert TEN.mean() == 0


def test_seeds_added_to_one_arm_alone_are_another_look(tmp_path):
    never = {"apo": dict.fromkeys(range(6, 20), "never ran")}
    first, book = judge(tmp_path, task({"ppo": scores(20), "apo": scores(6, 3)}, absent=never))
    assert words(first) == ["inconclusive"]
    again, book = judge(tmp_path, task({"ppo": scores(20), "apo": scores(6, 3)}, absent=never), book=book)
    assert words(again) == ["inconclusive"]  # the same data
    never = {"apo": dict.fromkeys(range(8, 20), "never ran")}
    more, book = judge(tmp_path, task({"ppo": scores(20), "apo": scores(8, 3)}, absent=never), book=book)
    assert words(more) == ["interim"]
    assert more.primary[0].verdict.why == "the 5 % were spent on seeds 0-5 of apo; new seeds take a study of their own"
    assert looks_at(book).seeds == {20: {"ppo": "0-19", "apo": "0-5"}}


def test_other_seeds_of_the_same_number_are_another_look(tmp_path, capsys):
    folder = study(tmp_path / "s")
    assert "apo is better" in run(capsys, folder)
    for algo in ("ppo", "apo"):
        shutil.rmtree(tmp_path / "s" / algo)
        write_run(tmp_path / "s" / algo, algo, seeds=range(10, 15), level=900.0)
    said = run(capsys, folder)
    assert "is interim" in said
    assert "the 5 % were spent on seeds 0-4 of ppo and seeds 0-4 of apo" in said
    assert "but" not in said.split("No margin")[0]  # no claim by other measures either


@pytest.mark.parametrize("again", [1, 2])
def test_an_arm_added_after_the_verdict_is_said(tmp_path, again):
    both = {"ppo": scores(10), "apo": scores(10, 3)}
    first, book = judge(tmp_path, task(both))
    for _ in range(again):  # it is not forgotten
        book.save()
        later, book = judge(tmp_path, task(both | {"new": scores(10, 9)}))
        assert later.added == [("E", "new")]
    assert words(later) == [*words(first), "better"]
    levels = {r.arm: r.against.alpha for r in later.primary}
    assert levels == {"apo": ALPHA, "new": ALPHA / 2}  # what was told stays as it was told
    assert "new on E was added after the study's first verdict" in " ".join(sentences.verdicts(later))


def test_an_environment_added_after_the_verdict_is_said(tmp_path):
    arms = {"ppo": scores(10), "apo": scores(10, 3)}
    first, book = judge(tmp_path, task(arms, "A"))
    book.save()
    later, _ = judge(tmp_path, task(arms, "A"), task(arms, "B"))
    assert later.added == [("B", "apo")]
    assert later.primary[0].against == first.primary[0].against
    assert later.primary[1].against.alpha == pytest.approx(ALPHA / 3)


def test_an_arm_that_is_removed_leaves_the_others_their_level(tmp_path):
    three = {"ppo": scores(10), "apo": scores(10, 3), "other": scores(10)}
    _, book = judge(tmp_path, task(three))
    book.save()
    later, _ = judge(tmp_path, task({"ppo": three["ppo"], "apo": three["apo"]}))
    assert later.primary[0].against.alpha == pytest.approx(ALPHA / 2)
    assert later.added == []


def test_environments_without_a_finished_run_share_the_error(tmp_path):
    one = comparison(task({"ppo": scores(10), "apo": scores(10, 3)}, "A"))
    seeds = dict.fromkeys(range(10), "interrupted")
    failed = {"apo": dict.fromkeys(range(10), "failed")}
    one.pending = [task({}, "B", absent={"ppo": seeds, "apo": seeds}), task({}, "C", absent=failed)]
    book = LookBooks(tmp_path)
    judgement = verdict.judge(one, "ppo", Question("evaluation"), book)
    assert judgement.tests == 3  # A, B and over both; on C there is nothing to compare with
    assert {env: looks_at(book, env).compared for env in "AB"} == {env: {"apo": "apo"} for env in "AB"}
    assert judgement.lost == {("C", "apo"): dict.fromkeys(range(10), "failed")}
    both = {"ppo": scores(10), "apo": scores(10, 3)}
    later = verdict.judge(comparison(task(both, "A"), task(both, "B")), "ppo", Question("evaluation"), book)
    assert later.primary[0].against == judgement.primary[0].against
    assert later.added == []


def test_the_verdict_over_environments_is_given_once_at_the_last_looks(tmp_path):
    write_looks(tmp_path, planned=[6, 10], env="A")
    book = LookBooks(tmp_path)

    def over(n):
        arms = {"ppo": scores(n), "apo": scores(n, 30)}
        tasks = (task(arms, "A"), task({"ppo": scores(10), "apo": scores(10, 30)}, "B"))
        return judge(tmp_path, *tasks, book=book)[0].overall[0].verdict

    assert over(6) == ("interim", "it is told at the last look at each, not yet that at A", False)
    assert over(10).word == "better"


def test_seeds_are_named_in_spans():
    assert spans([4, 0, 1, 2, 9, 11, 10]) == "0-2, 4, 9-11"
    assert spans([]) == ""


def test_a_margin_of_an_environment_that_comes_later_is_not_late(tmp_path, capsys):
    folder = study(tmp_path / "s")
    run(capsys, folder, "margin=5%")
    for algo in ("ppo", "apo"):
        write_run(tmp_path / "s" / f"{algo}_long", algo, env="Acrobot-v1")
    assert "Chosen after" not in run(capsys, folder, "margin=5%")
    assert held(tmp_path / "s")["margins"] == {"CartPole-v1": "5%", "Acrobot-v1": "5%"}
    assert "margin=9% on Acrobot-v1, where the study was planned or shown with 5%" in run(capsys, folder, "margin=9%")


def test_another_plan_before_any_verdict_replaces_the_first(tmp_path, capsys):
    folder = study(tmp_path / "s")
    run(capsys, folder, "plan=true", "margin=20%")
    run(capsys, folder, "plan=true", "margin=10%", "primary=final")
    assert held(tmp_path / "s")["margins"] == {"CartPole-v1": "10%"}
    assert held(tmp_path / "s")["primary"] == "final"


def test_a_plan_is_not_replaced_once_differences_were_shown(tmp_path, capsys):
    folder = study(tmp_path / "s", 6)
    run(capsys, folder, "plan=true", "margin=1%")
    assert "is interim" in run(capsys, folder)
    told = refused(capsys, folder, "plan=true", "margin=1%", "most=6")
    assert "looks at CartPole-v1 were declared for 20, 30, 40 seeds" in told
    assert "differences have been shown since, by which others could be chosen" in told
    assert held(tmp_path / "s")["envs"]["CartPole-v1"]["planned"] == [20, 30, 40]


def test_arms_that_were_shown_and_left_out_keep_their_share(tmp_path):
    many = {f"apo{k}": scores(5, k) for k in range(16)} | {"ppo": scores(5)}
    _, book = judge(tmp_path, task(many))  # too few seeds for a verdict, but their differences are shown
    best, _ = judge(tmp_path, task({"ppo": many["ppo"], "apo15": many["apo15"]}), book=book)
    assert best.tests == 16
    assert words(best) == ["inconclusive"]


def test_other_measures_have_looks_too(tmp_path):
    write_looks(tmp_path, planned=[6, 8, 10])
    levels = {}
    for n in (6, 8, 10):
        judgement, _ = judge(tmp_path, task({"ppo": scores(n), "apo": scores(n, 30)}))
        levels[n] = {r.measure: r.against.alpha for r in judgement.results if r.compared}
    for measure in ("final", "area"):
        assert sum(levels[n][measure] for n in levels) == pytest.approx(ALPHA / 2)


def test_another_evaluation_after_the_verdict_is_told(tmp_path, capsys):
    folder = study(tmp_path / "s")

    def evaluated(**settings):
        for algo in ("ppo", "apo"):
            path = tmp_path / "s" / algo / "evaluation.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | {"settings": settings}))

    evaluated(episodes=20, deterministic=True)
    assert "Chosen after" not in run(capsys, folder)
    assert "over 20 episodes by the most likely actions" in (tmp_path / "s" / "compare" / "compare.md").read_text()
    evaluated(episodes=3, deterministic=False)
    told = (
        "evaluation on CartPole-v1 over 3 episodes by sampled actions, where the study was shown by 20 episodes by the"
    )
    assert f"Chosen after the runs: {told}" in run(capsys, folder)


def test_seeds_still_to_come_are_no_pilot(tmp_path, capsys):
    folder = study(tmp_path / "s")
    write_run(tmp_path / "s" / "more", "apo", seeds=range(5, 12), level=160.0, status="interrupted")
    told = refused(capsys, folder, "plan=true", "margin=20%")
    assert "plan=true: 7 seeds are still to come on CartPole-v1, so this is no pilot yet" in told
    assert not (tmp_path / "s" / "looks.json").exists()


def test_settings_that_would_do_nothing_are_refused(tmp_path, capsys):
    folder = study(tmp_path / "s")
    assert "most=: is a setting of plan=true; leave it out" in refused(capsys, folder, "most=9")
    for setting in ("out=x", "figures=false", "width=5", "fonts=text", "beside=x.csv"):
        told = refused(capsys, folder, "plan=true", "margin=5%", setting)
        assert f"{setting.partition('=')[0]}=: plan=true writes no page; leave it out" in told
    for value in ("nan", "inf", "x"):
        assert f"threshold={value}: must be a number, a mean return" in refused(capsys, folder, f"threshold={value}")


def test_a_plan_keeps_its_margin(tmp_path, capsys):
    for arm in ("ppo", "apo"):
        write_run(tmp_path / "s" / arm, arm, seeds=range(5))
    compare.main([str(tmp_path / "s"), "plan=true", "margin=20%"])
    assert held(tmp_path / "s")["margins"] == {"CartPole-v1": "20%"}
    capsys.readouterr()
    for _ in range(2):
        compare.main([str(tmp_path / "s"), "figures=false"])
        assert "No margin was declared" not in capsys.readouterr().out
        compare.main([str(tmp_path / "s"), "margin=30%", "figures=false"])
        said = capsys.readouterr().out
        assert "Chosen after the runs: margin=30% on CartPole-v1, where the study was planned or shown with 20%" in said
        assert held(tmp_path / "s")["margins"] == {"CartPole-v1": "20%"}


def test_a_margin_of_retention_is_a_share_already(tmp_path):
    from rlexp.compare.question import question_of

    one = task({"ppo": scores(10), "apo": scores(10)}, bounds=(0, 500))
    assert question_of(comparison(one), "retention", "5%").margins == {"E": 0.05}
    assert question_of(comparison(one), "final", "5%").margins == {"E": 25}


def test_a_margin_as_wide_as_the_span_is_refused(tmp_path, capsys):
    told = refused(capsys, study(tmp_path / "s"), "margin=200")
    assert "margin=200: is as wide as the span of CartPole-v1, 0 to 200" in told
    assert "margin=199: " not in run(capsys, str(tmp_path / "s"), "margin=199")


# What a verdict was given on stays ---------------------------------------------------------------------------------


def arms(folder, shift=9.0, n=6, **more):
    """ppo and apo, whose seeds score 10 times their number, apo's higher by a shift."""
    for algo, level in (("ppo", 100.0), ("apo", 100.0 + shift)):
        shutil.rmtree(folder / algo, ignore_errors=True)
        write_run(folder / algo, algo, seeds=range(n), level=level, **more)
    return str(folder)


def test_the_same_seeds_trained_with_other_settings_are_other_runs(tmp_path, capsys):
    folder = arms(tmp_path / "s", 0)
    assert "apo against ppo on CartPole-v1 is inconclusive" in run(capsys, folder)
    for _ in range(2):
        said = run(capsys, arms(tmp_path / "s", 60, lr=3e-3))
        assert "is interim" in said
        assert "the 5 % were spent on other runs of ppo" in said
    assert "is inconclusive" in run(capsys, arms(tmp_path / "s", 0))  # those that it was given on


def test_differences_that_were_shown_before_the_last_seeds_bind_their_number(tmp_path, capsys):
    folder = arms(tmp_path / "s", 60)
    for algo in ("ppo", "apo"):
        write_run(tmp_path / "s" / f"{algo}2", algo, seeds=range(6, 20), level=100.0, status="interrupted")
    coming = "28 of 40 seeds are still to come"
    assert coming in run(capsys, folder)
    told = "20 seeds of apo were to come when differences were first shown; train the others"
    record = tmp_path / "s" / "apo2" / "run.json"
    for algo in ("ppo", "apo"):  # running, without a process: killed
        record = tmp_path / "s" / f"{algo}2" / "run.json"
        record.write_text(json.dumps(json.loads(record.read_text()) | {"status": "running"}))
    assert coming in run(capsys, folder)
    shutil.rmtree(tmp_path / "s" / "apo2")
    shutil.rmtree(tmp_path / "s" / "ppo2")
    assert told in run(capsys, folder)
    assert "apo is better" in run(capsys, arms(tmp_path / "s", 60, n=20))


def test_seeds_that_only_another_arm_got_later_are_not_awaited(tmp_path):
    running = {"apo": dict.fromkeys(range(6, 10), "running")}
    first, book = judge(tmp_path, task({"ppo": scores(10), "apo": scores(6, 30)}, absent=running))
    assert words(first) == ["interim"]
    later, _ = judge(tmp_path, task({"ppo": scores(10), "apo": scores(10, 30)}), book=book)
    assert words(later) == ["better"]
    waited = LookBooks(tmp_path / "other")
    judge(tmp_path, task({"ppo": scores(10), "apo": scores(6, 30)}, absent=running), book=waited)
    never = {"apo": dict.fromkeys(range(10, 20), "never ran")}
    later, _ = judge(tmp_path, task({"ppo": scores(20), "apo": scores(10, 30)}, absent=never), book=waited)
    assert words(later) == ["better"]


def test_too_few_seeds_that_were_shown_are_told(tmp_path, capsys):
    told = "Differences of 4 seeds on CartPole-v1 were shown before: if they decided how many more were trained"
    folder = arms(tmp_path / "s", 60, n=4)
    assert told not in run(capsys, folder)
    arms(tmp_path / "s", 60)
    for _ in range(2):
        said = run(capsys, folder)
        assert "apo is better" in said
        assert told in said


def test_what_is_chosen_by_a_plan_after_differences_stays_told(tmp_path, capsys):
    folder = arms(tmp_path / "s", 1, n=4)
    run(capsys, folder)
    run(capsys, folder, "plan=true", "primary=final", "margin=20%", "most=8")
    for _ in range(2):
        said = run(capsys, folder)
        assert "Chosen after the runs: primary=final, where the study was planned or shown by evaluation." in said
        assert "Chosen after the runs: margin=20% on CartPole-v1, where the study was planned or shown with no" in said


def test_what_is_chosen_after_an_interim_look_stays_told(tmp_path, capsys):
    folder = arms(tmp_path / "s", 1)
    write_run(tmp_path / "s" / "more", "apo", seeds=[6], level=100.0, status="interrupted")
    run(capsys, folder)
    for _ in range(2):
        assert "Chosen after the runs: primary=final, where" in run(capsys, folder, "primary=final")


def test_the_verdict_over_environments_is_of_those_that_it_was_given_on(tmp_path, capsys):
    for env, shift in (("A", -60), ("B", 9), ("C", 9)):
        for algo, level in (("ppo", 100.0), ("apo", 100.0 + shift)):
            write_run(tmp_path / "s" / f"{algo}{env}", algo, env=f"{env}-v0", seeds=range(6), level=level)
    assert re.search(
        "Over 3 environments apo (is|against ppo is) (worse|inconclusive)", run(capsys, str(tmp_path / "s"))
    )
    for algo in ("ppo", "apo"):
        shutil.rmtree(tmp_path / "s" / f"{algo}A")
    for _ in range(2):
        said = run(capsys, str(tmp_path / "s"))
        told = "the verdict over environments was given on 3; others take a study of their own"
        assert f"Over 2 environments apo against ppo is interim ({told})" in said


def test_levels_of_other_measures_are_not_raised_by_arms_that_leave(tmp_path):
    many = {f"apo{k}": scores(6, k) for k in range(6)} | {"ppo": scores(6)}
    first, book = judge(tmp_path, task(many))
    book.save()
    later, _ = judge(tmp_path, task({name: many[name] for name in ("ppo", "apo5")}))
    levels = [{r.against.alpha for r in j.results if r.measure == "final" and r.compared} for j in (first, later)]
    assert levels[0] == levels[1] == {ALPHA / 12}


def test_late_arms_are_not_forgotten(tmp_path):
    both = {"ppo": scores(9), "apo": scores(9, 3)}
    book = judge(tmp_path, task(both))[1]
    book.save()
    late = {f"new{k}": scores(9, k) for k in range(7)}
    judge(tmp_path, task(both | late))[1].save()
    later, _ = judge(tmp_path, task(both | {"new6": late["new6"]}))
    assert {r.arm: r.against.alpha for r in later.primary} == {"apo": ALPHA, "new6": pytest.approx(ALPHA / 8)}
    assert later.added == [("E", "new6")]


def test_arms_are_known_by_their_settings(tmp_path, capsys):
    folder = str(tmp_path / "s")
    write_run(tmp_path / "s" / "ppo", "ppo", seeds=range(6))
    for coef in (1, 5):
        write_run(tmp_path / "s" / f"apo{coef}", "apo", seeds=range(6), anchor_coef=coef)
    assert "apo anchor_coef=1 against ppo" in run(capsys, folder)
    shutil.rmtree(tmp_path / "s" / "apo5")
    said = run(capsys, folder)
    assert "apo against ppo" in said
    assert "was added" not in said
    write_run(tmp_path / "s" / "more", "apo", seeds=range(6, 12), anchor_coef=1)
    write_run(tmp_path / "s" / "apo7", "apo", seeds=range(6), anchor_coef=7)
    said = run(capsys, folder)
    assert "apo anchor_coef=1 against ppo on CartPole-v1 is interim" in said
    assert "apo anchor_coef=7 on CartPole-v1 was added" in said


def test_looks_are_those_of_the_studies_however_they_are_named(tmp_path, capsys, monkeypatch):
    first, other = tmp_path / "out" / "x", tmp_path / "out" / "a"
    assert "is inconclusive" in run(capsys, arms(first, 1))
    for algo in ("ppo", "apo"):
        write_run(other / algo, algo, seeds=range(6, 12), level=100.0)
    monkeypatch.chdir(first)
    jobs = [first / "apo", first / "ppo", other / "apo", other / "ppo"]
    for paths in ([first, other], [other, first], [tmp_path / "out"], jobs, [".", "../a"], ["ppo", "apo", other]):
        said = run(capsys, *map(str, paths), f"out={tmp_path / 'page'}")
        assert "the 5 % were spent on " in said
    looks = [held(each)["envs"]["CartPole-v1"] for each in (first, other)]
    assert [each["taken"] for each in looks] == [[6], []]  # the verdict stays that of one study
    assert looks[0]["known"] == looks[1]["known"]
    assert not (tmp_path / "out" / "looks.json").exists()


def test_the_margins_of_several_studies_are_kept(tmp_path, capsys):
    for name, env in (("a", "Acrobot-v1"), ("b", "CartPole-v1")):
        arms(tmp_path / name, 1, env=env)
        run(capsys, str(tmp_path / name), "plan=true", "margin=20%")
    said = run(capsys, str(tmp_path / "a"), str(tmp_path / "b"))
    assert "No margin was declared" not in said
    assert held(tmp_path / "a")["margins"] == {"CartPole-v1": "20%", "Acrobot-v1": "20%"}


def test_studies_that_declare_different_looks_are_refused_together(tmp_path, capsys):
    for name, planned in (("a", [6]), ("b", [9])):
        write_looks(tmp_path / name, planned=planned, env="CartPole-v1")
        arms(tmp_path / name)  # the same seeds: those of b count, but those of a have been looked at
    told = refused(capsys, str(tmp_path / "a"), str(tmp_path / "b"))
    where = [f"at [{n}] ({tmp_path}/{name}/looks.json)" for n, name in ((6, "a"), (9, "b"))]
    assert f"CartPole-v1: looks are declared {' and '.join(where)} seeds by the studies; compare one at a time" in told


def test_that_a_look_was_not_recorded_is_the_first_remark(tmp_path, capsys):
    folder = arms(tmp_path / "s")
    for k in range(6):
        write_run(tmp_path / "s" / f"x{k}", "apo", seeds=[k + 9], status="failed")
    (tmp_path / "s" / "looks.json").mkdir()
    assert f"note: {folder}/looks.json: this look could not be recorded" in run(capsys, folder)


def test_a_plan_without_another_arm_is_refused(tmp_path, capsys):
    write_run(tmp_path / "s" / "ppo", "ppo", seeds=range(5))
    told = refused(capsys, str(tmp_path / "s"), "plan=true", "margin=5%")
    assert "plan=true: there is no arm to compare with the baseline; the pilot takes seeds of each arm" in told


def test_the_verdict_over_environments_waits_for_an_arm_that_has_no_score_yet(tmp_path):
    arms = {"ppo": scores(10), "apo": scores(10, 30)}
    waiting = task({"ppo": scores(10)}, "C", absent={"apo": dict.fromkeys(range(10), "waiting")})
    first, book = judge(tmp_path, task(arms, "A"), task(arms, "B"), waiting)
    assert first.overall[0].verdict == ("interim", "C is still to come", False)
    book.save()
    later, _ = judge(tmp_path, task(arms, "A"), task(arms, "B"), task(arms, "C"))
    assert later.overall[0].verdict.word == "better"


def test_only_seeds_that_were_to_come_are_awaited(tmp_path):
    absent = {"apo": dict.fromkeys(range(6, 10), "running") | dict.fromkeys(range(10, 20), "never ran")}
    _, book = judge(tmp_path, task({"ppo": scores(20), "apo": scores(6, 30)}, absent=absent))
    assert looks_at(book).awaited == {"apo": 10}
    never = {"apo": dict.fromkeys(range(10, 20), "never ran")}
    later, _ = judge(tmp_path, task({"ppo": scores(20), "apo": scores(10, 30)}, absent=never), book=book)
    assert words(later) == ["better"]


def test_a_verdict_comes_back_with_its_seeds(tmp_path):
    five = task({"ppo": scores(5), "apo": scores(5, 30)})
    first, book = judge(tmp_path, five)
    running = {arm: dict.fromkeys(range(5, 10), "running") for arm in ("ppo", "apo")}
    during, _ = judge(tmp_path, task({"ppo": scores(5), "apo": scores(5, 30)}, absent=running), book=book)
    assert words(during) == ["interim"]
    again, _ = judge(tmp_path, five, book=book)
    assert (words(first), words(again)) == (["better"], ["better"])


# What is shown binds -------------------------------------------------------------------------------------------------


def test_a_declared_look_takes_its_seeds_of_each_arm(tmp_path):
    write_looks(tmp_path, planned=[5, 20])
    never = {"apo": dict.fromkeys(range(5, 20), "never ran")}
    first, book = judge(tmp_path, task({"ppo": scores(20), "apo": scores(5, 30)}, absent=never))
    told = "declared looks are at 5, 20 seeds of each arm, and apo has 5, ppo 20"
    assert first.primary[0].verdict == ("interim", told, False)
    killed = {arm: dict.fromkeys(range(5, 20), "killed") for arm in ("ppo", "apo")}
    died, book = judge(tmp_path, task({"ppo": scores(5), "apo": scores(5, 30)}, absent=killed), book=book)
    assert died.primary[0].verdict.why == "30 of 40 seeds are still to come"
    both, _ = judge(tmp_path, task({"ppo": scores(20), "apo": scores(20, 30)}), book=book)
    assert words(both) == ["better"]


def test_a_later_arm_with_more_seeds_takes_no_verdict_away(tmp_path):
    both = {"ppo": scores(10), "apo": scores(10, 30)}
    first, book = judge(tmp_path, task(both))
    book.save()
    never = {arm: dict.fromkeys(range(10, 12), "never ran") for arm in both}
    later, book = judge(tmp_path, task(both | {"new": scores(12, 30)}, absent=never))
    assert words(later) == ["better", "better"]
    assert later.primary[0].against == first.primary[0].against
    fewer, _ = judge(tmp_path, task(both | {"new": scores(10, 30)}), book=book)
    assert words(fewer) == ["better", "interim"]


def test_a_look_by_other_measures_alone_is_one(tmp_path):
    def unscored(n):
        nothing = np.full(n, np.nan)
        return task({"ppo": nothing, "apo": nothing}, finals={"ppo": scores(n), "apo": scores(n, 30)})

    book = judge(tmp_path, unscored(6))[1]
    assert looks_at(book).compared == {"apo": "apo"}
    evaluated, _ = judge(tmp_path, task({"ppo": scores(6), "apo": scores(6, 30)}), book=book)
    assert words(evaluated) == ["better"]
    more, _ = judge(tmp_path, task({"ppo": scores(9), "apo": scores(9, 30)}), book=book)
    assert words(more) == ["interim"]
    few = judge(tmp_path / "few", unscored(4))[1]
    later, _ = judge(tmp_path / "few", task({"ppo": scores(9), "apo": scores(9, 30)}), book=few)
    assert later.early == {"E": [4]}


def test_seeds_that_were_shown_cannot_be_left_out(tmp_path):
    write_looks(tmp_path, planned=[6, 8])
    _, book = judge(tmp_path, task({"ppo": scores(10), "apo": scores(10, 30)}))
    assert looks_at(book).known == {"apo": [*range(10)], "ppo": [*range(10)]}
    book.save()
    fewer, _ = judge(tmp_path, task({"ppo": scores(8), "apo": scores(8, 30)}))
    assert fewer.primary[0].verdict.why == "seeds 8-9 of apo, shown before, are gone; bring back or retrain"
    # one that was given on them stays
    write_looks(tmp_path / "given", planned=[6, 8])
    _, book = judge(tmp_path / "given", task({"ppo": scores(8), "apo": scores(8, 30)}))
    judge(tmp_path / "given", task({"ppo": scores(9), "apo": scores(9, 30)}), book=book)
    again, _ = judge(tmp_path / "given", task({"ppo": scores(8), "apo": scores(8, 30)}), book=book)
    assert words(again) == ["better"]


def test_an_unreadable_seed_that_was_shown_is_gone(tmp_path):
    write_looks(tmp_path, planned=[6, 10])
    _, book = judge(tmp_path, task({"ppo": scores(9), "apo": scores(9, 30)}))
    broken = {"apo": {8: "unreadable", 9: "failed"}}
    later, _ = judge(tmp_path, task({"ppo": scores(10), "apo": scores(8, 30)}, absent=broken), book=book)
    assert later.primary[0].verdict.why == "seed 8 of apo, shown before, is gone; bring back or retrain"


def test_environments_that_were_shown_cannot_be_left_out(tmp_path):
    arms = {"ppo": scores(8), "apo": scores(8, 30)}
    coming = {"apo": {8: "running"}}
    first, book = judge(tmp_path, *(task(arms, env, absent=coming) for env in "ABC"))
    assert first.overall[0].verdict.word == "interim"
    book.save()
    nine = {"ppo": scores(9), "apo": scores(9, 30)}
    fewer, _ = judge(tmp_path, task(nine, "A"), task(nine, "B"))
    assert fewer.overall[0].verdict == ("interim", "C, shown before, is left out or of other runs", False)
    # the arm alone is left out there
    fewer, _ = judge(tmp_path, task(nine, "A"), task(nine, "B"), task({"ppo": scores(9), "other": scores(9)}, "C"))
    assert fewer.overall[0].verdict.why == "C, shown before, is left out or of other runs"
    more, _ = judge(tmp_path, *(task(nine, env) for env in "ABCD"))
    assert more.overall[0].verdict.word == "better"


def test_each_study_keeps_its_question(tmp_path, capsys):
    for name, env in (("a", "Acrobot-v1"), ("b", "CartPole-v1")):
        arms(tmp_path / name, 9, env=env)
    run(capsys, str(tmp_path / "a"), "primary=final")
    run(capsys, str(tmp_path / "b"), "margin=5%")
    told = "Chosen after the runs: primary=final, where the study was planned or shown by evaluation."
    assert told in run(capsys, str(tmp_path / "a"), str(tmp_path / "b"), "primary=final")
    assert (held(tmp_path / "a")["primary"], held(tmp_path / "b")["primary"]) == ("final", "evaluation")
    assert told in run(capsys, str(tmp_path / "b"), "primary=final")
    assert "Chosen after" not in run(capsys, str(tmp_path / "a"), "primary=final")


def test_a_plan_elsewhere_gives_a_study_no_new_looks(tmp_path, capsys):
    assert "is inconclusive" in run(capsys, arms(tmp_path / "a", 1))
    for algo in ("ppo", "apo"):
        write_run(tmp_path / "b" / algo, algo, seeds=range(6, 9), level=100.0)
    write_looks(tmp_path / "b", planned=[9], env="CartPole-v1")
    said = run(capsys, str(tmp_path / "a"), str(tmp_path / "b"))
    assert "is interim" in said
    assert "the 5 % were spent on seeds 0-5 of ppo and seeds 0-5 of apo" in said
    assert held(tmp_path / "a")["envs"]["CartPole-v1"]["planned"] == []


def test_a_verdict_keeps_its_level_beside_other_studies(tmp_path):
    arms = {"ppo": scores(8), "apo": scores(8, 3)}
    for env in "AB":
        (tmp_path / env).mkdir()
        judge(tmp_path / env, task(arms, env))[1].save()
    both, book = judge(tmp_path, task(arms, "A"), task(arms, "B"), book=LookBooks(tmp_path / "A", tmp_path / "B"))
    assert {r.against.alpha for r in both.primary} == {ALPHA / 3}
    book.save()
    for env in "AB":
        alone, _ = judge(tmp_path / env, task(arms, env))
        assert alone.primary[0].against.alpha == ALPHA
        assert alone.added == []


def test_a_plan_after_an_interim_look_stays_told(tmp_path, capsys):
    folder = arms(tmp_path / "s", 9)
    write_run(tmp_path / "s" / "more", "apo", seeds=[6], level=100.0, status="interrupted")
    assert "is interim" in run(capsys, folder, "margin=20%")
    shutil.rmtree(tmp_path / "s" / "more")
    arms(tmp_path / "s", 9, n=7)
    run(capsys, folder, "plan=true", "margin=20%", "most=8")
    assert held(tmp_path / "s")["envs"]["CartPole-v1"]["shown"] == [6]
    arms(tmp_path / "s", 9, n=8)
    assert "Differences of 6 seeds on CartPole-v1 were shown before" in run(capsys, folder)


def test_what_was_only_waiting_was_not_shown(tmp_path):
    seeds = dict.fromkeys(range(8), "waiting")
    arms = {"ppo": scores(8), "apo": scores(8, 30)}
    one = comparison(task(arms, "A"), task(arms, "B"))
    one.pending = [task({}, "C", absent={"ppo": seeds, "apo": seeds})]
    first = verdict.judge(one, "ppo", Question("evaluation"), books := LookBooks(tmp_path))
    assert first.overall[0].verdict.why == "C is still to come"
    books.books[0].declare("C", [8], 8)
    assert looks_at(books, "C").shown == []
    books.save()
    without, _ = judge(tmp_path, task(arms, "A"), task(arms, "B"))
    assert without.overall[0].verdict.word == "better"


def test_a_plan_waits_for_arms_and_environments_without_a_score(tmp_path, capsys):
    folder = study(tmp_path / "s")
    write_run(tmp_path / "s" / "c5", "apo", seeds=range(5), anchor_coef=5, status="interrupted")
    told = "5 seeds are still to come on CartPole-v1, so this is no pilot yet"
    assert told in refused(capsys, folder, "plan=true", "margin=20%")
    folder = study(tmp_path / "t")
    write_run(tmp_path / "t" / "A", "ppo", env="Acrobot-v1", seeds=range(5), status="interrupted")
    assert told.replace("CartPole", "Acrobot") in refused(capsys, folder, "plan=true", "margin=20%")


def test_the_baseline_is_known_by_its_settings(tmp_path, capsys):
    folder = str(tmp_path / "s")
    for coef in (0, 1):
        write_run(tmp_path / "s" / f"apo{coef}", "apo", seeds=range(6), anchor_coef=coef)
    run(capsys, folder, "baseline=apo anchor_coef=1")
    shutil.rmtree(tmp_path / "s" / "apo0")
    write_run(tmp_path / "s" / "ppo", "ppo", seeds=range(6))
    assert "baseline=" not in run(capsys, folder, "baseline=apo")  # the same arm by a shorter name
    assert "baseline=ppo, where arms were compared with apo anchor_coef=1" in run(capsys, folder)


def test_links_to_runs_are_looks_at_their_study(tmp_path, capsys, monkeypatch):
    folder = arms(tmp_path / "s", 1)
    run(capsys, folder)
    (tmp_path / "links").mkdir()
    for algo in ("ppo", "apo"):
        write_run(tmp_path / "s" / f"{algo}2", algo, seeds=range(6, 9), level=100.0)
    links = [tmp_path / "links" / name for name in ("ppo", "apo", "ppo2", "apo2")]
    for link in links:
        link.symlink_to(tmp_path / "s" / link.name)
    assert "is interim" in run(capsys, *map(str, links), f"out={tmp_path / 'page'}")
    assert not (tmp_path / "links" / "looks.json").exists()


@pytest.mark.parametrize("seeds", [["x"], 5, [None]])
def test_odd_seeds_of_a_record_are_damage(tmp_path, seeds):
    write_looks(tmp_path)
    content = held(tmp_path)
    content["envs"]["E"]["known"] = {"apo": seeds}
    (tmp_path / "looks.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="cannot be read"):
        LookBooks(tmp_path)


# One answer to one question ----------------------------------------------------------------------------------------


def levels_of(judgement):
    return {(r.env, r.arm, r.measure): r.against.alpha for r in judgement.results if r.compared}


def test_the_same_command_gives_the_same_intervals(tmp_path):
    write_looks(tmp_path, planned=[6, 10])
    missing = np.append(scores(5, 30), np.nan)  # without a score by the primary measure
    arms = {"ppo": scores(6), "apo": missing}
    first, books = judge(tmp_path, task(arms, finals={"ppo": scores(6), "apo": scores(6, 30)}))
    again, _ = judge(tmp_path, task(arms, finals={"ppo": scores(6), "apo": scores(6, 30)}), book=books)
    assert levels_of(first) == levels_of(again)
    assert levels_of(first)["E", "apo", "final"] == pytest.approx(ALPHA / 2 * SHARES[2][0])


def test_arms_are_counted_once_by_whatever_name(tmp_path):
    def sweep(books, *envs_and_arms):
        return verdict.judge(comparison(*envs_and_arms), "ppo", Question("evaluation"), books)

    def named(names, env):
        ids = {name: f"{i}{env}" for name, i in names.items()} | {"ppo": f"p{env}"}
        one = task({name: scores(8) for name in ids}, env, absent={"ppo": {8: "running"}})
        one.ids = ids
        return one

    books = LookBooks(tmp_path)
    whole = sweep(books, *(named({"apo c=1": 1, "apo c=5": 5}, env) for env in "AB"))
    assert whole.tests == 6
    books.save()
    assert sweep(LookBooks(tmp_path), named({"apo": 1}, "A")).tests == 6
    # one that is alone first, and then beside others on more environments
    books = LookBooks(tmp_path / "2")
    assert sweep(books, named({"apo": 1}, "A")).tests == 1
    assert sweep(books, *(named({"apo c=1": 1, "apo c=5": 5}, env) for env in "AB")).tests == 6


def test_few_seeds_of_one_arm_are_told_whatever_its_name(tmp_path):
    for few in ("apo", "zoo"):
        arms = {"ppo": scores(9), "apo": scores(9), "zoo": scores(9)} | {few: scores(2)}
        _, books = judge(tmp_path / few, task(arms))
        assert looks_at(books).shown == [2]
        assert looks_at(books).taken == [9]


def test_a_look_is_by_whatever_measure(tmp_path):
    nothing = np.full(9, np.nan)
    finals = {"ppo": scores(9), "apo": scores(9)}
    arms = {arm: np.append(nothing[:6], scores(3)) for arm in finals}  # three have a score by the primary measure
    first, books = judge(tmp_path, task(arms, finals=finals))
    assert words(first) == ["inconclusive"]
    assert looks_at(books).taken == [9]
    again, _ = judge(tmp_path, task(arms, finals=finals), book=books)
    assert (words(again), levels_of(again)) == (words(first), levels_of(first))
    evaluated, _ = judge(tmp_path, task({"ppo": scores(9), "apo": scores(9, 30)}), book=books)
    assert words(evaluated) == ["better"]
    more, _ = judge(tmp_path, task({"ppo": scores(15), "apo": scores(15, 30)}), book=books)
    assert words(more) == ["interim"]


def test_a_verdict_is_one_by_all_studies(tmp_path):
    write_looks(tmp_path / "a", planned=[6, 12])
    books = LookBooks(tmp_path / "a", tmp_path / "b")
    nothing = np.full(7, np.nan)
    interim, _ = judge(
        tmp_path, task({"ppo": nothing, "apo": nothing}, finals={"ppo": TEN[:7], "apo": TEN[:7]}), book=books
    )
    assert not interim.primary
    assert [book.of("E").taken for book in books.books] == [[], []]  # undeclared in one of them
    at_six, _ = judge(
        tmp_path, task({"ppo": scores(6), "apo": scores(6, 30)}), book=LookBooks(tmp_path / "b", tmp_path / "a")
    )
    assert at_six.primary[0].against.alpha == pytest.approx(ALPHA * SHARES[2][0])


def test_a_seed_that_diverged_when_it_was_trained_again_is_not_gone(tmp_path):
    _, books = judge(tmp_path, task({"ppo": scores(4), "apo": scores(4)}))
    one = task({"ppo": scores(6), "apo": scores(5)}, absent={"apo": {5: "diverged"}}, limits=(-9, 99))
    _, books = judge(tmp_path, one, book=books)
    assert looks_at(books).known["apo"] == [*range(6)]
    again, _ = judge(tmp_path, one, book=books)
    assert "interim" not in words(again)


def test_most_seeds_that_were_ever_to_come_are_awaited(tmp_path):
    def coming(n):
        return task({"ppo": scores(6), "apo": scores(6)}, absent={"apo": dict.fromkeys(range(6, n), "running")})

    books = LookBooks(tmp_path)
    for n in (20, 9):
        judge(tmp_path, coming(n), book=books)
    assert looks_at(books).awaited == {"apo": 20}


def test_the_verdict_over_environments_waits_for_the_baseline_too(tmp_path):
    arms = {"ppo": scores(10), "apo": scores(10, 30)}
    waiting = task({"apo": scores(10)}, "C", absent={"ppo": dict.fromkeys(range(10), "waiting")})
    first, _ = judge(tmp_path, task(arms, "A"), task(arms, "B"), waiting)
    assert first.overall[0].verdict.why == "C is still to come"


def test_another_baseline_of_the_same_name_is_told(tmp_path):
    one, other = task({"ppo": scores(6), "apo": scores(6)}), task({"ppo": scores(6), "apo": scores(6)})
    one.ids, other.ids = {"ppo": "1"}, {"ppo": "2"}
    asked, question = (to_record(comparison(x), Question("final"), "ppo") for x in (one, other)), Question("final")
    before, now = asked
    told = "baseline=ppo, where arms were compared with ppo of other settings"
    assert against_records(question, now, [before]).late == (told,)
    assert against_records(question, before, [before]).late == ()
