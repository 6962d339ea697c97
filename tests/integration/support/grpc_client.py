"""grpcio, the C++ implementation of gRPC, as a client. It has the messages by reflection. Each scenario prints one line of JSON.

    grpc_client.py SCENARIO PORT TOKEN ARGUMENTS...
"""

import collections
import json
import queue
import sys
import urllib.request

import grpc
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

SCENARIO, PORT, TOKEN, *ARGS = sys.argv[1:]
SERVICE = "bae.v1.DownloadService"
# Ends a call that hangs.
LONG = 120


class Token(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Adds the token to each call."""

    def __init__(self, token):
        self.metadata = [("authorization", f"Bearer {token}")]

    def with_token(self, go_on, details, request):
        fields = ("method", "timeout", "metadata", "credentials", "wait_for_ready", "compression")
        Details = collections.namedtuple("Details", fields)
        all_details = {field: getattr(details, field, None) for field in fields}
        all_details["metadata"] = list(details.metadata or []) + self.metadata
        return go_on(Details(**all_details), request)

    intercept_unary_unary = intercept_unary_stream = with_token
    intercept_stream_unary = intercept_stream_stream = with_token


def channel(target=f"127.0.0.1:{PORT}", token=TOKEN, credentials=None):
    # The tests are on loopback, whatever proxy the environment names.
    options = [("grpc.enable_http_proxy", 0), ("grpc.max_send_message_length", -1)]
    if target.startswith("unix:"):
        # Otherwise the path of the socket, which is no host name.
        options.append(("grpc.default_authority", "localhost"))
    if credentials:
        plain = grpc.secure_channel(target, credentials, options)
    else:
        plain = grpc.insecure_channel(target, options)
    return grpc.intercept_channel(plain, Token(token)) if token else plain


class Api:
    """The calls of a channel, by their names: `api.GetDownload(download="1")`."""

    pool = None

    def __init__(self, connection=None):
        self.connection = connection or channel()
        if Api.pool is None:
            Api.pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(self.connection))

    @classmethod
    def message(cls, name, /, **fields):
        return message_factory.GetMessageClass(cls.pool.FindMessageTypeByName(f"bae.v1.{name}"))(**fields)

    @classmethod
    def number(cls, enum, value):
        return cls.pool.FindEnumTypeByName(f"bae.v1.{enum}").values_by_name[value].number

    @classmethod
    def name(cls, enum, number):
        return cls.pool.FindEnumTypeByName(f"bae.v1.{enum}").values_by_number[number].name

    def __getattr__(self, name):
        method = Api.pool.FindServiceByName(SERVICE).methods_by_name[name]
        kinds = ("unary", "stream")
        kind = f"{kinds[method.client_streaming]}_{kinds[method.server_streaming]}"
        request = message_factory.GetMessageClass(method.input_type)
        call = getattr(self.connection, kind)(
            f"/{SERVICE}/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
        )

        def run(requests=None, timeout=LONG, **fields):
            given = requests if method.client_streaming else request(**fields)
            return call(given, timeout=timeout)

        return run


def shown(download):
    progress = download.progress
    return {
        "id": download.id,
        "name": download.name,
        "state": Api.name("State", download.state),
        "kind": Api.name("SourceKind", download.kind),
        "import": download.import_id,
        "storage": download.storage,
        "info_hash": download.info_hash_v1,
        "bytes": progress.bytes,
        "stored": progress.stored,
        "share": progress.share,
    }


def error_of(work):
    """The code and details of a call that must fail."""
    try:
        work()
    except grpc.RpcError as refused:
        found = {"code": refused.code().name, "message": refused.details()}
        status = rpc_status.from_call(refused)
        if status is not None:
            assert status.code == refused.code().value[0], status
            (detail,) = status.details
            assert detail.type_url == "type.googleapis.com/bae.v1.Error", detail
            error = Api.message("Error")
            error.ParseFromString(detail.value)
            assert error.message == refused.details(), error
            found |= {"kind": Api.name("Kind", error.kind), "hint": error.hint}
        return found
    raise AssertionError("the call was not refused")


def read(path):
    with open(path, "rb") as file:
        return file.read()


def add():
    """Starts a torrent and a URL, and watches both to the end."""
    torrent, url = ARGS
    api = Api()
    by_torrent = api.StartDownload(torrent=read(torrent), tags=["linux"])
    by_url = api.StartDownload(url=url, storage="main", idempotency_key="one")
    again = api.StartDownload(url=url, storage="main", idempotency_key="one")
    assert by_torrent.is_new and by_url.is_new and not again.is_new
    assert again.download.id == by_url.download.id
    ids = [by_torrent.download.id, by_url.download.id]
    last, kinds, sequence, stored = {}, [], -1, {}
    for update in api.StreamProgress(downloads=ids, until_finished=True):
        kinds.append(update.WhichOneof("change"))
        assert update.position.sequence >= sequence, (update, sequence)
        sequence = update.position.sequence
        if kinds[-1] == "download":
            download = update.download
            assert download.id in ids
            assert download.progress.stored >= stored.get(download.id, 0), update
            stored[download.id] = download.progress.stored
            last[download.id] = shown(download)
    assert kinds[0] == "reset" and kinds.count("reset") == kinds.count("up_to_date") == 1, kinds
    listed = api.ListDownloads(states=[Api.number("State", "STATE_DONE")])
    assert sorted(d.id for d in listed.downloads) == sorted(ids) and listed.total == 2
    assert api.ListDownloads(tag="linux").downloads[0].id == ids[0]
    assert api.ListDownloads(limit=1, offset=1).downloads[0].id == ids[1]
    return [last[id] for id in ids]


def pause():
    """Pauses and resumes a torrent, and removes it with its data."""
    (torrent,) = ARGS
    api = Api()
    id = api.StartDownload(torrent=read(torrent)).download.id
    for update in api.StreamProgress(downloads=[id]):
        if update.download.progress.stored >= 1 << 20:
            break
    paused = api.PauseDownload(download=id).download
    again = api.PauseDownload(download=id).download
    resumed = api.ResumeDownload(download=id).download
    *_, last = api.StreamProgress(downloads=[id], until_finished=True)
    done = shown(last.download)
    retried = api.RetryDownload(download=id).download
    *_, last = api.StreamProgress(downloads=[id], until_finished=True)
    position = api.ListDownloads().position
    assert api.CancelDownload(download=id, remove_data=True).id == id
    removed = [u.removed for u in api.StreamProgress(after=position, until_finished=True) if u.removed]
    return {
        "states": [Api.name("State", d.state) for d in (paused, again, resumed, retried)],
        "done": done,
        "removed": removed == [id],
        "gone": error_of(lambda: api.GetDownload(download=id)),
    }


class Commands:
    """An open control stream."""

    def __init__(self, api):
        self.sent = queue.SimpleQueue()
        self.answers = api.Control(iter(self.sent.get, None))
        self.last = 0

    def send(self, **command):
        self.last += 1
        self.sent.put(Api.message("ControlRequest", request_id=self.last, **command))
        return self.last

    def answer(self, id):
        """The answer to a command, and the progress that came before it."""
        progress = []
        for answer in self.answers:
            kind = answer.WhichOneof("answer")
            if kind != "progress":
                assert answer.request_id == id, answer
                return kind, getattr(answer, kind), progress
            progress.append(answer)
        raise AssertionError("the stream ended")

    def do(self, **command):
        kind, answer, _ = self.answer(self.send(**command))
        return kind, answer


def control():
    """Commands and their answers in one call."""
    (torrent,) = ARGS
    api, m = Api(), Api.message
    commands = Commands(api)
    kind, started = commands.do(start=m("StartDownloadRequest", torrent=read(torrent), paused=True))
    assert kind == "start" and started.is_new, started
    id = started.download.id
    errors = []
    for refused in [
        {"get": m("GetDownloadRequest", download="none")},
        {"start": m("StartDownloadRequest", url="http://127.0.0.1:9/f", storage="file:///tmp")},
        {"start": m("StartDownloadRequest")},
        {},
    ]:
        kind, error = commands.do(**refused)
        errors.append([kind, Api.name("Kind", error.kind)])
    # Several commands before the first answer.
    ids = [commands.send(list=m("ListDownloadsRequest")) for _ in range(20)]
    assert all(commands.answer(n)[0] == "list" for n in ids)
    follow = commands.send(follow=m("StreamProgressRequest", downloads=[id], until_finished=True))
    assert commands.answer(follow)[0] == "follow"
    resume = commands.send(resume=m("ResumeDownloadRequest", download=id))
    kind, resumed, before = commands.answer(resume)
    assert kind == "resume", resumed
    updates = before
    for answer in commands.answers:
        updates.append(answer)
        if answer.progress.download.state == Api.number("State", "STATE_DONE"):
            break
    assert all(answer.request_id == follow for answer in updates), updates
    assert updates[0].progress.WhichOneof("change") == "reset"
    assert commands.do(unfollow=m("UnfollowRequest"))[0] == "unfollow"
    _, got = commands.do(get=m("GetDownloadRequest", download=id))
    kind, _ = commands.do(cancel=m("CancelDownloadRequest", download=id))
    assert kind == "cancel"
    commands.sent.put(None)
    assert list(commands.answers) == []
    return {"errors": errors, "done": shown(got.download), "left": api.ListDownloads().total}


def refused():
    """What the daemon refuses, by the name of the case."""
    api = Api()
    url = "http://127.0.0.1:9/f"
    id = api.StartDownload(url=url, paused=True).download.id
    header = Api.message("Header", name="A", value="x\r\nB: y")
    cases = {
        "unknown": lambda: api.GetDownload(download="ffffffffffffffff"),
        "unknown pause": lambda: api.PauseDownload(download="ffffffffffffffff"),
        "unknown follow": lambda: list(api.StreamProgress(downloads=["ffffffffffffffff"])),
        "no name": lambda: api.GetDownload(),
        "no source": lambda: api.StartDownload(),
        "storage by URL": lambda: api.StartDownload(url=url, storage="file:///tmp"),
        "storage in the cloud": lambda: api.StartDownload(
            url=url, storage="s3://b?endpoint=http://169.254.169.254"
        ),
        "storage by path": lambda: api.StartDownload(url=url, storage="/tmp"),
        "file": lambda: api.StartDownload(url="file:///etc/passwd"),
        "path": lambda: api.StartDownload(url="/etc/passwd"),
        "category": lambda: api.StartDownload(url=url, category="../x"),
        "header": lambda: api.StartDownload(url=url, fetch=Api.message("FetchSettings", headers=[header])),
        "no torrent": lambda: api.StartDownload(torrent=b"x" * 100),
        "layout": lambda: api.StartDownload(url=url, layout=9),
        "long message": lambda: api.GetDownload(download="x" * (1 << 20)),
        "long name": lambda: api.GetDownload(download="x" * (100 << 10)),
        "long torrent": lambda: api.StartDownload(torrent=bytes(49 << 20)),
        "long command": lambda: list(
            api.Control(
                iter(
                    [
                        Api.message(
                            "ControlRequest",
                            request_id=1,
                            start=Api.message("StartDownloadRequest", torrent=bytes(49 << 20)),
                        )
                    ]
                )
            )
        ),
        "deadline": lambda: list(api.StreamProgress(timeout=0.5)),
        "compressed": lambda: api.connection.unary_unary(f"/{SERVICE}/GetDownload")(
            b"x" * 1000, timeout=LONG, compression=grpc.Compression.Gzip
        ),
        "malformed": lambda: api.connection.unary_unary(f"/{SERVICE}/GetDownload")(b"\xff", timeout=LONG),
        "unknown method": lambda: api.connection.unary_unary(f"/{SERVICE}/Nothing")(b"", timeout=LONG),
        "unknown service": lambda: api.connection.unary_unary("/bae.v1.Nothing/Nothing")(b"", timeout=LONG),
    }
    found = {name: error_of(work) for name, work in cases.items()}
    assert [d.id for d in api.ListDownloads().downloads] == [id]
    return found


def private():
    """URLs that lead to this machine or its network."""
    api = Api()
    return [error_of(lambda: api.StartDownload(url=url))["code"] for url in ARGS]


def health(connection, service=""):
    """The protocol's messages are one text, and one number."""
    data = bytes([10, len(service)]) + service.encode() if service else b""
    return list(connection.unary_unary("/grpc.health.v1.Health/Check")(data, timeout=LONG))


def services(connection, version="v1alpha"):
    call = connection.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = call(iter([request]), timeout=LONG)
    return sorted(service.name for service in answer.list_services_response.service)


def access():
    """What each token may do."""
    reader, evil = ARGS
    api, m = Api(), Api.message
    id = api.StartDownload(url="http://127.0.0.1:9/f", paused=True).download.id
    found = {"services": services(api.connection), "v1": services(api.connection, "v1")}
    reading = Api(channel(token=reader))
    assert reading.GetDownload(download=id).download.id == id
    assert reading.ListDownloads().total == 1
    assert next(reading.StreamProgress()).WhichOneof("change") == "reset"
    assert services(reading.connection) == found["services"]
    found["reader"] = [
        error_of(call)["code"]
        for call in (
            lambda: reading.StartDownload(url="http://127.0.0.1:9/g"),
            lambda: reading.PauseDownload(download=id),
            lambda: reading.ResumeDownload(download=id),
            lambda: reading.RetryDownload(download=id),
            lambda: reading.CancelDownload(download=id),
            # Refused before the message is read.
            lambda: reading.StartDownload(torrent=bytes(1 << 20)),
        )
    ]
    commands = Commands(reading)
    assert commands.do(get=m("GetDownloadRequest", download=id))[0] == "get"
    kind, error = commands.do(cancel=m("CancelDownloadRequest", download=id))
    found["reader's command"] = [kind, Api.name("Kind", error.kind)]
    assert commands.do(list=m("ListDownloadsRequest"))[1].total == 1
    commands.sent.put(None)
    none = Api(channel(token=None))
    found["no token"] = [
        error_of(call)["code"]
        for call in (
            lambda: none.GetDownload(download=id),
            lambda: list(none.StreamProgress()),
            lambda: list(none.Control(iter([]))),
            lambda: services(none.connection),
            lambda: services(none.connection, "v1"),
        )
    ]
    found["health"] = [health(none.connection), health(none.connection, SERVICE)]
    found["health of nothing"] = error_of(lambda: health(none.connection, "x"))["code"]
    foreign = Api(grpc.insecure_channel(
        f"127.0.0.1:{PORT}", [("grpc.default_authority", evil), ("grpc.enable_http_proxy", 0)]
    ))
    found["foreign host"] = error_of(lambda: foreign.GetDownload(download=id))
    wrong = Api(channel(token="wrong"))
    found["wrong token"] = [error_of(lambda: wrong.GetDownload(download=id)) for _ in range(6)]
    return found


def goes_on():
    """Progress from a number on."""
    api, m = Api(), Api.message
    first = api.StartDownload(url="http://127.0.0.1:9/a", paused=True).download.id
    listed = api.ListDownloads()
    second = api.StartDownload(url="http://127.0.0.1:9/b", paused=True).download.id
    third = api.StartDownload(url="http://127.0.0.1:9/c", paused=True).download.id
    api.CancelDownload(download=first)

    def until_now(after):
        updates = []
        for update in api.StreamProgress(after=after):
            kind = update.WhichOneof("change")
            if kind == "up_to_date":
                return updates, update.position
            updates.append((kind, update.download.id or update.removed, update.position))
        raise AssertionError("the stream ended")

    updates, end = until_now(listed.position)
    assert [u[:2] for u in updates] == [("download", second), ("download", third), ("removed", first)], updates
    later, _ = until_now(updates[0][2])
    assert [u[:2] for u in later] == [("download", third), ("removed", first)], later
    assert until_now(end) == ([], end)
    other_run = m("Position", run="0123456789abcdef", sequence=end.sequence)
    everything, _ = until_now(other_run)
    assert [u[:2] for u in everything] == [("reset", ""), ("download", second), ("download", third)], everything
    assert [u[:2] for u in until_now(None)[0]] == [u[:2] for u in everything]
    # The future, by mistake.
    assert until_now(m("Position", run=end.run, sequence=end.sequence + 1000))[0][0][0] == "reset"
    return True


def slow():
    """A client that does not read its stream holds up nothing, and gets the latest state."""
    api = Api()
    id = api.StartDownload(url="http://127.0.0.1:9/f", name="x" * 1000, paused=True).download.id
    updates = api.StreamProgress(downloads=[id])
    next(updates)
    changes = 400
    for _ in range(changes // 2):
        api.ResumeDownload(download=id)
        api.PauseDownload(download=id)
    last = api.CancelDownload(download=id)
    received = 0
    for update in updates:
        received += 1
        if update.removed:
            break
    updates.cancel()
    return {"changes": changes, "received": received, "removed": update.removed == last.id}


def survives():
    """Follows a download over the unix socket, also after the daemon was killed and started again."""
    socket, torrent = ARGS
    api = Api(channel(f"unix:{socket}", token=None))
    id = api.StartDownload(torrent=read(torrent), idempotency_key="one").download.id
    print(id, flush=True)
    position, breaks, resets, runs, stored = None, 0, 0, set(), []
    while True:
        call = api.connection.unary_stream(
            f"/{SERVICE}/StreamProgress",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=type(Api.message("ProgressUpdate")).FromString,
        )
        request = Api.message("StreamProgressRequest", downloads=[id], until_finished=True, after=position)
        try:
            for update in call(request, wait_for_ready=True, timeout=LONG):
                position = update.position
                runs.add(position.run)
                resets += update.WhichOneof("change") == "reset"
                if update.HasField("download"):
                    last = update.download
            break
        except grpc.RpcError as broken:
            assert broken.code() == grpc.StatusCode.UNAVAILABLE, broken
            breaks += 1
            stored.append(last.progress.stored)
    again = api.StartDownload(torrent=read(torrent), idempotency_key="one")
    return {
        "breaks": breaks > 0,
        "resets": resets,
        "runs": len(runs),
        "stored": stored,
        "done": shown(last),
        "again": again.is_new,
    }


def secure():
    """Calls over TLS."""
    (ca,) = ARGS
    api = Api(channel(f"localhost:{PORT}", credentials=grpc.ssl_channel_credentials(read(ca))))
    assert health(api.connection) == [8, 1]
    return api.ListDownloads().total


def rotated():
    """New tokens end streams."""
    api = Api()
    commands = Commands(api)
    commands.do(list=Api.message("ListDownloadsRequest"))
    updates = api.StreamProgress()
    next(updates)
    body = json.dumps({"token": TOKEN}).encode()
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{PORT}/api/v1/tokens", body, headers)
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request).read()
    return [error_of(lambda: list(stream))["code"] for stream in (updates, commands.answers)]


SCENARIOS = [add, pause, control, refused, private, access, goes_on, slow, survives, secure, rotated]
print(json.dumps({scenario.__name__: scenario for scenario in SCENARIOS}[SCENARIO]()), flush=True)
