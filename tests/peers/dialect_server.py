#!/usr/bin/env python3
"""An independent server for the dialects: a client is run against it, and every frame it sends is checked.

It was written from the page that describes the byte layouts alone and shares no code with any client or other
server, so that a mistake in a codec does not cancel itself out here. Standard library only.

    python3 dialect_server.py DIALECT [--crc NAME] [--header 9|10|12]

DIALECT is session, sequence, opcode, priority, compact or line. The server listens on a free port of 127.0.0.1,
prints `listening 127.0.0.1:PORT` as its first line and runs until it is killed. With DIALECT_SERVER_CHUNKS=1 in
the environment every answer is written byte by byte.

The payload of a request says what happens to it. Session, sequence and priority have ids; the others answer in
the order of the requests (FIFO), and there everything below takes effect when it is the request's turn.

    payload     with ids                                        FIFO
    fail TEXT   the error reply `APP-E-042 TEXT`                the same
    slow N ...  echoed N ms after it came; others overtake it   echoed in turn, not before N ms after it came
    swap        echoed right after the next request's answer    echoed
    late        never answered; its id stays in flight          echoed in turn, not before 300 ms after it came
    junk        malformed bytes, then a close                   the same
    close       a close without an answer                       the same
    twice       echoed twice with the same id                   echoed once
    all else    echoed                                          echoed

`swap`, `late`, `junk`, `close` and `twice` must be the whole payload. Pings do not count as requests for `swap`,
nor does a request that is `late`. A ping's answer repeats its payload; a one-way frame is checked, not answered.

What a client must not send is printed to stderr as `VIOLATION: ...`; the dialect's error reply `SRV-E-400 ...`
is sent and the connection is closed. This is stricter than a server has to be: frames that only servers send,
reserved or pad bytes other than 0, and requests that are not UTF-8 are violations too. In session the same id
twice in flight is one; heartbeats take no part in that.
"""
import argparse
import contextlib
import dataclasses
import heapq
import itertools
import os
import re
import socket
import struct
import sys
import threading
import time

LIMIT = 1 << 20             # the largest payload where the length field has 32 bits
LINE_LIMIT = 64 << 10       # the largest line, without its end
LINGER = 0.3                # how long input is still read after a close, so that no reset eats the last answer
CHUNKS = os.environ.get("DIALECT_SERVER_CHUNKS") == "1"
REQUEST, PING, ONE_WAY = "request", "ping", "one-way"
CRCS = {  # name: (polynomial, mirrored if the CRC is reflected), initial value, reflected, CRC of "123456789"
    "IBM-3740": (0x1021, 0xFFFF, False, 0x29B1), "XMODEM": (0x1021, 0x0000, False, 0x31C3),
    "KERMIT": (0x8408, 0x0000, True, 0x2189), "MODBUS": (0xA001, 0xFFFF, True, 0x4B37),
    "ARC": (0xA001, 0x0000, True, 0xBB3D)}


@dataclasses.dataclass
class Frame:
    kind: int = 1           # the command, cmd, opcode or type
    id: int = 0
    priority: int = 0
    role: str = REQUEST
    payload: bytes = b""


class Violation(Exception):
    """The client broke the protocol; the frame, as far as it could be read, is what the error reply answers."""

    def __init__(self, text, frame=None):
        super().__init__(text)
        self.frame = frame or Frame()


class Crc:
    def __init__(self, name):
        poly, self.start, self.reflected, known = CRCS[name]
        self.table = [self.one(byte, poly) for byte in range(256)]
        assert self(b"123456789") == known, name

    def one(self, byte, poly):
        if self.reflected:
            for _ in range(8):
                byte = byte >> 1 ^ (poly if byte & 1 else 0)
            return byte
        byte <<= 8
        for _ in range(8):
            byte = (byte << 1 ^ (poly if byte & 0x8000 else 0)) & 0xFFFF
        return byte

    def __call__(self, data):
        crc, table = self.start, self.table
        if self.reflected:
            for byte in data:
                crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
        else:
            for byte in data:
                crc = (crc << 8 & 0xFFFF) ^ table[crc >> 8 ^ byte]
        return crc


