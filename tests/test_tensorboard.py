"""What a person sees: TensorBoard on a real study, in a real browser."""

import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from process import Process

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    None in (CHROMIUM, DRIVER), reason="no browser: apt-get install chromium chromium-driver"
)
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --window-size=1600,1200"
)
# The text of a page whose parts lie in shadow roots, which innerText does not enter
TEXT = """
const text = node => [...node.childNodes].map(child =>
  child.nodeType === Node.TEXT_NODE ? child.textContent :
  ['SCRIPT', 'STYLE'].includes(child.tagName) ? '' :
  text(child) + (child.shadowRoot ? text(child.shadowRoot) : '')).join(' ');
return text(document.body);
"""


@pytest.fixture
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    words = "-m algo=ppo,apo num_seeds=2 env=cartpole study=first total_steps=4096 evaluation.episodes=0 compile=false"
    assert Process(folder, *words.split()).wait() == 0
    return folder / "outputs"


@pytest.fixture
def tensorboard(study):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", "--logdir", study, "--port", str(port), "--load_fast=false"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://localhost:{port}"
    try:
        for _ in range(120):
            try:
                runs = urllib.request.urlopen(f"{address}/data/runs").read()
            except OSError:
                runs = b"[]"
            if runs.count(b"seed_") == 4:
                break
            time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def page(tensorboard, tmp_path_factory):
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))

    def read(tab, *wanted):
        """The text of one of TensorBoard's pages, once it shows all that is wanted or two minutes are over."""
        driver.get("about:blank")
        driver.get(f"{tensorboard}/#{tab}")
        end, text = time.monotonic() + 120, ""
        while time.monotonic() < end:
            text = " ".join(driver.execute_script(TEXT).split())
            if all(re.search(pattern, text) for pattern in wanted):
                return text
            time.sleep(0.5)
        missing = [pattern for pattern in wanted if not re.search(pattern, text)]
        raise AssertionError(f"{tab} does not show {missing}, but: {text[:2000]}")

    yield read
    driver.quit()


@pytest.mark.slow
def test_pages_show_names_what_differs_all_seeds_in_one_chart_and_the_config(page):
    # one test, as tests may be dealt out to several processes, each of which would make the study and start a browser
    page("timeseries", r"first/algo=ppo,env=cartpole,\S+/seed_0", r"first/algo=apo,env=cartpole,\S+/seed_1", "charts")

    text = page("hparams", "algo.anchor_coef", "charts/episodic_return", r"algo=apo,\S+/seed_1")
    head = text[text.index("Trial ID") :]
    assert head.index("algo.anchor_coef") < head.index("charts/episodic_return")
    rows = re.findall(r"first/algo=(\w+),env=cartpole,\S+/seed_(\d) rlexp.algos.\S+ (\d)\.0+ .*?(\d\d\.\d+)", head)
    assert {row[:2] for row in rows} == {("ppo", "0"), ("ppo", "1"), ("apo", "0"), ("apo", "1")}
    assert all(seed == shown for _, seed, shown, _ in rows)

    metrics = ("episodic_return", "policy_loss", "anchor_return", "anchor_kl", "anchor_age")
    text = page("custom_scalars", *metrics, r"Matches \(4\)")
    assert text.index("episodic_return") < text.index("anchor_return") < text.index("policy_loss")

    page("text", "config", "algo._target_: rlexp.algos.apo.APO", "total_steps: 4096")
