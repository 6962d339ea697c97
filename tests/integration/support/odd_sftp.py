"""An SFTP server on stdin and stdout, run by sshd: odd_sftp.py ODDITY DIR. Paths are below DIR.

handles         handles are binary and never reused; the 101st open handle is refused (so with every ODDITY)
no-permissions  listings have no permissions
no-types        neither listings nor STAT have a file type
no-fstat        there is no FSTAT
fstat-fails     FSTAT fails with the general failure code
empty-reads     every second READ returns no bytes, and is not the end of the file
small-size      the reported size of a file is 1000 bytes too small
greeting        a line of text is printed before the protocol starts
"""
import os
import stat
import struct
import sys

oddity, root = sys.argv[1], os.fsencode(sys.argv[2])
source, sink = sys.stdin.buffer, sys.stdout.buffer
handles, handle_count, reads = {}, 0, 0


def string(text):
    return struct.pack(">I", len(text)) + text


def send(kind, number, body):
    sink.write(struct.pack(">IBI", 5 + len(body), kind, number) + body)
    sink.flush()


def status(number, code, message=b""):
    send(101, number, struct.pack(">I", code) + string(message) + string(b""))


def attributes(stat_result, listed):
    mode, size = stat_result.st_mode, stat_result.st_size
    if oddity == "small-size" and stat.S_ISREG(mode):
        size = max(0, size - 1000)
    if oddity == "no-permissions" and listed:
        return struct.pack(">IQ", 1, stat_result.st_size)
    if oddity == "no-types":
        mode = stat.S_IMODE(mode)
    return struct.pack(">IQIII", 1 | 4 | 8, size, mode, int(stat_result.st_mtime), int(stat_result.st_mtime))


def take_string(body):
    (length,) = struct.unpack(">I", body[:4])
    return body[4 : 4 + length], body[4 + length :]


def local_path(path):
    return os.path.normpath(root + b"/" + path.lstrip(b"/"))


def send_handle(number, target):
    global handle_count
    if len(handles) >= 100:
        return status(number, 4, b"too many open files")
    handle_count += 1
    name = struct.pack(">I", handle_count + 120) + b"\xff\xfe"
    handles[name] = target
    send(102, number, string(name))


def answer(kind, number, body):
    global reads
    first, rest = take_string(body)
    if kind == 3:
        send_handle(number, open(local_path(first), "rb"))
    elif kind == 11:
        send_handle(number, sorted(os.listdir(local_path(first))))
    elif kind == 4:
        handles.pop(first)
        status(number, 0)
    elif kind == 5:
        offset, length = struct.unpack(">QI", rest[:12])
        reads += 1
        if oddity == "empty-reads" and reads % 2:
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
            folder = next(d for d in (root, root + b"/sub") if os.path.lexists(d + b"/" + name))
            listed.append(string(name) + string(name) + attributes(os.lstat(folder + b"/" + name), True))
        send(104, number, struct.pack(">I", len(listed)) + b"".join(listed))
    elif kind == 7:
        send(105, number, attributes(os.lstat(local_path(first)), False))
    elif kind == 8 and oddity == "fstat-fails":
        status(number, 4, b"failure")
    elif kind == 8 and oddity != "no-fstat":
        send(105, number, attributes(os.fstat(handles[first].fileno()), False))
    elif kind == 17:
        send(105, number, attributes(os.stat(local_path(first)), False))
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
    except (NotADirectoryError, KeyError) as error:
        status(number, 4, repr(error).encode())
