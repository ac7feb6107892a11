"""What other people bring works as they mean it, or is refused in one line; nothing goes wrong in silence."""

import math

import gymnasium as gym
import numpy as np
import probes
import pytest
import torch
from gymnasium import spaces
from helpers import last_metrics, make_config, make_trainer, stop_after, train, weights_of, write_config
from torch.testing import assert_close

import rlexp
from rlexp import build
from rlexp.algos.base import Algorithm
from rlexp.compiling import libraries, verify
from rlexp.compiling.compile import Graph
from rlexp.errors import ConfigError, ObjectiveError
from rlexp.networks.actor_critic import Policy
from rlexp.seeding import no_global_randomness
from rlexp.signals import Interrupted
from rlexp.training import optimizer_state
from rlexp.training.optimizers import traits

SMALL = ("env=cartpole", "total_steps=1024", "env.num_envs=4", "algo.rollout_steps=32", "algo.minibatches=2")
SMALL += ("algo.epochs=2", "network.torso.hidden=[8]")
BARE = ("~optimizer.eps", "~optimizer.fused")


def algo(name):
    return f"algo._target_=strangers.{name}"


def torso(name):
    return (f"network.torso._target_=strangers.{name}", "~network.torso.hidden", "~network.torso.activation")


@pytest.fixture
def traced(monkeypatch):
    """Graphs as they are traced, run node by node: what compiling is about but the compiler."""
    monkeypatch.setattr(Graph, "is_built", True)
    monkeypatch.setattr(Graph, "load", lambda self: setattr(self, "run", torch.no_grad()(lambda x: self.traced(*x))))


def resumed(folder, *settings, after=3):
    first = make_trainer(folder, *settings)
    stop_after(first, after)
    with pytest.raises(Interrupted):
        first.run(False)
    return train(folder, *settings, resume=True)


def same(a, b):
    return all(torch.equal(x, weights_of(b)[name]) for name, x in weights_of(a).items())


# Algorithms ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compiled", ["false", "true"])
@pytest.mark.parametrize("num_seeds", [1, 2])
@pytest.mark.parametrize(("name", "path"), [("Halved", "c"), ("HalvedInside", r"numbers\['c'\]")])
def test_a_number_that_a_loss_reads_may_not_change(tmp_path, traced, name, path, num_seeds, compiled):
    settings = (*SMALL, algo(name), f"num_seeds={num_seeds}", f"compile={compiled}")
    with pytest.raises(ObjectiveError, match=rf"algo\.{path}: has changed from 1\.0 to 0\.5.* Scheduled.*coefficients"):
        train(tmp_path, *settings)


def test_a_setting_that_the_mechanism_reads_may_not_change(tmp_path):
    with pytest.raises(ObjectiveError, match=r"algo\.max_grad_norm: has changed from 0\.5 to 1\.0"):
        train(tmp_path, *SMALL, algo("LoosensClipping"))


@pytest.mark.parametrize("name", ["Adaptive", "HalvedTensor"])
@pytest.mark.parametrize("num_seeds", [1, 2])
def test_tensors_adapt_alike_compiled_and_not(tmp_path, traced, name, num_seeds):
    settings = (*SMALL, algo(name), f"num_seeds={num_seeds}")
    eager = train(tmp_path / "eager", *settings)
    compiled = train(tmp_path / "compiled", *settings, "compile=true")
    assert eager.algo.c.max() == 2.0**-8
    for key, x in weights_of(eager).items():
        assert_close(weights_of(compiled)[key], x, atol=2e-5, rtol=2e-4)
    fixed = train(tmp_path / "fixed", *SMALL, "algo=ppo", f"num_seeds={num_seeds}")
    assert not same(eager, fixed)


def test_what_a_loss_does_not_read_may_change_and_what_stays_may_be_read(tmp_path):
    assert train(tmp_path, *SMALL, algo("Counting"), "num_seeds=2").algo.updates == 8


