#!/usr/bin/env python3
"""An independent peer for the dialects: it talks to a listening server and checks the bytes that come back.

It was written from the page that describes the byte layouts and from the vectors alone, and shares no code with
the server, so that a mistake in the server's codecs does not cancel itself out here. Standard library only.

    python3 dialect_peer.py DIALECT HOST:PORT [--crc NAME] [--header 9|10|12] [--vectors FILE] [--seed N]

DIALECT is session, sequence, opcode, priority, compact or line, or auto-sequence, auto-opcode, auto-compact for
a port that detects the dialect. The server must have no route configured, so that it echoes every request, and
a limit of 1 MiB. --crc (session: IBM-3740, MODBUS, XMODEM, ARC, KERMIT) and --header (priority) must match the
listener. Without --vectors the checks that need them are reported as skipped.

Each group of checks prints one line with its count. The exit code is 0 if all passed; otherwise what was sent,
expected and got is on stderr and the exit code is 1.
"""
import argparse
import json
import random
import re
import socket
import struct
import sys
import time

LIMIT = 1 << 20         # the listener's default limit
WAIT = 9.0              # for any answer; nothing here may hang longer than 10 s
CLOSE = 5.0             # for the close after a protocol error
CRCS = {  # name: polynomial, initial value, reflected, check value of "123456789"
    "IBM-3740": (0x1021, 0xFFFF, False, 0x29B1), "XMODEM": (0x1021, 0, False, 0x31C3),
    "KERMIT": (0x1021, 0, True, 0x2189), "MODBUS": (0x8005, 0xFFFF, True, 0x4B37), "ARC": (0x8005, 0, True, 0xBB3D)}
MIRROR = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class Bad(Exception):
    """The decoder's protocol error; its text is the vectors' word for it."""


class Failed(Exception):
    def __init__(self, what, sent=b"", expected="", got=""):
        super().__init__(what + "".join(f"\n  {label}: {show(value)}" for label, value in
                                        (("sent", bytes(sent)), ("expected", expected), ("got", got))))


def check(ok, *failure):
    if not ok:
        raise Failed(*failure)


def show(value):
    """Bytes as hex, also inside frames; cut where it gets long."""
    text = value.hex() if isinstance(value, (bytes, bytearray)) else str(value)
    if isinstance(value, dict):
        text = " ".join(f"{k}={show(v)}" for k, v in value.items())
    elif isinstance(value, list):
        text = " | ".join(map(show, value))
    return text if len(text) < 400 else f"{text[:400]}... ({len(text)} characters)"


class Crc:
    def __init__(self, name):
        poly, self.init, self.reflected, known = CRCS[name]
        self.table = []
        for crc in range(0, 0x10000, 0x100):
            for _ in range(8):
                crc = crc << 1 & 0xFFFF ^ (poly if crc & 0x8000 else 0)
            self.table.append(crc)
        assert self(b"123456789") == known, name

    def __call__(self, data):
        crc = self.init         # a reflected CRC is the plain one with all bits mirrored, going in and coming out
        for byte in data.translate(MIRROR) if self.reflected else data:
            crc = crc << 8 & 0xFFFF ^ self.table[crc >> 8 ^ byte]
        return int(f"{crc:016b}"[::-1], 2) if self.reflected else crc


