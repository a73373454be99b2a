#!/usr/bin/env python3
"""Reads the test vectors with nothing but Python's standard library.

A second implementation of what docs/PROTOCOL.md says of framing, ids, statements, addresses and
codes: if this file and the Rust code agree, a stranger can follow the document. Signatures are
compared by the Rust tests; the standard library has no Ed25519.
"""

import hashlib
import json
import pathlib
import struct
import sys

HERE = pathlib.Path(__file__).parent
PACKET_BYTES_MAX = 144 * 1024
ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"


def load(name):
    return json.loads((HERE / name).read_text())


def base32(data):
    bits = "".join(f"{byte:08b}" for byte in data)
    return "".join(ALPHABET[int(bits[i : i + 5], 2)] for i in range(0, len(bits), 5))


def check(what, got, expected):
    if got != expected:
        sys.exit(f"{what}: got {got}, expected {expected}")


def varint(data):
    """The value and its length; None while more bytes are needed."""
    value = 0
    for i, byte in enumerate(data[:5]):
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value, i + 1
    if len(data) >= 5:
        raise ValueError("bad_prefix")
    return None


def deframe(stream):
    packets = []
    try:
        while (prefix := varint(stream)) is not None:
            length, used = prefix
            if length > PACKET_BYTES_MAX:
                raise ValueError("too_large")
            if len(stream) < used + length:
                break
            packets.append(stream[used : used + length].hex())
            stream = stream[used + length :]
    except ValueError as error:
        return packets, str(error), 0
    return packets, None, len(stream)


def fields(message):
    """(number, value) of a protobuf message: integers, and bytes for length-delimited fields."""
    while message:
        tag, used = varint(message)
        message = message[used:]
        if tag & 7 == 0:
            value, shift = 0, 0
            while True:
                byte, message = message[0], message[1:]
                value |= (byte & 0x7F) << shift
                shift += 7
                if byte < 0x80:
                    break
        elif tag & 7 == 2:
            length, used = varint(message)
            value, message = message[used : used + length], message[used + length :]
        else:
            sys.exit(f"no packet has a field of wire type {tag & 7}")
        yield tag >> 3, value


def statement(vector):
    inputs, kind = vector["inputs"], vector["name"]
    raw = {k: bytes.fromhex(v) for k, v in inputs.items() if isinstance(v, str)}
    if kind.startswith("realm_record"):
        return b"valise realm record 1" + raw["record"]
    common = raw["realm"] + raw["channel"] + raw["nonce"]
    if kind.startswith("welcome"):
        versions = b"".join(struct.pack(">I", version) for version in inputs["versions"])
        return b"valise welcome 1" + common + struct.pack(">Q", inputs["features"]) + versions
    if kind.startswith("join"):
        return b"valise join 1" + common
    before = struct.pack(">I", inputs["attaches_before"])
    return b"valise attach 1" + common + raw["mailbox"] + before


def main():
    ids = load("ids.json")
    for v in ids["realm_ids"]:
        label = b"valise realm 1" + bytes([v["algorithm"]])
        realm = hashlib.sha256(label + bytes.fromhex(v["root_key"])).digest()[:20]
        check("realm id", realm.hex(), v["realm"])
        check("realm text", base32(realm), v["text"])
    for v in ids["mailbox_ids"]:
        label = b"valise mailbox 1" + bytes.fromhex(v["realm"]) + bytes([v["algorithm"]])
        mailbox = hashlib.sha256(label + bytes.fromhex(v["owner_key"])).digest()[:16]
        check("mailbox id", mailbox.hex(), v["mailbox"])
    for v in ids["channels"]:
        channel = hashlib.sha256(bytes.fromhex(v["certificate_der"])).hexdigest()
        check("channel", channel, v["channel"])

    for v in load("statements.json")["statements"]:
        check(v["name"], statement(v).hex(), v["statement"])

    framing = load("framing.json")
    check("packet limit", PACKET_BYTES_MAX, framing["packet_bytes_max"])
    for v in framing["streams"]:
        packets, error, waiting = deframe(bytes.fromhex(v["stream"]))
        check(v["name"], (packets, error), (v["packets"], v["error"]))
        if error is None:
            check(v["name"], waiting, v["waiting_bytes"])

    addresses = load("addresses.json")
    for v in addresses["read"]:
        host = f"[{v['host']}]" if ":" in v["host"] else v["host"]
        realm = base32(bytes.fromhex(v["realm"]))
        check("address", f"valise://{host}:{v['port']}/{realm}", v["written"])
    for v in addresses["codes"]:
        check("code", base32(bytes.fromhex(v["token"])), v["text"])

    # Each packet is one field, whose number is the packet's kind.
    numbers = {}
    for v in load("packets.json")["packets"]:
        (kind, _), = fields(bytes.fromhex(v["hex"]))
        (name,) = v["fields"]
        check(v["name"], kind, numbers.setdefault((v["from"], name), kind))
    check("server kinds differ", len({n for (f, _), n in numbers.items() if f == "relay"}), 23)
    check("client kinds differ", len({n for (f, _), n in numbers.items() if f == "client"}), 15)
    print("the test vectors agree with docs/PROTOCOL.md")


main()
