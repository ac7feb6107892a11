import csv
import re

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from rlexp.errors import ObjectiveError
from rlexp.run.metrics import MetricsLog


def make(folder):
    return MetricsLog(folder, [4, 5], {"algo.clip_coef": 0.2, "env.id": "X"}, started=1000.0)


def test_rows_are_tidy_and_events_agree(tmp_path):
    log = make(tmp_path)
    returns, losses = np.array([[np.nan, 3.0], [7.0, 4.0]]), np.array([[0.1, 0.2], [0.3, 0.4]])
    log.write(np.array([10, 11]), 1.5, {"episodic_return": returns[0], "policy_loss": losses[0]})
    log.write(np.array([20, 22]), 2.5, {"episodic_return": returns[1], "policy_loss": losses[1]})
    log.close()
    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    assert list(rows[0]) == ["seed", "step", "wall_time", "episodic_return", "policy_loss"]
    assert [(r["seed"], r["step"], r["episodic_return"]) for r in rows] == [
        ("4", "10", ""),
        ("5", "11", "3"),
        ("4", "20", "7"),
        ("5", "22", "4"),
    ]
    events = EventAccumulator(str(tmp_path / "seed_5"))
    events.Reload()
    assert [(e.step, e.value, e.wall_time) for e in events.Scalars("charts/episodic_return")] == [
        (11, 3.0, 1001.5),
        (22, 4.0, 1002.5),
    ]


def test_the_runs_own_events_hold_all_seeds_and_the_config(tmp_path):
    log = make(tmp_path)
    metrics = {"episodic_return": np.array([1.0, 2.0]), "anchor_kl": np.array([3.0, 4.0]), "episodes": np.ones(2)}
    log.write(np.array([10, 11]), 0.0, metrics)
    log.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    scalars = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert scalars == {
        "seeds/episodic_return/4": [(10, 1.0)],
        "seeds/episodic_return/5": [(11, 2.0)],
        "seeds/anchor_kl/4": [(10, 3.0)],
        "seeds/anchor_kl/5": [(11, 4.0)],
    }
    [text] = events.Tensors("config/text_summary")
    assert text.tensor_proto.string_val[0].decode().splitlines() == ["    algo.clip_coef: 0.2", "    env.id: X"]
    [pages] = events.Tensors("custom_scalars__config__")
    layout = Layout.FromString(pages.tensor_proto.string_val[0])
    assert [(c.title, [chart.title for chart in c.chart]) for c in layout.category] == [
        ("charts", ["episodic_return"]),
        ("memory", ["anchor_kl"]),
    ]
    for category in layout.category:
        for chart in category.chart:
            [pattern] = chart.multiline.tag
            assert sorted(tag for tag in scalars if re.search(pattern, tag)) == [
                f"seeds/{chart.title}/4",
                f"seeds/{chart.title}/5",
            ]


def test_hparams_lie_in_the_agents_own_folder(tmp_path):
    log = make(tmp_path)
    log.write(np.array([1, 1]), 0.0, {"episodic_return": np.zeros(2)})
    log.close()
    names = sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith("events."))
    assert names == ["metrics.csv", "seed_4", "seed_5"]
    events = EventAccumulator(str(tmp_path / "seed_4"))
    events.Reload()
    start = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    hparams = HParamsPluginData.FromString(start).session_start_info.hparams
    assert hparams["algo.clip_coef"].number_value == pytest.approx(0.2)
    assert hparams["seed"].number_value == 4


def test_a_metric_that_was_not_there_from_the_start_is_an_error(tmp_path):
    log = make(tmp_path)
    log.write(np.array([1, 1]), 0.0, {"a": np.zeros(2)})
    with pytest.raises(ObjectiveError, match="'b'"):
        log.write(np.array([2, 2]), 0.0, {"b": np.zeros(2)})
    log.close()


def test_columns_of_its_own_that_are_new_are_added_to_a_run_of_an_earlier_version(tmp_path):
    log = make(tmp_path)
    log.write(np.array([10, 11]), 1.0, {"a": np.zeros(2)})
    log.write(np.array([20, 21]), 2.0, {"row_return": np.array([3.0, np.nan]), "a": np.zeros(2)})
    log.close()
    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    assert [(r["step"], r["a"], r["row_return"]) for r in rows] == [
        ("10", "0", ""),
        ("11", "0", ""),
        ("20", "0", "3"),
        ("21", "0", ""),
    ]
    events = EventAccumulator(str(tmp_path / "seed_4"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("charts/row_return")] == [(20, 3.0)]
    assert [e.step for e in events.Scalars("losses/a")] == [10, 20]  # none twice
    layout_of = EventAccumulator(str(tmp_path))
    layout_of.Reload()
    [pages] = layout_of.Tensors("custom_scalars__config__")
    assert b"row_return" in pages.tensor_proto.string_val[0]


def test_cells_of_the_last_row_can_be_set_later(tmp_path):
    log = make(tmp_path)
    for step in (10, 20):
        log.write(np.array([step, step]), step, {"evaluation_return": np.full(2, np.nan), "a": np.ones(2)})
    for _ in range(2):  # the second time it changes nothing
        log.amend({"evaluation_return": np.array([7.0, np.nan])})
    log.write(np.array([30, 30]), 30, {"evaluation_return": np.full(2, 8.0), "a": np.ones(2)})
    log.close()
    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    assert [r["evaluation_return"] for r in rows] == ["", "", "7", "", "8", "8"]
    events = EventAccumulator(str(tmp_path / "seed_4"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("charts/evaluation_return")] == [(20, 7.0), (30, 8.0)]
    assert [e.step for e in events.Scalars("losses/a")] == [10, 20, 30]


def test_rows_of_updates_that_were_nothing_but_resets_are_told_apart_by_their_time(tmp_path):
    log = make(tmp_path)
    for second, step in enumerate((10, 20, 20, 20, 30)):
        log.write(np.array([step, step]), second + 0.1234, {"episodic_return": np.zeros(2)})
    log.close()
    again = make(tmp_path)
    again.resume({4: 20, 5: 20}, 2.1234, {4: 3, 5: 3})
    again.close()
    steps = [row["step"] for row in csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines())]
    assert steps == ["10", "10", "20", "20", "20", "20"]
