"""Plots as SVG in a page."""

import re
from xml.etree import ElementTree

import pytest

from jigsaw.show.curves import GREY, Line, Panel, draw, running_mean


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")]


def test_a_panel_is_text_and_lines_in_the_colours_of_its_page() -> None:
    points = {step: step / 10 for step in range(1, 11)}
    lines = [Line("reward", points), Line("floor", {1: 0.2, 10: 0.2}, GREY, "dashes"), Line("nothing", {})]
    svg = draw(Panel("Reward <b> & more", "Rises.", lines), resumed=[5])
    assert {"reward", "floor", "0.2", "10"} <= set(texts(svg))
    assert "nothing" not in texts(svg)
    assert ElementTree.fromstring(svg).attrib["aria-label"] == "Reward <b> & more"
    assert "width" not in ElementTree.fromstring(svg).attrib
    for colour in ("var(--text)", "var(--soft)", "var(--line)", GREY):
        assert colour in svg
    assert not re.findall("#01020[345]|<style|font-family", svg)
    assert svg == draw(Panel("Reward <b> & more", "Rises.", lines), resumed=[5])


def test_words_of_a_run_are_never_markup() -> None:
    assert "<script>" not in draw(Panel("a", "", [Line("<script>", {1: 1.0, 2: 2.0})]))


@pytest.mark.parametrize("points", [{1: 0.0}, {1: 1e-9, 2: 1e-3}, {step: 1.0 for step in range(1000)}])
def test_a_step_a_thousand_and_any_size_are_drawn(points: dict[int, float]) -> None:
    assert draw(Panel("a", "", [Line("", points)], log=min(points.values()) > 0)).startswith("<svg")


def test_a_running_mean_is_of_the_values_around_each() -> None:
    assert running_mean([0.0, 3.0, 6.0, 0.0], 3) == [1.5, 3.0, 3.0, 3.0]
    assert running_mean([1.0, 2.0], 1) == [1.0, 2.0]