class Dialect:
    """A dialect with a header of fixed size. The rest is what most of them have in common."""
    layout, names = "", ()          # the header's struct format and fields
    magic = b""
    pad = after = 0                 # bytes between the fields and the payload, and after the payload
    largest = LIMIT                 # the largest payload
    has_ids = unique_ids = False    # answers may overtake each other; an id must not be in flight twice
    roles = {}                      # the kinds a client may send
    others = ()                     # the kinds only a server sends
    response, pong, error_kind = 2, 4, 5

    def __init__(self):
        self.head = struct.Struct(self.layout)

    def pack(self, kind, frame, payload, priority=None):
        values = {"magic": self.magic, "version": 1, "kind": kind, "id": frame.id, "length": len(payload),
                  "priority": (frame.priority if frame.priority <= 7 else 0) if priority is None else priority}
        return self.head.pack(*(values[n] for n in self.names)) + bytes(self.pad) + payload

    def role(self, frame, length):
        return self.roles.get(frame.kind)

    def take(self, buf):
        """(frame, bytes used), or None while the frame is incomplete; raises Violation."""
        known = min(len(buf), len(self.magic))
        if buf[:known] != self.magic[:known]:
            raise Violation(f"wrong magic {buf[:known].hex(' ')}")
        if len(buf) < self.head.size + self.pad:
            return None
        start = self.head.size + self.pad
        fields = dict(zip(self.names, self.head.unpack_from(buf)))
        version, length = fields.get("version", 1), fields["length"]
        frame = Frame(fields["kind"], fields.get("id", 0), fields.get("priority", 0))
        frame.role = self.role(frame, length)
        if version != 1:
            raise Violation(f"wrong version {version}", frame)
        if frame.role is None:
            whose = "that only a server sends" if frame.kind in self.others else "that does not exist"
            raise Violation(f"a type {whose}: 0x{frame.kind:02x}", frame)
        if frame.priority > 7:
            raise Violation(f"wrong priority {frame.priority}", frame)
        if length > self.largest:
            raise Violation(f"length {length} is over {self.largest}", frame)
        if any(buf[self.head.size:start]):
            raise Violation("a reserved or pad byte is not 0", frame)
        end = start + length
        if len(buf) < end + self.after:
            return None
        self.check_end(buf, end, frame)
        frame.payload = bytes(buf[start:end])
        return frame, end + self.after

    def check_end(self, buf, end, frame):
        pass

    def echo(self, frame):          # response or pong None: the request's kind is repeated
        return self.pack(frame.kind if self.response is None else self.response, frame, frame.payload)

    def answer_ping(self, frame):
        return self.pack(frame.kind if self.pong is None else self.pong, frame, frame.payload)

    def error(self, frame, text):
        payload = text.encode()[:self.largest].decode(errors="ignore").encode()     # no half character at the cut
        return self.pack(self.error_kind, frame, payload)


class Session(Dialect):
    layout, names, after = ">BIH", ("kind", "id", "length"), 2
    largest, has_ids, unique_ids = 0xFFFF, True, True
    others, response, pong, error_kind = (0xFF,), None, None, 0xFF

    def __init__(self, crc):
        super().__init__()
        self.crc = Crc(crc)

    def role(self, frame, length):
        if frame.kind == 0xFF:
            return None
        return PING if frame.kind == 0 and length == 0 else REQUEST

    def check_end(self, buf, end, frame):
        want, got = self.crc(buf[:end]), buf[end] << 8 | buf[end + 1]
        if want != got:
            raise Violation(f"wrong checksum {got:04x}, not {want:04x}", frame)

    def pack(self, kind, frame, payload):
        body = super().pack(kind, frame, payload)
        return body + self.crc(body).to_bytes(2, "big")

    def junk(self, frame):
        good = self.echo(frame)
        return good[:-1] + bytes([good[-1] ^ 1])        # the checksum


