"""A player without a window, built on FFmpeg's libraries, as mpv and most other players are.

    avplay.py make FILE SECONDS     writes an MP4 of noise with its index at the end, so that a player must seek first
    avplay.py play INPUT SECOND...  plays one second from each SECOND, then the whole file

INPUT is a file or a URL. For each run it prints a JSON line with the number of frames and a checksum of their pixels.
"""

import json
import random
import sys
import zlib

import av

RATE, WIDTH, HEIGHT = 25, 320, 240


def make(path, seconds):
    noise = random.Random(1)
    with av.open(path, "w", format="mp4") as out:
        stream = out.add_stream("mpeg4", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.bit_rate, stream.gop_size = 6_000_000, RATE
        for _ in range(seconds * RATE):
            frame = av.VideoFrame(WIDTH, HEIGHT, "yuv420p")
            for plane in frame.planes:
                plane.update(noise.randbytes(plane.buffer_size))
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def play(source, start, frames):
    """Decodes at most `frames` frames from the second `start` on; all of them when `frames` is None."""
    stream = source.streams.video[0]
    source.seek(int(start / stream.time_base), stream=stream)
    count = checksum = 0
    for frame in source.decode(stream):
        if frame.time < start:
            continue
        for plane in frame.planes:
            checksum = zlib.crc32(bytes(plane), checksum)
        count += 1
        if count == frames:
            break
    print(json.dumps({"start": start, "frames": count, "checksum": checksum}), flush=True)


def main(mode, target, *numbers):
    if mode == "make":
        make(target, int(numbers[0]))
        return
    with av.open(target) as source:
        for second in numbers:
            play(source, int(second), RATE)
        play(source, 0, None)


main(*sys.argv[1:])
