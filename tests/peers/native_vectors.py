#!/usr/bin/env python3
"""Test vectors for the native protocol, version 1.

Written from docs/protocol.md alone; it shares no code with the library, so that an error in one of
the two does not hide in the other. Needs Python 3.11 and its standard library.

    native_vectors.py                  print the vectors as JSON
    native_vectors.py --check FILE     exit 1 if FILE differs from what would be printed

A vector has "hex", the complete bytes on the wire, and either "fields", what a decoder must find in
them, or "error", why it must not accept them. A malformed vector has exactly one thing wrong: its
checksum is right unless the error is "checksum". "checksum" (frames only) says whether that feature
was agreed, hence whether the frame ends with a CRC32C.

How the page was read where it leaves a choice:
  * The parts of an opening fill the rest of its body; the u16 count of section 3 belongs to the
    PARTS flag, which only frames have.
  * A frame or opening with an unknown critical part decodes; refusing it (M-031) is for the layer
    above. Tags are given as on the wire, bit 7 included.
  * Invalid UTF-8 inside an otherwise well-formed ERROR body is "utf-8", not "error body".
  * An opening whose body is shorter than its fixed fields has a wrong "length" (M-003).
"""

import argparse
import json
import struct
import sys
from itertools import zip_longest

MAGIC = bytes.fromhex("F7505244")
HELLO, WELCOME, REFUSE = 1, 2, 3
KINDS = dict(REQUEST=0x10, RESPONSE=0x11, ERROR=0x12, ONEWAY=0x13, PUBLISH=0x14, DATA=0x15, ACK=0x16,
             CANCEL=0x17, CREDIT=0x18, ROUTE=0x20, PING=0x21, PONG=0x22, GOAWAY=0x23, GAP=0x24, FAULT=0x2F)
NO_LIMIT = 0xFFFFFFFF
MESSAGE = 0x80000000                          # bit 31 of a message id
LONG = bytes(i * 7 & 0xFF for i in range(200))
TRACE = bytes(range(0x10, 0x20)) + bytes(range(0xA0, 0xA8)) + b"\x01"

vectors = []

