"""The viewer's page in a headless Chromium: it shows what was recorded and obeys its keys."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pytest
from playwright.sync_api import Page
from test_viewer import SPEC, model, record

from envs import MazeSpec
from profiling import browser
from train.watch import page

Scheme = Literal["light", "dark"]


@pytest.fixture(scope="module")
def tab() -> Iterator[Page]:
    program = browser.find()
    if program is None:
        pytest.skip(browser.MISSING)
    trouble: list[str] = []
    with browser.tab(program) as one:
        one.on("console", lambda said: trouble.append(f"{said.type}: {said.text}"))
        one.on("pageerror", lambda error: trouble.append(str(error)))
        yield one
    assert trouble == []


@pytest.fixture
def data(tab: Page, tmp_path: Path) -> dict[str, Any]:
    """What is recorded; its page is open."""
    recorded = record()
    return opened(tab, tmp_path, recorded)


def opened(tab: Page, folder: Path, recorded: dict[str, Any]) -> dict[str, Any]:
    look(tab)
    page.write(folder / "page.html", lambda: recorded)
    tab.goto((folder / "page.html").as_uri())
    return recorded


def look(tab: Page, scheme: Scheme = "light", width: int = 1280, height: int = 900) -> None:
    tab.emulate_media(color_scheme=scheme)
    tab.set_viewport_size({"width": width, "height": height})


SHOWN = """(() => ({
  step: at("step").textContent, reward: at("reward").textContent, sum: at("return").textContent,
  shortest: at("shortest").textContent, said: at("said").textContent,
  q: [...at("q").rows].map((row) => row.lastElementChild.textContent),
  chosen: [...at("q").rows].findIndex((row) => row.className === "chosen"),
  arrows: document.querySelectorAll("#board .qarrow").length,
  flashes: document.querySelectorAll("#board .flash").length,
  route: (document.querySelector("#board .route")?.getAttribute("points") || "").split(" ").length,
  agent: at("agent").style.transform, dots: document.querySelectorAll("#plot .dot").length,
}))()"""


def check(shown: dict[str, Any], episode: dict[str, Any], step: int) -> None:
    """The page shows what was recorded of this step."""
    moments, cols = episode["moments"], SPEC.cols
    moment, last = moments[step], len(moments) - 1
    assert shown["step"] == f"{step} of {last}"
    assert float(shown["reward"]) == moment["reward"]
    assert float(shown["sum"]) == pytest.approx(sum(m["reward"] for m in moments[: step + 1]))
    cell = moment["board"].index("@")
    x, y = (round(10 * (at + 0.5)) for at in (cell % cols, cell // cols))
    assert shown["agent"] == f"translate({x}px, {y}px)"
    doors = [{i for i, c in enumerate(m["board"]) if c == "#"} for m in moments]
    assert shown["flashes"] == (len(doors[step] ^ doors[step - 1]) if step else 0)
    assert shown["route"] == max(len(moment["path"]), 1)
    if step == last:
        assert shown["q"] == ["–"] * 4 and shown["arrows"] == shown["dots"] == 0
        assert shown["said"].endswith("at 8 of them.") or "of them" not in shown["said"]
        return
    q = moment["q"][-1]
    assert [float(v) for v in shown["q"]] == pytest.approx(q, abs=6e-4)
    assert shown["chosen"] == int(np.argmax(q))
    assert (shown["arrows"], shown["dots"]) == (4, 2 * 3)
    way = len(moment["path"]) - 1
    expected = f"{way} step{'' if way == 1 else 's'}" if way > 0 else "cut off"
    assert shown["shortest"] == expected


def test_it_asks_for_nothing_else(tab: Page, tmp_path: Path) -> None:
    requests: list[str] = []
    tab.on("request", lambda request: requests.append(request.url))
    opened(tab, tmp_path, record())
    assert requests == [tab.url]


def test_it_shows_every_recorded_step(tab: Page, data: dict[str, Any]) -> None:
    flashes = 0
    for number, episode in enumerate(data["episodes"]):
        assert tab.evaluate("at('episode').selectedIndex") == number
        for step in range(len(episode["moments"])):
            shown = tab.evaluate(SHOWN)
            check(shown, episode, step)
            flashes += shown["flashes"]
            tab.keyboard.press("ArrowRight")
        check(tab.evaluate(SHOWN), episode, len(episode["moments"]) - 1)  # the end stays the end
        tab.keyboard.press("Shift+ArrowRight")
    assert flashes > 0


def test_keys(tab: Page, data: dict[str, Any]) -> None:
    first, second = data["episodes"][:2]
    tab.keyboard.press("End")
    check(tab.evaluate(SHOWN), first, len(first["moments"]) - 1)
    tab.keyboard.press("ArrowLeft")
    check(tab.evaluate(SHOWN), first, len(first["moments"]) - 2)
    tab.keyboard.press("Home")
    check(tab.evaluate(SHOWN), first, 0)
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("ArrowDown")
    shown = [float(v) for v in tab.evaluate(SHOWN)["q"]]
    assert shown == pytest.approx(first["moments"][0]["q"][0], abs=6e-4)
    assert tab.evaluate("at('stagelabel').textContent") == "Q values after segment 1 of 3"
    tab.keyboard.press("ArrowUp")
    assert tab.evaluate("at('stage').value") == "2"
    tab.keyboard.press("Shift+ArrowRight")
    check(tab.evaluate(SHOWN), second, 0)
    tab.keyboard.press("Shift+ArrowLeft")
    check(tab.evaluate(SHOWN), first, 0)


def test_space_plays_to_the_end_and_stops(tab: Page, data: dict[str, Any]) -> None:
    tab.evaluate("at('speed').value = 4")
    tab.keyboard.press("Space")
    assert tab.evaluate("at('play').getAttribute('aria-label')") == "Pause"
    browser.until(tab, "now.stage === 2")  # thinking aloud
    tab.keyboard.press("Space")
    assert tab.evaluate("now.playing") is False
    tab.keyboard.press("Space")
    browser.until(tab, "now.playing === false")
    first = data["episodes"][0]
    check(tab.evaluate(SHOWN), first, len(first["moments"]) - 1)


def test_the_buttons_step_and_keep_the_focus(tab: Page, data: dict[str, Any]) -> None:
    first = data["episodes"][0]
    last = len(first["moments"]) - 1
    tab.evaluate("at('forward').focus()")
    for step in range(1, last + 3):
        tab.evaluate("at('forward').click()")
        check(tab.evaluate(SHOWN), first, min(step, last))
    assert tab.evaluate("document.activeElement.id") == "forward"
    assert tab.evaluate("at('forward').getAttribute('aria-disabled')") == "true"
    for button, episode, step in (("back", 0, last - 1), ("first", 0, 0), ("later", 1, 0)):
        tab.evaluate(f"at('{button}').click()")
        check(tab.evaluate(SHOWN), data["episodes"][episode], step)


def test_the_time_line_scrubs(tab: Page, data: dict[str, Any]) -> None:
    tab.evaluate("at('time').value = 3, at('time').dispatchEvent(new Event('input'))")
    check(tab.evaluate(SHOWN), data["episodes"][0], 3)
    tab.evaluate("at('time').focus()")
    tab.keyboard.press("ArrowRight")  # once, not once more by the slider itself
    check(tab.evaluate(SHOWN), data["episodes"][0], 4)


def test_every_control_has_a_name_and_can_be_reached(tab: Page, data: dict[str, Any]) -> None:
    nodes = tab.context.new_cdp_session(tab).send("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "slider", "combobox", "checkbox", "image", "img", "table"}
    told = [(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if "role" in n]
    named = [(role, name) for role, name in told if role in roles]
    assert all(name for _, name in named)
    names = [name for _, name in named]
    for name in ("Play", "Step", "Episode", "Next episode", "Q values"):
        assert name in names
    assert any(name.startswith("Board of 3 rows and 5 columns. Agent at row") for name in names)
    tab.evaluate("document.activeElement.blur()")
    reached = set()
    for _ in range(20):
        tab.keyboard.press("Tab")
        reached.add(tab.evaluate("document.activeElement.id"))
    wanted = "#later, #episode, #time, #forward, #play, #speed, #stage, #aloud, #show-path"
    assert {name.strip(" #") for name in wanted.split(",")} <= reached


def test_it_fits_a_phone_and_both_schemes(tab: Page, data: dict[str, Any]) -> None:
    colours = set()
    for scheme in get_args(Scheme):
        for width in (320, 390, 1280):
            look(tab, scheme, width, 844)
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
        colours.add(tab.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(colours) == 2
    look(tab, width=390, height=844)
    assert tab.evaluate("at('play').getBoundingClientRect().bottom") < 844


def test_a_model_without_steps_of_thought_says_so(tab: Page, tmp_path: Path) -> None:
    data = opened(tab, tmp_path, record(segments=1, l_cycles=1))
    assert "one segment per decision" in tab.evaluate("at('plotnote').textContent")
    assert tab.evaluate("at('plot').checkVisibility()") is False
    assert tab.evaluate(SHOWN)["arrows"] == 4
    assert data["unit"] == "segment"


def test_eight_actions_and_a_view_of_two_cells(tab: Page, tmp_path: Path) -> None:
    spec = MazeSpec(map="corridors", actions=8, view_radius=2, max_steps=5)
    config, hrm = model(spec, carry="full")
    data = opened(tab, tmp_path, page.record(hrm, config, 1, 1, 0, None))
    first = data["episodes"][0]["moments"][0]
    assert "?" in first["board"] and len(first["q"][0]) == 8
    shown = tab.evaluate(SHOWN)
    assert shown["arrows"] == len(shown["q"]) == 8
    assert shown["route"] == max(len(first["path"]), 1)
    assert tab.evaluate("document.querySelectorAll('#board .unseen').length") == 1
