import importlib.util
import json
import math
import random
import signal
import subprocess
import sys

import numpy as np
import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import TPESampler
from optuna.trial import TrialState

from rlexp.compare import statistics
from rlexp.config.identity import config_hash
from rlexp.errors import ConfigError
from rlexp.sweep.tune.objective import score
from rlexp.sweep.tune.pruners import make_pruner
from rlexp.sweep.tune.samplers import SAMPLERS, make_sampler, open_study, unfinished
from rlexp.sweep.tune.space import as_overrides, describe, grid, grid_size, space

PARSER = OverridesParser.create()
PLANE = {"x": FloatDistribution(-10, 10), "y": FloatDistribution(-10, 10)}


def searched(*overrides):
    return space(overrides, PARSER)[0]


def values_of(*words):
    return [override.value() for override in PARSER.parse_overrides(list(words))]


def refusal(function, *args, **kwargs):
    with pytest.raises(ConfigError) as error:
        function(*args, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


def open_at(path, sampler="tpe", space=PLANE, directions=("minimize",), pruner="none", name="s", **settings):
    many = len(directions)
    return open_study(
        path,
        name,
        directions,
        space,
        make_sampler(sampler, 0, space, n_startup=5, objectives=many),
        make_pruner(pruner, n_startup=2, objectives=many),
        settings,
    )


def play(study, trials, space=PLANE, objective=lambda x, y: (x - 2) ** 2 + (y + 3) ** 2):
    for _ in range(trials):
        trial = study.ask(space)
        study.tell(trial, objective(**trial.params))
    return [trial.params for trial in study.trials]


# spaces


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("interval(0,1)", FloatDistribution(0, 1)),
        ("interval(-1e-3,2)", FloatDistribution(-0.001, 2)),
        ("int(interval(1,8))", IntDistribution(1, 8)),
        ("tag(log,interval(1e-5,1e-2))", FloatDistribution(1e-5, 1e-2, log=True)),
        ("tag(log,int(interval(1,512)))", IntDistribution(1, 512, log=True)),
        ("int(tag(log,interval(1,512)))", IntDistribution(1, 512, log=True)),
        ("range(4)", IntDistribution(0, 3)),
        ("range(1,10,3)", IntDistribution(1, 7, step=3)),  # 1 4 7
        ("range(10,1,-3)", IntDistribution(4, 10, step=3)),  # 10 7 4
        ("range(0,1,0.25)", FloatDistribution(0, 0.75, step=0.25)),
        ("range(0,0.9,0.3)", FloatDistribution(0, 0.9, step=0.3)),  # Hydra lists 3 · 0.2999… < 0.9000…2 too
        ("float(range(1,4))", FloatDistribution(1, 3, step=1)),
        ("2,4.5,true,null", CategoricalDistribution([2, 4.5, True, None])),
        ("relu,'a b'", CategoricalDistribution(["relu", "'a b'"])),
        ("choice([1e-3,0],[3e-4,0])", CategoricalDistribution(["[0.001,0]", "[0.0003,0]"])),
        ("choice({a:1},x)", CategoricalDistribution(["{a:1}", "x"])),
        ("0.1,inf", CategoricalDistribution([0.1, "inf"])),  # JSON, which the dashboard reads, has no infinity
        ("1,1.0,true", CategoricalDistribution(["1", "1.0", "True"])),  # equal to Python
        ("1,2,1", CategoricalDistribution([1, 2])),
        ("sort(3,1,2)", CategoricalDistribution([1, 2, 3])),
    ],
)
def test_a_sweep_is_a_distribution(value, expected):
    (found,) = searched(f"a={value}").values()
    assert found == expected
    assert "\n" not in describe(found)