@pytest.mark.parametrize("num_seeds", [1, 2])
def test_random_numbers_in_a_loss_are_refused(tmp_path, num_seeds):
    with pytest.raises(
        ObjectiveError, match=r"the loss draws random numbers \((rand|under vmap)\): .*policy\.rand_like"
    ):
        train(tmp_path, *SMALL, algo("Noisy"), f"num_seeds={num_seeds}")


@pytest.mark.parametrize("num_seeds", [1, 2])
@pytest.mark.parametrize("name", ["InModule", "InModuleLate", "InSlots", "InWindow", "InClosure"])
def test_a_number_that_is_read_elsewhere_may_not_change_once_it_is_compiled(tmp_path, traced, name, num_seeds):
    settings = (*SMALL, algo(name), f"num_seeds={num_seeds}")
    train(tmp_path / "eager", *settings)
    line = rf"{name}: the compiled update has gone another way than its code does: a number that was \S+ is \S+\. "
    with pytest.raises(ObjectiveError, match=line + r".*Scheduled.*coefficients"):
        train(tmp_path / "compiled", *settings, "compile=true")


@pytest.mark.parametrize("name", ["ppo", "apo", "ppo_kl"])
def test_compiled_updates_that_do_what_their_code_does_are_left_alone(tmp_path, traced, monkeypatch, name):
    found = []
    distance = verify.Twin.distance
    monkeypatch.setattr(verify.Twin, "distance", lambda *a: found.append(distance(*a)) or found[-1])
    train(tmp_path, *SMALL, f"algo={name}", "compile=true", "num_seeds=2", "total_steps=2560")
    assert len(found) == 6  # updates 1, 2, 4, 8, 16 of the compiled ones, and the last
    assert max(found) < 0.5


def test_a_graph_that_computes_something_else_than_its_code_is_dropped_at_once(tmp_path, traced, monkeypatch, caplog):
    def load(self):
        right = torch.no_grad()(lambda x: self.traced(*x))

        def spoilt(leaves):
            before = [x.clone() for x in leaves]
            told = right(leaves)
            for x, old in zip(leaves, before, strict=True):
                if x.dim() == 2 and x.is_floating_point() and not torch.equal(x, old):
                    x.data.copy_(old + (x - old).flip(0))  # right numbers in wrong places
            return told

        self.run = spoilt if len(self.layouts) > 30 else right  # the update's
        return self

    monkeypatch.setattr(Graph, "load", load)
    eager = train(tmp_path / "eager", *SMALL)
    compiled = train(tmp_path / "compiled", *SMALL, "compile=true")
    assert caplog.text.count("its graph computes something else than its code") == 1
    for key, x in weights_of(eager).items():
        assert_close(weights_of(compiled)[key], x, atol=2e-5, rtol=2e-4)


def test_a_compiled_update_that_is_not_finite_where_eager_is_goes_too_far():
    param = torch.ones(3)
    for spoilt, far in (((0.0, 0.0), 0.0), ((math.nan, 0.0), math.inf), ((0.0, 1.0), 100.0)):
        twin = verify.Twin({"p": param}, [{"m": torch.zeros(3)}])
        param += 1.0
        twin.remember(torch.ones(2, 1))
        assert param.tolist() == [1.0, 1.0, 1.0]
        param += 1.0
        assert twin.distance(torch.ones(2, 1) + torch.tensor(spoilt)[:, None]) >= far
        param -= 1.0


@pytest.mark.parametrize("num_seeds", [1, 2])
@pytest.mark.parametrize(
    ("name", "what"),
    [("OfNumPy", r"draws from self\.rng"), ("CountsCalls", r"writes self\.calls, which is lost")],
)
def test_a_loss_that_differs_from_call_to_call_is_refused(tmp_path, name, what, num_seeds):
    with pytest.raises(ObjectiveError, match=rf"strangers\.py:\d+: {name}\.loss: {what}"):
        train(tmp_path, *SMALL, algo(name), f"num_seeds={num_seeds}")


def test_random_numbers_in_other_hooks_are_refused(tmp_path):
    with pytest.raises(ObjectiveError, match=r"algo\.replay draws random numbers \(of NumPy or Python\)"):
        train(tmp_path, *SMALL, algo("DrawsInReplay"))


