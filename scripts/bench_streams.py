"""The streams section of scripts/bench: recorded HLS, and IPFS from a trustless gateway, against other clients.

The server is nginx behind a round trip of 50 ms, and on loopback. The HLS stream is 30 minutes of a test picture in
segments of 6 s, clear and encrypted by AES-128. The gateway has one file for each block. yt-dlp is BENCH_YTDLP, which
scripts/bench sets.
"""

import base64
import hashlib
import os
import subprocess

from bench_clients import MIB, Work
from bench_get import RTT, SEND_WINDOW, Bench, bae
from bench_get_servers import Far, Nginx

SECONDS, SEGMENT = 1800, 6
KEY = bytes(range(16))
# The profile `unixfs-v1-2025`: leaves of 1 MiB, of which a node has at most 1024.
LEAF, WIDTH = MIB, 1024
RAW, DAG_PB = 0x55, 0x70


def streams(folder, rounds, row, log, runs):
    """`folder` contains `get.bin`, which is imported into blocks."""
    bench = Bench(rounds, row, log, runs)
    hls(bench)
    ipfs(bench, folder)


def hls(bench):
    folder = Work.fresh("hls")
    size = make_stream(folder)
    with Nginx(folder) as server, Far(server, RTT, SEND_WINDOW) as far:
        clear = server.url("clear/index.m3u8", port=far.port)
        encrypted = server.url("aes/index.m3u8", port=far.port)
        ways = {
            "bae -x16, HLS": lambda out: bae(clear, out, "-x", "16"),
            "yt-dlp -N 16": lambda out: yt_dlp(clear, out, 16),
            "ffmpeg, HLS": lambda out: ffmpeg(clear, out),
        }
        limits = {("yt-dlp -N 16",): 0.5, ("ffmpeg, HLS",): 0.5}
        # The other clients change the container.
        found = bench.compare(f"HLS, {RTT} ms", server, ways, size, limits, exact=False)
        ways = {"bae -x16, HLS with AES-128": lambda out: bae(encrypted, out, "-x", "16")}
        secret = bench.compare("HLS with AES-128", server, ways, size, {})
        if len(secret) == 1 and "bae -x16, HLS" in found:
            ratio = secret["bae -x16, HLS with AES-128"][0] / found["bae -x16, HLS"][0]
            bench.row("HLS: wall with AES-128 / clear", ratio, "x", 1.1)


def yt_dlp(url, out, connections):
    return [os.environ["BENCH_YTDLP"], "-q", "--no-warnings", "--no-part", "--fixup", "never", "--hls-prefer-native",
            "-N", str(connections), "-o", out, url]


def ffmpeg(url, out):
    return ["ffmpeg", "-v", "error", "-nostdin", "-y", "-i", url, "-c", "copy", "-f", "mpegts", out]


def make_stream(folder):
    """Makes the clear and the encrypted stream. Returns the length of the file that they become."""
    clear, aes = os.path.join(folder, "clear"), os.path.join(folder, "aes")
    os.mkdir(clear)
    os.mkdir(aes)
    source = f"testsrc2=size=640x360:rate=10:duration={SECONDS}"
    subprocess.run(["ffmpeg", "-v", "error", "-nostdin", "-f", "lavfi", "-i", source, "-c:v", "libx264",
                    "-preset", "ultrafast", "-b:v", "1M", "-g", str(10 * SEGMENT), "-sc_threshold", "0",
                    "-f", "hls", "-hls_time", str(SEGMENT), "-hls_playlist_type", "vod",
                    "-hls_segment_filename", "s%04d.ts", "index.m3u8"], cwd=clear, check=True)
    with open(os.path.join(aes, "key"), "wb") as f:
        f.write(KEY)
    with open(os.path.join(clear, "index.m3u8")) as f:
        playlist = f.read()
    with open(os.path.join(aes, "index.m3u8"), "w") as f:
        f.write(playlist.replace("#EXTINF", '#EXT-X-KEY:METHOD=AES-128,URI="key",IV=0x1\n#EXTINF', 1))
    names = sorted(name for name in os.listdir(clear) if name.endswith(".ts"))
    for name in names:
        subprocess.run(["openssl", "enc", "-aes-128-cbc", "-K", KEY.hex(), "-iv", f"{1:032x}",
                        "-in", os.path.join(clear, name), "-out", os.path.join(aes, name)], check=True)
    return sum(os.path.getsize(os.path.join(clear, name)) for name in names)


def ipfs(bench, folder):
    path = os.path.join(folder, "get.bin")
    size, cid = os.path.getsize(path), import_blocks(path, os.path.join(folder, "ipfs"))
    with Nginx(folder) as server:
        http, gateway = server.url("get.bin"), f"http://127.0.0.1:{server.port}"
        bench.compare("IPFS", server, {
            "bae, IPFS": lambda out: from_gateway(gateway, cid, out),
            "bae, the same by HTTP": lambda out: bae(http, out),
        }, size, {("bae, the same by HTTP",): 1.6}, rss_limit=64)
        with Far(server, RTT, SEND_WINDOW) as far:
            far_http, far_gateway = server.url("get.bin", port=far.port), f"http://127.0.0.1:{far.port}"
            bench.compare(f"IPFS, {RTT} ms", server, {
                f"bae -x16, IPFS, {RTT} ms": lambda out: from_gateway(far_gateway, cid, out, "-x", "16"),
                f"bae -x16, HTTP, {RTT} ms": lambda out: bae(far_http, out, "-x", "16"),
            }, size, {(f"bae -x16, HTTP, {RTT} ms",): 1.3}, rss_limit=64)


def from_gateway(gateway, cid, out, *more):
    return bae(f"ipfs://{cid}", out, "--ipfs-gateway", gateway, *more)


def import_blocks(path, out):
    """Writes the blocks of a file to the folder `out`, each below the name of its CID. Returns the CID of the file."""
    os.makedirs(out, exist_ok=True)
    # A probe for the gateway's format.
    open(os.path.join(out, "bafkqaaa"), "wb").close()
    links = []
    with open(path, "rb") as f:
        while leaf := f.read(LEAF):
            links.append((write_block(out, RAW, leaf), len(leaf), len(leaf)))
    while len(links) > 1:
        groups = [links[n:n + WIDTH] for n in range(0, len(links), WIDTH)]
        links = [write_node(out, group) for group in groups]
    return text(links[0][0])


def write_node(out, links):
    block, sizes = b"", b""
    for cid, len_in_file, len_with_children in links:
        link = field(1, cid) + field(2, b"") + varint(3 << 3) + varint(len_with_children)
        block += field(2, link)
        sizes += varint(4 << 3) + varint(len_in_file)
    size = sum(link[1] for link in links)
    block += field(1, b"\x08\x02" + varint(3 << 3) + varint(size) + sizes)
    return write_block(out, DAG_PB, block), size, len(block) + sum(link[2] for link in links)


def write_block(out, codec, block):
    cid = bytes([1, codec, 0x12, 0x20]) + hashlib.sha256(block).digest()
    with open(os.path.join(out, text(cid)), "wb") as f:
        f.write(block)
    return cid


def text(cid):
    return "b" + base64.b32encode(cid).decode().lower().rstrip("=")


def field(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(number):
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])
