"""The studio in a real browser: Chromium, headless, against the real server."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from vardiu.cli.main import main
from vardiu.storage.run_folder import RunFolder

sync_api = pytest.importorskip("playwright.sync_api")

CHROMIUM = shutil.which("chromium")

# A folder that keeps the screenshots, for people to look at.
PICTURES = os.environ.get("VARDIU_PICTURES")

TEACHER = """
import torch
from vardiu.denoisers.exact import GaussianDenoiser

def grey():
    place = torch.arange(64).float()
    cov = 0.25 * torch.exp(-(place[:, None] - place).abs() / 6) + 0.01 * torch.eye(64)
    return GaussianDenoiser(torch.zeros(1, 8, 8), cov, sigma_min=0.01, sigma_max=80.0)
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here"),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Two seeds of a run of the plane, finished, and one that is broken."""
    root = tmp_path_factory.mktemp("runs")
    words = ["--steps", "40", "--batch", "64", "--evaluations", "4", "--threads", "1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vardiu.problems.densities.DensityScores.quick", 200)
        patch.setattr("vardiu.problems.densities.DensityScores.samples", 300)
        assert main(["distill", "mog40", *words, "--out", str(root / "plane-s0")]) == 0
    other = shutil.copytree(root / "plane-s0", root / "plane-s1") / "events.jsonl"
    other.write_text(other.read_text().replace('"seed": 0', '"seed": 1'))
    (root / "broken").mkdir()
    (root / "broken" / "config.yaml").write_text("{")
    return root


@pytest.fixture(scope="module")
def address(runs):
    with serving(str(runs)) as found:
        yield found


@contextlib.contextmanager
def serving(*words, cwd=None):
    command = [sys.executable, "-m", "vardiu", "studio", *words, "--port", "0"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=cwd)
    try:
        yield re.search(r"http\S+", server.stdout.readline())[0]
    finally:
        server.terminate()
        server.wait(20)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu"]
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield found
        found.close()


def says(page, text):
    """Waits for words; the page's policy lets no text be evaluated, by a test neither."""
    page.get_by_text(text).locator("visible=true").first.wait_for(timeout=240_000)


LOOKS = [("light", 1_280), ("dark", 390)]

# In the page: what Lighthouse looks at first, without it.
CHECKS = """() => {
  const wrong = [];
  const light = (c) => {
    const [r, g, b] = c.match(/[\\d.]+/g).map(Number).map((v) => v / 255)
      .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const c = getComputedStyle(e).backgroundColor;
      if (c !== "rgba(0, 0, 0, 0)") return c;
    }
    return "rgb(255, 255, 255)";
  };
  for (const e of document.querySelectorAll("h1,h2,h3,p,a,td,th,label,output,legend,button,b,li")) {
    if (!e.textContent.trim() || e.disabled || !e.getClientRects().length) continue;
    if (e.classList.contains("skip")) continue;
    const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) wrong.push(`contrast ${e.tagName} ${e.textContent.slice(0, 30)}`);
  }
  for (const e of document.querySelectorAll("img")) if (!e.alt) wrong.push("an image without text");
  for (const e of document.querySelectorAll("svg[role=img],canvas")) if (!e.ariaLabel) wrong.push(`no label: ${e.tagName}`);
  for (const e of document.querySelectorAll("input,select"))
    if (!e.ariaLabel && !e.labels.length) wrong.push(`no label: ${e.outerHTML.slice(0, 60)}`);
  if (document.documentElement.scrollWidth > innerWidth) wrong.push(`wider than the screen: ${document.documentElement.scrollWidth}`);
  return wrong;
}"""