def test_who_draws_is_told_a_way_out_that_it_has():
    for who, way_out in (("the loss", "policy.rand_like(x) and randn_like(x) draw"), ("algo.adapt", "streams")):
        with pytest.raises(ObjectiveError) as refused, no_global_randomness(who):
            np.random.rand()  # noqa: NPY002
        assert way_out in str(refused.value)
        assert "Dropout" not in str(refused.value)


def test_what_adapts_and_is_not_saved_is_told(tmp_path, caplog):
    train(tmp_path / "a", *SMALL, algo("Unsaved"))
    assert "algo.c changes during training but is not saved by state_dict()" in caplog.text
    caplog.clear()
    train(tmp_path / "b", *SMALL, "algo=ppo_kl")
    assert "state_dict()" not in caplog.text


def test_a_loss_that_cannot_be_stacked_is_not(tmp_path):
    with pytest.raises(ConfigError, match=r"batching=vmap: the loss \(.*strangers.py:\d+\) needs agents one by one"):
        train(tmp_path / "a", *SMALL, algo("Branches"), "num_seeds=2", "batching=vmap")
    looped = train(tmp_path / "b", *SMALL, algo("Branches"), "num_seeds=2")
    assert len(looped.learner.groups) == 2


def test_a_replay_of_other_shapes_runs_uncompiled(tmp_path, traced, caplog):
    settings = (*SMALL, algo("Late"), "num_seeds=2")
    eager = train(tmp_path / "eager", *settings)
    compiled = train(tmp_path / "compiled", *settings, "compile=true")
    assert caplog.text.count("runs uncompiled where algo.replay gives other shapes") == 1
    for key, x in weights_of(eager).items():
        assert_close(weights_of(compiled)[key], x, atol=2e-5, rtol=2e-4)


@pytest.mark.parametrize("num_seeds", [1, 2])
def test_a_penalty_on_parameters_moves_them(tmp_path, num_seeds):
    plain = train(tmp_path / "plain", *SMALL, f"num_seeds={num_seeds}")
    penalised = train(tmp_path / "penalised", *SMALL, algo("Penalised"), f"num_seeds={num_seeds}")
    assert sum(x.norm() for x in weights_of(penalised).values()) < 0.99 * sum(
        x.norm() for x in weights_of(plain).values()
    )
    with pytest.raises(AttributeError):
        _ = Policy(None).network


def test_a_property_over_what_is_scheduled_may_be_read(tmp_path):
    train(tmp_path, *SMALL, algo("Derived"), "algo.vf_coef=[0.5,0.1]")


def test_jobs_differ_in_what_is_too_long_to_be_told(tmp_path):
    one, same, other = (build.build_algorithm(make_config(algo("Table"), f"+algo.k={k}")) for k in (1.0, 1.0, 50.0))
    Algorithm.side_by_side([one, same])
    with pytest.raises(ConfigError, match=r"algo\.table: is"):
        Algorithm.side_by_side([one, other])


def test_target_kl_wants_the_metric_that_it_reads(tmp_path):
    with pytest.raises(ObjectiveError, match=r"algo\.target_kl=0\.1: needs a metric approx_kl.*Silent"):
        train(tmp_path, *SMALL, algo("Silent"), "algo.target_kl=0.1")


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("algo.max_grad_norm=0", r"algo\.max_grad_norm=0\.0: must be positive"),
        ("algo.target_kl=0", r"algo\.target_kl=0\.0: must be positive"),
        ("algo.target_kl=-1", r"algo\.target_kl=-1\.0: must be positive"),
    ],
)
def test_zero_is_not_positive(setting, line):
    with pytest.raises(ConfigError, match=line):
        build.check(make_config("algo=ppo", setting))


def test_a_target_of_zero_is_no_target_of_ppo_kl():
    with pytest.raises(ConfigError, match=r"algo\.kl_target=0\.0: must be positive"):
        build.check(make_config("algo=ppo_kl", "algo.kl_target=0"))


