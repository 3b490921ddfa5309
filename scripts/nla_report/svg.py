"""A small plot as SVG: two linear scales, a frame that ends where the data end, labels that keep out of each other's way.

Colours are CSS classes of the page (g0, g1, .. and ink, faint), so that a figure follows light and dark.
"""

import math
from html import escape

SIZE = 12                                                               # of the text, in units of the viewBox
WIDE = 7.0                                                              # of a character, in a wide font (DejaVu Sans)


def ticks(low, high, count=5):
    """Round numbers within [low, high], their distance 1, 2, 2.5 or 5 times a power of ten."""
    span = high - low
    if span < 1e-30:
        return [low]
    power = 10 ** math.floor(math.log10(span / count))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if span / (power * m) <= count)
    return [round(i * step, 12) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def plain(value, others=()):
    """As many digits as the ticks beside it need."""
    if value and (abs(value) >= 1e6 or abs(value) < 1e-4):
        return f"{value:.1e}".replace("-", "−")
    digits = max((len(f"{v:.10f}".rstrip("0").split(".")[1]) for v in (value, *others)), default=0)
    return f"{value:,.{min(digits, 4)}f}".replace("-", "−").replace(",", "\u2009")


def padded(values, share=0.08, zero=False):
    values = [v for v in values if v is not None and math.isfinite(v)]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if zero:
        low = min(low, 0.0)
    if high - low < 1e-9 * max(abs(high), abs(low), 1e-9):              # one number, or nearly
        low, high = low - 0.05 * (abs(low) or not zero), high + 0.05 * (abs(low) or 1)
    span = max(high - low, 1e-12)
    return (low if zero and low == 0 else low - share * span), high + share * span


class Plot:
    def __init__(self, width, height, x, y, left=46, right=14, top=12, bottom=40):
        self.width, self.height, self.x, self.y = width, height, x, y
        self.box = (left, top, width - right, height - bottom)
        self.parts, self.taken = [], []

    def sx(self, value):
        return self.box[0] + (value - self.x[0]) / (self.x[1] - self.x[0]) * (self.box[2] - self.box[0])

    def sy(self, value):
        return self.box[3] - (value - self.y[0]) / (self.y[1] - self.y[0]) * (self.box[3] - self.box[1])

    def add(self, text):
        self.parts.append(text)

    def text(self, x, y, text, cls="", anchor="start", extra=""):
        self.add(f'<text x="{x:.1f}" y="{y:.1f}" class="{cls}" text-anchor="{anchor}"{extra}>{escape(text)}</text>')

    def axes(self, xlabel="", ylabel="", right=None, rightlabel="", xticks=5, yticks=5, percent=False):
        """right: the second scale's value of a first one's (affine), and back."""
        left, top, end, bottom = self.box
        self.add(f'<path class="axis" d="M{left:.1f} {bottom + 5:.1f}H{end:.1f}M{left - 5:.1f} {top:.1f}V{bottom:.1f}"/>')
        marks = ticks(*self.x, xticks)
        for v in marks:
            self.add(f'<path class="axis" d="M{self.sx(v):.1f} {bottom + 5:.1f}v4"/>')
            self.text(self.sx(v), bottom + 20, plain(v, marks), "tick", "middle")
        marks = ticks(*self.y, yticks)
        for v in marks:
            self.add(f'<path class="axis" d="M{left - 5:.1f} {self.sy(v):.1f}h-4"/><path class="grid" d="M{left:.1f} {self.sy(v):.1f}H{end:.1f}"/>')
            self.text(left - 12, self.sy(v) + 4, plain(100 * v) + " %" if percent else plain(v, marks), "tick", "end")
        if right:
            there, back = right
            marks = ticks(there(self.y[0]), there(self.y[1]), yticks)
            self.add(f'<path class="axis" d="M{end + 5:.1f} {top:.1f}V{bottom:.1f}"/>')
            for v in marks:
                self.add(f'<path class="axis" d="M{end + 5:.1f} {self.sy(back(v)):.1f}h4"/>')
                self.text(end + 12, self.sy(back(v)) + 4, plain(v, marks), "tick")
                self.taken.append((end + 24, self.sy(back(v)), 16, 7))
            self.taken.append((end + 6, (top + bottom) / 2, 3, (bottom - top) / 2))
            self.text(self.width - 1, top - 9, rightlabel, "name", "end")
        if xlabel:
            self.text(end, self.height - 3, xlabel, "name", "end")
        if ylabel:
            self.text(1, top - 9, ylabel, "name")

    def line(self, points, cls="ink", width=1.5, extra=""):
        """None breaks it."""
        path, pen = "", "M"
        for x, y in points:
            if x is None or y is None:
                pen = "M"
                continue
            path += f"{pen}{self.sx(x):.1f} {self.sy(y):.1f}"
            pen = "L"
        if path:
            self.add(f'<path class="line {cls}" stroke-width="{width}"{extra} d="{path}"/>')

    def cross(self, x, y, xs, ys, cls):
        """Intervals across and up."""
        for pair, path in ((xs, lambda a, b: f"M{self.sx(a):.1f} {self.sy(y):.1f}H{self.sx(b):.1f}"),
                           (ys, lambda a, b: f"M{self.sx(x):.1f} {self.sy(a):.1f}V{self.sy(b):.1f}")):
            if pair:
                self.add(f'<path class="line {cls}" stroke-width="1.2" d="{path(*pair)}"/>')
                self.taken.append(((self.sx(pair[0]) + self.sx(pair[1])) / 2, self.sy(y), abs(self.sx(pair[1]) - self.sx(pair[0])) / 2, 2) if pair is xs else
                                  (self.sx(x), (self.sy(pair[0]) + self.sy(pair[1])) / 2, 2, abs(self.sy(pair[1]) - self.sy(pair[0])) / 2))

    def dot(self, x, y, cls, radius=4, hollow=False, square=False, title=""):
        cx, cy = self.sx(x), self.sy(y)
        kind = f"{'hollow' if hollow else 'dot'} {cls}"
        inner = f"<title>{escape(title)}</title>" if title else ""
        if square:
            self.add(f'<rect class="{kind}" x="{cx - radius:.1f}" y="{cy - radius:.1f}" width="{2 * radius}" height="{2 * radius}">{inner}</rect>')
        else:
            self.add(f'<circle class="{kind}" cx="{cx:.1f}" cy="{cy:.1f}" r="{radius}">{inner}</circle>')
        self.taken.append((cx, cy, radius + 1, radius + 1))

    def label(self, x, y, text, cls="", size=SIZE):
        """Near a point, where least is in the way; a box of `taken` is its middle and half sizes."""
        wide, high = len(text) * WIDE * size / SIZE / 2, size * 0.5
        px, py = self.sx(x), self.sy(y)

        def cost(place):
            cx, cy = place
            hits = sum(max(0, min(cx + wide, tx + tw) - max(cx - wide, tx - tw)) * max(0, min(cy + high, ty + th) - max(cy - high, ty - th))
                       for tx, ty, tw, th in self.taken)
            outside = max(0, self.box[0] - (cx - wide)) + max(0, cx + wide - self.width) + max(0, high - cy) + max(0, cy + high - self.box[3])
            return hits + 40 * outside + 0.3 * (abs(cx - px - wide - 8) + abs(cy - py - 10))
        gaps = (8, 14, 22)
        places = [(px + dx * (wide + gap), py + dy) for gap in gaps for dx in (1, -1) for dy in (12, -12, 0)] + [
            (px, py + dy * gap) for gap in (16, 24, 34, 46) for dy in (1, -1)]
        cx, cy = min(places, key=cost)
        self.taken.append((cx, cy, wide, high))
        self.text(cx, cy + 4, text, f"label {cls}", "middle", f' font-size="{size}"' if size != SIZE else "")

    def block(self, points):
        """Labels keep off the line through these."""
        for (ax, ay), (bx, by) in zip(points, points[1:]):
            for i in range(1, 12):
                t = i / 12
                self.taken.append((self.sx(ax + t * (bx - ax)), self.sy(ay + t * (by - ay)), 2, 2))

    def render(self, name, title, description, clip=False):
        left, top, end, bottom = self.box
        clipped = f'<clipPath id="{name}-clip"><rect x="{left - 4}" y="{top - 4}" width="{end - left + 8:.1f}" height="{bottom - top + 8:.1f}"/></clipPath>' if clip else ""
        return (f'<svg viewBox="0 0 {self.width} {self.height}" role="img" aria-labelledby="{name}-title {name}-desc">'
                f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(description)}</desc>'
                f'{clipped}{"".join(self.parts)}</svg>')
