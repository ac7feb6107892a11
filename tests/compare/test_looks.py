"""Looks at a study's data: the first is remembered, declared ones share the 5 %, all others give no verdict."""

import json
import os
import re
import shutil

import pytest
from looking import held, judge, looks_at, refused, run, scores, study, words, write_looks
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

# The rule ------------------------------------------------------------------------------------------------------------


def test_shares_are_of_the_whole_error():
    for looks, shares in SHARES.items():
        assert len(shares) == looks
        assert sum(shares) == pytest.approx(1)
        assert list(shares) == sorted(shares)  # most is left to the end

    def share(looks, n, m=None):
        return looks.share(*(Seeds(arm, arm, *[frozenset(range(k))] * 3) for arm, k in (("apo", n), ("ppo", m or n))))

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
            "shown": {ids["ppo"]: [5, 5], ids["apo"]: [5, 5]},
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
    assert (
        "; the 5 % were spent on seeds 0-4 of ppo and on seeds 0-4 of apo; new seeds take a study of their own" in said
    )
    assert not re.search("better|worse|equivalent to", said.split("No margin")[0])
    assert held(tmp_path / "s")["envs"]["CartPole-v1"]["seeds"] == seeds
    study(tmp_path / "s", 5)
    assert "apo is better than ppo" in run(capsys, folder)


def test_the_histories_that_the_page_tells(tmp_path, capsys):
    def train(study, first, last, **more):
        write_run(tmp_path / study / f"ppo{first}", seeds=range(first, last))
        write_run(tmp_path / study / f"apo{first}", "apo", seeds=range(first, last), level=150, **more)

    def answer(study, *more):
        compare.main([str(tmp_path / study), "margin=5%", *(more or ["figures=false"])])
        return " ".join(capsys.readouterr().out.split("evaluation: mean")[0].split())

    train("more", 0, 10)
    first = answer("more")
    assert "apo is better than ppo" in first
    assert answer("more") == first
    train("more", 10, 20)
    assert "is interim: " in (found := answer("more"))
    assert (
        "the 5 % were spent on seeds 0-9 of ppo and on seeds 0-9 of apo; new seeds take a study of their own" in found
    )

    train("few", 0, 3)
    assert "too few seeds: a verdict takes 5 of each arm" in answer("few")
    train("few", 3, 10)
    assert "apo is better" in (found := answer("few"))
    assert "Differences of 3 seeds on CartPole-v1 were shown before" in found

    train("planned", 0, 4)
    assert "Looks at 5 seeds" in (found := answer("planned", "plan=true"))
    assert "+25" not in found
    train("planned", 4, 5)
    assert "apo is better" in answer("planned")
    train("planned", 5, 6)
    assert "is interim: " in answer("planned")

    train("running", 0, 8)
    train("running", 8, 10, status="interrupted")
    assert "2 of 20 seeds are still to come" in answer("running")
    shutil.rmtree(tmp_path / "running" / "ppo8")
    shutil.rmtree(tmp_path / "running" / "apo8")
    train("running", 8, 10)
    assert "apo is better" in answer("running")

    train("arms", 0, 10)
    answer("arms")
    write_run(tmp_path / "arms" / "other", "apo", seeds=range(10), level=150, anchor_coef=5)
    found = answer("arms")
    assert "apo anchor_coef=1 is better than ppo on CartPole-v1: +25 % [22.17, 27.83]" in found
    assert "apo anchor_coef=5 on CartPole-v1 was added after the study's first verdict: the chance of a false" in found


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


def test_a_look_at_the_same_time_is_not_forgotten(tmp_path):
    _, first = judge(tmp_path, task({"ppo": scores(6), "apo": scores(6, 30)}))
    _, second = judge(tmp_path, task({"ppo": scores(6), "other": scores(6, 30)}))
    first.save(primary="evaluation")
    with pytest.raises(ConfigError, match=r"looks\.json: another command has written it meanwhile; run this one again"):
        second.save(primary="evaluation")
    assert looks_at(LookBooks(tmp_path)).compared == {"apo": "apo"}


def test_an_unknown_number_of_looks_is_no_plan(tmp_path):
    write_looks(tmp_path, planned=range(5, 9))
    with pytest.raises(ConfigError, match="cannot be read"):
        LookBooks(tmp_path)
    book = LookBooks(tmp_path / "new")
    assert looks_at(book) == Looks()
    book.books[0].take("E", *(Seeds(arm, arm, *[frozenset(range(7))] * 3) for arm in ("ppo", "apo")))
    (tmp_path / "new").mkdir()
    book.save(primary="final")
    assert looks_at(LookBooks(tmp_path / "new")).taken == [7]


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
    assert "the 5 % were spent on seeds 0-4 of ppo and on seeds 0-4 of apo" in said
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

    told = "a verdict over environments takes the last look at each, and A is not there yet"
    assert over(6) == ("interim", told, False)
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


@pytest.mark.slow
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