def test_a_loss_draws_the_same_alone_beside_others_compiled_and_resumed(tmp_path, traced):
    settings = (*SMALL, algo("Draws"))
    alone = train(tmp_path / "alone", *settings, "seed=1")
    beside = train(tmp_path / "beside", *settings, "num_seeds=3")
    looped = train(tmp_path / "looped", *settings, "num_seeds=3", "batching=loop")
    compiled = train(tmp_path / "compiled", *settings, "num_seeds=3", "compile=true")
    assert all(compiled.learner.groups[0].graphs.values())
    for key, x in weights_of(alone).items():
        for other in (beside, looped, compiled):
            assert_close(weights_of(other)[key][1], x[0], atol=2e-4, rtol=2e-3, msg=key)
    assert same(resumed(tmp_path / "resumed", *settings, "num_seeds=3"), beside)
    noise = [last_metrics(tmp_path / "beside", seed)["noise"] for seed in range(3)]
    assert len(set(noise)) == 3
    assert last_metrics(tmp_path / "alone", 1)["noise"] == pytest.approx(noise[1], rel=1e-4)


def test_only_a_loss_draws_from_a_policy(tmp_path):
    trainer = make_trainer(tmp_path, *SMALL)
    with pytest.raises(ObjectiveError, match="within a loss alone"):
        Policy(trainer.learner.groups[0].network).rand_like(torch.zeros(3))


# Networks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Scaled", "Transient", "Frozen", "Projected", "OfNumbers", "Attends"])
def test_networks_train_stacked_as_alone_resume_and_are_loaded(tmp_path, name):
    settings = (*SMALL[:-1], *torso(name), "num_seeds=2", "evaluation.episodes=2", "batching=auto")
    if name in ("Projected", "Attends"):
        settings = (*settings, "batching=loop")
    batch = train(tmp_path / "batch", *settings)
    alone = train(tmp_path / "alone", *settings, "seed=1", "num_seeds=1")
    for key, x in weights_of(alone).items():
        assert_close(weights_of(batch)[key][1], x[0], atol=2e-4, rtol=2e-3, msg=key)
    norms = [last_metrics(tmp_path / name, seed=1)["grad_norm"] for name in ("batch", "alone")]
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)
    assert same(resumed(tmp_path / "resumed", *settings), batch)
    for key in ("actor_torso.layer.weight", "actor_torso.layer.bias"):
        if name == "Attends":
            break
        start = make_trainer(tmp_path / "start", *settings)
        assert torch.equal(weights_of(start)[key], weights_of(batch)[key]) == (name == "Frozen")

    folder = tmp_path / "batch"
    write_config(folder, *settings)
    policy = rlexp.load_policy(folder, seed=1, trust=["strangers"])
    obs = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    params, _ = batch.learner.policy(obs.expand(2, 5, 4))
    assert policy(obs.numpy()).tolist() == params[1].argmax(-1).tolist()


@pytest.mark.parametrize(
    ("name", "error", "line"),
    [
        (
            "Dropped",
            ObjectiveError,
            r"the network draws random numbers \((bernoulli_|native_dropout)\), as Dropout does",
        ),
        ("BatchNormed", ConfigError, r"network: the outputs of a row depend on the other rows of its batch"),
        ("Counted", ConfigError, r"network: a forward pass changes its buffer actor_torso\.calls"),
        ("ByMode", ConfigError, r"network: differs between eval\(\) and train\(\)"),
        ("CountsAside", ConfigError, r"network: a forward pass changes its actor_torso\.calls"),
        ("Double", ConfigError, r"network: its parameter actor_torso\.layer\.weight has dtype torch\.float64"),
        ("Shares", ConfigError, r"network: actor_torso\.layer\.weight is one tensor of several agents"),
        ("Projected", ConfigError, r"network: agents differ in a value that is neither parameter nor buffer"),
    ],
)
def test_networks_that_would_go_wrong_are_refused_before_the_first_step(tmp_path, name, error, line):
    with pytest.raises(error, match=line):
        make_trainer(tmp_path, *SMALL[:-1], *torso(name), "num_seeds=2")