@pytest.mark.parametrize(("scheme", "width"), LOOKS)
def test_every_view_in_a_browser(address, browser, runs, tmp_path, scheme, width):
    pictures = Path(PICTURES or tmp_path)
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
    page, errors = context.new_page(), []
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    home = page.url
    assert "token" not in home

    def look(name):
        page.wait_for_timeout(400)
        page.screenshot(path=str(pictures / f"{name}-{scheme}.png"), full_page=True)
        assert page.evaluate(CHECKS) == [], name

    page.wait_for_selector(".runs li")
    assert page.locator(".runs li").count() == 3
    assert "is not YAML" in page.locator(".runs").inner_text()
    look("runs")
    page.get_by_role("link", name="plane-s1").click()
    page.get_by_role("slider", name="Latent").wait_for(timeout=60_000)
    says(page, "goes to x")
    before = page.locator("output").last.inner_text()
    page.get_by_role("slider", name="Latent").press("ArrowRight")
    says(page, "z = (0.100, 0.00)")
    assert page.locator("output").last.inner_text() != before
    assert page.locator("section figure svg.points").count() >= 6
    look("run")
    page.get_by_label("Moment of the training").press("Home")
    says(page, "step 10: the same latents")
    page.goto(home + "#/compare")
    page.wait_for_selector("input[type=checkbox] >> nth=1")
    for box in page.get_by_role("checkbox").all():
        box.check()
    says(page, "(2 seeds)")
    assert page.url.count(",") == 1  # the choice is in the address
    page.get_by_role("button", name="Which samples are better").click()
    page.get_by_role("button", name="A is better").click()
    says(page, "Of 1 trial:")
    colours = "all => all.map((one) => getComputedStyle(one).stroke)"
    assert "none" not in page.eval_on_selector_all("svg.points path", colours)
    look("compare")
    page.goto(home + "#/start")
    page.wait_for_selector("pre.copy:has-text('vardiu distill mog40')")
    page.get_by_text("My function").click()
    page.wait_for_selector("#problem:has-text('give the teacher')")
    look("start")
    assert [error for error in errors if "400" not in error] == []
    errors.clear()
    page.goto(home + "#/restore")
    picture = {"name": "x.png", "mimeType": "image/png", "buffer": b"no picture"}
    page.set_input_files("input[type=file]", files=[picture])
    page.wait_for_selector("#problem:has-text('cannot be read')")
    look("restore")
    page.goto(home + "#/runs")
    page.get_by_role("link", name="Ship").first.click()
    page.wait_for_selector("text=Latency on this machine")
    page.wait_for_selector("td:has-text('ms')")
    page.get_by_label("Form").select_option("onnx")
    page.get_by_role("button", name="Check that it fits").click()
    says(page, "onnx fits: it was written, loaded again and compared (largest difference")
    assert not list(runs.glob("*/export-onnx"))
    look("ship")
    assert all(url.startswith((home, "data:", "blob:")) for url in asked)
    assert [error for error in errors if "400" not in error] == []
    context.close()


def test_a_command_is_started_and_followed_in_the_page(address, browser, tmp_path):
    page = browser.new_page()
    page.goto(address)
    page.goto(page.url + "#/start")
    page.get_by_role("button", name="Probe the teacher").click()
    page.wait_for_selector("pre:has-text('done')", timeout=240_000)
    assert page.locator("th").first.inner_text() == "sigma"
    assert page.locator("td.better").count() == 7  # each level is ok
    says(page, "it denoises.")
    page.get_by_role("button", name="Estimate", exact=True).click()
    says(page, "peak memory")
    says(page, "memory by network")
    page.screenshot(path=str(PICTURES or tmp_path) + "/tables.png", full_page=True)
    page.reload()
    page.get_by_role("button", name="Show vardiu probe").click()
    says(page, "it denoises.")  # what was started is found again
    page.get_by_role("button", name="Estimate", exact=True).click()
    page.get_by_role("button", name="Stop vardiu estimate").click()
    says(page, "ended with status -15")
    assert page.evaluate(CHECKS) == []


def test_a_picture_is_restored_in_the_page(browser, tmp_path):
    (tmp_path / "mine.py").write_text(TEACHER)
    shade = Image.linear_gradient("L").resize((24, 24)).convert("RGB")
    shade.save(tmp_path / "shade.png")
    words = "--teacher", f"{tmp_path / 'mine.py'}:grey"
    with serving(str(tmp_path), *words, cwd=tmp_path) as address:
        page = browser.new_page()
        page.set_default_timeout(120_000)
        page.goto(address)
        page.goto(page.url + "#/restore")
        page.set_input_files("input[type=file]", files=[tmp_path / "shade.png"])
        page.wait_for_selector("img[alt='the picture that was dropped']")
        page.get_by_label("the teacher's images are grey").check()
        page.get_by_role("button", name="Restore it").click()
        page.wait_for_selector(".slider img.after", timeout=120_000)
        page.wait_for_timeout(500)
        sizes = "all => all.map((one) => one.naturalWidth)"
        widths = page.eval_on_selector_all(".slider img", sizes)
        assert widths == [8, 8]  # what was measured, and what was made of it
        assert page.locator("img[alt='before: what was measured']").count() == 1
        page.get_by_label("Before and after").press("Home")
        clip = page.eval_on_selector(".slider .after", "one => one.style.clipPath")
        assert clip.startswith("inset(0")
        page.screenshot(path=str(PICTURES or tmp_path) + "/restored.png", full_page=True)
        assert page.evaluate(CHECKS) == []