def test_what_is_no_sweep_is_fixed_and_the_last_of_a_key_holds():
    words = ["a=interval(0,1)", "b=1,2", "c=[1,2]", "~d", "e=x y", "+a@p.q=1,2", "a=5", "++b=3,4", "f=glob(*)", "f=1"]
    found, fixed = space(words, PARSER)
    assert found == {"++b": CategoricalDistribution([3, 4]), "+a@p.q": CategoricalDistribution([1, 2])}
    assert fixed == ["a=5", "c=[1,2]", "~d", "e=x y", "f=1"]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("tag(log,interval(0,1))", "has no logarithm at 0.0; begin above 0"),
        ("tag(log,int(interval(0.5,8)))", "has no logarithm at 0; begin above 0"),
        ("interval(1,1)", "holds no value; give a lower and a higher bound"),
        ("interval(2,1)", "holds no value"),
        ("interval(0,inf)", "holds no value"),
        ("interval(nan,1)", "holds no value"),
        ("int(interval(0.2,0.8))", "holds no value"),
        ("tag(log2,interval(1,2))", "tag log2 is unknown; there is log"),
        ("tag(log,range(1,9))", "only an interval takes a tag"),
        ("tag(log,choice(1,2))", "only an interval takes a tag"),
        ("range(5,1)", "holds no value; the stop must lie beyond the start"),
        ("range(0,1,0)", "has no end"),
        ("range(0,inf)", "has no end"),
        ("shuffle(1,2)", "the sampler decides the order; leave shuffle out"),
        ("shuffle(range(1,9))", "the sampler decides the order"),
        ("glob(*)", "a search needs the names themselves, as in key=a,b,c"),
    ],
)
def test_a_sweep_that_cannot_be_searched_is_refused_in_one_line(value, reason):
    assert refusal(searched, f"lr={value}").startswith(f"lr={value}: {reason}")


@pytest.mark.parametrize("word", ["lr=interval(1)", "lr=[1", "lr"])
def test_what_hydra_cannot_read_is_refused_in_one_line(word):
    assert word in refusal(searched, word)


def test_a_range_lists_what_hydra_lists():
    rng = random.Random(0)
    for _ in range(300):
        start, step = rng.choice([0, 1, 0.1, -0.3, 0.95]), rng.choice([1, 3, 0.1, 0.3, 0.01, 0.25])
        stop = round(start + step * rng.randint(1, 20) + rng.choice([0, 0.05]), 3)
        word = f"range({start},{stop},{step})"
        (override,) = PARSER.parse_overrides([f"a={rng.choice([word, f'float({word})'])}"])
        listed = list(override.sweep_iterator())
        found = searched(override.input_line)
        (values,) = grid(found).values()
        assert [word for value in values for word in as_overrides({"a": value}, found)] == [f"a={x!r}" for x in listed]
        (distribution,) = found.values()
        assert all(distribution._contains(distribution.to_internal_repr(value)) for value in values)
        assert grid_size(found) == len(listed)


def test_params_come_back_as_hydra_reads_them():
    rng = random.Random(0)
    floats = [10 ** rng.uniform(-12, 12) * rng.choice([-1, 1]) for _ in range(300)] + [0.0, 1e22, 1.0, 5e-324, math.inf]
    for value in [*floats, 0, -7, 10**12, True, False, None]:
        (word,) = as_overrides({"a.b": value})
        (read,) = values_of(word)
        assert read == value
        assert type(read) is type(value)
    assert as_overrides({"a": np.float64(0.1), "b": np.int64(3)}) == ["a=0.1", "b=3"]


@pytest.mark.parametrize(
    "choice",
    [
        *("relu", "a/b.c-d", "'1'", "'true'", '"null"', "'nan'", "'a,b=c'", r"'it\'s'", r"a\,b", "''"),
        *("[1,[a,'1']]", "{a:{b:1e-3}}", "${env.id}", "1e-3", "007", "1_000", "nan", "-inf"),
    ],
)
@pytest.mark.parametrize("form", ["choice({},other)", "{},other"])
def test_a_choice_comes_back_as_hydra_reads_it(choice, form):
    (override,) = PARSER.parse_overrides(["+k=" + form.format(choice)])
    (expected,) = values_of(f"+k={choice}")
    (found,) = searched(override.input_line).values()
    (word,) = as_overrides({"+k": found.choices[0]})
    (read,) = PARSER.parse_overrides([word])
    assert not read.is_sweep_override()
    assert read.get_key_element() == "+k"
    np.testing.assert_equal(read.value(), expected)


def test_steps_are_written_as_hydra_lists_them():
    found = searched("a=range(0,1,0.1)")
    assert 3 * 0.1 == 0.30000000000000004
    assert as_overrides({"a": 3 * 0.1}, found) == ["a=0.3"]
    assert as_overrides({"a": 3 * 0.1}) == ["a=0.30000000000000004"]


