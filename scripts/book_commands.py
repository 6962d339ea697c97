"""Runs the commands of the chapters: book_commands.py check|paste CHAPTER.md...

A block ```console has commands after `$ ` and their output. All blocks of a chapter run in one shell, in an empty folder.
`check` compares their output with the chapter, and `paste` writes it there. Ids, times and keys differ in each run, and
are compared as equal. The servers of book_servers.py must run.
"""

import difflib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

BLOCK = re.compile(r"^```console\n(.*?)^```\n", re.M | re.S)
# Lines that separate the outputs of the commands.
END = "\x01"
VARIABLE = [
    (r'"(seconds|peak_held|download_rate)":[0-9.e-]+', r'"\1":N'),
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z| UTC)?", "TIME"),
    (r"SHA256:[A-Za-z0-9+/]{43}", "FINGERPRINT"),
    (r"\b[0-9a-f]{16}\b", "KEY"),
    (r"\b[0-9a-f]{8}\b", "ID"),
    (r"\b\d+(\.\d+)? ?(ms|s)\b", "N s"),
    (r"\bcatalog +about [0-9.]+ KiB", "catalog about N KiB"),
    (r"/tmp/[A-Za-z0-9_.-]+/", "/tmp/X/"),
    (r" +", " "),
]


def normal(text):
    for pattern, replacement in VARIABLE:
        text = re.sub(pattern, replacement, text)
    return text


def commands_of(block):
    """The commands of a block, each with its pasted output."""
    found = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append([line[2:], []])
        elif not found:
            sys.exit(f"error: a block does not begin with a command: {line}")
        else:
            found[-1][1].append(line)
    return [(command, "\n".join(lines)) for command, lines in found]


def run(commands, bae):
    """The output of each command."""
    with tempfile.TemporaryDirectory(prefix="bae-book-") as folder:
        lines = []
        for command in commands:
            lines += [command, "__code=$?", f"printf '{END}\\n'", "(exit $__code)"]
        keep = {name: value for name, value in os.environ.items() if not name.startswith(("BAE_", "AWS_", "XDG_"))}
        env = keep | {
            "HOME": folder, "PATH": f"{bae.parent}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8", "TZ": "UTC",
            "NO_COLOR": "1",
        }
        work = Path(folder) / "work"
        work.mkdir()
        env["BAE_DATA_DIR"], env["XDG_CONFIG_HOME"] = f"{work}/data", f"{work}/config"
        shell = subprocess.run(["bash"], input="\n".join(lines) + "\n", text=True, cwd=work, env=env, timeout=300,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        outputs = shell.stdout.split(END + "\n")
        if len(outputs) != len(commands) + 1:
            sys.exit(f"error: the shell ended early:\n{shell.stdout}")
        return [output.rstrip("\n").replace(str(work), "/tmp/book") for output in outputs[:-1]]


def chapter(path, paste, bae):
    """The number of commands, and whether all outputs are as pasted."""
    text = path.read_text()
    blocks = [match.group(1) for match in BLOCK.finditer(text)]
    commands = [command for block in blocks for command in commands_of(block)]
    if not commands:
        return 0, True
    outputs = iter(run([command for command, _ in commands], bae))
    same = True

    def pasted(match):
        nonlocal same
        lines = []
        for command, before in commands_of(match.group(1)):
            now = next(outputs)
            if normal(now) != normal(before):
                same = False
                if not paste:
                    print(f"{path}: $ {command}")
                    for line in difflib.unified_diff(normal(before).splitlines(), normal(now).splitlines(),
                                                     "in the book", "now", lineterm=""):
                        print("    " + line)
            else:
                now = before
            lines += ["$ " + command] + now.splitlines()
        return "```console\n" + "\n".join(lines) + "\n```\n"

    replaced = BLOCK.sub(pasted, text)
    if paste and replaced != text:
        path.write_text(replaced)
    return len(commands), same or paste


def main():
    mode, *paths = sys.argv[1:]
    bae = Path(os.environ["BAE"]).resolve()
    right = True
    for path in map(Path, paths):
        count, same = chapter(path, mode == "paste", bae)
        print(f"{path.name}: {count} commands, {'as in the book' if same else 'DIFFERENT'}", file=sys.stderr)
        right &= same
    sys.exit(0 if right else 1)


main()
