#!/usr/bin/env python3
"""Envelopes with metadata, a deadline and a trace: test vectors, and a peer that asks a server.

Written from the section on envelopes of docs/dialects.md alone; it shares no code with the library, so that an
error in one of the two does not hide in the other. Standard library only, Protobuf included.

    envelope_vectors.py                                print the vectors as JSON
    envelope_vectors.py --check FILE                   exit 1 if FILE differs from what would be printed
    envelope_vectors.py --ask ENVELOPE HOST:PORT       call a server of the dialect sequence that has practice
                                                       routes and this envelope; exit 1 if it answers wrongly

A vector has "hex", the payload of a request, and either what a server must find in it ("route", "metadata" without
the keys that have a meaning, "timeout_ms", "trace", "payload") or "error", the code of the error reply. If "canonical"
is true, the same values encode to the same bytes: keys are in the order of their bytes, and there is nothing that
could be left out.
"""
import argparse
import json
import socket
import struct
import sys

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
vectors = []


def varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def text_field(number, text):
    """A field of wire type 2; one that is empty is left out, as proto3 does."""
    data = text.encode() if isinstance(text, str) else text
    return varint(number << 3 | 2) + varint(len(data)) + data if data else b""


def protobuf(route, metadata, payload, version="1"):
    entries = (text_field(1, key) + text_field(2, value) for key, value in metadata)
    # An entry is written even if key and value are empty.
    entries = (varint(3 << 3 | 2) + varint(len(entry)) + entry for entry in entries)
    header = text_field(1, version) + text_field(2, route) + b"".join(entries)
    return varint(len(header)) + header + payload


def compact_json(value):
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def envelope_json(route, metadata, payload, name="topic"):
    whole = {name: route}
    if metadata:
        whole["metadata"] = dict(metadata)
    # The payload is JSON already.
    head = compact_json(whole)
    return head[:-1] + b',"data":' + payload + b"}"


def add(name, envelope, wire, **rest):
    vectors.append({"name": name, "envelope": envelope, "hex": wire.hex()} | rest)


def good(name, metadata, *, timeout=None, trace=None, canonical=True, route="orders/place", payload=b'{"item":7}'):
    own = {key: value for key, value in metadata if key not in ("timeout_ms", "traceparent")}
    said = {"route": route, "metadata": own, "timeout_ms": timeout, "trace": trace, "payload": payload.hex(),
            "canonical": canonical}
    add(f"json, {name}", "json", envelope_json(route, metadata, payload), **said)
    add(f"protobuf, {name}", "protobuf", protobuf(route, metadata, payload), **said)


