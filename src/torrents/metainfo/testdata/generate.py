#!/usr/bin/env python3
"""Makes the torrents of this folder with libtorrent's own writer. Prints the layout that libtorrent gives them, and the
hashes that the tests of merkle.rs expect (computed here with hashlib alone).

Run it in this folder, with python3 and its libtorrent module (2.0.8).
Byte i of the file with seed s is (31*i + 17*s + i//256) % 256.
"""
import hashlib, os, tempfile
import libtorrent as lt

K = 16384
KINDS = {"v1": lt.create_torrent.v1_only, "v2": lt.create_torrent.v2_only, "hybrid": 0}
FILES = {
    "multi": [("m/a.bin", 2 * K + 100, 1), ("m/sub/b.bin", 5, 2), ("m/sub/empty", 0, 3), ("m/z.bin", 5 * K + 1, 4)],
    "single": [("one.bin", 3 * K + 7, 5)],
    "tiny": [("s.bin", 100, 6)],
}


def data(n, s):
    return bytes((31 * i + 17 * s + i // 256) % 256 for i in range(n))


def make(name, kind, folder):
    storage = lt.file_storage()
    for path, size, seed in FILES[name]:
        at = os.path.join(folder, path)
        os.makedirs(os.path.dirname(at), exist_ok=True)
        with open(at, "wb") as f:
            f.write(data(size, seed))
        storage.add_file(path, size)
    torrent = lt.create_torrent(storage, 2 * K, KINDS[kind])
    torrent.add_tracker("http://t.example/a", 0)
    torrent.add_tracker("http://t.example/b", 1)
    torrent.set_comment("hello")
    lt.set_piece_hashes(torrent, folder)
    entry = torrent.generate()
    entry[b"creation date"] = 1700000000
    with open(f"{name}_{kind}.torrent", "wb") as f:
        f.write(lt.bencode(entry))
    info = lt.torrent_info(f"{name}_{kind}.torrent")
    hashes, files = info.info_hashes(), info.files()
    print(f"{name}_{kind}: pieces {info.num_pieces()} v1 {hashes.v1} v2 {hashes.v2}")
    for i in range(files.num_files()):
        print("  ", files.file_path(i), files.file_offset(i), files.file_size(i), int(files.file_flags(i)))


def sha(b):
    return hashlib.sha256(b).digest()


def tree(leaves, width, pad=bytes(32)):
    level = leaves + [pad] * (width - len(leaves))
    while len(level) > 1:
        level = [sha(level[i] + level[i + 1]) for i in range(0, len(level), 2)]
    return level[0]


for name in FILES:
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            make(name, kind, folder)

leaf = [sha(bytes([i])) for i in range(16)]
for n, width in ((1, 1), (2, 2), (3, 4), (5, 8), (1, 4), (3, 8)):
    print(f"leaves {n} of {width}:", tree(leaf[:n], width).hex())
zero = tree([], 4)
print("3 pieces of 4 blocks:", tree(leaf[:3], 4, zero).hex())
