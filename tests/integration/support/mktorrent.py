"""Makes a .torrent with libtorrent: mktorrent.py SOURCE OUT v1|v2|hybrid PIECE_SIZE [--pad] [--private] [--links]

SOURCE is a file or a folder. --pad aligns the files of a v1 torrent to pieces with pad files (BEP 47). --links stores
symbolic links as links (BEP 47) instead of the files they point to.
Prints {"v1": hash or null, "v2": hash or null, "pieces": N, "name": ...}.
"""

import json
import os
import sys

import libtorrent as lt

source, out, kind, piece_size = sys.argv[1:5]
options = sys.argv[5:]
flags = {
    "v1": lt.create_torrent.v1_only,
    "v2": lt.create_torrent.v2_only,
    "hybrid": 0,
}[kind]
if "--pad" in options:
    flags |= lt.create_torrent.canonical_files
if "--links" in options:
    flags |= lt.create_torrent.symlinks
files = lt.file_storage()
lt.add_files(files, source, flags=flags)
torrent = lt.create_torrent(files, int(piece_size), flags=flags)
torrent.set_priv("--private" in options)
lt.set_piece_hashes(torrent, os.path.dirname(os.path.abspath(source)))
with open(out, "wb") as f:
    f.write(lt.bencode(torrent.generate()))
info = lt.torrent_info(out)
hashes = info.info_hashes()
print(json.dumps({
    "v1": str(hashes.v1) if hashes.has_v1() else None,
    "v2": str(hashes.v2) if hashes.has_v2() else None,
    "pieces": info.num_pieces(),
    "name": info.name(),
}))
