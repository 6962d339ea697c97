"""Drives a daemon with qbittorrent-api, the Python client of qBittorrent's Web API.

Arguments: the URL of the daemon, its token, and a torrent file whose download stays without peers. Prints one JSON object.
"""

import json
import sys

import qbittorrentapi


def main():
    url, token, torrent = sys.argv[1:]
    client = qbittorrentapi.Client(
        host=url, username="anyone", password=token, RAISE_NOTIMPLEMENTEDERROR_FOR_UNIMPLEMENTED_API_ENDPOINTS=True
    )
    client.auth_log_in()
    assert client.is_logged_in
    said = {"app": client.app.version, "api": client.app.web_api_version}
    assert client.app.build_info["bitness"] == 64
    assert client.app.preferences.queueing_enabled

    client.torrents_create_category(name="films")
    assert "films" in client.torrents_categories()
    try:
        client.torrents_create_category(name="films")
        raise AssertionError("a category exists twice")
    except qbittorrentapi.Conflict409Error:
        pass

    first = client.sync_maindata()
    assert first.full_update
    answer = client.torrents_add(
        torrent_files=open(torrent, "rb"), category="films", is_stopped=True, tags=["a", "b"], ratio_limit=1.5
    )
    assert answer == "Ok.", answer
    (one,) = client.torrents_info(category="films")
    said["hash"] = one.hash
    assert one.state_enum.is_stopped and one.state == "stoppedDL", one.state
    assert one.tags == "a, b" and one.ratio_limit == 1.5
    assert one.properties.total_size == one.total_size > 0
    assert one.properties.pieces_num > 0
    assert one.files[0].size > 0 and one.files[0].index == 0
    assert one.trackers[0].url == "** [DHT] **"
    assert client.torrents_count() == 1

    delta = client.sync_maindata(rid=first.rid)
    assert "full_update" not in delta and one.hash in delta.torrents, delta
    again = client.sync_maindata(rid=delta.rid)
    assert one.hash not in again.get("torrents", {}), again

    one.add_tags("c")
    one.remove_tags("a")
    one.set_upload_limit(1000)
    one.set_share_limits(ratio_limit=-2, seeding_time_limit=60, inactive_seeding_time_limit=-2)
    one.rename("another name")
    one.set_category("")
    one.sync_local()
    assert one.tags == "b, c" and one.up_limit == 1000 and one.category == ""
    assert one.ratio_limit == -2 and one.seeding_time_limit == 60 and one.name == "another name"
    one.start()
    one.sync_local()
    assert not one.state_enum.is_stopped, one.state
    one.stop()
    one.increase_priority()
    one.reannounce()
    one.recheck()
    assert [t.hash for t in client.torrents_info(status_filter="stopped")] == [one.hash]
    assert client.torrents_info(status_filter="completed") == []
    assert client.torrents_info(sort="name", reverse=True, limit=5)[0].hash == one.hash
    client.transfer_set_download_limit(limit=2_000_000)
    assert client.transfer_download_limit() == 2_000_000
    client.transfer_set_download_limit(limit=0)
    assert client.transfer_info().connection_status == "connected"
    assert client.sync_torrent_peers(torrent_hash=one.hash).full_update
    assert client.log_main() == []
    assert client.rss_items() == {}
    assert client.search_plugins() == []
    try:
        client.app_set_preferences({"autorun_enabled": True, "autorun_program": "id"})
        raise AssertionError("a program was set")
    except qbittorrentapi.HTTP400Error:
        pass
    try:
        client.torrents_properties(torrent_hash="00" * 20)
        raise AssertionError("an unknown torrent has properties")
    except qbittorrentapi.NotFound404Error:
        pass
    client.torrents_remove_categories(categories=["films"])
    client.torrents_delete_tags(tags=["b", "c"])
    client.torrents_delete(delete_files=True, torrent_hashes="all")
    assert client.torrents_info() == []
    client.auth_log_out()
    print(json.dumps(said))


main()
