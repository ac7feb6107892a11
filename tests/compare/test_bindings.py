"""What was shown binds what is said later: seeds, environments, arms, studies, questions."""

import json
import re
import shutil

import numpy as np
import pytest
from looking import arms, held, judge, levels_of, looks_at, refused, run, scores, study, words, write_looks
from runs import write_run
from scored import TEN, comparison, task

from rlexp.compare import verdict
from rlexp.compare.look_book import LookBooks
from rlexp.compare.looks import SHARES
from rlexp.compare.question import Question, against_records, to_record
from rlexp.compare.scoring import number_of
from rlexp.compare.verdict import ALPHA
from rlexp.errors import ConfigError

# What a verdict was given on stays ---------------------------------------------------------------------------------


def test_the_same_seeds_trained_with_other_settings_are_other_runs(tmp_path, capsys):
    folder = arms(tmp_path / "s", 0)
    assert "apo against ppo on CartPole-v1 is inconclusive" in run(capsys, folder)
    for _ in range(2):
        said = run(capsys, arms(tmp_path / "s", 60, lr=3e-3))
        assert "is interim" in said
        assert "the 5 % were spent with another baseline than these runs of ppo" in said
    assert "is inconclusive" in run(capsys, arms(tmp_path / "s", 0))  # those that it was given on


def test_differences_that_were_shown_before_the_last_seeds_bind_their_number(tmp_path, capsys):
    folder = arms(tmp_path / "s", 60)
    for algo in ("ppo", "apo"):
        write_run(tmp_path / "s" / f"{algo}2", algo, seeds=range(6, 20), level=100.0, status="interrupted")
    coming = "28 of 40 seeds are still to come"
    assert coming in run(capsys, folder)
    told = "apo was to have 20 seeds when differences were shown; train the others"
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
    seeds = [[*each["known"].values()] for each in looks]  # each notes its own
    assert seeds == [[[*range(6)]] * 2, [[*range(6, 12)]] * 2]
    assert "is inconclusive" in run(capsys, str(other))  # a study of its own, for all that
    assert not (tmp_path / "out" / "looks.json").exists()


@pytest.mark.slow
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
    assert words(during) == ["better"]
    more = task({"ppo": scores(6), "apo": scores(6, 30)}, absent={arm: {9: "running"} for arm in ("ppo", "apo")})
    assert words(judge(tmp_path, more, book=book)[0]) == ["interim"]
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
    ten = {"ppo": scores(10), "apo": scores(10, 30)}
    _, book = judge(tmp_path, task(ten))
    assert looks_at(book).known == {"apo": [*range(10)], "ppo": [*range(10)]}
    book.save()
    without = task(ten)
    without.arms["apo"] = [sample for sample in without.arms["apo"] if sample.seed not in (3, 4)]
    without.arms["ppo"] = without.arms["ppo"][:8]
    fewer, _ = judge(tmp_path, without)
    assert fewer.primary[0].verdict.why == "seeds 3-4 of apo, shown before, are gone; bring back or retrain"
    # the last ones by number: that is no choice, and leads back to a declared look
    last, _ = judge(tmp_path, task({"ppo": scores(8), "apo": scores(8, 30)}))
    assert words(last) == ["better"]
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
    assert "the 5 % were spent on seeds 0-5 of ppo and on seeds 0-5 of apo" in said
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
    assert "Differences of 6 seeds on CartPole-v1 were shown before" in run(capsys, folder)


def test_what_was_only_waiting_was_not_shown(tmp_path):
    seeds = dict.fromkeys(range(8), "waiting")
    arms = {"ppo": scores(8), "apo": scores(8, 30)}
    one = comparison(task(arms, "A"), task(arms, "B"))
    one.pending = [task({}, "C", absent={"ppo": seeds, "apo": seeds})]
    first = verdict.judge(one, "ppo", Question("evaluation"), books := LookBooks(tmp_path))
    assert first.overall[0].verdict.why == "C is still to come"
    books.books[0].declare("C", [8], 8)
    assert not looks_at(books, "C").shown
    assert not looks_at(books, "C").seen
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