class Sequence(Dialect):
    layout, names = ">2sBBII", ("magic", "version", "kind", "length", "id")
    magic, has_ids = b"\xab\xcd", True
    roles, others = {1: REQUEST, 3: PING, 6: ONE_WAY}, (2, 4, 5)

    def junk(self, frame):
        return b"\xab\xce" + self.echo(frame)[2:]       # the magic


class Opcode(Dialect):
    layout, names = ">4sBBH", ("magic", "version", "kind", "length")
    magic, largest = b"\x4d\x43\x50\x01", 0xFFFF
    others, response, pong, error_kind = (0xFF,), None, None, 0xFF

    def role(self, frame, length):
        return {0x00: PING, 0xFF: None}.get(frame.kind, REQUEST)

    def junk(self, frame):
        good = self.echo(frame)
        return good[:4] + b"\2" + good[5:]              # the version


class Priority(Dialect):
    layout, names, has_ids = ">BBHIB", ("version", "kind", "id", "length", "priority"), True
    roles, others, pong, error_kind = {1: REQUEST, 3: PING}, (2, 4), 3, 4

    def __init__(self, header):
        super().__init__()
        self.pad = header - self.head.size

    def junk(self, frame):
        return self.pack(self.response, frame, frame.payload, priority=9)


class Compact(Dialect):
    layout, names, magic = ">2sBBI", ("magic", "version", "kind", "length"), b"\x4d\x43"
    roles, others = {1: REQUEST, 3: PING}, (2, 4, 5)

    def junk(self, frame):
        return self.pack(9, frame, frame.payload)       # the type


class Line(Dialect):
    def take(self, buf):
        at = buf.find(b"\n")
        line = bytes(buf if at < 0 else buf[:at]).removesuffix(b"\r")
        if len(line) > LINE_LIMIT:
            raise Violation(f"the length of a line is over {LINE_LIMIT}")
        return None if at < 0 else (Frame(role=PING if line == b"PING" else REQUEST, payload=line), at + 1)

    def echo(self, frame):
        return b"ACK: " + frame.payload + b"\n"

    def answer_ping(self, frame):
        return b"PONG\n"

    def error(self, frame, text):
        return f"ERR: {text}\n".encode()

    def junk(self, frame):
        return b"nonsense\n"


@dataclasses.dataclass
class Job:
    """Something to write: the answers to one request, or what comes before a close."""
    data: bytes
    id: int | None = None           # free again when the answer is written
    close: bool = False
    then: "Job | None" = None       # held back until this one is written


