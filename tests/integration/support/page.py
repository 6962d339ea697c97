"""A person at the web page: a headless Chromium that logs in, adds, watches, pauses, plays, and reads errors.

    page.py URL TOKEN FOLDER

FOLDER gets the screenshots. With PAGE_FILES=DIR the files of the page come from DIR: for work on them without a build.
Ends with 1 when something is missing on the page, at any error in its console, and at any report of its security policy.
"""

import base64
import hashlib
import http.server
import os
import random
import re
import sys
import tempfile
import threading
import time
import urllib.parse
from pathlib import Path

import av
from playwright.sync_api import expect, sync_playwright

PHONE, DESKTOP = (390, 844), (1280, 800)
HOSTILE = "<img src=x onerror=document.title='ran'>\n\x1b[31mred \u202egnp.exe"
ARABIC = "\u0645\u0648\u0633\u064a\u0642\u0649"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--autoplay-policy=no-user-gesture-required"]


def make_film(path, seconds):
    """A film that every Chromium plays. Its noise makes it large."""
    noise = random.Random(1)
    with av.open(str(path), "w", format="webm") as out:
        stream = out.add_stream("libvpx", rate=10, options={"deadline": "realtime", "cpu-used": "8"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        stream.bit_rate, stream.gop_size = 6_000_000, 10
        for _ in range(seconds * 10):
            frame = av.VideoFrame(320, 240, "yuv420p")
            for plane in frame.planes:
                plane.update(noise.randbytes(plane.buffer_size))
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def bencode(value):
    match value:
        case int():
            return b"i%de" % value
        case bytes():
            return b"%d:%s" % (len(value), value)
        case str():
            return bencode(value.encode())
        case list():
            return b"l" + b"".join(map(bencode, value)) + b"e"
        case dict():
            return b"d" + b"".join(bencode(k) + bencode(value[k]) for k in sorted(value)) + b"e"
    raise TypeError(value)


def torrent(name):
    """A torrent without peers."""
    files = [{"length": 900_000 + n, "path": [f"{n:02} {HOSTILE}.mp3"]} for n in range(3)]
    length = sum(file["length"] for file in files)
    pieces = b"".join(hashlib.sha1(b"%d" % n).digest() for n in range(-(-length // 262144)))
    return bencode({"info": {"files": files, "name": name, "piece length": 262144, "pieces": pieces}})


class Server(http.server.ThreadingHTTPServer):
    """Serves one film, with ranges. Bytes after the first `OPEN` wait until the gate is open: no test depends on speed."""

    OPEN = 3 << 20

    def __init__(self, film):
        super().__init__(("127.0.0.1", 0), Handler)
        self.film, self.gate = film, threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        film = self.server.film
        if self.path != "/film.webm":
            return self.send_error(404)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        end = int(asked[2]) + 1 if asked and asked[2] else len(film)
        self.send_response(206 if asked else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", str(end - start))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(film)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        try:
            for at in range(start, end, 65536):
                if at >= Server.OPEN:
                    self.server.gate.wait()
                self.wfile.write(film[at:min(at + 65536, end)])
        except OSError:
            # The client is paused.
            pass

    do_HEAD = do_GET


class Person:
    """The browser, and what it complained about."""

    def __init__(self, browser, url, token, shots):
        self.url, self.token, self.shots = url, token, Path(shots)
        self.complaints = []
        context = browser.new_context(viewport=dict(zip(("width", "height"), DESKTOP)), reduced_motion="reduce")
        context.add_init_script("addEventListener('securitypolicyviolation', (e) => console.error('policy: ' + e.violatedDirective + ' ' + e.blockedURI))")
        self.page = page = context.new_page()
        page.set_default_timeout(60_000)
        expect.set_options(timeout=60_000)
        page.on("console", lambda m: m.type in ("error", "warning") and self.complaints.append(m.text))
        page.on("pageerror", lambda e: self.complaints.append(str(e)))
        page.on("request", lambda r: r.url.startswith((url, "blob:")) or self.complaints.append(f"request to {r.url}"))
        if files := os.environ.get("PAGE_FILES"):
            page.route("**/page/*", lambda route: self.from_disk(route, Path(files)))

    @staticmethod
    def from_disk(route, folder):
        response = route.fetch(headers={k: v for k, v in route.request.headers.items() if k != "if-none-match"})
        route.fulfill(response=response, body=(folder / route.request.url.rsplit("/", 1)[1]).read_bytes())

    def forgive(self, text):
        """Forgets one complaint that a step is meant to cause."""
        found = [c for c in self.complaints if text in c]
        assert found, f"no complaint about {text}: {self.complaints}"
        self.complaints.remove(found[0])

    def wait(self, script, arg=None):
        """Waits until a script is true. The browser's own wait would evaluate text, which the policy forbids."""
        end = time.monotonic() + 60
        while not self.page.evaluate(script, arg):
            assert time.monotonic() < end, f"not true after 60 s: {script}"
            self.page.wait_for_timeout(50)

    def button(self, name):
        return self.page.get_by_role("button", name=name)

    def go(self, view):
        self.page.get_by_role("navigation", name="Views").get_by_role("link", name=view).click()

    def row(self, name):
        return self.page.get_by_role("listitem").filter(has=self.page.get_by_role("link", name=name))

    def shoot(self, name):
        """Screenshots at both widths and in both colours. Nothing may be wider than the page."""
        page = self.page
        for width, size in (("phone", PHONE), ("desktop", DESKTOP)):
            page.set_viewport_size(dict(zip(("width", "height"), size)))
            for colors in ("light", "dark"):
                page.emulate_media(color_scheme=colors)
                page.screenshot(path=self.shots / f"{name}-{width}-{colors}.png")
            wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert wide <= 0, f"{name} at {width} is {wide} px too wide"
        page.emulate_media(color_scheme="light")
        self.check_labels(name)

    def check_labels(self, view):
        """Everything that can be pressed or filled has a name for a screen reader."""
        nameless = self.page.evaluate("""() => [...document.querySelectorAll('button, a, input, select, textarea, progress')]
            .filter((e) => e.checkVisibility() && !(e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length))
            .map((e) => e.outerHTML)""")
        assert not nameless, f"{view}: without a name: {nameless}"

    def log_in(self):
        page = self.page
        page.goto(self.url)
        self.shoot("login")
        page.get_by_label("Token").fill("not the token")
        self.button("Log in").click()
        expect(page.get_by_role("alert")).to_contain_text("the token is not valid")
        self.forgive("401")
        page.get_by_label("Token").fill(self.token)
        self.button("Log in").click()
        expect(page.get_by_text("The queue is empty")).to_be_visible()
        assert page.evaluate("document.cookie") == "", "a script can read the session"
        self.shoot("empty")

    def limit(self, rate):
        self.go("Settings")
        self.page.get_by_label("Download, MiB/s").fill(rate)
        self.button("Save").click()
        expect(self.page.get_by_text("Saved.")).to_be_visible()

    def add(self, link, with_price=False):
        self.go("Downloads")
        self.page.keyboard.press("a")
        dialog = self.page.get_by_role("dialog")
        dialog.get_by_label("Links, one a line").fill(link)
        dialog.get_by_label("Storage", exact=True).select_option("small")
        if with_price:
            dialog.get_by_role("button", name="Show size and price").click()
            expect(dialog.get_by_text("write request")).to_be_visible()
            dialog.get_by_text("Prices of cloud storage").click()
            self.shoot("add")
        dialog.get_by_role("button", name="Add", exact=True).click()
        expect(dialog).to_be_hidden()

    def watch_and_pause(self, name, gate):
        """Sees progress, pauses, and resumes."""
        page, row = self.page, self.row(name)
        expect(row.get_by_text("Downloading")).to_be_visible()
        bar = row.get_by_role("progressbar").element_handle()
        self.wait("(bar) => bar.value > 0.1 && bar.value < 1", arg=bar)
        row.get_by_role("link").click()
        expect(page.get_by_role("img", name="stored")).to_be_visible()
        self.shoot("running")
        page.keyboard.press("Escape")
        self.row(name).get_by_role("button", name="Pause").click()
        expect(self.row(name).get_by_text("Paused")).to_be_visible()
        self.limit("5")
        self.shoot("settings")
        self.limit("")
        self.go("Downloads")
        gate.set()
        self.row(name).get_by_role("button", name="Resume").click()
        expect(self.row(name).get_by_text("Done")).to_be_visible()

    def play(self, name):
        page = self.page
        self.row(name).get_by_role("link").click()
        page.get_by_role("link", name=f"Play {name}").click()
        self.wait("document.querySelector('video')?.currentTime > 0.3")
        page.evaluate("document.querySelector('video').currentTime = 4")
        self.wait("document.querySelector('video').currentTime > 4.3")
        page.keyboard.press(" ")
        assert page.evaluate("document.querySelector('video').paused")
        self.shoot("player")
        page.keyboard.press("Escape")
        expect(page.get_by_role("heading", name="Stored bytes")).to_be_visible()
        self.shoot("details")

    def read_error(self, name):
        row = self.row(name)
        expect(row.get_by_text("Failed")).to_be_visible()
        expect(row).to_contain_text("404")
        row.get_by_role("link").click()
        expect(self.page.get_by_role("alert")).to_contain_text("404")
        self.shoot("failed")
        self.go("Downloads")

    def read_hostile_name(self, server):
        """The name of a URL's file is as hostile as its server wants."""
        self.add(f"{server}/{urllib.parse.quote(HOSTILE)}")
        row = self.row("onerror")
        expect(row.get_by_text("Failed")).to_be_visible()
        expect(row.get_by_role("link")).to_have_text("<img src=x onerror=document.title='ran'>\\n\\u001b[31mred \\u202egnp.exe")
        assert self.page.locator("main img").count() == 0 and self.page.title() == "bae"
        self.shoot("hostile")
        row.get_by_role("button", name="Remove").click()
        self.button("Remove from the queue").click()
        expect(row).to_have_count(0)

    def drop_torrent(self):
        """Drops a torrent whose names would run, turn and colour what is around them."""
        page = self.page
        for name in (HOSTILE, ARABIC):
            data = base64.b64encode(torrent(name)).decode()
            page.evaluate("""(data) => {
                const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
                const dataTransfer = new DataTransfer();
                dataTransfer.items.add(new File([bytes], 'x.torrent'));
                dispatchEvent(new DragEvent('drop', { dataTransfer, bubbles: true, cancelable: true }));
            }""", data)
            dialog = page.get_by_role("dialog")
            expect(dialog.get_by_text("3 files")).to_be_visible()
            dialog.get_by_text("More settings").click()
            dialog.get_by_label("Add paused").check()
            dialog.get_by_role("button", name="Add", exact=True).click()
            expect(dialog).to_be_hidden()
        expect(self.row(ARABIC)).to_be_visible()
        row = self.row("onerror")
        expect(row.get_by_text("Paused")).to_be_visible()
        assert page.locator("main img").count() == 0 and page.title() == "bae"
        assert not any(c in row.inner_text() for c in "\x1b\u202e"), row.inner_text()
        row.get_by_role("button", name="Resume").click()
        expect(row.get_by_text("Downloading")).to_be_visible()
        self.shoot("list")

    def filter(self, film):
        page = self.page
        self.button("Failed").click()
        expect(self.row(film)).to_have_count(0)
        expect(self.row("missing.bin")).to_be_visible()
        self.button("All").click()
        page.keyboard.press("Escape")
        page.keyboard.press("/")
        page.keyboard.type("FILM")
        expect(self.row("missing.bin")).to_have_count(0)
        expect(self.row(film)).to_be_visible()
        page.get_by_label("Search by name").fill("")
        page.keyboard.press("Escape")
        expect(self.row("missing.bin")).to_be_visible()
        page.keyboard.press("j")
        page.keyboard.press("j")
        assert page.evaluate("document.activeElement.className") == "name"

    def remove(self, name):
        self.row(name).get_by_role("button", name="Remove").click()
        self.shoot("remove")
        self.button("Remove from the queue").click()
        expect(self.row(name)).to_have_count(0)

    def read_log(self, film):
        self.go("Log")
        expect(self.page.get_by_role("listitem").filter(has_text=f"{film}: done")).to_be_visible()
        self.shoot("log")

    def replace_tokens(self):
        """This session goes on with the new tokens."""
        page = self.page
        self.go("Settings")
        page.get_by_text("Replace the tokens").click()
        page.get_by_label("The present token").fill(self.token)
        self.button("Replace").click()
        dialog = page.get_by_role("dialog")
        assert len(dialog.get_by_label("Everything").input_value()) >= 16
        self.shoot("tokens")
        page.keyboard.press("Escape")
        self.go("Downloads")
        expect(page.get_by_role("list", name="Downloads")).to_be_visible()

    def log_out(self):
        self.go("Settings")
        self.button("Log out").click()
        expect(self.page.get_by_label("Token")).to_be_visible()
        self.page.reload()
        expect(self.page.get_by_label("Token")).to_be_visible()


def main(url, token, shots):
    Path(shots).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        film = "film.webm"
        make_film(Path(folder) / film, 8)
        server = Server((Path(folder) / film).read_bytes())
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        person = Person(browser, url, token, shots)
        try:
            person.log_in()
            person.add(f"{server.url}/{film}", with_price=True)
            person.watch_and_pause(film, server.gate)
            person.play(film)
            person.go("Downloads")
            person.add(f"{server.url}/missing.bin")
            person.read_error("missing.bin")
            person.read_hostile_name(server.url)
            person.drop_torrent()
            person.filter(film)
            person.read_log(film)
            person.go("Downloads")
            person.remove("missing.bin")
            person.replace_tokens()
            person.log_out()
        except BaseException:
            person.page.screenshot(path=person.shots / "at-the-error.png")
            print("complaints:", person.complaints, file=sys.stderr)
            raise
        finally:
            browser.close()
        assert not person.complaints, person.complaints
    print("ok")


main(*sys.argv[1:])
