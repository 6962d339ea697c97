"""A player without a window: FFmpeg's libraries, which mpv and most others play with.

    avplay.py make FILE SECONDS     an MP4 of noise whose index is at its end, where a player has to seek first
    avplay.py play PLACE SECOND...  plays a second from each of these on, then all of it

PLACE is a file or an address. Each thing played is a JSON line with its frames, and a checksum over their pixels.
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


def play(source, begin, frames):
    """Frames from the second `begin` on, at most so many."""
    stream = source.streams.video[0]
    source.seek(int(begin / stream.time_base), stream=stream)
    count = checksum = 0
    for frame in source.decode(stream):
        if frame.time < begin:
            continue
        for plane in frame.planes:
            checksum = zlib.crc32(bytes(plane), checksum)
        count += 1
        if count == frames:
            break
    print(json.dumps({"begin": begin, "frames": count, "checksum": checksum}), flush=True)


def main(mode, place, *numbers):
    if mode == "make":
        make(place, int(numbers[0]))
        return
    with av.open(place) as source:
        for second in numbers:
            play(source, int(second), RATE)
        play(source, 0, None)


main(*sys.argv[1:])