def test_drawn_numbers_have_six_digits_within_their_bounds():
    found = {"lr": FloatDistribution(1.23456789e-5, 1e-2, log=True)}
    assert as_overrides({"lr": 0.00031622776601683794}, found) == ["lr=0.000316228"]
    assert as_overrides({"lr": 1.23456789e-5}, found) == ["lr=1.23457e-05"]
    assert as_overrides({"lr": 1.2345678901e-5}, {"lr": FloatDistribution(0, 1.234567e-5)}) == ["lr=1.234567e-05"]


# samplers


@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
def test_a_model_finds_the_lowest_point(sampler):
    study = optuna.create_study(sampler=make_sampler(sampler, 0, PLANE))
    play(study, 60)
    assert study.best_params["x"] == pytest.approx(2, abs=0.5)
    assert study.best_params["y"] == pytest.approx(-3, abs=0.5)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_study_gone_on_with_asks_what_it_would_have_asked(sampler):
    mixed = searched("x=range(-5,5)", "y=-3,0,3") | ({} if sampler == "grid" else searched("z=interval(0,1)"))

    def objective(x, y, z=0.0):
        return (x - 2) ** 2 + y + z

    def launch(storage, trials):
        study = optuna.create_study(
            storage=storage, study_name="s", sampler=make_sampler(sampler, 0, mixed, 5), load_if_exists=True
        )
        return play(study, trials, mixed, objective)

    through = launch(optuna.storages.InMemoryStorage(), 20)
    storage = optuna.storages.InMemoryStorage()
    launch(storage, 9)
    assert launch(storage, 11) == through
    assert len({tuple(params.values()) for params in through}) > 8


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_nothing_of_tpe_is_left_to_optunas_defaults(tmp_path, monkeypatch, sampler):
    """Optuna 5 changed those of `multivariate` and `constant_liar`."""
    made = []
    init = TPESampler.__init__

    def recorded(self, **settings):
        made.append({key: settings.get(key) for key in ("multivariate", "constant_liar")})
        init(self, **settings)

    monkeypatch.setattr(TPESampler, "__init__", recorded)
    listed = searched("x=range(4)", "y=1,2")
    for n_jobs in (1, 2):
        sampling = make_sampler(sampler, 0, listed, 1, n_jobs)
        study = open_study(tmp_path / f"{n_jobs}.db", "s", ["minimize"], listed, sampling, make_pruner("none"))
        play(study, 3, listed, lambda x, y: x + y)
        assert all(settings == {"multivariate": True, "constant_liar": n_jobs > 1} for settings in made)
        assert bool(made) == (sampler in ("tpe", "cmaes"))
        made.clear()


def test_trials_under_way_keep_apart():
    def spread(seed, n_jobs):
        study = optuna.create_study(sampler=make_sampler("tpe", seed, PLANE, 5, n_jobs))
        play(study, 20)
        points = np.array([list(study.ask(PLANE).params.values()) for _ in range(12)])
        return np.linalg.norm(points[:, None] - points, axis=-1).mean()

    assert np.mean([spread(seed, 4) for seed in range(3)]) > 1.2 * np.mean([spread(seed, 1) for seed in range(3)])


def test_a_grid_is_every_combination_once():
    listed = searched("a=1,x,null", "b=range(0,1,0.5)", "c=int(interval(1,2))")
    assert grid_size(listed) == 12
    study = optuna.create_study(sampler=make_sampler("grid", 0, listed))
    params = play(study, 12, listed, lambda a, b, c: b)
    expected = {(a, b, c) for a in (1, "x", None) for b in (0, 0.5) for c in (1, 2)}
    assert {(p["a"], p["b"], p["c"]) for p in params} == expected


@pytest.mark.parametrize("sampler", ["nsga2", "tpe"])
def test_several_objectives(sampler):
    study = optuna.create_study(
        directions=["maximize", "minimize"], sampler=make_sampler(sampler, 0, PLANE, n_startup=10, objectives=2)
    )
    for _ in range(60):
        trial = study.ask(PLANE)
        study.tell(trial, [trial.params["x"], trial.params["x"] ** 2 + trial.params["y"] ** 2])
    best = [trial.values for trial in study.best_trials]
    assert len(best) > 2
    # none of them is beaten in both by any other trial
    assert not any(t.values[0] > a and t.values[1] < b for a, b in best for t in study.trials)
    xs, ys = (np.array([t.params[key] for t in study.trials]) for key in PLANE)
    if sampler == "nsga2":  # from the second generation on, children have coordinates of their parents
        assert len(set(xs[:10])) == 10
        assert len(set(xs[10:20]) & set(xs[:10])) > 2
    else:  # y does nothing but harm
        assert np.abs(ys[40:]).mean() < 0.7 * np.abs(ys[:20]).mean()