def test_the_same_command_gives_the_same_intervals(tmp_path):
    write_looks(tmp_path, planned=[6, 10])
    missing = np.append(scores(5, 30), np.inf)  # without a score by the primary measure
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
        first, books = judge(tmp_path / few, task(arms))
        assert first.early == {}
        assert looks_at(books).taken == [9]
        again, _ = judge(tmp_path / few, task(arms), book=books)
        assert again.early == {}
        more, _ = judge(tmp_path / few, task(arms | {few: scores(9)}), book=books)
        assert more.early == {"E": [2]}


def test_a_look_is_by_whatever_measure(tmp_path):
    finals = {"ppo": scores(9), "apo": scores(9)}
    arms = {arm: np.append(np.full(6, np.inf), scores(3)) for arm in finals}  # three have a score by the primary one
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


# What a third attack found -----------------------------------------------------------------------------------------


def test_a_plan_of_one_environment_leaves_the_record_of_the_others(tmp_path, capsys):
    for env in ("A", "B"):
        for algo, level in (("ppo", 100.0), ("apo", 101.0)):
            write_run(tmp_path / "s" / f"{algo}{env}", algo, env=f"{env}-v0", seeds=range(6), level=level)
    on = {env: [str(tmp_path / "s" / f"{algo}{env}") for algo in ("ppo", "apo")] for env in ("A", "B")}
    run(capsys, *on["A"], "margin=20", f"out={tmp_path / 'out'}")
    run(capsys, *on["B"], "plan=true", "margin=12", "most=9")
    assert held(tmp_path / "s")["margins"] == {"A-v0": "20", "B-v0": "12"}
    said = run(capsys, *on["A"], "margin=90", f"out={tmp_path / 'out'}")
    assert "Chosen after the runs: margin=90 on A-v0, where the study was planned or shown with 20." in said


def test_how_policies_were_evaluated_is_noted_as_soon_as_they_are(tmp_path, capsys):
    folder = arms(tmp_path / "s")
    kept = {algo: (tmp_path / "s" / algo / "evaluation.json").read_text() for algo in ("ppo", "apo")}
    for algo in kept:
        (tmp_path / "s" / algo / "evaluation.json").unlink()
    assert "No seed has a score by the primary measure" in run(capsys, folder)
    for episodes in (20, 3):
        for algo, text in kept.items():
            settings = {"episodes": episodes, "deterministic": True}
            path = tmp_path / "s" / algo / "evaluation.json"
            path.write_text(json.dumps(json.loads(text) | {"settings": settings}))
        said = run(capsys, folder)
        assert "is **" not in said
        assert ("Chosen after the runs: evaluation on CartPole-v1 over 3 episodes" in said) == (episodes == 3)


def test_seeds_added_while_one_is_still_to_come_are_told(tmp_path):
    def peek(n, coming=True):
        absent = {arm: {30: "killed"} for arm in ("ppo", "apo")} if coming else None
        return task({"ppo": scores(n), "apo": scores(n, 30)}, absent=absent)

    books = LookBooks(tmp_path)
    for n in (6, 9):
        assert words(judge(tmp_path, peek(n), book=books)[0]) == ["interim"]
    verdict_, _ = judge(tmp_path, peek(12, coming=False), book=books)
    assert (words(verdict_), verdict_.early) == (["better"], {"E": [6]})
    # the same number as was to be from the first: nothing was chosen
    books = LookBooks(tmp_path / "2")
    judge(tmp_path, peek(6), book=books)
    whole, _ = judge(tmp_path, peek(7, coming=False), book=books)
    assert (words(whole), whole.early) == (["better"], {})


def test_an_arm_of_another_study_stays_late(tmp_path, capsys):
    p, late = arms(tmp_path / "p"), tmp_path / "late"
    run(capsys, p)
    write_run(late / "apo5", "apo", seeds=range(6), level=150.0, anchor_coef=5)
    first = run(capsys, p, str(late))
    assert "apo anchor_coef=5 on CartPole-v1 was added after the study's first verdict" in first
    assert run(capsys, p, str(late)) == first


def test_a_joint_look_without_a_verdict_leaves_the_other_study_its_own(tmp_path, capsys):
    run(capsys, arms(tmp_path / "a"))
    for algo, level in (("ppo", 100.0), ("apo", 150.0)):
        write_run(tmp_path / "b" / algo, algo, seeds=range(6, 12), level=level)
    assert "is interim" in run(capsys, str(tmp_path / "a"), str(tmp_path / "b"))
    assert "apo is better" in run(capsys, str(tmp_path / "b"))


