"""Samplers, and studies that are stored and gone on with."""

import importlib.util
import signal
import subprocess
import sys

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.samplers import TPESampler
from searches import PLANE, refusal, searched

from rlexp.sweep.tune.pruners import make_pruner
from rlexp.sweep.tune.samplers import SAMPLERS, make_sampler, open_study, unfinished
from rlexp.sweep.tune.space import grid_size


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


@pytest.mark.few(2)
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
    assert refusal(make_sampler, "bayes", 0, PLANE).startswith("hydra.sweeper.sampler=bayes: no such sampler")
    assert "the search space is empty" in refusal(make_sampler, "tpe", 0, {})
    assert "algo is chosen from a list" in refusal(make_sampler, "cmaes", 0, names)
    assert "supports one objective, not 2" in refusal(make_sampler, "cmaes", 0, PLANE, objectives=2)
    assert refusal(make_sampler, "grid", 0, names | PLANE).startswith("x=interval(-10.0,10.0): a grid needs a list")
    log = searched("n=tag(log,int(interval(1,9)))")
    assert refusal(grid_size, log).startswith("n=tag(log,int(interval(1,9))): a grid needs a list")
    monkeypatch.setitem(sys.modules, "cmaes", None)
    assert importlib.util.find_spec("cmaes") is None
    assert "pip install 'rlexp[tune]'" in refusal(make_sampler, "cmaes", 0, PLANE)


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
    assert "study 's' was started to minimize, not to maximize; start another with study=" in said
    other = {"x": FloatDistribution(-10, 5), "z": CategoricalDistribution([1, None])}
    said = refusal(open_at, path, space=other, measure="final")
    assert "x was interval(-10.0,10.0) and is interval(-10.0,5.0)" in said
    assert "y was interval(-10.0,10.0) and is —; z was — and is choice(1,null)" in said
    assert "(measure was final and is area)" in refusal(open_at, path, measure="area", rungs=(0.25, 0.5))
    assert len(play(open_at(path, name="another", space=other), 1, other, lambda x, z: x)) == 1
    (tmp_path / "no.db").write_text("not a database" * 100)
    assert "cannot be read as an Optuna database" in refusal(open_at, tmp_path / "no.db")


def test_a_study_that_goes_on_under_another_optuna_says_so(tmp_path, monkeypatch, capsys):
    path, now = tmp_path / "s.db", optuna.__version__
    open_at(path)
    assert open_at(path).user_attrs["optuna"] == now
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(optuna, "__version__", "99.0")
    study = open_at(path)
    said = f"s: was started with Optuna {now} and continues with 99.0, which may propose other trials"
    assert capsys.readouterr().out == f"{said}\n"
    assert study.user_attrs["optuna"] == now
    assert len(play(study, 1)) == 1


def test_a_study_of_before_optunas_version_was_recorded_says_so(tmp_path, capsys):
    path = tmp_path / "s.db"
    older = optuna.create_study(storage=f"sqlite:///{path}", study_name="s", sampler=make_sampler("tpe", 0, PLANE))
    play(older, 1)
    open_at(path)
    open_at(path)
    assert capsys.readouterr().out.count("was started with Optuna of an unknown version") == 2
