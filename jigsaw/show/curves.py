"""Curves as SVG that stands in a page: its text is text, and its colours are the page's."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from math import floor, log10
from statistics import fmean
from typing import Any, Literal

from jigsaw.errors import JigsawError
from jigsaw.machine import SETUP

Points = Mapping[int, float]
"""Values by step."""

BLUE, RED, GREEN, GREY = "#2a7fb0", "#d1495b", "#5f9e4f", "#8b9199"
_TEXT, _SOFT, _LINE = "#010203", "#010204", "#010205"  # stand for the page's own until it is drawn
_OF_THE_PAGE = {_TEXT: "var(--text)", _SOFT: "var(--soft)", _LINE: "var(--line)"}
_ALONE, _WITH_LEGEND = (0.085, 0.09, 0.905, 0.88), (0.085, 0.09, 0.905, 0.77)
"""Left, bottom, width and height of the axes, shares of the figure. A layout that finds them takes twice the time."""
_SMOOTHED = 80
"""Points of a line from which on their running mean is drawn over them."""


@dataclass(frozen=True)
class Line:
    """A line of a panel.

    Attributes:
        label: what it shows; empty where the panel's title says it.
        points: values by step.
        colour: as in CSS.
        style: ``line``, ``thin``, ``dots`` (with a line through them: of few steps) or ``dashes`` (what is compared
            with).
    """

    label: str
    points: Points
    colour: str = BLUE
    style: Literal["line", "thin", "dots", "dashes"] = "line"


@dataclass(frozen=True)
class Panel:
    """A plot against the step.

    Attributes:
        title: what is drawn, with its unit.
        caption: what it should look like.
        lines: those without points are left out.
        bounds: lowest and highest value of the axis; None follows from the points.
        log: whether the axis is logarithmic, of whole decades.
    """

    title: str
    caption: str
    lines: Sequence[Line]
    bounds: tuple[float | None, float | None] = (None, None)
    log: bool = False

    @property
    def drawn(self) -> list[Line]:
        """The lines that have points."""
        return [line for line in self.lines if line.points]


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """The mean of each value and those around it, ``window`` in all and fewer at the ends."""
    reach = window // 2
    return [fmean(values[max(0, place - reach) : place + reach + 1]) for place in range(len(values))]


def draw(panel: Panel, resumed: Sequence[int] = ()) -> str:
    """A panel as an ``<svg>`` element.

    Args:
        panel: has a line with points.
        resumed: steps before which the run was started again; drawn as dotted lines.

    Raises:
        JigsawError: if matplotlib is not installed.
    """
    os.environ.setdefault("MPLBACKEND", "Agg")
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator, NullLocator
    except ModuleNotFoundError as error:
        raise JigsawError(f"{error.name} is not installed; to draw curves: {SETUP}") from error

    # Each panel's clip paths have names of their own, and the same ones in each page.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": panel.title, "font.size": 9, "font.family": "sans-serif"}):
        figure = Figure(figsize=(5.4, 2.7))
        axis = figure.add_axes(_WITH_LEGEND if any(line.label for line in panel.drawn) else _ALONE)
        for step in resumed:
            axis.axvline(step - 0.5, color=_SOFT, linestyle=":", linewidth=1)
        for line in panel.drawn:
            _add(axis, line)
        if panel.log:
            values = [value for line in panel.drawn for value in line.points.values()]
            axis.set_yscale("log")
            axis.set_ylim(10.0 ** floor(log10(min(values))), 10.0 ** (floor(log10(max(values))) + 1))
            axis.yaxis.set_minor_locator(NullLocator())
        else:
            axis.set_ylim(*panel.bounds)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, steps=[1, 2, 5, 10]))
        axis.grid(color=_LINE, linewidth=0.7)
        axis.set_axisbelow(True)
        axis.tick_params(which="both", colors=_SOFT, labelcolor=_SOFT, length=0)
        axis.spines[:].set_visible(False)
        if any(line.label for line in panel.drawn):
            figure.legend(
                loc="upper left",
                bbox_to_anchor=(0, 1.02),
                ncols=4,
                frameon=False,
                labelcolor=_TEXT,
                handlelength=1.2,
                columnspacing=1,
            )
        written = StringIO()
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    return _of_the_page(written.getvalue(), panel.title)


def _add(axis: Any, line: Line) -> None:
    steps, values = list(line.points.keys()), list(line.points.values())
    shown = {"color": line.colour, "label": line.label or None, "linewidth": 1.6}
    if line.style == "dashes":
        axis.plot(steps, values, **{**shown, "linestyle": "--", "linewidth": 1.1})
    elif line.style == "thin":
        axis.plot(steps, values, **{**shown, "linewidth": 0.9, "alpha": 0.7})
    elif line.style == "dots" or len(steps) == 1:
        axis.plot(steps, values, "o-", markersize=3.5, **shown)
    elif len(steps) >= _SMOOTHED:
        axis.plot(steps, values, color=line.colour, linewidth=0.8, alpha=0.3)
        axis.plot(steps, running_mean(values, len(steps) // 30), **shown)
    else:
        axis.plot(steps, values, **shown)


def _of_the_page(svg: str, title: str) -> str:
    """The element alone, as wide as its place, in the page's colours; names of groups would come twice in a page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"<(metadata|style)\b.*?</\1>|font-family: [^;\"]*;? ?", "", svg, flags=re.DOTALL)
    svg = re.sub(r'^<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" role="img" aria-label="%">', svg)
    svg = svg.replace("%", title.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;"), 1)
    for colour, name in _OF_THE_PAGE.items():
        svg = svg.replace(colour, name)
    return svg
