"""Draws a run as SVG: the faults of each node over time, and below them how the answers ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape

from bench.faults.checking import Problem, Run, by_coordinator
from bench.faults.injecting import Fault, Kind

WIDTH, LABEL_PX, RIGHT_PX, TOP_PX = 960, 96, 12, 28
LANE_PX, BAR_PX, CHART_PX = 22, 14, 110
FONT = 'font-family="sans-serif" font-size="11"'
BIN_S = 10.0
COLORS = {"killed": "#b3362b", "frozen": "#3b6fb6", "network": "#7a5aa6", "errors": "#c98a1b", "harmless": "#9a9a9a"}
ENDS = {
    "complete": "#4c9a62",
    "left": "#c4c4c4",
    "ended by the kill": "#b3362b",
    "cut after thinking": "#c98a1b",
    "broken promise": "#000000",
}


def plot(run: Run, broken: Sequence[Problem]) -> str:
    """The whole document."""
    begins_at = min(one.sent_at for one in run.histories)
    lasts_s = max(one.ended_at for one in run.histories) - begins_at
    scale = (WIDTH - LABEL_PX - RIGHT_PX) / lasts_s
    lanes = [*(plan.name for plan in run.plans), ""]
    chart_top = TOP_PX + LANE_PX * len(lanes) + 24
    height = chart_top + CHART_PX + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" {FONT}>',
        _box(0, 0, WIDTH, height, "#ffffff"),
        *_legend(COLORS, 12),
    ]
    for number, name in enumerate(lanes):
        y = TOP_PX + LANE_PX * number
        parts.append(f'<text x="4" y="{y + 12}">{escape(name or "coordinator")}</text>')
        parts += [_bar(fault, begins_at, scale, y) for fault in run.faults if fault.node == name]
    parts += _answers(run, broken, begins_at, scale, chart_top)
    parts += [
        f'<text x="{LABEL_PX + second * scale:.0f}" y="{height - 8}">{second} s</text>'
        for second in range(0, int(lasts_s), 100)
    ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _family(kind: Kind) -> str:
    if kind.is_harmless:
        return "harmless"
    if kind in (Kind.CUT, Kind.RESET):
        return "network"
    return next((word for word in ("killed", "frozen", "errors") if word in kind.value), "harmless")


def _bar(fault: Fault, begins_at: float, scale: float, y: int) -> str:
    x, width = LABEL_PX + (fault.began_at - begins_at) * scale, max(2.0, (fault.ended_at - fault.began_at) * scale)
    return _box(x, y, width, BAR_PX, COLORS[_family(fault.kind)], fault.kind.value)


def _box(x: float, y: float, width: float, height: float, color: str, title: str = "") -> str:
    inner = f"<title>{escape(title)}</title>" if title else ""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{color}">{inner}</rect>'


def _answers(run: Run, broken: Sequence[Problem], begins_at: float, scale: float, top: int) -> list[str]:
    """Stacked bars: how many answers ended in each period, and how."""
    wrong = {id(problem.history) for problem in broken}
    ends: dict[int, Counter[str]] = {}
    for one in run.histories:
        end = "ended by the kill" if by_coordinator(run, one) else "cut after thinking"
        end = one.end if one.end in ("complete", "left") else end
        name = "broken promise" if id(one) in wrong else end
        ends.setdefault(int((one.ended_at - begins_at) / BIN_S), Counter())[name] += 1
    most = max(sum(counts.values()) for counts in ends.values())
    parts = _legend(ENDS, top - 6)
    parts.append(f'<text x="4" y="{top + 12}">{most} answers</text><text x="4" y="{top + 26}">in {BIN_S:.0f} s</text>')
    for number, counts in sorted(ends.items()):
        y = float(top + CHART_PX)
        for name, color in ENDS.items():
            tall = counts[name] / most * CHART_PX
            y -= tall
            parts.append(_box(LABEL_PX + number * BIN_S * scale, y, BIN_S * scale - 1, tall, color))
    return parts


def _legend(names: dict[str, str], y: int) -> list[str]:
    parts: list[str] = []
    x = LABEL_PX
    for name, color in names.items():
        parts += [_box(x, y - 9, 10, 10, color), f'<text x="{x + 14}" y="{y}">{name}</text>']
        x += 34 + 7 * len(name)
    return parts