def test_a_sampler_that_cannot_search_is_refused(monkeypatch):
    names = searched("algo=ppo,apo")
    assert refusal(make_sampler, "bayes", 0, PLANE).startswith("hydra.sweeper.sampler=bayes: there is no such sampler")
    assert refusal(make_sampler, "tpe", -1, PLANE).startswith("hydra.sweeper.seed=-1: is a whole number")
    assert "nothing is searched" in refusal(make_sampler, "tpe", 0, {})
    assert "algo is chosen from a list" in refusal(make_sampler, "cmaes", 0, names)
    assert "knows one objective, not 2" in refusal(make_sampler, "cmaes", 0, PLANE, objectives=2)
    assert refusal(make_sampler, "grid", 0, names | PLANE).startswith("x=interval(-10.0,10.0): a grid needs a list")
    log = searched("n=tag(log,int(interval(1,9)))")
    assert refusal(grid_size, log).startswith("n=tag(log,int(interval(1,9))): a grid needs a list")
    monkeypatch.setitem(sys.modules, "cmaes", None)
    assert importlib.util.find_spec("cmaes") is None
    assert "pip install 'rlexp[tune]'" in refusal(make_sampler, "cmaes", 0, PLANE)


# pruners


def reports(pruner, direction, *trials):
    """Reports of trials one after the other, a rung each; where each was pruned, None: it ran to the end."""
    study = optuna.create_study(direction=direction, pruner=pruner, sampler=optuna.samplers.RandomSampler(0))
    pruned = []
    for values in trials:
        trial, ended = study.ask(), None
        for rung, value in enumerate(values, 1):
            trial.report(value, rung)
            if trial.should_prune():
                ended = rung
                break
        study.tell(trial, state=TrialState.PRUNED) if ended else study.tell(trial, values[-1])
        pruned.append(ended)
    return pruned


def test_halving_keeps_the_better_half_of_all_that_came_to_a_rung():
    trials = ([1, 1, 1], [2, 2, 2], [3, 3, 3], [0, 9, 9], [2.5, 0, 9], [4, 4, 0])
    # two pass freely; 3 is the best of three, ⌊3/2⌋ = 1 goes on; 0 is the last of four; 2.5 is the second of five and
    # goes on, to be the last of four at rung 2; 4 is the best at rungs 1 and 2 and the last of four at rung 3
    halving = make_pruner("halving", n_startup=2)
    assert reports(halving, "maximize", *trials) == [None, None, None, 1, 2, 3]
    assert reports(halving, "minimize", *[[-x for x in values] for values in trials]) == [None, None, None, 1, 2, 3]
    assert reports(make_pruner("halving", n_startup=9), "maximize", *trials, [math.nan]) == [None] * 6 + [1]
    # two pass freely however they do, the third is the last of three
    assert reports(make_pruner("halving", n_startup=2), "maximize", [2], [1], [0.5]) == [None, None, 1]
    # of four, ⌊0.75 · 4⌋ = 3 go on
    kept = make_pruner("halving", n_startup=2, keep=0.75)
    assert reports(kept, "maximize", [1], [2], [3], [1.5]) == [None] * 4
    assert reports(kept, "maximize", [1], [2], [3], [0.5]) == [None, None, None, 1]


def test_median_and_percentile_compare_with_trials_that_ran_to_the_end():
    # at rung 1 the finished ones have 1, 2, 3, 4: median 2.5, lowest quarter below 1.75
    trials = ([1, 1], [2, 2], [3, 3], [4, 4], [2.4, 9])
    assert reports(make_pruner("median", n_startup=4), "maximize", *trials) == [None] * 4 + [1]
    assert reports(make_pruner("percentile", n_startup=4), "maximize", *trials, [1.7, 9]) == [None] * 5 + [1]
    assert reports(make_pruner("median", n_startup=5), "maximize", *trials) == [None] * 5
    # 5 and 3 are worse than neither median; 1 at rung 2 is forgiven for 5 at rung 1, its best so far
    assert reports(make_pruner("median", n_startup=4), "maximize", *trials[:4], [5, 1]) == [None] * 5
    assert reports(make_pruner("none"), "maximize", *trials) == [None] * 5


