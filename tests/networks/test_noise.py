"""Random numbers of a loss are distributed as they say; other keys, calls and elements have nothing in common."""

from types import SimpleNamespace

import pytest
import torch
import torch.utils.checkpoint
from helpers import have_same_weights, last_metrics, make_trainer, resumed, train, weights_of
from strangers import SMALL, algo
from torch.func import vmap
from torch.testing import assert_close
from torch.utils._pytree import tree_leaves

from rlexp.compiling.compile import Graph
from rlexp.errors import ObjectiveError
from rlexp.networks import noise
from rlexp.networks.actor_critic import Policy

SHAPE = (200, 500)
KEYS = torch.randint(2**62, (4,), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("draw", [noise.uniform, noise.normal])
def test_numbers_are_distributed_as_they_say(draw):
    x = draw(torch.zeros(SHAPE), KEYS[0], 1).double()
    mean, deviation = (0.5, 12**-0.5) if draw is noise.uniform else (0.0, 1.0)
    assert x.mean() == pytest.approx(mean, abs=4 * deviation / 1e5**0.5)
    assert x.std() == pytest.approx(deviation, rel=0.01)
    ranks = (torch.arange(x.numel()) + 0.5) / x.numel()
    ordered = x.flatten().sort()[0]
    exact = ordered if draw is noise.uniform else torch.distributions.Normal(0.0, 1.0).cdf(ordered)
    assert (exact - ranks).abs().max() < 1.63 / x.numel() ** 0.5  # Kolmogorov and Smirnov, at 1 %


def test_keys_calls_and_elements_have_nothing_in_common():
    x = [
        noise.normal(torch.zeros(SHAPE), key, draw)
        for key in (*KEYS, KEYS[0] + 1, KEYS[0] ^ 2**40)
        for draw in (1, 2, 3)
    ]
    rows = torch.stack([own.flatten() for own in x])
    others = torch.corrcoef(rows) - torch.eye(len(rows))
    assert others.abs().max() < 5 / rows.shape[1] ** 0.5
    for lag in (1, 2, 3, 256, 500):
        assert torch.corrcoef(torch.stack([rows[0, lag:], rows[0, :-lag]]))[0, 1].abs() < 4 / rows.shape[1] ** 0.5
    assert (rows[0] == rows[1]).sum() < 5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_types_hold_the_same_numbers_as_far_as_they_can(dtype):
    x = torch.zeros(SHAPE)
    for draw in (noise.uniform, noise.normal):
        own, wanted = draw(x.to(dtype), KEYS[0], 1), draw(x, KEYS[0], 1)
        assert own.dtype == dtype
        assert (own.float() - wanted).abs().max() < 16 * torch.finfo(dtype).eps + 1e-5
    assert noise.uniform(x.to(dtype), KEYS[0], 1).max() < 1.0


def test_draws_that_would_be_none_are_refused():
    policy = Policy(SimpleNamespace(distribution=None), {}, KEYS[0])
    for dtype in (torch.uint8, torch.int64, torch.bool, torch.complex64):
        with pytest.raises(ObjectiveError, match=r"need a float tensor, not torch\.\w+: use x\.float\(\)"):
            policy.rand_like(torch.zeros(3, dtype=dtype))
    with pytest.raises(ObjectiveError, match="the same numbers in each row of"):
        vmap(policy.randn_like)(torch.zeros(3, 4))
    x = torch.ones(3, requires_grad=True)
    y = torch.utils.checkpoint.checkpoint(lambda x: (x * policy.rand_like(x)).sin(), x, use_reentrant=False)
    with pytest.raises(ObjectiveError, match="draw outside of it"):
        y.sum().backward()
    with pytest.raises(ObjectiveError, match="only inside a loss"):
        Policy(SimpleNamespace(distribution=None), {}).rand_like(torch.zeros(3))


def test_a_policy_made_within_vmap_draws_there():
    def loss(key, x):
        return Policy(SimpleNamespace(distribution=None), {}, key).rand_like(x)

    drawn = vmap(loss)(KEYS, torch.zeros(4, 5))
    assert torch.equal(drawn[2], noise.uniform(torch.zeros(5), KEYS[2], 1))


def test_a_compiler_that_writes_out_each_use_anew_has_little_to_write():
    def draw(x, key):
        return noise.uniform(x, key, 1), noise.normal(x, key, 2)

    sizes = {}  # of what each node is once all its uses are written out; hundreds of thousands, where uses multiply
    for node in Graph(draw, torch.zeros(64, 4), KEYS[0]).traced.graph.nodes:
        sizes[node] = 1 + sum(sizes[own] for own in tree_leaves(node.args) if isinstance(own, torch.fx.Node))
    assert max(sizes.values()) < 3000


def test_stacked_agents_draw_what_each_would_alone():
    x = torch.zeros(4, 7, 3)
    together = vmap(lambda own, key: noise.normal(own, key, 5))(x, KEYS)
    assert torch.equal(together, torch.stack([noise.normal(x[k], KEYS[k], 5) for k in range(4)]))


def test_a_loss_draws_the_same_alone_beside_others_compiled_and_resumed(tmp_path, traced):
    settings = (*SMALL, algo("Draws"))
    alone = train(tmp_path / "alone", *settings, "seed=1")
    beside = train(tmp_path / "beside", *settings, "num_seeds=3")
    looped = train(tmp_path / "looped", *settings, "num_seeds=3", "batching=loop")
    compiled = train(tmp_path / "compiled", *settings, "num_seeds=3", "compile=true")
    assert all(compiled.learner.graphs[0].made.values())
    for key, x in weights_of(alone).items():
        for other in (beside, looped, compiled):
            assert_close(weights_of(other)[key][1], x[0], atol=2e-4, rtol=2e-3, msg=key)
    assert have_same_weights(resumed(tmp_path / "resumed", *settings, "num_seeds=3"), beside)
    noise = [last_metrics(tmp_path / "beside", seed)["noise"] for seed in range(3)]
    assert len(set(noise)) == 3
    assert last_metrics(tmp_path / "alone", 1)["noise"] == pytest.approx(noise[1], rel=1e-4)


def test_only_a_loss_draws_from_a_policy(tmp_path):
    trainer = make_trainer(tmp_path, *SMALL)
    with pytest.raises(ObjectiveError, match="only inside a loss"):
        Policy(trainer.learner.groups[0].network, {}).rand_like(torch.zeros(3))
