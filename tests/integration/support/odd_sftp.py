"""An SFTP server on stdin and stdout, run by sshd: odd_sftp.py ODDITY DIR. Paths are below DIR.

handles   handles are binary and never reused; the 101st open handle is refused (so with every ODDITY)
none      listings have no permissions
typeless  neither listings nor STAT have a file type
nameless  there is no FSTAT
broken    FSTAT fails with the general failure code
pauses    every second READ returns no bytes, and is not the end of the file
short     the reported size of a file is 1000 bytes too small
greeting  a line of text is printed before the protocol starts
"""
import os
import stat
import struct
import sys

oddity, root = sys.argv[1], os.fsencode(sys.argv[2])
source, sink = sys.stdin.buffer, sys.stdout.buffer
handles, made, reads = {}, 0, 0


def string(text):
    return struct.pack(">I", len(text)) + text


def send(kind, number, body):
    sink.write(struct.pack(">IBI", 5 + len(body), kind, number) + body)
    sink.flush()


def status(number, code, words=b""):
    send(101, number, struct.pack(">I", code) + string(words) + string(b""))


def attributes(found, listed):
    mode, size = found.st_mode, found.st_size
    if oddity == "short" and stat.S_ISREG(mode):
        size = max(0, size - 1000)
    if oddity == "none" and listed:
        return struct.pack(">IQ", 1, found.st_size)
    if oddity == "typeless":
        mode = stat.S_IMODE(mode)
    return struct.pack(">IQIII", 1 | 4 | 8, size, mode, int(found.st_mtime), int(found.st_mtime))


def take(body):
    (length,) = struct.unpack(">I", body[:4])
    return body[4 : 4 + length], body[4 + length :]


def below(path):
    return os.path.normpath(root + b"/" + path.lstrip(b"/"))


def opened(number, what):
    global made
    if len(handles) >= 100:
        return status(number, 4, b"too many open files")
    made += 1
    name = struct.pack(">I", made + 120) + b"\xff\xfe"
    handles[name] = what
    send(102, number, string(name))


def answer(kind, number, body):
    global reads
    first, rest = take(body)
    if kind == 3:
        opened(number, open(below(first), "rb"))
    elif kind == 11:
        opened(number, sorted(os.listdir(below(first))))
    elif kind == 4:
        handles.pop(first)
        status(number, 0)
    elif kind == 5:
        offset, length = struct.unpack(">QI", rest[:12])
        reads += 1
        if oddity == "pauses" and reads % 2:
            return send(103, number, string(b""))
        data = os.pread(handles[first].fileno(), length, offset)
        send(103, number, string(data)) if data else status(number, 1, b"end")
    elif kind == 12:
        names = handles[first]
        if not names:
            return status(number, 1, b"end")
        # A listing is of DIR or of DIR/sub, so each name is looked up in both.
        handles[first] = names[50:]
        listed = []
        for name in names[:50]:
            where = next(d for d in (root, root + b"/sub") if os.path.lexists(d + b"/" + name))
            listed.append(string(name) + string(name) + attributes(os.lstat(where + b"/" + name), True))
        send(104, number, struct.pack(">I", len(listed)) + b"".join(listed))
    elif kind == 7:
        send(105, number, attributes(os.lstat(below(first)), False))
    elif kind == 8 and oddity == "broken":
        status(number, 4, b"failure")
    elif kind == 8 and oddity != "nameless":
        send(105, number, attributes(os.fstat(handles[first].fileno()), False))
    elif kind == 17:
        send(105, number, attributes(os.stat(below(first)), False))
    elif kind == 16:
        send(104, number, struct.pack(">I", 1) + string(first) + string(first) + struct.pack(">I", 0))
    else:
        status(number, 8, b"not supported")


if oddity == "greeting":
    sink.write(b"Welcome to this host!\n")
    sink.flush()
while True:
    head = source.read(4)
    if len(head) < 4:
        break
    packet = source.read(struct.unpack(">I", head)[0])
    kind, number = struct.unpack(">BI", packet[:5])
    if kind == 1:
        sink.write(struct.pack(">IBI", 5, 2, 3))
        sink.flush()
        continue
    try:
        answer(kind, number, packet[5:])
    except FileNotFoundError:
        status(number, 2, b"no such file")
    except (NotADirectoryError, KeyError) as failed:
        status(number, 4, repr(failed).encode())
