"""Adds the pages of docs that docs/SUMMARY.md does not list, after the page of the same folder that precedes them."""

import re
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"
SUMMARY = DOCS / "SUMMARY.md"
ENTRY = re.compile(r"^( *)- \[.*\]\((.*)\)$")


def title(path):
    heading = next(line for line in path.read_text().splitlines() if line.startswith("# "))
    return re.sub(r"[\[\]]", "", heading[2:].strip())


def main():
    lines = SUMMARY.read_text().splitlines()
    listed = set(re.findall(r"\]\((.*?\.md)\)", SUMMARY.read_text()))
    for path in sorted(DOCS.rglob("*.md")):
        name = path.relative_to(DOCS).as_posix()
        if name in listed or path == SUMMARY:
            continue
        folder = Path(name).parent
        place, indent = len(lines), ""
        for index, line in enumerate(lines):
            found = ENTRY.match(line)
            if not found or Path(found[2]).parent != folder:
                continue
            first = place == len(lines)
            # The README of a folder is above its pages. Decisions are in the order of their numbers.
            if first or Path(found[2]).name == "README.md" or found[2] < name or folder.name != "decisions":
                place, indent = index + 1, found[1]
                if Path(found[2]).name == "README.md":
                    indent += "  "
        lines.insert(place, f"{indent}- [{title(path)}]({name})")
        print(f"docs/SUMMARY.md:{place + 1}: {name}")
    SUMMARY.write_text("\n".join(lines) + "\n")


main()