def test_one_that_is_no_verdict_is_not_said_to_be_added(tmp_path, capsys):
    folder = arms(tmp_path / "s", 0)
    run(capsys, folder)
    said = run(capsys, arms(tmp_path / "s", 60, lr=3e-3))
    assert "is interim" in said
    assert "was added" not in said


def test_plans_on_other_environments_do_not_matter(tmp_path, capsys):
    for name, planned in (("a", [6]), ("b", [9])):
        write_looks(tmp_path / name, planned=planned, env="Acrobot-v1")
    arms(tmp_path / "a")
    arms(tmp_path / "b")
    assert "apo" in run(capsys, str(tmp_path / "a"), str(tmp_path / "b"))


def test_a_margin_is_the_same_however_it_is_written(tmp_path, capsys):
    folder = arms(tmp_path / "s")
    run(capsys, folder, "margin=5%")
    for same in ("5.0%", "5.00 %"):
        assert "Chosen after" not in run(capsys, folder, f"margin={same}")


@pytest.mark.parametrize(
    "damage",
    [
        {"planned": "59"},
        {"planned": [True]},
        {"planned": [-5, 9]},
        {"planned": [10.9]},
        {"taken": "77"},
        {"seen": "false"},
        {"shown": {"apo": [4]}},
        {"awaited": {"apo": "9"}},
        {"compared": {"apo": "\ud800"}},
    ],
)
def test_odd_content_of_a_record_is_damage(tmp_path, damage):
    write_looks(tmp_path)
    content = held(tmp_path)
    content["envs"]["E"] |= damage
    (tmp_path / "looks.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="cannot be read"):
        LookBooks(tmp_path)


def test_huge_counts_of_a_record_are_no_traceback(tmp_path):
    write_looks(tmp_path, secondary=10**400)
    judgement, _ = judge(tmp_path, task({"ppo": scores(6), "apo": scores(6, 3)}))
    assert np.isfinite([r.against.low for r in judgement.primary]).all()


# What a fourth attack found ----------------------------------------------------------------------------------------


def test_a_study_that_was_looked_at_with_another_first_is_judged_like_any(tmp_path, capsys):
    run(capsys, arms(tmp_path / "a"))
    b = tmp_path / "b"
    for algo, level in (("ppo", 100.0), ("apo", 150.0)):
        write_run(b / algo, algo, seeds=range(6, 12), level=level, **({"anchor_coef": 1} if algo == "apo" else {}))
    assert "is interim" in run(capsys, str(tmp_path / "a"), str(b))
    alone = run(capsys, str(b))
    assert "apo is better" in alone
    write_run(b / "apo5", "apo", seeds=range(6, 12), level=101.0, anchor_coef=5)
    first = run(capsys, str(b))
    assert "apo anchor_coef=5 on CartPole-v1 was added after the study's first verdict" in first
    assert "apo anchor_coef=1 is better" in first
    assert first == run(capsys, str(b))


def test_a_baseline_that_is_to_come_is_not_replaced(tmp_path, capsys):
    folder = tmp_path / "s"
    for coef in (1, 5):
        write_run(folder / f"apo{coef}", "apo", seeds=range(6), level=100.0 + coef, anchor_coef=coef)
    write_run(folder / "ppo", "ppo", seeds=range(6), status="interrupted")
    told = "ppo, the baseline, has no score yet (interrupted); let it end, or compare with another arm"
    for typed in ([], ["baseline=ppo"]):
        assert told in refused(capsys, str(folder), *typed)
    assert not (folder / "looks.json").exists()
    shutil.rmtree(folder / "ppo")
    write_run(folder / "ppo", "ppo", seeds=range(6))
    assert "apo anchor_coef=5 against ppo" in run(capsys, str(folder))


def test_the_baseline_stays_when_another_arm_comes_before_it(tmp_path, capsys):
    folder = tmp_path / "s"
    for coef in (1, 5):
        write_run(folder / f"apo{coef}", "apo", seeds=range(6), anchor_coef=coef)
    assert "apo anchor_coef=5 against apo anchor_coef=1" in run(capsys, str(folder))
    write_run(folder / "apo0", "apo", seeds=range(6), anchor_coef=0.5)
    said = run(capsys, str(folder))
    assert "apo anchor_coef=5 against apo anchor_coef=1" in said
    assert "Chosen after" not in said


def test_a_study_notes_its_own_seeds_alone(tmp_path, capsys):
    a, b = arms(tmp_path / "a"), tmp_path / "b"
    for algo in ("ppo", "apo"):
        write_run(b / algo, algo, seeds=range(6, 12), level=100.0)
    write_run(b / "more", "apo", seeds=range(12, 20), level=100.0, status="interrupted")
    assert "is interim" in run(capsys, a, str(b))
    for text in (held(tmp_path / "a"), held(b)):
        assert text["envs"]["CartPole-v1"]["taken"] == []
    assert [*held(tmp_path / "a")["envs"]["CartPole-v1"]["awaited"].values()] == []
    assert [*held(b)["envs"]["CartPole-v1"]["awaited"].values()] == [14]
    assert "apo is better" in run(capsys, a)


def test_diverged_seeds_of_another_study_are_not_missed(tmp_path, capsys):
    arms(tmp_path / "a")
    b = tmp_path / "b"
    for algo in ("ppo", "apo"):
        write_run(b / algo, algo, seeds=range(6, 12), level=100.0)
    record = b / "apo" / "run.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"diverged": {"11": {}}}))
    write_run(b / "more", "apo", seeds=[12], level=100.0, status="interrupted")
    assert "is interim" in run(capsys, str(tmp_path / "a"), str(b))
    assert "gone" not in run(capsys, str(tmp_path / "a"))


def test_a_verdict_on_one_environment_is_no_study_elsewhere(tmp_path, capsys):
    for name, env in (("a", "A-v0"), ("b", "B-v0")):
        arms(tmp_path / name, env=env)
    assert "Over 2 environments apo is better" in run(capsys, str(tmp_path / "a"), str(tmp_path / "b"))
    for name, env in (("a", "A-v0"), ("b", "B-v0")):
        assert [where for where, looks in held(tmp_path / name)["envs"].items() if looks["taken"]] == [env]


def test_a_diverged_seed_that_is_trained_again_is_another_seed(tmp_path):
    lost = task({"ppo": scores(6), "apo": scores(5, 30)}, absent={"apo": {5: "diverged"}}, limits=(-9, 99))
    _, books = judge(tmp_path, lost)
    again, _ = judge(tmp_path, task({"ppo": scores(6), "apo": scores(6, 30)}), book=books)
    assert again.primary[0].verdict.why.startswith("the 5 % were spent on seeds 0-5 (diverged: 5) of apo")


def test_a_spent_look_leaves_the_next(tmp_path):
    write_looks(tmp_path, planned=[6, 8])
    failed = {"apo": {5: "failed"}}
    _, books = judge(tmp_path, task({"ppo": scores(6), "apo": scores(5, 30)}, absent=failed))
    mended, _ = judge(tmp_path, task({"ppo": scores(6), "apo": scores(6, 30)}), book=books)
    assert mended.primary[0].verdict.why == "this look was spent on seeds 0-4 of apo: next at 8"
    assert words(judge(tmp_path, task({"ppo": scores(8), "apo": scores(8, 30)}), book=books)[0]) == ["better"]


def test_which_arm_lacks_a_score_is_said(tmp_path, capsys):
    folder = arms(tmp_path / "s")
    (tmp_path / "s" / "apo" / "evaluation.json").unlink()
    said = run(capsys, folder)
    assert (
        "There is nothing to compare with ppo: apo has no score by the primary measure, evaluation; run python" in said
    )


def test_notes_of_before_are_read(tmp_path):
    write_looks(tmp_path, shown=[])
    for early, told in (([], {}), ([7, 4], {"E": [4]})):
        content = {"envs": {"E": {"planned": [], "taken": [], "shown": early, "compared": {"apo": "apo"}}}}
        (tmp_path / "looks.json").write_text(json.dumps(content))
        assert judge(tmp_path, task({"ppo": scores(9), "apo": scores(9, 30)}))[0].early == told


def test_arms_that_took_each_others_name_are_counted_each():
    first, later = ({env: {f"{k}{env}": "apo"} for env in "AB"} for k in (1, 2))
    recorded = {env: first[env] | later[env] for env in "AB"}  # one after the other, each alone, each called apo
    assert number_of([first]) == 3
    assert number_of([later, recorded]) == 6
