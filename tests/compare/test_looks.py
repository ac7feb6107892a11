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
from rlexp.compare import verdict
from rlexp.compare.looks import SHARES, LookBook, Looks
from rlexp.compare.question import Question, against_record, to_record
from rlexp.compare.verdict import ALPHA
from rlexp.errors import ConfigError


def scores(n, shift=0.0):
    return np.linspace(-4.5, 4.5, n) + shift


def judge(folder, *tasks, book=None, margin=None):
    margins = {} if margin is None else {t.env: margin for t in tasks}
    book = book or LookBook(folder)
    return verdict.judge(comparison(*tasks), "ppo", Question("evaluation", margins, margins), book), book


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
    assert Looks().share(7) == 1
    assert Looks(taken=[7]).share(7) == 1
    assert Looks(taken=[7]).share(8) is None
    assert Looks(taken=[7]).share(6) is None
    for planned in ([9], [9, 12], [9, 12, 20]):
        assert [Looks(planned).share(n) for n in planned] == [*SHARES[len(planned)]]
        assert Looks(planned).share(10) is None
        assert Looks(planned, taken=[9]).share(9) is not None
        assert Looks(planned, taken=[9]).share(13) is None


def test_the_first_look_is_taken_and_remembered(tmp_path, capsys):
    folder = study(tmp_path / "s", 5)
    first = run(capsys, folder)
    assert "apo is better than ppo on CartPole-v1" in first
    assert held(tmp_path / "s")["envs"] == {
        "CartPole-v1": {"planned": [], "taken": [5], "pilot": 0, "counts": {"5": {"ppo": 5, "apo": 5}}}
    }
    assert held(tmp_path / "s")["primary"] == "evaluation"
    content = (tmp_path / "s" / "looks.json").read_bytes()
    assert run(capsys, folder) == first  # as often as one likes
    assert (tmp_path / "s" / "looks.json").read_bytes() == content
    study(tmp_path / "s", 6)
    said = run(capsys, folder)
    assert "apo against ppo on CartPole-v1 is interim: +60 [" in said
    assert "; the verdict was given at 5 seeds, with all of the 5 %" in said
    assert not re.search("better|worse|equivalent to", said.split("No margin")[0])
    assert (tmp_path / "s" / "looks.json").read_bytes() == content
    study(tmp_path / "s", 5)
    assert "apo is better than ppo" in run(capsys, folder)


def test_only_what_could_have_given_a_verdict_is_a_look(tmp_path):
    few = task({"ppo": scores(4), "apo": scores(4, 50)})
    _, book = judge(tmp_path, few)
    assert not book.changed
    many = {f"apo{k}": scores(5, 50) for k in range(16)} | {"ppo": scores(5)}
    judgement, book = judge(tmp_path, task(many))  # 5 seeds cannot tell 16 arms apart
    assert words(judgement) == ["inconclusive"] * 16
    assert not book.changed
    # a verdict on one arm is a look, however few seeds another has
    judgement, book = judge(tmp_path, task({"ppo": scores(9), "apo": scores(9, 50), "other": scores(9)[:2]}))
    assert words(judgement) == ["better", "inconclusive"]
    assert book.of("E").taken == [9]
    # and so is one over all environments alone
    tasks = [task(many, env) for env in "ABC"]
    judgement, book = judge(tmp_path, *tasks)
    assert set(words(judgement)) == {"inconclusive"}
    assert {o.verdict.word for o in judgement.overall} == {"better"}
    assert {env: book.of(env).taken for env in "ABC"} == {"A": [5], "B": [5], "C": [5]}


def test_environments_have_looks_of_their_own(tmp_path):
    write_looks(tmp_path, taken=[10], env="A")
    arms = {"ppo": scores(12), "apo": scores(12, 50)}
    judgement, book = judge(tmp_path, task(arms, "A"), task(arms, "B"))
    assert words(judgement) == ["interim", "better"]
    assert judgement.overall[0].verdict.word == "interim"
    assert (book.of("A").taken, book.of("B").taken) == ([10], [12])