def test_a_run_is_stopped_and_goes_on_by_keys_alone(browser, tmp_path):
    run = RunFolder(tmp_path / "runs" / "mog40")
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(serving(cwd=tmp_path))
        # A training outlives the studio, and would outlive a test that fails.
        stack.callback(lambda: run.writer() and os.kill(run.writer(), signal.SIGTERM))
        page = browser.new_page()
        page.set_default_timeout(120_000)
        page.goto(address)
        home = page.url
        page.goto(home + "#/start")
        page.wait_for_selector("main[data-ready=start]")
        field = page.get_by_label("Further options, as one types them")
        field.focus()
        page.keyboard.type("--steps 20000 --batch 64 --threads 1 --reports 800 --evaluations 3")
        page.wait_for_selector("pre.copy:has-text('--evaluations 3')")
        for _ in range(3):
            page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Run it"
        page.keyboard.press("Enter")
        page.get_by_role("link", name="Runs").last.focus()
        page.keyboard.press("Enter")
        for word, then in (("Stop", "Resume"), ("Resume", "Stop")):
            page.get_by_role("button", name=word).wait_for(timeout=120_000)
            page.wait_for_timeout(4_500)  # two more of the list's own questions
            page.get_by_role("button", name=word).focus()
            page.wait_for_timeout(2_500)
            assert page.evaluate("document.activeElement.textContent") == word
            page.keyboard.press("Enter")
            page.get_by_role("button", name=then).wait_for(timeout=120_000)
        page.get_by_role("link", name="mog40", exact=True).click()
        before = page.locator("h2 + p").first.inner_text()
        for _ in range(60):
            page.wait_for_timeout(1_000)
            if page.locator("h2 + p").first.inner_text() != before:
                break
        assert page.locator("h2 + p").first.inner_text() != before  # the page of a run is live
        page.goto(home + "#/runs")
        page.get_by_role("button", name="Stop").click()
        page.get_by_role("button", name="Resume").wait_for(timeout=120_000)


def test_what_goes_wrong_is_one_panel_and_the_server_stays_up(browser, runs, tmp_path):
    shutil.copytree(runs / "plane-s0", tmp_path / "gone")
    shutil.copytree(runs / "plane-s0", tmp_path / "cut")
    with serving(str(tmp_path)) as address:
        page = browser.new_page()
        page.set_default_timeout(120_000)
        page.goto(address)
        home = page.url
        page.get_by_role("link", name="gone").wait_for()
        shutil.rmtree(tmp_path / "gone")
        page.get_by_role("link", name="gone").wait_for(state="detached")
        link = page.get_by_role("link", name="cut").get_attribute("href")
        weights = tmp_path / "cut" / "student" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1_000])
        (tmp_path / "cut" / "metrics.jsonl").open("a").write('{"stage": "van')
        page.goto(home + link)
        page.wait_for_selector(
            "section:has-text('Teacher | student') p:has-text('model.safetensors')"
        )
        page.wait_for_selector("figure svg.points")  # what was kept of samples is shown still
        page.goto(home + "#/run/0123")
        page.wait_for_selector("#problem:has-text('no such run')")
        page.goto(home + "#/restore")
        page.wait_for_selector("p.warning:has-text('vardiu studio --teacher')")
        large = {"name": "x.png", "mimeType": "image/png", "buffer": bytes(2**20)}
        page.wait_for_selector("main[data-ready=restore]")
        page.set_input_files("input[type=file]", files=[large])
        page.wait_for_selector("#problem:has-text('cannot be read')")
        page.goto(home + "#/runs")
        page.get_by_role("link", name="cut").wait_for()
    page.wait_for_selector("#problem:has-text('the studio does not answer')")


def test_a_choice_among_a_thousand_runs(browser, runs, tmp_path):
    for i in range(1_000):
        for name in ("config.yaml", "events.jsonl", "metrics.jsonl", "result.json"):
            place = tmp_path / f"run-{i:04}"
            place.mkdir(exist_ok=True)
            shutil.copy(runs / "plane-s0" / name, place)
    with serving(str(tmp_path)) as address:
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.goto(address)
        page.goto(page.url + "#/compare")
        page.wait_for_selector("main[data-ready=compare]")
        page.wait_for_selector("text=1 to 60 of 1000")
        page.get_by_role("button", name="Older").click()
        page.wait_for_selector("text=61 to 120 of 1000")
        page.get_by_role("searchbox").fill("run-099 vardiu")
        page.wait_for_selector("text=1 to 10 of 10")
        page.get_by_role("button", name="Choose these").click()
        page.wait_for_selector("text=10 chosen")
        says(page, "vardiu, run-0990")  # the same seed ten times: ten series
        page.get_by_role("searchbox").fill("")
        page.wait_for_selector("text=1 to 60 of 1000")
        page.get_by_role("button", name="Older").click()
        page.wait_for_selector("text=61 to 120 of 1000")
        page.get_by_role("button", name="Choose these").click()
        page.wait_for_selector("#problem:has-text('at most 60')")
        page.reload()
        page.wait_for_selector("main[data-ready=compare]")
        page.wait_for_selector("text=10 chosen")
        assert page.get_by_role("button", name="Leave out run-0990").count() == 1
        assert page.evaluate(CHECKS) == []
        page.screenshot(path=str(PICTURES or tmp_path) + "/thousand.png", full_page=True)


def test_without_the_token_there_is_one_line(address, browser):
    page = browser.new_context().new_page()
    page.goto(address.partition("?")[0])
    assert "the token is missing or wrong" in page.inner_text("body")