class Dialect:
    """A dialect with a header of fixed size; a frame is a dict with the vectors' field names, its payload bytes."""
    layout, names, magic = "", (), b""          # struct format and fields of the header
    kind, kinds = "type", range(256)            # the field that tells requests, replies and errors apart
    response, ping, pong, error = None, 0, 0, 0xFF      # its values; response None: the request's is repeated
    key = None                                  # the id field; None: replies come in the order of the requests
    largest = LIMIT
    prefix = b""                                # what a port with detection recognises
    extra_bad = ()                              # malformed frames that the vectors do not have: (hex, word)
    pad = 0                                     # reserved bytes after the fields

    def __init__(self):
        self.fields = struct.Struct(self.layout)
        self.header = self.fields.size + self.pad

    def encode(self, f, reserved=b"\0\0\0"):
        values = {"magic": self.magic, "version": 1, "length": len(f["payload"]), **f}
        return self.fields.pack(*(values[n] for n in self.names)) + reserved[:self.pad] + f["payload"]

    def take(self, buf):
        """(frame, bytes used), or None while the frame is incomplete; raises Bad."""
        if len(buf) < self.header:
            return None
        f = dict(zip(self.names, self.fields.unpack_from(buf)))
        n = f.pop("length")
        for wrong, word in ((f.pop("magic", self.magic) != self.magic, "magic"), (f.pop("version", 1) != 1, "version"),
                            (f[self.kind] not in self.kinds, "type"), (f.get("priority", 0) > 7, "priority"),
                            (n > LIMIT, "length"), (any(buf[self.fields.size:self.header]), "reserved byte not zero")):
            if wrong:
                raise Bad(word)
        f["payload"] = bytes(buf[self.header:self.header + n])
        return (f, self.header + n) if len(f["payload"]) == n else None

    def id_in(self, raw):
        """The id in the first bytes of a frame; 0 where they do not reach that far."""
        head = self.fields.unpack(raw[:self.fields.size].ljust(self.fields.size, b"\0"))
        return head[self.names.index(self.key)]

    def from_vector(self, frame):
        return {**frame, "payload": bytes.fromhex(frame["payload"])}

    def payload(self, rng, size):
        return rng.randbytes(size)

    def request(self, i, payload):
        frame = {self.kind: 1 + i % 254 if self.response is None else 1, "payload": payload}
        return {**frame, self.key: i} if self.key else frame

    def is_request(self, f):
        return f[self.kind] not in (self.ping, self.error) if self.response is None else f[self.kind] == 1

    def reply(self, f):
        return f if self.response is None else {**f, self.kind: self.response}

    def is_error(self, f):
        return f[self.kind] == self.error

    def heartbeats(self):
        """(heartbeat, the answers allowed). Whether the answer carries the payload is not said: both are taken."""
        for payload, i in ((b"", 1), (b"", 0xFFFF), (b"beat", 77)):
            beat = {**self.request(i, payload), self.kind: self.ping}
            yield beat, [{**beat, self.kind: self.pong}, {**beat, self.kind: self.pong, "payload": b""}]

    def field_cases(self, rng):
        """Requests that together show which fields a reply repeats: ids, and all codes or priorities."""
        top = 0xFFFF if isinstance(self, Priority) else 0xFFFFFFFF
        return [self.request(i, rng.randbytes(9)) for i in (0, 0x1234, top // 2 + 1, top, *range(1, 255))]

    def too_long(self, n):
        """The header alone of a request that announces n bytes."""
        return self.encode({**self.request(5, b""), "length": n})


class Session(Dialect):
    layout, names = ">BIH", ("command", "session_id", "length")
    kind, key, largest = "command", "session_id", 0xFFFF
    extra_bad = (("00000000010000ffff", "checksum"),)

    def __init__(self, crc="IBM-3740"):
        super().__init__()
        self.crc = Crc(crc)

    def encode(self, f):
        body = super().encode(f)
        return body + struct.pack(">H", self.crc(body))

    def take(self, buf):
        found = super().take(buf)
        if found is None or len(buf) < found[1] + 2:
            return None
        if self.crc(buf[:found[1]]) != int.from_bytes(buf[found[1]:found[1] + 2], "big"):
            raise Bad("checksum")
        return found[0], found[1] + 2

    def is_request(self, f):    # command 0 with a payload is an ordinary request
        return f["command"] != 0xFF and (f["command"] != 0 or f["payload"] != b"")

    def heartbeats(self):
        return [(beat, [beat]) for beat, _ in super().heartbeats() if not beat["payload"]]

    def field_cases(self, rng):
        return [*super().field_cases(rng), {"command": 0, "session_id": 9, "payload": b"\0"}]


class Sequence(Dialect):
    layout, names = ">2sBBII", ("magic", "version", "cmd", "length", "sequence_id")
    magic = prefix = b"\xab\xcd"
    kind, kinds, response, ping, pong, error = "cmd", range(1, 7), 2, 3, 4, 5
    key = "sequence_id"


class Opcode(Dialect):
    layout, names = ">4sBBH", ("magic", "version", "opcode", "length")
    magic, prefix, kind, largest = b"MCP\x01", b"MCP", "opcode", 0xFFFF
    extra_bad = (("4d435001000100017a", "version"), ("4d43500102010000", "version"))


class Priority(Dialect):
    layout, names = ">BBHIB", ("version", "type", "sequence_id", "length", "priority")
    kinds, response, ping, pong, error = range(1, 5), 2, 3, 3, 4
    key = "sequence_id"
    extra_bad = (("000100010000000100007a", "version"), ("02010001000000000000", "version"))

    def __init__(self, header=10):
        self.pad = header - 9
        super().__init__()

    def request(self, i, payload):
        return {**super().request(i, payload), "priority": i % 8}


class Compact(Dialect):
    layout, names = ">2sBBI", ("magic", "version", "type", "length")
    magic, prefix = b"MC", b"MC\x01"
    kinds, response, ping, pong, error = range(1, 6), 2, 3, 4, 5
    extra_bad = (("4d44010100000000", "magic"), ("cd4301010000000178", "magic"),
                 ("4d43000100000000", "version"), ("4d430201000000017a", "version"))


class Line(Dialect):
    largest = 1 << 16
    extra_bad = tuple((h, "utf-8") for h in (   # overlong, surrogate, cut, too great, stray
        "c0800a", "eda0800a", "66e6970a", "f49080800a", "80410d0a"))

    def encode(self, f):
        return f["text"].encode() + b"\n"

    def take(self, buf, drop_cr=False):
        # Replies end in "\n" alone, so a "\r" there would belong to the text and is kept.
        end = buf.find(b"\n")
        if end < 0:
            return None
        try:
            line = buf[:end].decode()
        except UnicodeDecodeError:
            raise Bad("utf-8") from None
        return {"text": line.removesuffix("\r") if drop_cr else line}, end + 1

    def from_vector(self, frame):
        return frame

    def payload(self, rng, size):
        """size is in characters, of one to four bytes; some are line ends to a careless splitter."""
        return "".join(rng.choice("abc XYZ09,;\t\0\x0b\x0c\x85\u2028éßж本日語€😀𐍈") for _ in range(size))

    def request(self, i, payload):
        return {"text": payload}

    def is_request(self, f):
        return f["text"] != "PING"

    def reply(self, f):
        return {"text": "ACK: " + f["text"]}

    def is_error(self, f):
        return f["text"].startswith("ERR: ")

    def heartbeats(self):
        return [({"text": beat}, [{"text": "PONG"}]) for beat in ("PING", "PING\r")]

    def field_cases(self, rng):
        return [{"text": t} for t in ("PING me", " PING", "ping", "PINGPING", "PONG", "ERR: x", "a\rb", "\ufeffx", " ")]


class Conn:
    """One connection. Sending never raises when the server has closed: the reading side tells what happened."""

    def __init__(self, peer):
        self.take = peer.dialect.take
        self.sock = socket.create_connection(peer.address, timeout=WAIT)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sent, self.buf, self.reset = bytearray(), bytearray(), False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def send(self, *pieces, pause=0.001):
        """Send pieces one by one; the pause keeps the kernel from gluing them together again."""
        for i, piece in enumerate(pieces):
            if i:
                time.sleep(pause)
            self.sent += piece
            try:
                self.sock.settimeout(WAIT)
                self.sock.sendall(piece)
            except TimeoutError:
                raise Failed("sending timed out", self.sent) from None
            except ConnectionError as e:
                self.reset |= isinstance(e, ConnectionResetError)
                return

    def _recv(self, end):
        """Read once into the buffer: True for data, False for a close, None when the time is up."""
        try:
            self.sock.settimeout(max(0.001, end - time.monotonic()))
            data = self.sock.recv(1 << 18)
        except TimeoutError:
            return None
        except ConnectionError as e:
            self.reset |= isinstance(e, ConnectionResetError)
            return False
        self.buf += data
        return bool(data)

    def frames(self, count, expected):
        """The next count frames, with nothing after them."""
        end, found = time.monotonic() + WAIT, []
        while True:
            try:
                while one := self.take(self.buf):
                    found.append(one[0])
                    del self.buf[:one[1]]
            except Bad as e:
                raise Failed(f"the reply is malformed: {e}", self.sent, expected, self.buf) from None
            if len(found) == count and not self.buf:
                return found
            check(len(found) < count, "more came than was asked for", self.sent, expected, [*found, self.buf])
            state = self._recv(end)
            check(state, "timed out" if state is None else "the server closed the connection", self.sent, expected,
                  [*found, self.buf])

    def until_close(self, wait):
        """(all bytes before the close, whether the close came in time)"""
        end = time.monotonic() + wait
        while state := self._recv(end):
            pass
        return bytes(self.buf), state is False


class Peer:
    def __init__(self, dialect, plain, address, auto, vectors, rng):
        # plain is the dialect with the default CRC and header, which are those of the vectors.
        self.dialect, self.plain, self.address, self.auto, self.rng = dialect, plain, address, auto, rng
        self.vectors, self.passed = vectors, 0

    def make(self, i, size):
        return self.dialect.request(i, self.dialect.payload(self.rng, size))

    def replies(self, conn, requests):
        """Check that each request got its reply: in order, or by id and once each."""
        expected = [self.dialect.reply(r) for r in requests]
        got = conn.frames(len(expected), expected)
        if key := self.dialect.key:     # the requests' ids differ, so this also finds one answered twice
            got, expected = (sorted(fs, key=lambda f: f[key]) for fs in (got, expected))
        for e, g in zip(expected, got):
            check(e == g, "a reply is wrong", conn.sent, e, g)
        self.passed += 1

    def ask(self, request, raw=None, most=None, conn=None):
        """One request, in pieces of at most so many bytes; on a new connection, if none is given."""
        if conn is None:
            with Conn(self) as conn:
                return self.ask(request, raw, most, conn)
        raw = self.dialect.encode(request) if raw is None else raw
        conn.send(*(self.pieces(raw, most) if most else [raw]))
        self.replies(conn, [request])

    def quiet(self, conn, wait, may_close=False):
        data, closed = conn.until_close(wait)
        check(not data and (may_close or not closed), "no more was due", conn.sent, "nothing", data or "a close")
        self.passed += 1

    def check_error(self, conn, raw, word="", close_only=False):
        """The server must close now; before that comes one error reply in this dialect."""
        data, closed = conn.until_close(WAIT if close_only else CLOSE)
        wanted = f"an error reply that says {word!r}, then a close in time"
        check(closed, "the server did not close the connection", conn.sent, wanted, data)
        if close_only or not data and conn.reset:
            self.passed += 1
            return
        try:
            frame, used = self.dialect.take(bytearray(data)) or (None, 0)
        except Bad as e:
            raise Failed(f"the error reply is malformed: {e}", conn.sent, wanted, data) from None
        check(used == len(data) > 0 and self.dialect.is_error(frame), "not one error reply", conn.sent, wanted, data)
        if key := self.dialect.key:
            ids = 0, self.dialect.id_in(raw)
            check(frame[key] in ids, "the error reply has a wrong id", conn.sent, ids, frame)
        text = frame["payload"].decode(errors="replace") if "payload" in frame else frame["text"][len("ERR: "):]
        check(re.fullmatch(r"[A-Z]{2,8}-[EWF]-[0-9]{3} .+", text, re.S) and "\ufffd" not in text,
              "the error text is not `CODE message` in UTF-8", conn.sent, wanted, frame)
        check(word in text.lower(), "the error text does not name the error", conn.sent, wanted, text)
        self.passed += 1

    # --- the groups of checks; one that does not apply returns why

    def echo(self):
        if isinstance(self.dialect, Line):
            for text in ("", "x", *(self.dialect.payload(self.rng, n) for n in (100, 1000)), "y" * 60000):
                self.ask({"text": text})
                self.ask({"text": text}, text.encode() + b"\r\n")
            self.ask({"text": "one\r"}, b"one\r\r\n")       # only the one before "\n" is dropped
            return
        for size in (0, 1, 100, 0xFFFF) + ((LIMIT,) if self.dialect.largest == LIMIT else ()):
            self.ask(self.make(size % 1000 + 1, size))
        if self.dialect.pad:
            request = self.make(3, 5)                       # reserved bytes are ignored when read
            self.ask(request, self.dialect.encode(request, b"\xff\x5a\xa5"))

    def chunking(self):
        d = self.dialect
        self.ask(self.make(1, 40), most=1)
        small = self.make(2, 5)
        raw = d.encode(small)
        for at in range(1, len(raw)):
            with Conn(self) as conn:
                conn.send(raw[:at], raw[at:])
                self.replies(conn, [small])
        requests = [self.make(i, self.rng.randrange(60)) for i in range(1, 31)]
        glued = b"".join(d.encode(r) for r in requests)
        for pieces in ([glued], self.pieces(glued, 50)):
            with Conn(self) as conn:
                conn.send(*pieces)
                self.replies(conn, requests)

    def pieces(self, raw, most):
        cuts = [0]
        while cuts[-1] < len(raw):
            cuts.append(cuts[-1] + self.rng.randint(1, most))
        return [raw[a:b] for a, b in zip(cuts, cuts[1:])]

    def pipelining(self):
        with Conn(self) as conn:
            requests = [self.make(i, self.rng.randrange(300)) for i in range(1, 201)]
            for r in requests:
                conn.send(self.dialect.encode(r))
            self.replies(conn, requests)
            self.quiet(conn, 0.3)
        with Conn(self) as conn:    # an id whose reply has been read is free again
            for n in range(50):
                self.ask(self.make(9, n), conn=conn)

    def heartbeats(self):
        with Conn(self) as conn:
            for beat, allowed in self.dialect.heartbeats():
                conn.send(self.dialect.encode(beat))
                got = conn.frames(1, allowed)[0]
                check(got in allowed, "the heartbeat's answer is wrong", self.dialect.encode(beat), allowed, got)
                self.passed += 1
            self.ask(self.make(4, 10), conn=conn)

    def fields(self):
        with Conn(self) as conn:
            for request in self.dialect.field_cases(self.rng):
                self.ask(request, conn=conn)

    def one_way(self):
        if not isinstance(self.dialect, Sequence):
            return "not in this dialect"
        with Conn(self) as conn:
            for n in range(10):
                conn.send(self.dialect.encode({"cmd": 6, "sequence_id": 50 + n, "payload": b"no answer"}))
                conn.send(self.dialect.encode({"cmd": 3, "sequence_id": 500 + n, "payload": b""}))
                pong = {"cmd": 4, "sequence_id": 500 + n, "payload": b""}
                got = conn.frames(1, pong)[0]
                check(got == pong, "the ping after a one-way was not answered first", conn.sent, pong, got)
                self.passed += 1
            self.quiet(conn, 0.5)       # a late reply is as wrong as an early one

    def malformed_frames(self):
        """(bytes, word) from the vectors and the dialect's own list; both have priority's header at 10 bytes."""
        for code, word in [(v["hex"], v["error"]) for v in self.vectors if "error" in v] + list(self.dialect.extra_bad):
            raw = bytes.fromhex(code)
            yield raw[:9] + bytes(self.dialect.pad) + raw[10:] if isinstance(self.dialect, Priority) else raw, word

    def malformed(self):
        seen = set()
        for raw, word in self.malformed_frames():
            try:                    # this also keeps the peer's own decoder honest
                own = self.dialect.take(bytearray(raw))
                if own and word == "checksum" and self.dialect.crc.table != self.plain.crc.table:
                    continue        # right by chance under another CRC than the vectors'
                own = f"no error, {show(own)}"
            except Bad as e:
                own = str(e)
            check(own == word, "this peer's decoder disagrees with the vector", raw, word, own)
            detected = not self.auto or (word != "magic" and raw.startswith(self.dialect.prefix))
            if not detected and raw in seen:
                continue            # may take the whole handshake deadline: once is enough
            for pieces in ([raw], self.pieces(raw, 1)):
                with Conn(self) as conn:
                    conn.send(*pieces)
                    # Where no dialect was detected, nobody can say how to answer: any close will do.
                    self.check_error(conn, raw, word, close_only=not detected)
            if raw not in seen:     # the same on a connection that has been in use
                seen.add(raw)
                with Conn(self) as conn:
                    self.ask(self.make(3, 20), conn=conn)
                    conn.send(raw)
                    self.check_error(conn, raw, word)

    def well_formed(self):
        if not self.vectors:
            return "no --vectors"
        take = self.plain.take if not isinstance(self.plain, Line) else lambda b: self.plain.take(b, True)
        for v in (v for v in self.vectors if "frame" in v):
            raw, frame = bytes.fromhex(v["hex"]), self.plain.from_vector(v["frame"])
            own = self.plain.encode(frame)
            check(own == raw, "this peer's encoder disagrees with the vector", b"", raw, own)
            for pieces in ([raw], *(self.pieces(raw, n) for n in (1, 7, 20)), self.pieces(raw * 3, 9)):
                buf, found = bytearray(), []
                for piece in pieces:
                    buf += piece
                    while one := take(buf):
                        found.append(one[0])
                        del buf[:one[1]]
                check(not buf and found == [frame] * (sum(map(len, pieces)) // len(raw)),
                      "this peer's decoder disagrees with the vector", raw, frame, found)
                self.passed += 1
            if self.dialect.is_request(frame):
                self.ask(frame)
                self.ask(frame, most=16)

    def truncated(self):
        d = self.dialect
        raw = d.encode(self.make(6, 40))
        for cut in sorted({1, len(raw) // 8, len(raw) // 4, len(raw) // 2, len(raw) - 1}):
            with Conn(self) as conn:
                conn.send(raw[:cut])
                conn.sock.shutdown(socket.SHUT_WR)
                self.check_error(conn, raw[:cut], close_only=self.auto and cut < 4)
        with Conn(self) as conn:    # the end of the stream between two frames is no error
            self.ask(self.make(7, 10), conn=conn)
            conn.sock.shutdown(socket.SHUT_WR)
            self.quiet(conn, 1.0, may_close=True)

    def too_long(self):
        if isinstance(self.dialect, Line):
            with Conn(self) as conn:    # no line end: it must not be awaited for ever
                conn.send(b"a" * 70000)
                self.check_error(conn, b"")
            return
        if self.dialect.largest < LIMIT:
            return "the length field cannot exceed the limit"
        for n in (LIMIT + 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF):
            with Conn(self) as conn:    # the header alone: the close must not wait for the body
                raw = self.dialect.too_long(n)
                conn.send(raw)
                self.check_error(conn, raw, "length")

    def afterwards(self):
        self.ask(self.make(8, 100))     # the malformed connections have not hurt the server

    def run(self):
        failed = 0
        for group in (self.echo, self.chunking, self.pipelining, self.heartbeats, self.fields, self.one_way,
                      self.well_formed, self.malformed, self.truncated, self.too_long, self.afterwards):
            before, name = self.passed, group.__name__.replace("_", " ")
            try:
                skipped = group()
                print(f"{name}:", f"skipped ({skipped})" if skipped else f"{self.passed - before} passed", flush=True)
            except (Failed, OSError) as e:
                failed += 1
                print(f"{name}: FAILED after {self.passed - before} passed", flush=True)
                print(f"{name}: {type(e).__name__}: {e}", file=sys.stderr, flush=True)
        print(f"{self.passed} passed, {failed} failed")
        return 1 if failed else 0


def main():
    classes = {c.__name__.lower(): c for c in (Session, Sequence, Opcode, Priority, Compact, Line)}
    parser = argparse.ArgumentParser(description="Check a listening server against one dialect.")
    parser.add_argument("dialect", choices=[*classes, "auto-sequence", "auto-opcode", "auto-compact"])
    parser.add_argument("address", metavar="HOST:PORT")
    parser.add_argument("--crc", default="IBM-3740", choices=list(CRCS),
                        type=lambda s: re.sub(r"^CRC-?16[/_-]?", "", s.upper()))
    parser.add_argument("--header", type=int, default=10, choices=(9, 10, 12))
    parser.add_argument("--vectors", metavar="FILE")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    name, vectors = args.dialect.removeprefix("auto-"), []
    options = {"session": [args.crc], "priority": [args.header]}.get(name, [])
    plain, dialect = classes[name](), classes[name](*options)
    if args.vectors:
        with open(args.vectors, encoding="utf-8") as f:
            vectors = [v for v in json.load(f)["vectors"] if v["dialect"] == name]
        if not vectors:
            parser.error(f"no vectors for {name} in {args.vectors}")
    host, _, port = args.address.rpartition(":")
    peer = Peer(dialect, plain, (host.strip("[]"), int(port)), args.dialect != name, vectors, random.Random(args.seed))
    return peer.run()


if __name__ == "__main__":
    sys.exit(main())
