"""Checks a built book: book_links.py DIR. Each link and picture must exist, and each #fragment must be an id."""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    def __init__(self, path):
        super().__init__()
        self.links, self.ids = [], set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids |= {attributes.get("id"), attributes.get("name")}
        for name in ("href", "src"):
            if attributes.get(name) and tag in ("a", "img", "script", "link"):
                self.links.append(attributes[name])


def main():
    root = Path(sys.argv[1]).resolve()
    pages = {path: Page(path) for path in root.rglob("*.html") if path.name not in ("print.html", "toc.html", "404.html")}
    wrong, count = [], 0
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            count += 1
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists() or root not in (target, *target.parents):
                wrong.append(f"{path.relative_to(root)}: {link}: no such file")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids:
                wrong.append(f"{path.relative_to(root)}: {link}: no such heading")
    for line in sorted(set(wrong)):
        print(line)
    print(f"{count} links of {len(pages)} pages, {len(set(wrong))} wrong", file=sys.stderr)
    sys.exit(1 if wrong or not pages else 0)


main()
