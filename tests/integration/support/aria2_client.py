"""Clients of aria2's RPC interface: aria2p, websockets, and Python's own XML-RPC. Each scenario prints one line of JSON.

    aria2_client.py SCENARIO PORT TOKEN ARGUMENTS...
"""

import asyncio
import json
import sys
import time
import xmlrpc.client

import aria2p
import websockets

SCENARIO, PORT, TOKEN, *ARGS = sys.argv[1:]
HOST = "127.0.0.1"


def api():
    return aria2p.API(aria2p.Client(host=f"http://{HOST}", port=int(PORT), secret=TOKEN))


def wait(download, reached):
    while not reached(download):
        assert not download.has_failed, download.error_message
        time.sleep(0.05)
        download.update()
    return download


def add():
    """Adds a URL and a torrent, and waits until both are complete."""
    url, torrent, folder = ARGS
    client = api()
    by_url = client.add_uris([url], options={"dir": folder, "out": "renamed.bin"})
    by_torrent = client.add_torrent(torrent)
    downloads = [wait(download, lambda d: d.is_complete) for download in (by_url, by_torrent)]
    assert {d.gid for d in client.get_downloads()} >= {d.gid for d in downloads}
    stats = client.get_stats()
    return [
        {
            "gid": d.gid,
            "name": d.name,
            "bytes": d.total_length,
            "completed": d.completed_length,
            "progress": d.progress,
            "files": [[str(f.path), f.length, f.is_metadata, f.selected] for f in d.files],
            "dir": str(d.dir),
            "info_hash": d.info_hash,
            "pieces": d.num_pieces,
            "stopped": stats.num_stopped,
        }
        for d in downloads
    ]


def manage():
    """Pauses, resumes, moves, limits and removes downloads that wait."""
    client = api()
    options = {"pause": "true", "max-download-limit": "64K", "header": ["Cookie: secret=hunter2"]}
    downloads = [client.add_uris([url], options=options) for url in ARGS]
    first, second, third = downloads
    assert all(d.is_paused for d in downloads)
    assert client.get_options([first])[0].max_download_limit == 64 * 1024
    assert client.set_options({"max-download-limit": "1M"}, [first]) == [True]
    assert client.get_options([first])[0].max_download_limit == 1024 * 1024
    assert "hunter2" not in json.dumps(client.client.get_option(first.gid))
    assert client.move_to_top(third) == 0
    waiting = [d["gid"] for d in client.client.tell_waiting(0, 10, ["gid"])]
    assert waiting == [third.gid, first.gid, second.gid], waiting
    assert client.move_down(third) == 1
    assert [d["gid"] for d in client.client.tell_waiting(-1, 1, ["gid"])] == [second.gid]
    assert client.set_global_options({"max-overall-download-limit": "2M", "max-concurrent-downloads": "7"})
    globals_ = client.get_global_options()
    assert globals_.max_overall_download_limit == 2 * 1024 * 1024
    assert globals_.max_concurrent_downloads == 7
    found = client.client.multicall2(
        [("aria2.tellStatus", [first.gid, ["gid", "status"]]), ("aria2.tellStatus", ["00"])]
    )
    assert found[0] == [{"gid": first.gid, "status": "paused"}], found
    assert found[1]["code"] == 1, found
    assert client.remove([second]) == [True]
    assert client.resume([first]) == [True]
    assert client.pause([first]) == [True]
    client.client.remove(third.gid)
    stopped = client.client.tell_stopped(0, 10, ["gid", "status"])
    assert stopped == [{"gid": third.gid, "status": "removed"}], stopped
    client.purge()
    assert client.client.tell_stopped(0, 10) == []
    for call, error in [
        (lambda: client.client.tell_status(third.gid), "is not found"),
        (lambda: client.client.tell_status("zz"), "Invalid GID zz"),
        (lambda: client.client.call("aria2.shutdown"), "not supported"),
        (lambda: client.client.call("aria2.unknown"), "No such method"),
        (lambda: client.client.add_uri(["/etc/passwd"]), "not a URL"),
        (lambda: client.client.add_uri(["file:///etc/passwd"]), ""),
        (lambda: client.client.add_uri(["http://h/x"], {"dir": "/etc"}), "folder"),
        (lambda: client.client.add_uri(["http://h/x"], {"out": "../x"}), "out"),
        (lambda: client.client.add_uri(["http://h/x"], {"on-download-complete": "/bin/sh"}), "not supported"),
        (lambda: client.client.add_uri(["http://h/x"], {"header": ["A: b\r\nC: d"]}), "line break"),
        (lambda: client.client.change_global_option({"on-download-complete": "/bin/sh"}), "cannot be changed"),
        (lambda: client.client.change_global_option({"dir": "/etc"}), "cannot be changed"),
    ]:
        try:
            call()
        except aria2p.ClientException as refused:
            assert error in refused.message, (error, refused.message)
        else:
            raise AssertionError(f"not refused: {error}")
    return {"left": [d.gid for d in client.get_downloads()], "expected": [first.gid]}


