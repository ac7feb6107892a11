"""What ends a trial early."""

import math

import optuna
from optuna.trial import TrialState
from searches import refusal

from rlexp.sweep.tune.pruners import make_pruner


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
    assert refusal(make_pruner, "asha").startswith("hydra.sweeper.pruner=asha: no such pruner; choose from none,")
    assert "pruning needs one objective, not 2" in refusal(make_pruner, "median", objectives=2)
    assert refusal(make_pruner, "halving", keep="x").startswith("hydra.sweeper.keep=x: must be a fraction")
    assert refusal(make_pruner, "halving", keep=1.5).startswith("hydra.sweeper.keep=1.5: must be a fraction")
    assert make_pruner("none", objectives=2)
