"""A whole update is what PPO in plain PyTorch makes, one agent at a time: its modules, autograd and optimizer."""

import copy

import probes  # noqa: F401  (registers them)
import pytest
import torch
from helpers import make_trainer, weights_of
from torch import nn
from torch.distributions import Categorical, Normal
from torch.testing import assert_close

CASES = {
    "discrete": ("env=cartpole",),
    "continuous": ("env=pendulum", "env.normalize_obs=true"),
    "pixels": ("env.id=Pixels-v0", "network=nature_cnn", "network.torso.features=16"),
    "clipped values": ("env=cartpole", "algo.clip_vloss=true", "algo.max_grad_norm=null", "algo.norm_adv=false"),
}
SIZES = ("env.num_envs=4", "algo.rollout_steps=32", "algo.epochs=3", "algo.minibatches=2", "total_steps=256")
CLIP, VALUE, ENTROPY, NORM, RATE = 0.1, 0.5, 0.01, 0.5, 1e-3
VALUES = (f"algo.clip_coef={CLIP}", f"algo.vf_coef={VALUE}", f"algo.ent_coef={ENTROPY}", f"optimizer.lr={RATE}")


def distribution(params, width):
    if width is None:
        return Categorical(logits=params)
    return Normal(params[:, :width], params[:, width:].exp())


def log_prob_of(dist, actions):
    found = dist.log_prob(actions)
    return found if found.dim() == 1 else found.sum(-1)


def plain_update(network, rows, orders, minibatches, algo, width):
    """One agent's epochs of minibatches; rows: a dictionary of (N, ...), dummy rows among them."""
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE, eps=1e-5, foreach=False)
    for order in orders:
        for index in order.chunk(minibatches):
            own = {key: x[index][rows["weights"][index] > 0] for key, x in rows.items()}
            advantages = own["advantages"]
            if algo.norm_adv:
                advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
            params, values = network(own["obs"])
            dist = distribution(params, width)
            ratio = (log_prob_of(dist, own["actions"]) - own["log_probs"]).exp()
            surrogate = torch.min(ratio * advantages, ratio.clamp(1 - CLIP, 1 + CLIP) * advantages).mean()
            errors = (values - own["returns"]).square()
            if algo.clip_vloss:
                clipped = own["values"] + (values - own["values"]).clamp(-CLIP, CLIP)
                errors = errors.maximum((clipped - own["returns"]).square())
            entropy = dist.entropy() if width is None else dist.entropy().sum(-1)
            loss = -surrogate + VALUE * 0.5 * errors.mean() - ENTROPY * entropy.mean()
            optimizer.zero_grad()
            loss.backward()
            if algo.max_grad_norm is not None:
                nn.utils.clip_grad_norm_(network.parameters(), NORM)
            optimizer.step()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("num_seeds", [1, 2])
def test_an_update_is_ppo_in_plain_pytorch(tmp_path, case, num_seeds):
    trainer = make_trainer(tmp_path, *CASES[case], *SIZES, *VALUES, f"num_seeds={num_seeds}", "batching=vmap")
    learner, algo = trainer.learner, trainer.algo
    width = 1 if case == "continuous" else None
    networks = [copy.deepcopy(learner.groups[0].network) for _ in range(num_seeds)]
    for agent, network in enumerate(networks):
        own = {name: x[agent] for name, x in weights_of(trainer).items()}
        network.load_state_dict(own, strict=False)
    rollout = trainer.collector.collect(learner.acting(trainer.collector.slots))
    targets = trainer.targets(rollout, trainer.learner.policies)
    streams = []
    for agent in learner.streams:
        streams.append(torch.Generator())
        streams[-1].set_state(agent.order.get_state())
    before = {name: x.clone() for name, x in weights_of(trainer).items()}
    learner.update(rollout, targets, 0.0)

    tensors = {"advantages": targets.advantages, "returns": targets.returns}
    tensors |= {key: getattr(rollout, key) for key in ("obs", "actions", "log_probs", "values", "weights")}
    for agent, network in enumerate(networks):
        rows = {key: x[agent].flatten(0, 1) for key, x in tensors.items()}
        assert case == "continuous" or (rows["weights"] == 0).any()
        orders = [torch.randperm(128, generator=streams[agent]) for _ in range(3)]
        plain_update(network, rows, orders, 2, algo, width)
        for name, param in network.named_parameters():
            assert_close(weights_of(trainer)[name][agent], param.detach(), atol=2e-5, rtol=1e-3, msg=name)
            assert (before[name][agent] != param).any(), name