def test_a_network_that_draws_from_global_streams_draws_from_its_agents_seed(tmp_path):
    first, again, other = (make_trainer(tmp_path, *SMALL[:-1], *torso("OfNumbers"), f"seed={k}") for k in (0, 0, 1))
    weights = [weights_of(trainer)["actor_torso.projection"] for trainer in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_loaded_policy_acts_on_one_observation_as_on_several(tmp_path):
    gym.register("Sets-v0", entry_point=Sets)
    settings = (*SMALL[1:-1], "env.id=Sets-v0", *torso("OverSet"))
    train(tmp_path, *settings)
    write_config(tmp_path, *settings)
    policy = rlexp.load_policy(tmp_path, trust=["strangers"])
    obs = np.random.default_rng(0).normal(size=(5, 4, 4)).astype(np.float32)
    assert policy(obs).tolist() == [policy(one).tolist() for one in obs]


PIXELS = ("env.id=Pixels-v0", "network=nature_cnn", "network.torso.features=16", "total_steps=64")
PIXELS += ("env.num_envs=2", "algo.rollout_steps=8", "algo.minibatches=2", "algo.epochs=1")


@pytest.mark.parametrize("num_seeds", [1, 2])
@pytest.mark.parametrize(
    "settings",
    [(*PIXELS, "total_steps=256", "env.num_envs=8"), (*SMALL[:-1], "total_steps=256", *torso("LaidOut"))],
    ids=["pixels", "others"],
)
def test_gradients_move_their_own_weights_however_they_are_laid_out(tmp_path, settings, num_seeds):
    seeds = (f"num_seeds={num_seeds}", "batching=vmap")
    fused = train(tmp_path / "fused", *settings, *seeds)
    plain = train(tmp_path / "plain", *settings, *seeds, "optimizer.fused=false", "+optimizer.foreach=false")
    for key, x in weights_of(plain).items():
        assert_close(weights_of(fused)[key], x, atol=1e-6, rtol=1e-5, msg=key)
    assert same(resumed(tmp_path / "resumed", *settings, *seeds, after=1), fused)


def test_stacked_convolutions_are_those_of_a_loop(tmp_path):
    settings = (*PIXELS, "num_seeds=2")
    stacked = train(tmp_path / "vmap", *settings, "batching=vmap")
    looped = train(tmp_path / "loop", *settings, "batching=loop")
    assert (len(stacked.learner.groups), len(looped.learner.groups)) == (1, 2)
    for key, x in weights_of(looped).items():
        assert_close(weights_of(stacked)[key], x, atol=2e-4, rtol=2e-3, msg=key)


# Optimizers ----------------------------------------------------------------------------------------------------------


class Sets(probes.Endless):
    """Observations are four rows of four."""

    observation_space = spaces.Box(-np.inf, np.inf, (4, 4), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, **kwargs):
        super().reset(**kwargs)
        return self.np_random.normal(size=(4, 4)).astype(np.float32), {}

    def step(self, action):
        _, *rest = super().step(action)
        return self.np_random.normal(size=(4, 4)).astype(np.float32), *rest


REFUSED = {
    "LBFGS": "its step wants a closure that computes the loss anew",
    "Muon": "2D parameters",
    "SparseAdam": "dense gradients",
}
ACCEPTED = sorted(
    name
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and name not in (*REFUSED, "Optimizer")
)
OTHERS = ("Normed", "CountsInGroup", "CountsInState", "Rebinds", "Decorated", "Projects", "HalfMomentum")
OTHERS += ("RateInMomentum", "LargeAsOne", "WantsRate")
ASIDE = ("CountsByItself", "MomentumAside", "Langevin", "OwnRate")
WHOLE = ("Adafactor", "Normed", "LargeAsOne", "HalfMomentum")  # the last sorts parameters by their axes
FIXED = ("Rprop",)  # heed the first learning rate alone


def target(name):
    return f"strangers.{name}" if name in (*OTHERS, *ASIDE) else f"torch.optim.{name}"


def choose(name):
    return (*BARE, f"optimizer._target_={target(name)}")


def test_there_are_optimizers():
    assert {"Adam", "SGD", "Adafactor", "Rprop", "RMSprop"} <= set(ACCEPTED)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        *REFUSED.items(),
        ("CountsByItself", "keeps what no checkpoint holds"),
        ("MomentumAside", "keeps what no checkpoint holds"),
        ("Langevin", "the optimizer draws random numbers"),
    ],
)
def test_optimizers_that_cannot_work_are_refused_by_name(name, why):
    with pytest.raises(ConfigError, match=rf"optimizer\._target_={target(name)}: cannot be used here: .*{why}"):
        build.check(make_config(*choose(name)))


