"""Studies made to do harm: `compare` writes nothing outside, and nothing that runs script."""

import contextlib
import copy
import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from runs import write_run

from rlexp.compare import __main__ as compare
from rlexp.config.identity import config_hash

SAMPLES = Path(__file__).with_name("hostile.txt").read_text().splitlines()
TAGS = {"a", "defs", "use", "path", "g", "svg", "text", "tspan", "rect", "clippath", "image", "style", "metadata"}
TAGS |= {"html", "head", "body", "meta", "title", "h1", "h2", "h3", "p", "b", "code", "table", "tr", "th", "td"}
TAGS |= {"rdf:rdf", "cc:work", "dc:type", "dc:format"}  # of matplotlib


class Page(HTMLParser):
    """Refuses what could run, as a browser would read it."""

    def handle_starttag(self, tag, attributes):
        assert tag in TAGS - {"a"}, tag
        for name, value in attributes:
            assert not name.startswith("on"), (tag, name, value)
            assert "javascript:" not in (value or ""), (tag, name, value)
        if tag == "meta":
            assert dict(attributes).get("http-equiv") in (None, "Content-Security-Policy")


def hostile_study(study, bad):
    """Whatever a study's files say says `bad`; returns it."""
    for number, algo in enumerate(("ppo", "apo", "apo")):
        folder = write_run(study / f"{bad.replace('/', '_')}{number}", algo, env=bad, direction=bad)
        record = json.loads((folder / "run.json").read_text())
        record["config"]["env"][bad] = bad
        record["config_hash"] = config_hash(record["config"]) if algo == "ppo" else bad
        record |= {"choices": {"algo": bad}, "commit": bad + str(number), "machine": bad, "command": ["x", bad]}
        record["versions"] = {bad: bad, "torch": bad + str(number)}
        if number == 2:
            record |= {"status": "failed", "error": bad}
        (folder / "run.json").write_text(json.dumps(record))
    waiting = {bad.replace("/", "_"): {"overrides": [bad]}}
    (study / "sweep.json").write_text(json.dumps({"jobs": waiting}))
    cut = write_run(study / "cut")
    (cut / "metrics.csv").write_text(f"{bad}\n{bad}\n")
    return study


@pytest.mark.few(4)
@pytest.mark.parametrize("bad", SAMPLES)
def test_no_name_in_a_study_runs_script(tmp_path, capsys, bad):
    study = hostile_study(tmp_path / "s", bad)
    compare.main([str(study), "allow=all", "out=" + str(tmp_path / "out")])
    assert "alert(1)" not in bad or "alert(1)" in capsys.readouterr().out  # told as it is
    pages = [*(tmp_path / "out").glob("*.svg"), tmp_path / "out" / "compare.html"]
    assert len(pages) >= 5
    for page in pages:
        Page().feed(page.read_text())
    assert not re.search(r"<[A-Za-z/!?]|\]\([^)]*script", (tmp_path / "out" / "compare.md").read_text())
    for table in (tmp_path / "out").glob("*.csv"):
        with open(table, newline="") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        assert not [cell for cell in cells if re.match(r"\s*[=+@]|\s*-\D", cell)], table
    text = (tmp_path / "out" / "compare.html").read_text()
    assert "http-equiv='Content-Security-Policy' content=\"default-src 'none';" in text


def test_a_page_that_runs_script_would_be_noticed():
    for harm in ("<script>", "<p onload=x>", "<use href='javascript:x'>", "<meta http-equiv='refresh'>"):
        with pytest.raises(AssertionError):
            Page().feed(harm)


@pytest.mark.parametrize("link", ["compare", "compare/compare.csv", "compare/curves_steps.svg", "compare/compare.html"])
def test_links_lead_nothing_out_of_a_study(tmp_path, capsys, link):
    study, outside = tmp_path / "s", tmp_path / "outside"
    write_run(study / "ppo")
    outside.mkdir()
    (outside / "own.csv").write_text("mine")
    (study / link).parent.mkdir(exist_ok=True)
    (study / link).symlink_to(outside if link == "compare" else outside / "own.csv")
    with pytest.raises(SystemExit):
        compare.main([str(study)])
    said = capsys.readouterr()
    assert (
        said.err
        == f"rlexp.compare: {study / link}: is a symbolic link; remove it, or write elsewhere with out=FOLDER\n"
    )
    assert not said.out
    assert [(path.name, path.read_text()) for path in outside.iterdir()] == [("own.csv", "mine")]
    assert (study / link).is_symlink()
    compare.main([str(study), f"out={tmp_path / 'mine'}", "figures=false"])
    assert (tmp_path / "mine" / "compare.html").is_file()


def test_a_link_to_nowhere_is_refused_too_and_one_that_is_asked_for_is_followed(tmp_path, capsys):
    write_run(tmp_path / "s" / "ppo")
    (tmp_path / "s" / "compare").symlink_to(tmp_path / "nowhere")
    with pytest.raises(SystemExit):
        compare.main([str(tmp_path / "s")])
    assert "is a symbolic link" in capsys.readouterr().err
    (tmp_path / "nowhere").mkdir()
    compare.main([str(tmp_path / "s"), f"out={tmp_path / 's' / 'compare'}", "figures=false"])
    assert (tmp_path / "nowhere" / "compare.html").is_file()


WRONG = (None, "x", [], {}, -1, 1e308, True, [1, "x"], float("nan"))


def keys_of(data, before=()):
    for key, value in data.items():
        yield (*before, key)
        if isinstance(value, dict):
            yield from keys_of(value, (*before, key))


@pytest.mark.few(1)
@pytest.mark.parametrize("every", [False, True])
def test_no_value_of_a_run_json_ends_compare_in_a_traceback(tmp_path, capsys, every):
    runs = [write_run(tmp_path / "s" / algo, algo) for algo in ("ppo", "apo")]
    more = {"machine": "2 cores", "command": ["x"], "launches": 1, "result": {"evaluation_return": [1.0]}}
    more |= {"declared": {"primary": "final", "margin": "5%", "limits": [0, 500]}, "diverged": {"1": {"step": 9}}}
    records = [json.loads((run / "run.json").read_text()) | more for run in runs]
    for keys in list(keys_of(records[0])):
        for wrong in WRONG:
            for run, record in list(zip(runs, records, strict=True))[: None if every else 1]:
                changed = inner = copy.deepcopy(record)
                for key in keys[:-1]:
                    inner = inner[key]
                inner[keys[-1]] = wrong
                if keys[0] == "config" and isinstance(changed["config"], dict):
                    changed["config_hash"] = config_hash(changed["config"])
                (run / "run.json").write_text(json.dumps(changed))
            with contextlib.suppress(SystemExit):
                compare.main([str(tmp_path / "s"), "allow=all", "figures=false", f"out={tmp_path / 'out'}"])
            said = capsys.readouterr().err
            assert not said or said.startswith("rlexp.compare: "), (keys, wrong)
            assert said.count("\n") <= 1, (keys, wrong)
