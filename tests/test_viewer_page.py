"""The viewer's page in a headless Chromium: it shows what was recorded and obeys its keys."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_viewer import SPEC, model, record

from envs import MazeSpec
from profiling import browser
from train.watch import page


@pytest.fixture(scope="module")
def tab() -> Iterator[browser.Tab]:
    program = browser.find()
    if program is None:
        pytest.skip(browser.MISSING)
    with browser.tab(program) as one:
        yield one
        assert one.trouble == []


@pytest.fixture
def data(tab: browser.Tab, tmp_path: Path) -> dict[str, Any]:
    """What is recorded; its page is open."""
    recorded = record()
    return opened(tab, tmp_path, recorded)


def opened(tab: browser.Tab, folder: Path, recorded: dict[str, Any]) -> dict[str, Any]:
    tab.look()
    tab.requests.clear()
    page.write(folder / "page.html", lambda: recorded)
    tab.open(folder / "page.html")
    return recorded


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


def test_it_shows_every_recorded_step(tab: browser.Tab, data: dict[str, Any]) -> None:
    assert tab.requests == [tab.js("location.href")]
    flashes = 0
    for number, episode in enumerate(data["episodes"]):
        assert tab.js("at('episode').selectedIndex") == number
        for step in range(len(episode["moments"])):
            shown = tab.js(SHOWN)
            check(shown, episode, step)
            flashes += shown["flashes"]
            tab.press("ArrowRight")
        check(tab.js(SHOWN), episode, len(episode["moments"]) - 1)  # the end stays the end
        tab.press("ArrowRight", shift=True)
    assert flashes > 0


def test_keys(tab: browser.Tab, data: dict[str, Any]) -> None:
    first, second = data["episodes"][:2]
    tab.press("End")
    check(tab.js(SHOWN), first, len(first["moments"]) - 1)
    tab.press("ArrowLeft")
    check(tab.js(SHOWN), first, len(first["moments"]) - 2)
    tab.press("Home")
    check(tab.js(SHOWN), first, 0)
    tab.press("ArrowDown")
    tab.press("ArrowDown")
    shown = [float(v) for v in tab.js(SHOWN)["q"]]
    assert shown == pytest.approx(first["moments"][0]["q"][0], abs=6e-4)
    assert tab.js("at('stagelabel').textContent") == "Q values after segment 1 of 3"
    tab.press("ArrowUp")
    assert tab.js("at('stage').value") == "2"
    tab.press("ArrowRight", shift=True)
    check(tab.js(SHOWN), second, 0)
    tab.press("ArrowLeft", shift=True)
    check(tab.js(SHOWN), first, 0)


def test_space_plays_to_the_end_and_stops(tab: browser.Tab, data: dict[str, Any]) -> None:
    tab.js("at('speed').value = 4")
    tab.press(" ")
    assert tab.js("at('play').getAttribute('aria-label')") == "Pause"
    tab.until("now.stage === 2")  # thinking aloud
    tab.press(" ")
    assert tab.js("now.playing") is False
    tab.press(" ")
    tab.until("now.playing === false")
    first = data["episodes"][0]
    check(tab.js(SHOWN), first, len(first["moments"]) - 1)


def test_the_buttons_step_and_keep_the_focus(tab: browser.Tab, data: dict[str, Any]) -> None:
    first = data["episodes"][0]
    last = len(first["moments"]) - 1
    tab.js("at('forward').focus()")
    for step in range(1, last + 3):
        tab.js("at('forward').click()")
        check(tab.js(SHOWN), first, min(step, last))
    assert tab.js("document.activeElement.id") == "forward"
    assert tab.js("at('forward').getAttribute('aria-disabled')") == "true"
    for button, episode, step in (("back", 0, last - 1), ("first", 0, 0), ("later", 1, 0)):
        tab.js(f"at('{button}').click()")
        check(tab.js(SHOWN), data["episodes"][episode], step)


def test_the_time_line_scrubs(tab: browser.Tab, data: dict[str, Any]) -> None:
    tab.js("at('time').value = 3, at('time').dispatchEvent(new Event('input'))")
    check(tab.js(SHOWN), data["episodes"][0], 3)
    tab.js("at('time').focus()")
    tab.press("ArrowRight")  # once, not once more by the slider itself
    check(tab.js(SHOWN), data["episodes"][0], 4)


def test_every_control_has_a_name_and_can_be_reached(
    tab: browser.Tab, data: dict[str, Any]
) -> None:
    nodes = tab.call("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "slider", "combobox", "checkbox", "image", "img", "table"}
    told = [(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if "role" in n]
    named = [(role, name) for role, name in told if role in roles]
    assert all(name for _, name in named)
    names = [name for _, name in named]
    for name in ("Play", "Step", "Episode", "Next episode", "Q values"):
        assert name in names
    assert any(name.startswith("Board of 3 rows and 5 columns. Agent at row") for name in names)
    tab.js("document.activeElement.blur()")
    reached = set()
    for _ in range(20):
        tab.press("Tab")
        reached.add(tab.js("document.activeElement.id"))
    wanted = "#later, #episode, #time, #forward, #play, #speed, #stage, #aloud, #show-path"
    assert {name.strip(" #") for name in wanted.split(",")} <= reached


def test_it_fits_a_phone_and_both_schemes(tab: browser.Tab, data: dict[str, Any]) -> None:
    colours = set()
    for dark in (False, True):
        for width in (320, 390, 1280):
            tab.look(dark, width, 844)
            assert tab.js("document.documentElement.scrollWidth") <= width
        colours.add(tab.js("getComputedStyle(document.body).backgroundColor"))
    assert len(colours) == 2
    tab.look(width=390, height=844)
    assert tab.js("at('play').getBoundingClientRect().bottom") < 844


def test_a_model_without_steps_of_thought_says_so(tab: browser.Tab, tmp_path: Path) -> None:
    data = opened(tab, tmp_path, record(segments=1, l_cycles=1))
    assert "one segment per decision" in tab.js("at('plotnote').textContent")
    assert tab.js("at('plot').checkVisibility()") is False
    assert tab.js(SHOWN)["arrows"] == 4
    assert data["unit"] == "segment"


def test_eight_actions_and_a_view_of_two_cells(tab: browser.Tab, tmp_path: Path) -> None:
    spec = MazeSpec(map="corridors", actions=8, view_radius=2, max_steps=5)
    config, hrm = model(spec, carry="full")
    data = opened(tab, tmp_path, page.record(hrm, config, 1, 1, 0, None))
    first = data["episodes"][0]["moments"][0]
    assert "?" in first["board"] and len(first["q"][0]) == 8
    shown = tab.js(SHOWN)
    assert shown["arrows"] == len(shown["q"]) == 8
    assert shown["route"] == max(len(first["path"]), 1)
    assert tab.js("document.querySelectorAll('#board .unseen').length") == 1