@pytest.mark.parametrize("name", [*ACCEPTED, *OTHERS])
def test_an_optimizer_moves_stacked_agents_as_it_would_alone(tmp_path, name):
    rate = "3e-3" if name in FIXED else "[3e-3,0,1e-3]"
    settings = (*SMALL, "total_steps=512", *choose(name), f"optimizer.lr={rate}", "network.torso.hidden=[16,16]")
    batch = train(tmp_path / "batch", *settings, "num_seeds=2")
    alone = train(tmp_path / "alone", *settings, "seed=1")
    for key, x in weights_of(alone).items():
        assert_close(weights_of(batch)[key][1], x[0], atol=5e-4, rtol=5e-3, msg=key)
    assert len(batch.learner.groups) == (2 if name in WHOLE else 1)


def test_an_optimizer_that_mixes_agents_cannot_be_made_to(tmp_path):
    with pytest.raises(ConfigError, match=r"batching=vmap: this optimizer needs agents one by one"):
        make_trainer(tmp_path, *SMALL, *choose("Adafactor"), "num_seeds=2", "batching=vmap")


@pytest.mark.parametrize("name", [*(own for own in ACCEPTED if own not in FIXED), *OTHERS])
@pytest.mark.parametrize("num_seeds", [1, 2])
def test_traced_updates_are_eager_ones_where_the_rate_touches_zero(tmp_path, traced, caplog, name, num_seeds):
    settings = (*SMALL, "total_steps=768", *choose(name), f"num_seeds={num_seeds}", "optimizer.lr=[0,3e-3,0]")
    eager = train(tmp_path / "eager", *settings)
    compiled = train(tmp_path / "compiled", *settings, "compile=true")
    for key, x in weights_of(eager).items():
        assert x.isfinite().all()
        assert_close(weights_of(compiled)[key], x, atol=2e-5, rtol=2e-3, msg=key)
    graphs = [group.graphs for group in compiled.learner.groups]
    runs_uncompiled = "the minibatch update runs uncompiled" in caplog.text
    assert all((own.get("the minibatch update") is None) == runs_uncompiled for own in graphs)