def make():
    good("nothing said", [])
    good("a key", [("tenant", "acme")])
    good("keys in order", [("region", "eu"), ("tenant", "acme")])
    good("a value that is empty", [("tenant", "")])
    good("text beyond ASCII", [("name", "Zoë"), ("städte", "Köln, 東京")])
    good("a deadline", [("timeout_ms", "1500")], timeout=1500)
    good("the longest deadline", [("timeout_ms", "4294967295")], timeout=4294967295)
    good("the shortest deadline", [("timeout_ms", "1")], timeout=1)
    good("a trace", [("traceparent", TRACEPARENT)], trace=TRACE)
    good("a trace that cannot be read", [("traceparent", "00-abc")], canonical=False)
    good("everything", [("tenant", "acme"), ("timeout_ms", "250"), ("traceparent", TRACEPARENT)], timeout=250,
         trace=TRACE)
    good("keys in another order", [("timeout_ms", "250"), ("tenant", "acme")], timeout=250, canonical=False)
    good("as many keys as there may be", [(f"key {n:02}", str(n)) for n in range(64)])
    said = {"route": "a/b", "metadata": {"tenant": "acme"}, "timeout_ms": None, "trace": None, "canonical": False}
    spaced = b'{ "metadata" : { "tenant" : "ac\\u006de" } , "topic":"a/b" }'
    add("json, spaces, escapes and no data", "json", spaced, payload=b"null".hex(), **said)
    add("protobuf, no version and no body", "protobuf", protobuf("a/b", [("tenant", "acme")], b"", version=""),
        payload="", **said)
    unknown = text_field(9, "later") + text_field(2, "a/b") + varint(3 << 3 | 2) + b"\x0e" + \
        text_field(2, "acme") + text_field(1, "tenant")
    add("protobuf, an unknown field and an entry whose value comes first", "protobuf",
        varint(len(unknown)) + unknown + b"x", payload=b"x".hex(), **said)

    for value in ("0", "-1", "soon", "1.5", "", "4294967296"):
        metadata = [("timeout_ms", value)]
        add(f"json, timeout_ms {value!r}", "json", envelope_json("a", metadata, b"1"), error="SRV-E-400")
        add(f"protobuf, timeout_ms {value!r}", "protobuf", protobuf("a", metadata, b"1"), error="SRV-E-400")
    many = [(f"key {n:02}", "") for n in range(65)]
    add("json, a key too many", "json", envelope_json("a", many, b"1"), error="SRV-E-400")
    add("protobuf, a key too many", "protobuf", protobuf("a", many, b"1"), error="SRV-E-400")
    for name, text in (("a number as a value", '{"topic":"a","metadata":{"n":1},"data":1}'),
                       ("metadata that is no map", '{"topic":"a","metadata":"tenant","data":1}'),
                       ("metadata under another name", '{"topic":"a","meta":{},"data":1}')):
        add(f"json, {name}", "json", text.encode(), error="SRV-E-400")
    whole = protobuf("a", [("tenant", "acme")], b"")
    add("protobuf, a header that is cut", "protobuf", whole[:-1], error="SRV-E-400")
    add("protobuf, an entry that is no text", "protobuf", b"\x04\x1a\x02\x0a\xff", error="SRV-E-400")


# --- asking a server

def frame(number, payload):
    """A request of the dialect sequence."""
    return struct.pack(">2sBBII", b"\xab\xcd", 1, 1, len(payload), number) + payload


def exact(sock, size):
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        if not piece:
            raise ConnectionError(f"the server hung up after {data!r}")
        data += piece
    return data


def ask(envelope, address):
    """Each question is asked alone; the number of wrong answers."""
    host, port = address.rsplit(":", 1)
    wrap = {"json": envelope_json, "protobuf": protobuf}[envelope]
    said = [("tenant", "acme"), ("timeout_ms", "5000"), ("traceparent", TRACEPARENT)]
    questions = [
        ("postroad/echo", said, b"[1,2]", 2, b"[1,2]"),
        ("practice/sleep", [("timeout_ms", "50")], b'{"ms":60000}', 5, b"SRV-E-504"),
        ("practice/sleep", [("timeout_ms", "5000")], b'{"ms":1}', 2, None),
        ("postroad/echo", [("timeout_ms", "soon")], b"1", 5, b"SRV-E-400"),
        ("postroad/echo", [("traceparent", "nonsense")], b"1", 2, b"1"),
        ("no/route", said, b"1", 5, b"SRV-E-404"),
    ]
    wrong = 0
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        for number, (route, metadata, payload, kind, text) in enumerate(questions, 1):
            sock.sendall(frame(number, wrap(route, metadata, payload)))
            magic, version, got, length, echoed = struct.unpack(">2sBBII", exact(sock, 12))
            answer = exact(sock, length)
            is_right = (magic, version, got, echoed) == (b"\xab\xcd", 1, kind, number)
            if not is_right or text is not None and not answer.startswith(text):
                print(f"{route} {metadata}: expected type {kind}, {text!r}, got type {got}, {answer!r}")
                wrong += 1
    return wrong


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", metavar="FILE")
    parser.add_argument("--ask", nargs=2, metavar=("ENVELOPE", "HOST:PORT"))
    args = parser.parse_args()
    if args.ask:
        return 1 if ask(*args.ask) else 0
    make()
    note = "Envelopes. Made from docs/dialects.md by tests/peers/envelope_vectors.py; do not edit."
    lines = ",\n".join("  " + json.dumps(vector) for vector in vectors)
    text = f'{{\n "note": {json.dumps(note)},\n "vectors": [\n{lines}\n ]\n}}\n'
    if args.check:
        with open(args.check, encoding="utf-8") as file:
            if file.read() != text:
                print(f"{args.check} is not what this program writes")
                return 1
        return 0
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
