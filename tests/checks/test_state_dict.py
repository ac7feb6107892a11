"""What a resumed run would lose is told, and what it could not take up refused."""

from helpers import train
from strangers import SMALL, algo


def test_what_adapts_and_is_not_saved_is_told(tmp_path, caplog):
    train(tmp_path / "a", *SMALL, algo("Unsaved"))
    assert "algo.c changes during training but is not saved by state_dict()" in caplog.text
    caplog.clear()
    train(tmp_path / "b", *SMALL, "algo=ppo_kl")
    assert "state_dict()" not in caplog.text
