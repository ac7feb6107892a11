import pytest
from helpers import jobs
from omegaconf import OmegaConf

TINY = ["tuned=none", "total_steps=256", "progress=none", "evaluation.episodes=0", "algo.rollout_steps=16"]

NETS = """
import torch


class Torso(torch.nn.Module):
    def __init__(self, space, width=32):
        super().__init__()
        self.out_features = width
        self.layer = torch.nn.Linear(space.shape[0], width)

    def forward(self, x):
        return self.layer(x).tanh()
"""
YAMLS = {
    "optimizer/rms": "defaults: [adam, _self_]\n_target_: torch.optim.RMSprop\nalpha: 0.95\n",
    "optimizer/rms_typo": "defaults: [adam, _self_]\n_target_: torch.optim.RMSprop\nalpa: 0.95\n",
    "optimizer/rms_calm": "defaults: [rms, _self_]\neps: 1e-6\n",
    "optimizer/broken": "lr: [\n",
    "experiment/rms_study": "# @package _global_\noptimizer:\n  _target_: torch.optim.RMSprop\n  alpha: 0.95\n",
    "network/theirs": "defaults: [mlp, _self_]\ntorso:\n  _target_: replaced_nets.Torso\n",
}
TORSO = "network.torso._target_=replaced_nets.Torso"


@pytest.fixture
def train(cli, tmp_path, monkeypatch):
    """Trains with words; the optimizer's settings and the torso's of each job."""
    (tmp_path / "replaced_nets.py").write_text(NETS)
    monkeypatch.syspath_prepend(tmp_path)
    for name, text in YAMLS.items():
        path = tmp_path / "conf" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def call(*words):
        result = cli(*TINY, *words)
        assert result.code == 0, result.err
        configs = [OmegaConf.load(job / ".hydra" / "config.yaml") for job in jobs()]
        return [
            {key: value for key, value in node.items() if key != "_partial_"}
            for config in configs
            for node in (config.optimizer, config.network.torso)
        ]

    return call


ADAM = {"_target_": "torch.optim.Adam", "lr": 3e-4, "eps": 1e-5, "fused": True}
MLP = {"_target_": "rlexp.networks.MLP", "hidden": [64, 64], "activation": "tanh"}
RMS = {"_target_": "torch.optim.RMSprop", "lr": 3e-4}


@pytest.mark.few(6)
@pytest.mark.parametrize(
    ("words", "optimizer", "torso"),
    [
        (["optimizer._target_=torch.optim.SGD"], {"_target_": "torch.optim.SGD", "lr": 3e-4}, MLP),
        (["optimizer._target_=torch.optim.RMSprop"], RMS, MLP),  # takes eps, too, but has a default of its own
        (["optimizer._target_=torch.optim.RMSprop", "optimizer.eps=1e-5"], RMS | {"eps": 1e-5}, MLP),
        (["optimizer=rms"], RMS | {"alpha": 0.95}, MLP),
        (["optimizer=rms_calm"], RMS | {"alpha": 0.95, "eps": 1e-6}, MLP),
        (["optimizer={_target_:torch.optim.RMSprop,lr:1e-3,_partial_:true}"], RMS | {"lr": 1e-3}, MLP),
        (["experiment=rms_study"], RMS | {"alpha": 0.95}, MLP),
        (["optimizer=rms", "optimizer.lr=1e-3"], RMS | {"alpha": 0.95, "lr": 1e-3}, MLP),
        (["optimizer=adam_annealed"], ADAM | {"lr": [3e-4, 0]}, MLP),
        ([TORSO], ADAM, {"_target_": "replaced_nets.Torso"}),
        (["network=theirs"], ADAM, {"_target_": "replaced_nets.Torso"}),
        ([TORSO, "network.torso.width=16"], ADAM, {"_target_": "replaced_nets.Torso", "width": 16}),
        (["network.torso._target_=rlexp.networks.MLP", "network.torso.hidden=[8]"], ADAM, MLP | {"hidden": [8]}),
    ],
)
@pytest.mark.parametrize("sweep", [False, True], ids=["run", "sweep"])
def test_settings_of_the_class_before_go_and_what_is_typed_stays(train, words, optimizer, torso, sweep):
    assert train(*["-m"] * sweep, *words) == [optimizer, torso]


def test_a_job_of_a_sweep_and_a_run_share_one_folder_however_the_class_was_named(train):
    train("network=theirs")
    train("-m", TORSO)
    train(TORSO)
    assert len(jobs()) == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["optimizer=broken"], "conf/optimizer/broken.yaml, line 2, column 1: expected the node content, but found"),
        (["-m", "optimizer=broken"], "conf/optimizer/broken.yaml, line 2, column 1: expected the node content"),
        (["optimizer._target_=torch.optim.SGD", "optimizer.eps=1e-5"], "optimizer.eps=1e-05: torch.optim.SGD has no"),
        (
            ["+optimizer.zzz=1"],
            "maximize, weight_decay",
        ),
        (
            ["optimizer=rms_typo"],
            "optimizer.alpa=0.95: torch.optim.RMSprop has no such setting; did you mean optimizer.alpha?",
        ),
        (["algo._target_=rlexp.algos.apo.APO", "algo.kl_coef=1"], "algo.kl_coef=1: algo=ppo has no such setting"),
    ],
)
def test_what_a_user_writes_is_refused_where_the_new_class_does_not_take_it(cli, train, words, told):
    result = cli(*TINY, *words)
    assert result.code == 1
    assert told in result.err
    assert result.err.count("\n") == 1


def test_an_objective_that_takes_the_place_of_another_keeps_the_tuned_values_of_what_both_take(cli):
    result = cli("env=cartpole", "total_steps=256", "evaluation.episodes=0", "algo._target_=rlexp.algos.apo.APO")
    assert result.code == 0, result.err
    config = OmegaConf.load(jobs()[0] / ".hydra" / "config.yaml")
    assert (config.algo.epochs, config.algo.clip_coef) == (20, [0.2, 0])
    assert "anchor_coef" not in config.algo  # the class's own default
