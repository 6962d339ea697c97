"""transmission-rpc, a client of Transmission's RPC interface. Each scenario prints one line of JSON.

    transmission_client.py SCENARIO PORT TOKEN ARGUMENTS...
"""

import json
import sys
import time

from transmission_rpc import Client, TransmissionError

SCENARIO, PORT, TOKEN, *ARGS = sys.argv[1:]


def client(token=TOKEN):
    return Client(host="127.0.0.1", port=int(PORT), username="any", password=token)


def torrents_of(path):
    with open(path, "rb") as file:
        return file.read()


def add():
    """Adds a torrent, and waits until it is complete."""
    torrent, label = ARGS
    rpc = client()
    added = rpc.add_torrent(torrents_of(torrent), labels=[label, "new"])
    again = rpc.add_torrent(torrents_of(torrent))
    while True:
        found = rpc.get_torrent(added.id)
        assert found.error == 0, found.error_string
        if found.percent_done == 1 and found.status.stopped:
            break
        time.sleep(0.05)
    return {
        "id": found.id,
        "again": again.id,
        "hash": found.hash_string,
        "name": found.name,
        "bytes": found.total_size,
        "left": found.left_until_done,
        "finished": found.is_finished,
        "dir": found.download_dir,
        "labels": found.labels,
        "status": str(found.status),
        "files": [[f.name, f.size, f.completed, f.selected] for f in found.get_files()],
        "trackers": [t.announce for t in found.trackers],
        "available": found.available,
        "by_hash": rpc.get_torrent(found.hash_string).id,
        "listed": [t.id for t in rpc.get_torrents()],
        "free": rpc.free_space(found.download_dir),
    }


def manage():
    """Stops, starts, moves, limits and removes torrents."""
    rpc = client()
    first, second, third = [rpc.add_torrent(torrents_of(path), paused=True).id for path in ARGS]
    assert all(t.status.stopped for t in rpc.get_torrents())
    rpc.change_torrent(
        first,
        download_limit=64,
        download_limited=True,
        labels=["a", "b"],
        seed_ratio_limit=2.5,
        seed_ratio_mode=1,
        bandwidth_priority=1,
    )
    found = rpc.get_torrent(first)
    assert (found.download_limit, found.download_limited) == (64, True)
    assert sorted(found.labels) == ["a", "b"], found.labels
    assert (found.seed_ratio_limit, found.seed_ratio_mode) == (2.5, 1)
    assert found.bandwidth_priority == 1
    rpc.change_torrent(first, bandwidth_priority=0)
    rpc.change_torrent(second, files_unwanted=[0])
    assert [f.selected for f in rpc.get_torrent(second).get_files()] == [False, True]
    rpc.queue_top(third)
    order = sorted(rpc.get_torrents(), key=lambda t: t.queue_position)
    assert [t.id for t in order] == [third, first, second], order
    rpc.queue_bottom(third)
    rpc.queue_up(third)
    order = sorted(rpc.get_torrents(), key=lambda t: t.queue_position)
    assert [t.id for t in order] == [first, third, second], order
    rpc.start_torrent(first)
    assert not rpc.get_torrent(first).status.stopped
    rpc.stop_torrent(first)
    assert rpc.get_torrent(first).status.stopped
    rpc.set_session(speed_limit_down=100, speed_limit_down_enabled=True)
    session = rpc.get_session()
    assert (session.speed_limit_down, session.speed_limit_down_enabled) == (100, True)
    assert session.version.startswith("4."), session.version
    stats = rpc.session_stats()
    assert (stats.torrent_count, stats.paused_torrent_count) == (3, 3), stats
    rpc.move_torrent_data(first, session.download_dir)
    for call, error in [
        (lambda: rpc.move_torrent_data(first, "/etc"), "folder"),
        (lambda: rpc.move_torrent_data(first, "/file"), "stay in its storage"),
        (lambda: rpc.add_torrent("/etc/passwd"), ""),
        (lambda: rpc.add_torrent("file:///etc/passwd"), ""),
        (lambda: rpc.add_torrent("magnet:?xt=urn:btih:" + "a" * 40, download_dir="/etc"), "folder"),
        (lambda: rpc.add_torrent("magnet:?xt=urn:btih:" + "a" * 40, download_dir="s3://b/x"), "folder"),
        (lambda: rpc.set_session(script_torrent_done_filename="/bin/sh"), "cannot be changed"),
        (lambda: rpc.set_session(script_torrent_done_enabled=True), "cannot be changed"),
        (lambda: rpc.set_session(download_dir="/etc"), "cannot be changed"),
        (lambda: rpc.rename_torrent_path(first, "x", "../y"), "not supported"),
        (lambda: rpc.free_space("/etc"), "folder"),
    ]:
        try:
            call()
        except (TransmissionError, ValueError) as refused:
            assert error in str(refused), (error, str(refused))
        else:
            raise AssertionError(f"not refused: {error}")
    rpc.remove_torrent(second, delete_data=True)
    rpc.remove_torrent([third])
    active, removed = rpc.get_recently_active_torrents()
    return {
        "left": [t.id for t in rpc.get_torrents()],
        "expected": [first],
        "recent": [t.id for t in active],
    }


SCENARIOS = {"add": add, "manage": manage}
print(json.dumps(SCENARIOS[SCENARIO]()))
