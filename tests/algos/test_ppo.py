"""The loss of PPO, on three rows and a dummy, by hand."""

import math

import pytest
import torch
from helpers import AsObserved, for_one_agent, make_batch

from rlexp.algos.ppo import PPO
from rlexp.networks.actor_critic import Policy

LOG2, LOG3 = math.log(2), math.log(3)
WEIGHTS = [1.0, 1.0, 1.0, 0.0]
# both actions were as likely as the other when the policy acted. Logits (log 3, 0) are probabilities (¾, ¼), so that
#   row 1: action 0, ρ = ¾ / ½ = 1.5, A =  1, V = 1, which was 0, R = 2
#   row 2: action 1, ρ = ½ / ½ = 1,   A = −2, V = 2, which was 2, R = 0
#   row 3: action 1, ρ = ¼ / ½ = .5,  A = −1, V = 0, which was ½, R = 1
# and the last, which has no weight, is full of nonsense
OBS = [[LOG3, 0.0, 1.0], [0.0, 0.0, 2.0], [LOG3, 0.0, 0.0], [9.0, -9.0, 99.0]]
ROWS = {
    "actions": [0, 1, 1, 1],
    "advantages": [1.0, -2.0, -1.0, 50.0],
    "values": [0.0, 2.0, 0.5, -70.0],
    "returns": [2.0, 0.0, 1.0, 1e6],
    "weights": WEIGHTS,
}

# ε = .2: min(1.5, 1.2) = 1.2 ; min(−2, −2) = −2 ; min(−.5, −.8) = −.8 ; the mean is −1.6 / 3
POLICY_LOSS = 1.6 / 3
VALUE_LOSS = 0.5 * (1 + 4 + 1) / 3
# H(¾, ¼) = ¾ log 4/3 + ¼ log 4 = 2 log 2 − ¾ log 3, twice; and log 2
ENTROPY = (2 * (2 * LOG2 - 0.75 * LOG3) + LOG2) / 3


def loss_of(batch, **settings):
    """With one coefficient at a time unlike 0, unless they are given."""
    algo = PPO(**({"norm_adv": False, "clip_coef": 0.2, "vf_coef": 0.0, "ent_coef": 0.0} | settings))
    return for_one_agent(algo).loss(Policy(AsObserved(), {}), batch)


def test_the_loss_of_the_policy():
    loss, metrics = loss_of(make_batch(obs=OBS, **ROWS))
    assert loss.item() == metrics["policy_loss"].item() == pytest.approx(POLICY_LOSS)


def test_the_loss_of_the_policy_on_normalised_advantages():
    # mean −⅔; less it 5/3, −4/3, −1/3; variance (25 + 16 + 1) / 9 / 2 = 7/3, with Bessel's correction, σ = √(7/3)
    # 1.2 · 5/3 − 4/3 + .8 · −1/3 = 2 − 4/3 − 4/15 = .4
    loss, _ = loss_of(make_batch(obs=OBS, **ROWS), norm_adv=True)
    assert loss.item() == pytest.approx(-0.4 / 3 / math.sqrt(7 / 3))


@pytest.mark.parametrize(
    ("clipped", "value_loss"),
    [
        (False, VALUE_LOSS),
        # ε = .2: V = 1 from 0 is .2, (.2 − 2)² = 3.24 > 1 ; 2 has not moved, 4 ; 0 from ½ is .3, (.3 − 1)² = .49 < 1
        (True, 0.5 * (3.24 + 4 + 1) / 3),
    ],
)
def test_the_loss_of_the_critic(clipped, value_loss):
    loss, metrics = loss_of(make_batch(obs=OBS, **ROWS), clip_vloss=clipped, vf_coef=0.5)
    assert metrics["value_loss"].item() == pytest.approx(value_loss)
    assert loss.item() == pytest.approx(POLICY_LOSS + 0.5 * value_loss)


def test_the_bonus_of_entropy():
    loss, metrics = loss_of(make_batch(obs=OBS, **ROWS), ent_coef=0.1)
    assert metrics["entropy"].item() == pytest.approx(ENTROPY)
    assert loss.item() == pytest.approx(POLICY_LOSS - 0.1 * ENTROPY)


def test_the_whole_loss_and_how_far_the_policy_has_moved():
    loss, metrics = loss_of(make_batch(obs=OBS, **ROWS), vf_coef=0.5, ent_coef=0.1)
    assert loss.item() == pytest.approx(POLICY_LOSS + 0.5 * VALUE_LOSS - 0.1 * ENTROPY)
    # log ρ is log 1.5, 0, log ½, which sum to log ¾; ρ − 1 is .5, 0, −.5, which sum to 0
    assert metrics["old_approx_kl"].item() == pytest.approx(math.log(4 / 3) / 3)
    assert metrics["approx_kl"].item() == pytest.approx(math.log(4 / 3) / 3)
    assert metrics["clip_fraction"].item() == pytest.approx(2 / 3)
    assert metrics.keys() == {
        "policy_loss",
        "value_loss",
        "entropy",
        "old_approx_kl",
        "approx_kl",
        "clip_fraction",
    }


@pytest.mark.parametrize("norm_adv", [True, False])
@pytest.mark.parametrize("clip_vloss", [True, False])
def test_a_dummy_row_is_as_none(norm_adv, clip_vloss):
    settings = {"vf_coef": 0.5, "ent_coef": 0.1, "norm_adv": norm_adv, "clip_vloss": clip_vloss}
    obs = torch.tensor(OBS, requires_grad=True)
    loss, metrics = loss_of(make_batch(obs=obs, **ROWS), **settings)
    without, same = loss_of(make_batch(obs=OBS[:3], **{name: rows[:3] for name, rows in ROWS.items()}), **settings)
    assert loss.item() == pytest.approx(without.item())
    assert {name: x.item() for name, x in metrics.items()} == pytest.approx({k: x.item() for k, x in same.items()})
    loss.backward()
    assert (obs.grad[3] == 0).all()
    assert (obs.grad[:3] != 0).any()


def test_nothing_but_dummies_is_no_loss():
    loss, _ = loss_of(make_batch(obs=OBS, **ROWS | {"weights": [0.0] * 4}), vf_coef=0.5, ent_coef=0.1)
    assert loss.item() == 0


def test_only_what_is_not_clipped_has_a_gradient():
    obs = torch.tensor(OBS, requires_grad=True)
    loss_of(make_batch(obs=obs, **ROWS))[0].backward()
    # ρ = 1.5 with A > 0 and ρ = .5 with A < 0 have gone as far as they may. Row 2: ∂(−ρA/3)/∂logit₁ is
    # ⅔ · ρ · (1 − π₁) = ⅔ · ½ = ⅓, and the opposite for the other
    assert obs.grad[:, :2].flatten().tolist() == pytest.approx([0, 0, -1 / 3, 1 / 3, 0, 0, 0, 0])