class Connection:
    """One thread reads and checks, another writes what is due; a FIFO job is never due before its predecessor."""

    def __init__(self, dialect, sock, peer):
        self.dialect, self.sock, self.peer = dialect, sock, f"{peer[0]}:{peer[1]}"
        self.wake = threading.Condition()       # guards all that follows
        self.jobs, self.counter, self.last_due = [], itertools.count(), 0.0
        self.in_flight, self.held = set(), None
        self.ended = self.closing = False       # no more input; no more output
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def serve(self):
        writer = threading.Thread(target=self.write, daemon=True)
        writer.start()
        with contextlib.suppress(OSError):
            self.read()
        with self.wake:
            self.ended = True
            self.wake.notify()
        writer.join()
        self.sock.close()

    # --- reading

    def read(self):
        buf, offset = bytearray(), 0            # offset: where in the stream buf begins
        try:
            while data := self.sock.recv(1 << 18):
                if self.closing:
                    continue                    # until the client closes, or LINGER is over
                buf += data
                while buf and not self.closing and (found := self.dialect.take(buf)):
                    self.handle(found[0])
                    del buf[:found[1]]
                    offset += found[1]
            if buf and not self.closing:
                raise Violation(f"truncated frame at the end of the stream: {bytes(buf[:32]).hex(' ')}")
        except Violation as e:
            print(f"VIOLATION: {type(self.dialect).__name__.lower()} {self.peer} frame at offset {offset}: {e}",
                  file=sys.stderr, flush=True)
            self.push(Job(self.dialect.error(e.frame, f"SRV-E-400 {e}"), close=True), at_once=True)
            while self.sock.recv(1 << 18):
                pass

    def handle(self, frame):
        dialect = self.dialect
        if frame.role == PING:
            return self.push(Job(dialect.answer_ping(frame)))
        try:
            text = frame.payload.decode()
        except UnicodeDecodeError as e:
            raise Violation(f"the payload is not UTF-8: {e.reason} at byte {e.start}", frame) from None
        if frame.role == ONE_WAY:
            return None
        if dialect.unique_ids:
            with self.wake:
                if frame.id in self.in_flight:
                    raise Violation(f"id {frame.id} is already in flight", frame)
                self.in_flight.add(frame.id)
        if text == "close":
            return self.push(Job(b"", close=True))
        if text == "junk":
            return self.push(Job(dialect.junk(frame), close=True))
        if text == "late" and dialect.has_ids:
            return None
        data, wait = dialect.echo(frame), 0.0
        if text.startswith("fail "):
            data = dialect.error(frame, "APP-E-042 " + text[5:])
        elif slow := re.match(r"slow ([0-9]{1,6})(?: |\Z)", text):
            wait = int(slow[1]) / 1000
        elif text == "late":
            wait = 0.3
        elif text == "twice" and dialect.has_ids:
            data *= 2
        job, self.held = Job(data, frame.id, then=self.held), None
        if text == "swap" and dialect.has_ids:
            self.held = job
            return None
        return self.push(job, wait)

    # --- writing

    def push(self, job, wait=0.0, at_once=False):
        with self.wake:
            due = time.monotonic() + wait
            if not self.dialect.has_ids and not at_once:
                due = self.last_due = max(due, self.last_due)
            heapq.heappush(self.jobs, (due, next(self.counter), job))
            self.wake.notify()

    def next_job(self):
        """The next job when it is due; None when no more can come."""
        with self.wake:
            while True:
                rest = self.jobs[0][0] - time.monotonic() if self.jobs else None
                if rest is not None and rest <= 0:
                    return heapq.heappop(self.jobs)[2]
                if rest is None and self.ended:
                    return None
                self.wake.wait(rest)

    def write(self):
        with contextlib.suppress(OSError):
            while (job := self.next_job()) and not job.close:
                while job:
                    self.send(job)
                    job = job.then
            self.closing = True
            if job:
                self.send(job)
                self.sock.shutdown(socket.SHUT_WR)
                time.sleep(LINGER)
        self.closing = True
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)        # this also ends a recv that is waiting

    def send(self, job):
        with self.wake:
            self.in_flight.discard(job.id)      # before the bytes leave: who has read them may use the id again
        if not CHUNKS:
            return self.sock.sendall(job.data)
        for i in range(len(job.data)):
            self.sock.sendall(job.data[i:i + 1])


def main():
    classes = {c.__name__.lower(): c for c in (Session, Sequence, Opcode, Priority, Compact, Line)}
    parser = argparse.ArgumentParser(description="Serve one dialect and check what the client sends.")
    parser.add_argument("dialect", choices=list(classes))
    parser.add_argument("--crc", default="IBM-3740", choices=list(CRCS), type=str.upper)
    parser.add_argument("--header", type=int, default=10, choices=(9, 10, 12))
    args = parser.parse_args()
    options = {"session": [args.crc], "priority": [args.header]}.get(args.dialect, [])
    dialect = classes[args.dialect](*options)
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener, contextlib.suppress(KeyboardInterrupt):
        print(f"listening 127.0.0.1:{listener.getsockname()[1]}", flush=True)
        while True:
            sock, peer = listener.accept()
            threading.Thread(target=Connection(dialect, sock, peer).serve, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
