"""A libtorrent client for the tests: one or more seeders or leechers in one process.

    ltpeer.py seed|get TORRENT SAVE_DIR --listen IP:PORT [--listen ...] [--peer IP:PORT ...] [options]

It prints one JSON object per line on stdout:
    {"event": "ready", "version": ...}       every session listens
    {"event": "progress", "bytes": N, "down": N, "up": N, "peers": N}     about four times a second
    {"event": "done", "seconds": S}          (get) the download is complete; it seeds on, unless --exit is given
    {"event": "note", "text": ...}           an alert that helps to explain a failed test
It reads commands from stdin, one per line: `connect IP:PORT`, `pause`, `resume`, `quit`. It ends when stdin closes, so
that a test that dies leaves no orphan.
"""

import argparse
import json
import os
import sys
import threading
import time

started = time.monotonic()
import libtorrent as lt  # noqa: E402  (the measured time includes this import)


def emit(**event):
    print(json.dumps(event), flush=True)


def parse():
    p = argparse.ArgumentParser()
    p.add_argument("mode", choices=["seed", "get"])
    p.add_argument("torrent", help="a .torrent file, or a magnet link")
    p.add_argument("save")
    p.add_argument("--listen", action="append", required=True)
    p.add_argument("--peer", action="append", default=[])
    p.add_argument("--up-limit", type=int, default=0, help="bytes a second of each session")
    p.add_argument("--down-limit", type=int, default=0)
    p.add_argument("--utp", action="store_true")
    p.add_argument("--only-utp", action="store_true")
    p.add_argument("--unverified", action="store_true",
                   help="serve what is on disk without hashing it: with wrong bytes there this is a corrupting peer")
    p.add_argument("--plain", action="store_true",
                   help="leave every other setting as libtorrent ships it (the yardstick of scripts/bench)")
    p.add_argument("--exit", action="store_true", help="(get) end when everything is there")
    return p.parse_args()


def settings(args, listen):
    ip = listen.rsplit(":", 1)[0]
    settings_pack = {
        "listen_interfaces": listen,
        "outgoing_interfaces": ip,
        "enable_dht": False,
        "enable_lsd": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        "enable_outgoing_utp": args.utp or args.only_utp,
        "enable_incoming_utp": args.utp or args.only_utp,
        "enable_outgoing_tcp": not args.only_utp,
        "enable_incoming_tcp": not args.only_utp,
        "alert_mask": lt.alert.category_t.error_notification | lt.alert.category_t.status_notification
        | lt.alert.category_t.connect_notification | lt.alert.category_t.tracker_notification
        | lt.alert.category_t.storage_notification,
    }
    if not args.plain:
        settings_pack |= {
            "allow_multiple_connections_per_ip": True,
            "announce_to_all_trackers": True,
            "announce_to_all_tiers": True,
            # Rate limits are set per torrent (see `start`): libtorrent exempts local addresses such as 127.0.0.x
            # from the limits of a session.
            "connections_limit": 500,
            "unchoke_slots_limit": -1,
        }
    return settings_pack


def params(args):
    if args.torrent.startswith("magnet:"):
        p = lt.parse_magnet_uri(args.torrent)
    else:
        p = lt.add_torrent_params()
        p.ti = lt.torrent_info(args.torrent)
    p.save_path = args.save
    p.flags &= ~lt.torrent_flags.auto_managed
    p.flags &= ~lt.torrent_flags.paused
    if args.mode == "seed":
        if args.unverified:
            # With seed_mode libtorrent hashes each piece before it sends a byte of it; with have_pieces it does
            # not.
            p.have_pieces = [True] * p.ti.num_pieces()
            p.flags |= lt.torrent_flags.no_verify_files
        else:
            p.flags |= lt.torrent_flags.seed_mode
    return p


def endpoint(text):
    host, port = text.rsplit(":", 1)
    return host, int(port)


def start(args):
    handles, sessions = [], []
    for listen in args.listen:
        s = lt.session(settings(args, listen))
        h = s.add_torrent(params(args))
        if args.up_limit:
            h.set_upload_limit(args.up_limit)
        if args.down_limit:
            h.set_download_limit(args.down_limit)
        for peer in args.peer:
            h.connect_peer(endpoint(peer))
        sessions.append(s)
        handles.append(h)
    return sessions, handles


def command(line, handles):
    word, _, rest = line.strip().partition(" ")
    for h in handles:
        if word == "connect":
            h.connect_peer(endpoint(rest))
        elif word == "pause":
            h.pause()
        elif word == "resume":
            h.resume()
    if word == "quit":
        os._exit(0)


def listen_to_stdin(handles):
    for line in sys.stdin:
        command(line, handles)
    os._exit(0)


def run(args):
    sessions, handles = start(args)
    threading.Thread(target=listen_to_stdin, args=(handles,), daemon=True).start()
    waiting = len(sessions)
    ready_by = time.monotonic() + 100
    done = args.mode == "seed"
    flushing = False
    last_progress = 0.0
    while True:
        for s in sessions:
            for a in s.pop_alerts():
                if a.what() == "listen_succeeded" and waiting > 0 and "TCP" in a.message():
                    waiting -= 1
                    if waiting == 0:
                        emit(event="ready", version=lt.__version__)
                elif a.what() in ("cache_flushed", "cache_flushed_alert") and flushing and not done:
                    done = True
                    emit(event="done", seconds=time.monotonic() - started)
                elif a.what() != "peer_info_alert" and not args.plain:
                    emit(event="note", text=f"{a.what()}: {a.message()}")
        if waiting and time.monotonic() > ready_by:
            emit(event="note", text="not every session listens")
            sys.exit(1)
        if not done and not flushing and handles[0].status().is_seeding:
            if args.exit:
                emit(event="done", seconds=time.monotonic() - started)
                # Skips the destructors of the sessions, which would wait for trackers.
                os._exit(0)
            # Complete pieces may not be written yet. A test that reads the file needs the flush before "done".
            flushing = True
            handles[0].flush_cache()
        now = time.monotonic()
        if now - last_progress >= 0.25:
            last_progress = now
            st = [h.status() for h in handles]
            emit(event="progress", bytes=st[0].total_done, down=sum(x.total_payload_download for x in st),
                 up=sum(x.total_payload_upload for x in st), peers=sum(x.num_peers for x in st))
        time.sleep(0.01)


if __name__ == "__main__":
    run(parse())
