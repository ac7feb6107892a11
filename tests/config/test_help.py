import pytest
import yaml

from rlexp.config.identity import NOT_IDENTITY
from rlexp.config.schema import CONF_DIR, GROUPS, RunConfig


def squeezed(text):
    return " ".join(line.strip(" #") for line in text.splitlines())


def test_help_tells_every_key_its_value_and_its_comment(cli):
    shown = cli("--help").out
    keys = {line.partition("=")[0] for line in shown.splitlines() if "=" in line.split("#")[0]}
    top = {name for name in RunConfig.__dataclass_fields__ if name not in (*GROUPS, "evaluation")}
    assert top | set(NOT_IDENTITY) | set(GROUPS) <= keys
    for file in ("algo/ppo", "env/cartpole", "network/mlp", "optimizer/adam", "gae/default"):
        text = (CONF_DIR / f"{file}.yaml").read_text()
        group = file.partition("/")[0]
        assert {f"{group}.{key}" for key in yaml.safe_load(text) if key not in ("_partial_", "torso")} <= keys
    for part in (
        "seed=0                              # first seed; agent k of the run has seed + k",
        "algo.clip_coef=[0.2,0]              # * epsilon of the clipped surrogate, and of value clipping",
        "network.torso.hidden=[64,64]        # widths",
    ):
        assert part in shown
    folded = "auto: torch for those four unless vectorization, or kwargs other than max_episode_steps, are set"
    assert folded in squeezed(shown)  # of several lines


def test_help_is_of_the_choices_made_beside_it(cli):
    shown = cli("--help", "algo=apo", "env=pendulum", "algo.epochs=7").out
    for part in ("algo.anchor_coef=1.0 ", "env.id=Pendulum-v1 ", "algo.epochs=7 "):
        assert part in shown
    assert "weight of the KL term" in shown
    assert "passes over a rollout" in shown  # of the yaml that apo's starts from


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["algo.anchor_coef", "algo=apo"], ["algo.anchor_coef=1.0", "weight of the KL term", "rlexp.algos.apo.APO"]),
        (["optimizer.weight_decay"], ["optimizer.weight_decay=0", "torch.optim.Adam", "in no yaml"]),
        (
            ["optimizer.lr"],
            ["optimizer.lr=[0.001,0]", "piecewise-linear", "adam.yaml sets 0.0003", "ppo_cartpole.yaml"],
        ),
        (["stale"], ["stale=refuse", "edited since", "one of refuse, keep, rerun"]),
        (["env"], ["env=cartpole", "one of acrobot, ", "env.num_envs=8"]),
        (["env", "++env.kwargs.rewards={0: 1.5}"], ["env.kwargs.rewards={0: 1.5}"]),
        (["-m", "seed=0,1", "seed"], ["seed=0", "first seed"]),
    ],
)
def test_help_of_one_key(cli, words, told):
    result = cli("--help", *words)
    assert result.code == 0
    for part in told:
        assert part in result.out


@pytest.mark.parametrize(
    ("group", "told"),
    [
        ("tuned", ["tuned=ppo_cartpole   one of", "  apo_acrobot ", "  ppo_mountaincar ", "RL Baselines3 Zoo"]),
        ("experiment", ["experiment=null   one of", "  forgetting ", "# Does an anchor keep what was learnt"]),
        ("hydra/sweeper", ["hydra/sweeper=basic   one of", "  optuna "]),
        ("local", ["# there is no conf/local/ here"]),
    ],
)
def test_help_of_groups_that_set_keys_of_others_lists_their_choices(cli, group, told):
    result = cli("--help", group)
    assert result.code == 0, result.err
    for part in told:
        assert part in result.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["algo.anchor_coef"],
            "algo.anchor_coef: algo=ppo has no such setting; algo=apo has it: algo=apo --help algo.anchor_coef",
        ),
        (["algo.clp_coef"], "algo.clp_coef: there is no such setting; did you mean algo.clip_coef?"),
        (["sed"], "sed: there is no such setting; did you mean seed?"),
        (["algo=apq", "seed"], "algo=apq: there is no such choice; did you mean apo?"),
    ],
)
def test_help_of_what_there_is_not_is_one_line(cli, words, told):
    result = cli("--help", *words)
    assert result.code == 1
    assert result.err.startswith(f"rlexp: {told}")
    assert result.err.count("\n") == 1


def test_help_of_a_key_without_a_comment_says_where_one_goes(cli, tmp_path):
    calm = tmp_path / "conf" / "algo" / "calm.yaml"
    calm.parent.mkdir(parents=True)
    calm.write_text("defaults: [ppo, _self_]\n_target_: strangers.Untyped\nextra: 0.1\n")
    assert (
        "no description: add a comment in the yaml, as in extra: 0.1  # ..."
        in cli("--help", "algo.extra", "algo=calm").out
    )
    assert "no description" not in cli("--help", "algo.clip_coef", "algo=calm").out
    place = f"hydra.searchpath=[file://{tmp_path}/conf]"  # which is on the path already
    assert "; algo=calm has it: algo=calm --help algo.extra\n" in cli("--help", "algo.extra", place).err


def test_a_key_that_yaml_reads_as_another_thing_is_told(cli, tmp_path):
    calm = tmp_path / "conf" / "algo" / "calm.yaml"
    calm.parent.mkdir(parents=True)
    calm.write_text("defaults: [ppo, _self_]\noff: 0.1\n")
    assert cli("algo=calm").err.startswith("rlexp: a yaml has a key that YAML reads as False, ")


def test_a_default_that_is_made_is_shown_as_what_is_made(cli):
    shown = cli("--help", "algo._target_=hooks.Listed", "algo.shares").out
    assert shown.startswith("algo.shares=[0.5,0.5]\n  of hooks.Listed, default [0.5,0.5]; in no yaml")
