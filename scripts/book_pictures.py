"""Draws the pictures of docs/book: each pictures/NAME.txt becomes pictures/NAME.svg.

    book_pictures.py            writes all pictures
    book_pictures.py --check    only reports pictures that differ from their text; exit code 1 if there are any

A picture is a grid of boxes with arrows between them, one thing a line:

    size COLUMNS ROWS
    box NAME COLUMN ROW [WIDTH] | line | line ...      a box; positions may be fractions
    plain NAME COLUMN ROW [WIDTH] | line ...           the same without a frame
    group COLUMN ROW COLUMNS ROWS | title              a frame behind boxes
    arrow FROM TO | label                              also `dashed`, and `both` for two heads
"""

import sys
from html import escape
from pathlib import Path

PICTURES = Path(__file__).parent.parent / "docs/book/pictures"
CELL_W, CELL_H, BOX_W, BOX_H, LINE, LETTER = 232, 96, 160, 56, 16, 6.2
STYLE = "font-family:Helvetica,Arial,sans-serif;font-size:12.5px"


class Picture:
    def __init__(self, name, text):
        self.name, self.boxes, self.out, self.back = name, {}, [], []
        for number, line in enumerate(text.splitlines(), 1):
            words, *texts = line.split("|")
            words, texts = words.split(), [text.strip() for text in texts]
            if not words:
                continue
            try:
                getattr(self, "do_" + words[0])(words[1:], texts)
            except Exception as e:
                sys.exit(f"error: {name}.txt:{number}: {e!r}: {line}")

    def do_size(self, words, _):
        self.width, self.height = float(words[0]) * CELL_W + 20, float(words[1]) * CELL_H + 20

    def do_box(self, words, texts, frame=True):
        name, column, row, *width = words
        w, h = float(width[0] if width else 1) * CELL_W - (CELL_W - BOX_W), max(BOX_H, len(texts) * LINE + 18)
        x, y = 10 + float(column) * CELL_W + (CELL_W - BOX_W) / 2, 10 + float(row) * CELL_H + (CELL_H - h) / 2
        self.boxes[name] = (x, y, w, h)
        if frame:
            self.out.append(f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="6" fill="#eef4fb" '
                            'stroke="#33597f"/>')
        top = y + h / 2 - (len(texts) - 1) * LINE / 2 + 4
        for index, text in enumerate(texts):
            if len(text) * LETTER > w:
                raise ValueError(f"the text has {len(text)} letters, and {int(w / LETTER)} fit")
            weight = ' font-weight="bold"' if index == 0 and frame and len(texts) > 1 else ""
            self.out.append(f'<text x="{x + w / 2:g}" y="{top + index * LINE:g}" text-anchor="middle"{weight}>'
                            f"{escape(text)}</text>")

    def do_plain(self, words, texts):
        self.do_box(words, texts, frame=False)

    def do_group(self, words, texts):
        column, row, columns, rows = map(float, words)
        x, y, w, h = 14 + column * CELL_W, 12 + row * CELL_H, columns * CELL_W - 8, rows * CELL_H - 4
        self.back.append(f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="8" fill="#f7f7f4" '
                         'stroke="#a0a090" stroke-dasharray="4 3"/>')
        self.back.append(f'<text x="{x + 8:g}" y="{y + 15:g}" fill="#606050">{escape(texts[0])}</text>')

    def do_arrow(self, words, texts, extra=""):
        (x1, y1, w1, h1), (x2, y2, w2, h2) = self.boxes[words[0]], self.boxes[words[1]]
        cx1, cy1, cx2, cy2 = x1 + w1 / 2, y1 + h1 / 2, x2 + w2 / 2, y2 + h2 / 2
        if x1 + w1 < x2 or x2 + w2 < x1:
            forward = x1 < x2
            start, end = (x1 + w1 if forward else x1, cy1), (x2 if forward else x2 + w2, cy2)
        else:
            down = y1 < y2
            # Straight down where one box is below a part of the other.
            x = min(max(cx1, x2 + 12), x2 + w2 - 12) if w1 <= w2 else min(max(cx2, x1 + 12), x1 + w1 - 12)
            start, end = (x, y1 + h1 if down else y1), (x, y2 if down else y2 + h2)
        self.out.append(f'<line x1="{start[0]:g}" y1="{start[1]:g}" x2="{end[0]:g}" y2="{end[1]:g}" '
                        f'stroke="#33597f" stroke-width="1.4" marker-end="url(#head)"{extra}/>')
        middle_x, middle_y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
        vertical = abs(end[0] - start[0]) < 1
        anchor, dx, dy = ("start", 6, 4) if vertical else ("middle", 0, -6)
        room = 200 if vertical else abs(end[0] - start[0]) + 6
        if any(len(text) * 5.4 > room for text in texts):
            raise ValueError(f"{int(room / 5.4)} letters fit")
        for index, text in enumerate(texts):
            offset = index * (LINE - 2) if vertical else (index - len(texts) + 1) * (LINE - 2)
            self.out.append(
                f'<text x="{middle_x + dx:g}" y="{middle_y + dy + offset:g}" text-anchor="{anchor}" font-size="11" '
                f'stroke="#ffffff" stroke-width="3" paint-order="stroke" fill="#202020">{escape(text)}</text>')

    def do_dashed(self, words, texts):
        self.do_arrow(words, texts, ' stroke-dasharray="5 4"')

    def do_both(self, words, texts):
        self.do_arrow(words, texts, ' marker-start="url(#tail)"')

    def svg(self):
        head = '<path d="M0 0 L8 4 L0 8 z" fill="#33597f"/>'
        tail = '<path d="M8 0 L0 4 L8 8 z" fill="#33597f"/>'
        return "\n".join([
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width:g}" height="{self.height:g}" '
            f'viewBox="0 0 {self.width:g} {self.height:g}" style="{STYLE}">',
            f"<title>{escape(self.name)}</title>",
            f'<defs><marker id="head" markerWidth="8" markerHeight="8" refX="8" refY="4" orient="auto">{head}</marker>'
            f'<marker id="tail" markerWidth="8" markerHeight="8" refX="0" refY="4" orient="auto">{tail}</marker></defs>',
            '<rect width="100%" height="100%" rx="8" fill="#ffffff"/>',
            *self.back, *self.out, "</svg>", ""])


def main():
    wrong = []
    for source in sorted(PICTURES.glob("*.txt")):
        picture, target = Picture(source.stem, source.read_text()).svg(), source.with_suffix(".svg")
        if target.exists() and target.read_text() == picture:
            continue
        wrong.append(target.name)
        if "--check" not in sys.argv:
            target.write_text(picture)
    if "--check" in sys.argv and wrong:
        sys.exit(f"error: pictures that differ from their text: {', '.join(wrong)}; run scripts/book_pictures.py")


main()