def xml():
    """The same calls over XML-RPC, as Sonarr and FlexGet make them."""
    url, torrent = ARGS
    server = xmlrpc.client.ServerProxy(f"http://{HOST}:{PORT}/rpc")
    token = f"token:{TOKEN}"
    version = server.aria2.getVersion(token)["version"]
    gid = server.aria2.addUri(token, [url], {"pause": "true", "header": ["A: <b>&"]})
    with open(torrent, "rb") as file:
        by_torrent = server.aria2.addTorrent(token, xmlrpc.client.Binary(file.read()), [], {"pause": "true"})
    status = server.aria2.tellStatus(token, by_torrent, ["gid", "status", "infoHash", "files"])
    try:
        server.aria2.getVersion("token:wrong")
    except xmlrpc.client.Fault as fault:
        refused = [fault.faultCode, fault.faultString]
    multicall = server.system.multicall([{"methodName": "aria2.getVersion", "params": [token]}])
    return {
        "version": version,
        "gid": gid,
        "status": status,
        "refused": refused,
        "multicall": multicall[0][0]["version"],
        "methods": server.system.listMethods(),
        "dir": server.aria2.getGlobalOption(token)["dir"],
    }


async def call(socket, method, *params):
    """Sends a call, and returns its answer and the notifications before it."""
    await socket.send(json.dumps({"jsonrpc": "2.0", "id": "q", "method": method, "params": list(params)}))
    events = []
    while True:
        message = json.loads(await socket.recv())
        if message.get("id") == "q":
            return message, events
        events.append(message)


async def notified(socket, known, gid, method):
    """Waits for a notification about a download."""
    while [method, gid] not in known:
        message = json.loads(await socket.recv())
        known.append([message["method"], message["params"][0]["gid"]])


async def socket_events():
    """Notifications of a download from a URL, of a torrent, and of one that fails."""
    url, torrent, missing = ARGS
    token = f"token:{TOKEN}"
    with open(torrent, "rb") as file:
        encoded = __import__("base64").b64encode(file.read()).decode()
    async with websockets.connect(f"ws://{HOST}:{PORT}/jsonrpc") as socket:
        # A silent socket: nothing is sent to it.
        async with websockets.connect(f"ws://{HOST}:{PORT}/jsonrpc") as silent:
            refused, _ = await call(silent, "aria2.tellActive")
            known, gids = [], []
            for method, params in [
                ("aria2.addUri", [[url]]),
                ("aria2.addTorrent", [encoded]),
                ("aria2.addUri", [[missing]]),
            ]:
                added, events = await call(socket, method, token, *params)
                gids.append(added["result"])
                known += [[e["method"], e["params"][0]["gid"]] for e in events]
            by_url, by_torrent, failed = gids
            for gid, method in [
                (by_url, "aria2.onDownloadStart"),
                (by_url, "aria2.onDownloadComplete"),
                (by_torrent, "aria2.onBtDownloadComplete"),
                (by_torrent, "aria2.onDownloadComplete"),
                (failed, "aria2.onDownloadError"),
            ]:
                await notified(socket, known, gid, method)
            paused, events = await call(socket, "aria2.addUri", token, [url + "?2"], {"pause": "true"})
            await call(socket, "aria2.remove", token, paused["result"])
            await notified(socket, known, paused["result"], "aria2.onDownloadStop")
            # The silent socket got no event before this answer.
            answer, events = await call(silent, "system.listNotifications")
            stats, _ = await call(socket, "system.multicall", [{"methodName": "aria2.getGlobalStat", "params": [token]}])
            return {
                "refused": refused["error"]["message"],
                "silent": events,
                "names": answer["result"],
                "stats": stats["result"][0][0],
                "gids": gids,
            }


async def socket_guesses():
    """A socket with wrong tokens is closed."""
    async with websockets.connect(f"ws://{HOST}:{PORT}/jsonrpc") as socket:
        answers = []
        try:
            while len(answers) < 100:
                answer, _ = await call(socket, "aria2.getVersion", "token:wrong")
                answers.append(answer["error"]["message"])
        except websockets.ConnectionClosed:
            pass
        return {"answers": answers}


async def socket_origins():
    """Which pages may open a socket."""
    allowed = {}
    for origin in ARGS:
        try:
            async with websockets.connect(f"ws://{HOST}:{PORT}/jsonrpc", origin=origin) as socket:
                answer, _ = await call(socket, "aria2.getVersion", f"token:{TOKEN}")
                allowed[origin] = "result" in answer
        except websockets.InvalidStatus as refused:
            allowed[origin] = refused.response.status_code
    return allowed


SCENARIOS = {
    "add": add,
    "manage": manage,
    "xml": xml,
    "events": lambda: asyncio.run(socket_events()),
    "guesses": lambda: asyncio.run(socket_guesses()),
    "origins": lambda: asyncio.run(socket_origins()),
}
print(json.dumps(SCENARIOS[SCENARIO]()))