def test_a_pruner_that_cannot_be_is_refused():
    assert refusal(make_pruner, "asha").startswith(
        "hydra.sweeper.pruner=asha: there is no such pruner; there are none,"
    )
    assert "pruning needs one objective, there are 2" in refusal(make_pruner, "median", objectives=2)
    assert refusal(make_pruner, "halving", keep=1.5).startswith("hydra.sweeper.keep=1.5: is a share")
    assert make_pruner("none", objectives=2)


# studies

KILLED = """
import os, signal, sys
from pathlib import Path
from optuna.distributions import FloatDistribution
from rlexp.sweep.tune.pruners import make_pruner
from rlexp.sweep.tune.samplers import make_sampler, open_study
plane = {"x": FloatDistribution(-10, 10), "y": FloatDistribution(-10, 10)}
study = open_study(Path(sys.argv[1]), "s", ["minimize"], plane, make_sampler("tpe", 0, plane), make_pruner("none"))
for k in range(4):
    trial = study.ask(plane)
    trial.report(k / 2, 1)
    if k == 3:
        trial.set_user_attr("folder", "here")
        os.kill(os.getpid(), signal.SIGKILL)
    study.tell(trial, k)
"""


def test_a_killed_study_goes_on_where_it_stood(tmp_path):
    path = tmp_path / "a b=c,{d}?#%20" / "study.db"
    process = subprocess.run([sys.executable, "-c", KILLED, str(path)], capture_output=True, text=True)
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert process.stderr == ""
    study = open_at(path)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 3 + ["RUNNING"]
    assert [trial.value for trial in study.trials] == [0, 1, 2, None]
    stored = study.trials[3].params
    (trial,) = unfinished(study, PLANE)
    assert (trial.number, trial.params, trial.user_attrs) == (3, stored, {"folder": "here"})
    trial.report(5.0, 2)
    study.tell(trial, 7.0)
    assert study.trials[3].intermediate_values == {1: 1.5, 2: 5.0}
    assert study.trials[3].value == 7
    assert not unfinished(study, PLANE)
    assert study.ask(PLANE).number == 4
    assert [file.name for file in path.parent.iterdir()] == ["study.db"]


@pytest.mark.parametrize("drawn", [[], ["x"]])
@pytest.mark.parametrize("elsewhere", [True, False])
def test_a_trial_killed_while_its_params_were_drawn_gets_the_same(drawn, elsewhere):
    def begin(storage):
        return optuna.create_study(
            storage=storage, study_name="s", sampler=make_sampler("tpe", 0, PLANE, 5), load_if_exists=True
        )

    storage = optuna.storages.InMemoryStorage()
    whole, broken = begin(None), begin(storage)
    play(whole, 8)
    play(broken, 8)
    broken.ask({key: PLANE[key] for key in drawn})
    (trial,) = unfinished(begin(storage) if elsewhere else broken, PLANE)
    assert trial.params == whole.ask(PLANE).params


def test_a_study_is_not_mixed_with_another(tmp_path):
    path = tmp_path / "s.db"
    play(open_at(path, measure="final", rungs=(0.25, 0.5)), 2)
    open_at(path, measure="final", rungs=(0.25, 0.5))
    said = refusal(open_at, path, directions=("maximize",))
    assert "study 's' was begun to minimize, not to maximize; begin another one with study=" in said
    other = {"x": FloatDistribution(-10, 5), "z": CategoricalDistribution([1, None])}
    said = refusal(open_at, path, space=other, measure="final")
    assert "x was interval(-10.0,10.0) and is interval(-10.0,5.0)" in said
    assert "y was interval(-10.0,10.0) and is —; z was — and is choice(1,null)" in said
    assert "(measure was final and is area)" in refusal(open_at, path, measure="area", rungs=(0.25, 0.5))
    assert len(play(open_at(path, name="another", space=other), 1, other, lambda x, z: x)) == 1
    (tmp_path / "no.db").write_text("not a database" * 100)
    assert "cannot be read as Optuna studies" in refusal(open_at, tmp_path / "no.db")