def crc32c(data):
    """CRC-32C (Castagnoli), bit by bit, reflected."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF

def u16(n): return struct.pack("<H", n)
def u32(n): return struct.pack("<I", n)
def u64(n): return struct.pack("<Q", n)

def add(name, kind, wire, *, checksum=None, **rest):
    known = {} if checksum is None else {"checksum": checksum}
    vectors.append({"name": name, "kind": kind} | known | {"hex": wire.hex()} | rest)

def encode_parts(parts):
    return b"".join(bytes([tag]) + u16(len(value)) + value for tag, value in parts)

def list_parts(parts):
    return [[tag, value.hex()] for tag, value in parts]

# Openings

def opening(kind, body, magic=MAGIC, reserved=0, crc_flip=0):
    wire = magic + bytes([kind, reserved]) + u16(len(body)) + body
    return wire + u32(crc32c(wire) ^ crc_flip)

def hello_body(f, parts=()):
    return struct.pack("<HHIIIIIIHH", *f.values(), 0) + encode_parts(parts)

def hello(name, parts=(), reserved=0, **given):
    f = HELLO_FIELDS | given
    add(name, "opening", opening(HELLO, hello_body(f, parts), reserved=reserved),
        fields={"type": "hello"} | f | {"parts": list_parts(parts)})

def welcome(name, parts=(), **given):
    f = WELCOME_FIELDS | given
    version, *numbers, session_id, epoch = f.values()
    body = struct.pack("<HHIIIIIHH", version, 0, *numbers, 0) + bytes.fromhex(session_id) + u32(epoch)
    add(name, "opening", opening(WELCOME, body + encode_parts(parts)),
        fields={"type": "welcome"} | f | {"parts": list_parts(parts)})

def refuse(name, reason, text="", retry=0, after=0, features=0, versions=(1, 1)):
    body = struct.pack("<HHHBBII", *versions, reason, retry, 0, after, features) + text.encode()
    add(name, "opening", opening(REFUSE, body), fields={
        "type": "refuse", "version_min": versions[0], "version_max": versions[1], "reason": reason, "retry": retry,
        "retry_after_ms": after, "features": features, "text": text})

# In the order of the page's tables; the fields are packed in this order.
HELLO_FIELDS = dict(version_min=1, version_max=1, offered=0x01, required=0, max_frame=65536, max_message=4194304,
                    max_calls=1024, heartbeat_ms=10000, max_routes=256)
WELCOME_FIELDS = dict(version=1, features=0x01, max_frame=32768, max_message=1048576, max_calls=512,
                      heartbeat_ms=15000, max_routes=128, session_id=bytes(range(16)).hex(), epoch=1)

def openings():
    token = bytes(range(0xC0, 0xE0))
    resume = bytes(range(16)) + u32(2) + u64(0x0102030405060708) + token
    hello("hello plain")
    hello("hello distinct fields", version_min=0x0102, version_max=0x0304, offered=0xF1E2D3C4, required=0x80420084,
          max_frame=0xABCDEF, max_message=0x11223344, max_calls=0xFEDC, heartbeat_ms=0x55667788, max_routes=0x99AA)
    hello("hello smallest", offered=0, max_frame=1024, max_message=0, max_calls=0, heartbeat_ms=0, max_routes=0)
    hello("hello largest", version_max=65535, offered=NO_LIMIT, required=NO_LIMIT, max_frame=16777215,
          max_message=NO_LIMIT, max_calls=65536, heartbeat_ms=NO_LIMIT, max_routes=65535)
    hello("hello parts 1 to 4", [(1, "postroad-test/1.0 \u00fc".encode()), (2, b"\x00secret\xff"), (3, b"mail.example"),
                                 (4, resume)], offered=0x09)
    hello("hello unknown skippable part", [(0x7E, b"skip me"), (1, b"agent")])
    hello("hello unknown critical part", [(1, b"agent"), (0xFE, b"do not skip me")])
    hello("hello reserved byte ignored", reserved=0xA5)
    hello("hello longest body", [(2, b"c" * (4096 - 32 - 3))])
    welcome("welcome plain")
    welcome("welcome distinct fields", version=0x0304, features=0x0A0B0C0D, max_frame=0x123456, max_message=0x789ABCDE,
            max_calls=0x4321, heartbeat_ms=0x0F1E2D3C, max_routes=0x4B5A, session_id=token[:16].hex(), epoch=0xDEADBEEF)
    welcome("welcome parts 1, 5 and 6", [(1, b"postroad/1"), (5, token), (6, u64(4096))], features=0x09, epoch=2)
    welcome("welcome empty and unknown parts", [(5, b""), (0x40, b""), (0x40, b"again")])
    refuse("refuse version", 1, "I speak 2 to 4", versions=(2, 4))
    refuse("refuse features", 2, "checksum and resume are required", features=0x09)
    refuse("refuse capacity", 3, "full", retry=2, after=1500)
    refuse("refuse malformed without text", 4)
    refuse("refuse draining", 5, "d\u00e9j\u00e0 ferm\u00e9 \u2014 \U0001F6A7", retry=1, after=NO_LIMIT)
    refuse("refuse resume failed", 7, "session expired", retry=1)

    body = hello_body(HELLO_FIELDS)
    for name, error, wire in [
        ("magic last byte", "magic", opening(HELLO, body, magic=bytes.fromhex("F7505245"))),
        ("kind 9", "kind", opening(9, body)),
        ("length 5000", "length", opening(HELLO, body + encode_parts([(2, bytes(5000 - 32 - 3))]))),
        ("hello of 31 bytes", "length", opening(HELLO, body[:31])),
        ("checksum itself changed", "checksum", opening(HELLO, body, crc_flip=0x00010000)),
        ("part overruns the body", "parts", opening(HELLO, body + b"\x01" + u16(6) + b"agent")),
    ]:
        add("bad opening: " + name, "opening", wire, error=error)
    damaged = bytearray(opening(HELLO, body))
    damaged[8 + 12] ^= 0x04
    add("bad opening: body changed", "opening", bytes(damaged), error="checksum")

# Frames

def frame_wire(kind, body, class_=0, form=0, route=0, id_=0, arg=0, checksum=True, crc_flip=0):
    wire = struct.pack("<I", len(body) | kind << 24) + struct.pack("<BBHII", class_, form, route, id_, arg) + body
    return wire + (u32(crc32c(wire) ^ crc_flip) if checksum else b"")

def frame(name, kind, payload=b"", route=0, id_=0, arg=0, *, priority=4, qos=0, more=False, parts=None, codec=0,
          attempt=0, no_retry=False, causes=None, retry=0, checksum=True):
    """A valid frame; parts None leaves PARTS clear, an empty list sets it with a count of 0."""
    kind = KINDS.get(kind, kind)
    if causes is not None:
        payload = error_body(retry, causes)
    area = encode_parts(parts or ())
    body = payload if parts is None else u16(len(area)) + area + payload
    wire = frame_wire(kind, body, priority | qos << 3 | more << 5 | (parts is not None) << 6,
                      codec | attempt << 4 | no_retry << 7, route, id_, arg, checksum)
    fields = dict(kind=kind, priority=priority, qos=qos, more=more, has_parts=parts is not None, codec=codec,
                  attempt=attempt, no_retry=no_retry, route=route, id=id_, arg=arg, parts=list_parts(parts or ()),
                  payload=payload.hex())
    if causes is not None:
        fields["error_body"] = {"retry": retry, "causes": causes}
    add(name, "frame", wire, checksum=checksum, fields=fields)

def error_body(retry, causes):
    body = bytes([retry, len(causes)])
    for code, message in causes:
        code, message = code.encode(), message.encode()
        body += bytes([len(code)]) + code + u16(len(message)) + message
    return body

def frames():
    call, message = 0x12340007, MESSAGE | 0x00ABCDEF
    for checksum in (True, False):
        ending = "with checksum" if checksum else "without checksum"
        def each(kind, *args, **given):
            frame(f"{kind.lower()} {ending}", kind, *args, checksum=checksum, **given)
        each("REQUEST", b'{"a":1}', 0x0102, call, 0x000F4240, codec=1)
        each("RESPONSE", b"\x93\x01\x02\x03", 0, call, 1234, codec=2)
        each("ERROR", b"", 0, call, 250, retry=1, causes=[("SRV-E-429", "too many calls")])
        each("ONEWAY", b"\x08\x96\x01", 3, message, 5000000, codec=3)
        each("PUBLISH", b"news", 0xFFFF, message, NO_LIMIT)
        each("DATA", b"a last fragment", 0, call, 1)
        each("ACK", u64(0x1122334455667788), 2)
        each("CANCEL", b"", 0, call, 2)
        each("CREDIT", b"", 0, call, 65536)
        each("ROUTE", "orders/\u00fcbersicht".encode(), 0, 1, 0)
        each("PING", u64(1700000000123456789), 0, 0xFFFFFFFE, 0, priority=7)
        each("PONG", u64(1700000000123456789), 0, 0xFFFFFFFE, 0, priority=7)
        each("GOAWAY", b"\x02restart", 1, 1, 30000, priority=7)
        each("GAP", u64(17) + u64(0x100000000), 5, 0, 3)
        each("FAULT", u64(4242) + b"NET-E-011 wrong checksum", 0, 1, 0, priority=7)
        frame(f"skipped kind 0x95 {ending}", 0x95, b"to be skipped", 9, 8, 7, checksum=checksum)
    frame("skipped kind 0xFF empty", 0xFF)

    codecs = (0, 1, 2, 3, 4, 5, 8, 15)
    for n in range(8):
        frame(f"priority {n}, attempt {n}, codec {codecs[n]}", "REQUEST", b"p", 1, n, NO_LIMIT, priority=n, attempt=n,
              codec=codecs[n], checksum=n % 2 == 0)
    for qos in (1, 2):
        frame(f"qos {qos}", "PUBLISH", b"q", 2, message, NO_LIMIT, qos=qos, parts=[(6, u64(41))])
    frame("no-retry", "REQUEST", b"once", 1, call, 1, no_retry=True)
    frame("every flag", "ONEWAY", b"f" * 16, 0xFEDC, NO_LIMIT, 0x89ABCDEF, priority=7, qos=2, more=True, codec=15,
          attempt=7, no_retry=True, parts=[(4, u32(65536)), (6, u64((1 << 64) - 1))])
    frame("all zero but the kind", "RESPONSE", priority=0, checksum=False)
    frame("200 bytes", "REQUEST", LONG, 1, call, NO_LIMIT)
    frame("200 bytes after parts", "RESPONSE", LONG, 0, call, 99, parts=[(2, TRACE)], checksum=False)
    frame("first fragment", "REQUEST", LONG[:64], 1, call, NO_LIMIT, more=True, parts=[(4, u32(200))])

    every = [(1, b"orders/create"), (2, TRACE), (3, b"\x04userann\xff"), (4, u32(0x01020304)), (5, bytes(range(64))),
             (6, u64(0x0102030405060708))]
    for tag, value in every:
        frame(f"part {tag}", "ONEWAY", b"x", 0 if tag == 1 else 1, message, NO_LIMIT, parts=[(tag, value)],
              more=tag == 4, qos=int(tag == 6))
    frame("every part", "ONEWAY", b"body", 0, message, NO_LIMIT, qos=1, more=True, parts=every)
    frame("metadata twice", "REQUEST", b"", 1, call, 5, parts=[(3, b"\x01k\x00"), (3, b"\x02k2")], checksum=False)
    frame("parts of no bytes", "REQUEST", b"after", 1, call, 5, parts=[])
    frame("part without value", "REQUEST", b"after", 1, call, 5, parts=[(5, b"")])
    frame("known part marked critical", "REQUEST", b"", 1, call, 5, parts=[(0x85, b"key")])
    frame("unknown skippable part", "REQUEST", b"y", 1, call, 5, parts=[(0x7F, b"skip"), (2, TRACE)])
    frame("unknown critical part", "REQUEST", b"z", 1, call, 5, parts=[(2, TRACE), (0xFF, b"halt")])

    frame("error with parts and two causes", "ERROR", b"", 0, call, retry=3, parts=[(2, TRACE), (3, b"\x01ab")],
          causes=[("SVC-E-001", "order failed"), ("DBX-E-077", "Verbindung verloren \u2014 \u6570")])
    frame("error with 16 causes", "ERROR", b"", 0, call, retry=2, causes=[(f"AB-E-{n:03}", "m" * n) for n in range(16)],
          checksum=False)

def malformed_frames():
    good = error_body(1, [("SRV-E-429", "busy"), ("OS-E-11", "again")])

    def bad(name, error, kind, body, **given):
        add("bad frame: " + name, "frame", frame_wire(KINDS.get(kind, kind), body, id_=5, **given),
            checksum=given.get("checksum", True), error=error)

    bad("checksum itself changed", "checksum", "RESPONSE", b"payload", crc_flip=0x80000000)
    damaged = bytearray(frame_wire(KINDS["RESPONSE"], b"payload"))
    damaged[18] ^= 0x01
    add("bad frame: payload changed", "frame", bytes(damaged), checksum=True, error="checksum")
    bad("reserved class bit", "reserved", "RESPONSE", b"payload", class_=0x84)
    bad("qos 3, no checksum", "qos", "RESPONSE", b"payload", class_=0x18, checksum=False)
    bad("unknown kind 0x30", "kind", 0x30, b"payload")
    bad("unknown kind 0x00, no checksum", "kind", 0x00, b"", checksum=False)
    one = encode_parts([(5, b"key")])
    for name, body in [("no room for the count", b"\x00"), ("count beyond the body", u16(len(one) + 1) + one),
                       ("part beyond the count", u16(len(one)) + b"\x05" + u16(4) + b"key" + b"payload"),
                       ("cut part head", u16(len(one) + 2) + one + b"\x05\x00" + b"payload")]:
        bad("parts, " + name, "parts", "RESPONSE", body, class_=0x44, checksum=name != "count beyond the body")
    for name, body in [("empty", b""), ("cut in a code", good[:6]), ("cut in a message", good[:16]),
                       ("second cause missing", good[:18]), ("cause count 0", b"\x00\x00"),
                       ("cause count 17", error_body(0, [("AB-E-001", "m")] * 17))]:
        bad("error body, " + name, "error body", "ERROR", body, checksum=name != "cut in a message")
    bad("error message not UTF-8", "utf-8", "ERROR", b"\x00\x01\x08AB-E-001" + u16(3) + b"a\xffb")
    bad("route name not UTF-8", "utf-8", "ROUTE", b"orders/\xfc")

def generate():
    assert crc32c(b"123456789") == 0xE3069283
    openings()
    frames()
    malformed_frames()
    assert len({v["name"] for v in vectors}) == len(vectors)
    note = "Native protocol, version 1. Made from docs/protocol.md by tests/peers/native_vectors.py; do not edit."
    lines = ",\n".join("  " + json.dumps(v) for v in vectors)
    return f'{{\n "note": {json.dumps(note)},\n "vectors": [\n{lines}\n ]\n}}\n'

def main():
    parser = argparse.ArgumentParser(description="Test vectors for the native protocol, version 1.")
    parser.add_argument("--check", metavar="FILE", help="compare FILE with the vectors instead of printing them")
    file = parser.parse_args().check
    text = generate()
    if file is None:
        sys.stdout.write(text)
        return 0
    with open(file, encoding="utf-8", errors="replace", newline="") as stored:
        found = stored.read()
    if found == text:
        return 0
    pairs = zip_longest(text.split("\n"), found.split("\n"))
    n, want = next((n, want) for n, (want, got) in enumerate(pairs, 1) if want != got)
    print(f"{file}:{n} differs; generated: {(want or 'nothing')[:120]}", file=sys.stderr)
    return 1

if __name__ == "__main__":
    sys.exit(main())