def test_missing_seeds_do_not_make_it_another_look(tmp_path):
    write_looks(tmp_path, planned=[10])
    absent = {"apo": {8: "killed", 9: "failed"}}
    judgement, _ = judge(tmp_path, task({"ppo": scores(10), "apo": scores(8, 50)}, absent=absent))
    assert words(judgement) == ["better"]
    judgement, _ = judge(tmp_path, task({"ppo": scores(8), "apo": scores(8, 50)}))
    assert words(judgement) == ["interim"]


@pytest.mark.parametrize("planned", [[10], [6, 10], [6, 8, 10]])
def test_declared_looks_share_the_error(tmp_path, planned):
    write_looks(tmp_path, planned=planned)
    book = LookBook(tmp_path)
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
                f": next at {later[0]}" if later else ""
            )
            assert judgement.primary[0].verdict.why == told
    assert spent == pytest.approx(ALPHA / 2)
    # those whose few seeds could not reach their share of the error gave no verdict, and are not taken
    assert set(book.of("E").taken) <= set(planned)
    assert book.of("E").taken[-1] == 10


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
    assert "Chosen after the runs: primary=area, where the study was planned or judged by evaluation." in said
    assert "Chosen after the runs: margin=40 on CartPole-v1, where the study was planned or judged with 5%." in said
    assert held(tmp_path / "s")["primary"] == "evaluation"


def test_another_threshold_than_that_of_the_first_verdict_on_retention_is_told():
    retention, evaluation = (Question(primary, {}, {}) for primary in ("retention", "evaluation"))
    content = to_record(comparison(task({"ppo": TEN}, threshold=400.0)), retention, "ppo")
    assert content["thresholds"] == {"E": 400.0}
    assert against_record(retention, content, content).late == ()
    other = to_record(comparison(task({"ppo": TEN}, threshold=450.0)), retention, "ppo")
    told = "threshold=450 on E, where the study was planned or judged with 400.0"
    assert against_record(retention, other, content).late == (told,)
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
        LookBook(tmp_path)
    book = LookBook(tmp_path / "new")
    assert book.of("E") == Looks()
    book.take("E", 7, {"ppo": 7, "apo": 7})
    (tmp_path / "new").mkdir()
    book.save(primary="final")
    assert LookBook(tmp_path / "new").of("E").taken == [7]
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
    assert more.primary[0].verdict.why == "the verdict was given on 6 seeds of apo"
    assert book.of("E").counts == {20: {"ppo": 20, "apo": 6}}


def test_an_arm_added_after_the_verdict_is_said(tmp_path):
    _, book = judge(tmp_path, task({"ppo": scores(10), "apo": scores(10, 3)}))
    later, _ = judge(tmp_path, task({"ppo": scores(10), "apo": scores(10, 3), "new": scores(10, 9)}), book=book)
    assert words(later) == ["inconclusive", "better"]
    assert later.added == [("E", "new")]


def test_a_plan_keeps_its_margin(tmp_path, capsys):
    for arm in ("ppo", "apo"):
        write_run(tmp_path / "s" / arm, arm, seeds=range(5))
    compare.main([str(tmp_path / "s"), "plan=true", "margin=20%", "figures=false"])
    assert held(tmp_path / "s")["margins"] == {"CartPole-v1": "20%"}
    capsys.readouterr()
    for _ in range(2):
        compare.main([str(tmp_path / "s"), "figures=false"])
        assert "No margin was declared" not in capsys.readouterr().out
        compare.main([str(tmp_path / "s"), "margin=30%", "figures=false"])
        said = capsys.readouterr().out
        assert (
            "Chosen after the runs: margin=30% on CartPole-v1, where the study was planned or judged with 20%" in said
        )
        assert held(tmp_path / "s")["margins"] == {"CartPole-v1": "20%"}


def test_a_margin_of_retention_is_a_share_already(tmp_path):
    from rlexp.compare.question import question_of

    one = task({"ppo": scores(10), "apo": scores(10)}, bounds=(0, 500))
    assert question_of(comparison(one), "retention", "5%").margins == {"E": 0.05}
    assert question_of(comparison(one), "final", "5%").margins == {"E": 25}