@pytest.mark.parametrize("lr", ["[1e-3,0,0]", "[0,0,1e-3]"])
def test_a_rate_of_zero_leaves_parameters_whose_gradient_was_always_zero(tmp_path, traced, lr):
    # states that are never visited: their second moments are 0, and so is the rate that optimizers divide by
    settings = (*SMALL, "total_steps=768", "env.id=FrozenLake-v1", f"optimizer.lr={lr}")
    eager = train(tmp_path / "eager", *settings)
    compiled = train(tmp_path / "compiled", *settings, "compile=true")
    assert any((state["exp_avg_sq"] == 0).any() for state in compiled.learner.groups[0].optimizer.state.values())
    for key, x in weights_of(eager).items():
        assert_close(weights_of(compiled)[key], x, atol=2e-5, rtol=2e-3, msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("name", [own for own in ACCEPTED if own not in FIXED])
def test_compiled_updates_are_eager_ones_where_the_rate_touches_zero(tmp_path, monkeypatch, name):
    monkeypatch.setitem(libraries.OPTIONS, "aot_inductor.compile_wrapper_opt_level", "O0")
    settings = (*SMALL, "total_steps=768", *choose(name), "optimizer.lr=[0,3e-3,0]")
    eager = train(tmp_path / "eager", *settings)
    compiled = train(tmp_path / "compiled", *settings, "compile=true")
    for key, x in weights_of(eager).items():
        assert_close(weights_of(compiled)[key], x, atol=2e-4, rtol=2e-3, msg=key)


def test_what_an_optimizer_keeps_does_not_say_how_its_steps_are_computed():
    params = {"p": torch.ones(3, requires_grad=True)}
    one, other = (torch.optim.Adam(params.values(), capturable=flag) for flag in (False, False))
    params["p"].grad = torch.ones(3)
    one.step()
    one.param_groups[0]["capturable"] = True  # as on another device
    optimizer_state.restore(other, params, 1, optimizer_state.kept_by_agent(one, params, 1))
    assert other.param_groups[0]["capturable"] is False
    other.step()


def test_an_optimizer_that_keeps_no_state_is_compiled_too(tmp_path, traced):
    trainer = train(tmp_path, *SMALL, *choose("SGD"), "compile=true")
    assert all(trainer.learner.groups[0].graphs.values())
    assert len(trainer.learner.groups[0].graphs) == 2


@pytest.mark.parametrize("name", ["Rprop", "OwnRate"])
def test_a_schedule_that_would_be_without_effect_is_refused(name):
    build.check(make_config(*choose(name), "optimizer.lr=1e-3"))
    with pytest.raises(ConfigError, match=rf"optimizer\.lr=\[.*\]: .*{name} heeds no rate that changes"):
        build.check(make_config(*choose(name), "optimizer.lr=[1e-3,0]"))


@pytest.mark.parametrize("name", ["SGD", "Adafactor", "Rprop", *OTHERS])
@pytest.mark.parametrize("num_seeds", [1, 2])
def test_other_optimizers_resume_exactly(tmp_path, traced, name, num_seeds):
    settings = (*SMALL, *choose(name), f"num_seeds={num_seeds}", "compile=true")
    assert same(resumed(tmp_path / "parts", *settings), train(tmp_path / "whole", *settings))


def test_traits():
    def of(name):
        return traits({"_target_": target(name), "_partial_": True})

    assert (of("Adam").elementwise, of("Adam").proportional, of("Adam").recordable) == (True, True, True)
    assert not of("Rprop").proportional
    assert not of("Adafactor").elementwise
    assert not of("Normed").elementwise
    assert not any(of(name).recordable for name in ("CountsInGroup", "Rebinds", "Decorated", "Projects"))
    assert not of("RateInMomentum").proportional
    assert not of("CountsInState").recordable


# Numbers -------------------------------------------------------------------------------------------------------------


def test_numbers_keep_the_type_that_nobody_asked_to_change(tmp_path):
    cfg = make_config(algo("Untyped"), "+algo.anything=2.0", "+algo.extra=1", "algo.rollout_steps=32.0")
    made = build.build_algorithm(cfg)
    assert (type(made.anything), type(made.rollout_steps), made.extra(0.0)) == (float, int, 1.0)
    assert type(build.build_environment(make_config("+env.kwargs.start=2.0")).kwargs["start"]) is float
    kl = make_trainer(tmp_path, "algo=ppo_kl", "algo.kl_coef=1")
    assert kl.algo.beta.dtype == torch.float32
    assert isinstance(kl.algo.kl_coef, float)


# Divergence ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_a_parameter_that_diverges_in_the_last_minibatch_is_seen(tmp_path, num_seeds):
    from rlexp.errors import DivergedError

    trainer = make_trainer(tmp_path, *SMALL, f"num_seeds={num_seeds}", "log_every=1")
    update = trainer.learner.update

    def diverge(*args, **last):
        metrics = update(*args, **last)
        if trainer.update_number == 2:
            trainer.learner.groups[0].params["critic_head.bias"].data.view(-1)[-1] = math.inf
        return metrics

    trainer.learner.update = diverge
    with pytest.raises(DivergedError, match=rf"update 3: a parameter of seed {num_seeds - 1} is inf"):
        trainer.run(False)
    assert "a parameter" not in (tmp_path / "metrics.csv").read_text()