def test_a_study_that_goes_on_under_another_optuna_says_so(tmp_path, monkeypatch, capsys):
    path, now = tmp_path / "s.db", optuna.__version__
    open_at(path)
    assert open_at(path).user_attrs["optuna"] == now
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(optuna, "__version__", "99.0")
    study = open_at(path)
    said = f"s: was begun under Optuna {now} and goes on under 99.0, which may propose other trials"
    assert capsys.readouterr().out == f"{said}\n"
    assert study.user_attrs["optuna"] == now
    assert len(play(study, 1)) == 1


def test_a_study_of_before_optunas_version_was_recorded_says_so(tmp_path, capsys):
    path = tmp_path / "s.db"
    older = optuna.create_study(storage=f"sqlite:///{path}", study_name="s", sampler=make_sampler("tpe", 0, PLANE))
    play(older, 1)
    open_at(path)
    open_at(path)
    assert capsys.readouterr().out.count("was begun under Optuna of an unknown version") == 2


# objectives


def write_run(folder, rows, evaluations=None, seeds=(1000, 1001)):
    config = {"seed": 1000, "num_seeds": len(seeds), "env": {"id": "CartPole-v1"}, "algo": {"_target_": "a.PPO"}}
    record = {"status": "running", "config": config, "config_hash": config_hash(config), "seeds": list(seeds)}
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(record))
    lines = ["seed,step,wall_time,episodic_return,episodes,loss", *(f"{row},0.5" for row in rows)]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    if evaluations:
        agents = [{"seed": seed, "mean_return": value} for seed, value in evaluations.items()]
        (folder / "evaluation.json").write_text(json.dumps({"agents": agents}))
    return folder


ROWS = [
    *("1000,100,1,,0", "1001,100,1,10,1"),
    *("1000,200,2,20,1", "1001,200,2,,1"),
    *("1000,300,3,30,1", "1001,300,3,30,1"),
]


def test_a_run_is_worth_the_mean_over_its_seeds(tmp_path):
    run = write_run(tmp_path / "run", ROWS, {1000: 7, 1001: 9})
    assert score(run, "final") == 30
    assert score(run, "final", up_to=200) == (20 + 10) / 2  # the second seed's last known value
    assert score(run, "final", up_to=299) == 15
    # first seed: 20 up to step 200, then 20 to 30: (200 · 20 + 100 · 25) / 300; second: 100 · 10 + 200 · 20
    assert score(run, "area") == pytest.approx((6500 + 5000) / 300 / 2)
    assert score(run, "area", up_to=200) == 15
    assert score(run, "evaluation", "iqm") == 8
    assert score(run, "seconds") == 3
    assert score(run, "seconds", up_to=200) == 2


def test_the_interquartile_mean_is_that_of_compare(tmp_path):
    rng = np.random.default_rng(0)
    for n in (1, 3, 4, 5, 9):
        values = rng.normal(size=n)
        rows = [f"{k},100,1,{value!r},1" for k, value in enumerate(values.tolist())]
        run = write_run(tmp_path / str(n), rows, seeds=range(n))
        assert score(run, "final", "iqm") == pytest.approx(float(statistics.iqm(values)))


def test_a_seed_without_a_value_leaves_the_run_without_one(tmp_path):
    run = write_run(tmp_path / "run", ROWS, {1000: 7})
    assert math.isnan(score(run, "final", up_to=100))
    assert math.isnan(score(run, "final", "iqm", up_to=100))
    assert math.isnan(score(run, "area", up_to=0))
    assert math.isnan(score(run, "evaluation"))
    assert math.isnan(score(write_run(tmp_path / "silent", []), "seconds"))
    five = write_run(tmp_path / "five", [f"{k},100,1,{k},1" for k in range(4)], seeds=range(5))
    assert math.isnan(score(five, "final", "iqm"))  # the middle three of five would not have noticed


def test_a_measure_that_there_is_not_is_refused(tmp_path):
    run = write_run(tmp_path / "run", ROWS)
    assert refusal(score, run, "best").startswith(
        "hydra.sweeper.measure=best: there is no such measure; there are final"
    )
    assert "there are mean, iqm" in refusal(score, run, "final", "median")
    assert "comes after training only" in refusal(score, run, "evaluation", up_to=100)
