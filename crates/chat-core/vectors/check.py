#!/usr/bin/env python3
"""Reads the test vectors of part two with nothing but Python's standard library.

A second implementation of what docs/PROTOCOL.md, part two, says of frames, greetings, slots, items,
links, records and words: if this file and the Rust code agree, a stranger can follow the document.
AES-GCM, X25519 and HPKE stand here in their plainest form, far too slow and too leaky for anything
but vectors. Signatures, judgements and most refusals are left to the Rust tests.
"""

import hashlib
import hmac
import json
import pathlib
import struct
import sys

HERE = pathlib.Path(__file__).parent
SIZES = (512, 2048, 8192, 65536)
BASE32 = "abcdefghijklmnopqrstuvwxyz234567"


def load(name):
    return json.loads((HERE / name).read_text())


def check(what, got, expected):
    if got != expected:
        sys.exit(f"{what}: got {got}, expected {expected}")


def mac(key, *parts):
    return hmac.digest(key, b"".join(parts), "sha256")


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def base32(data):
    bits = "".join(f"{byte:08b}" for byte in data)
    bits += "0" * (-len(bits) % 5)
    return "".join(BASE32[int(bits[i : i + 5], 2)] for i in range(0, len(bits), 5))


# ---- AES-GCM (FIPS 197, NIST SP 800-38D), for nonces of 12 bytes


def double(byte):
    return (byte << 1) ^ (0x11B if byte & 0x80 else 0)


def make_sbox():
    # 3 generates the field: the inverse of 3^i is 3^(255 - i).
    powers = [1]
    while len(powers) < 255:
        powers.append(double(powers[-1]) ^ powers[-1])
    inverse = {value: powers[-i % 255] for i, value in enumerate(powers)} | {0: 0}
    box = []
    for byte in range(256):
        b = inverse[byte]
        rotated = [(b << n | b >> (8 - n)) & 0xFF for n in range(5)]
        box.append(rotated[0] ^ rotated[1] ^ rotated[2] ^ rotated[3] ^ rotated[4] ^ 0x63)
    return box


SBOX = make_sbox()


def round_keys(key):
    words, size, constant = [key[i : i + 4] for i in range(0, len(key), 4)], len(key) // 4, 1
    for i in range(size, 4 * (size + 7)):
        word = words[-1]
        if i % size == 0:
            word = bytes(SBOX[b] for b in word[1:] + word[:1])
            word = bytes([word[0] ^ constant]) + word[1:]
            constant = double(constant)
        elif size > 6 and i % size == 4:
            word = bytes(SBOX[b] for b in word)
        words.append(bytes(a ^ b for a, b in zip(words[i - size], word)))
    return [b"".join(words[i : i + 4]) for i in range(0, len(words), 4)]


def aes(keys, block):
    state = [a ^ b for a, b in zip(block, keys[0])]
    for number, key in enumerate(keys[1:], 1):
        state = [SBOX[state[(i + 4 * (i % 4)) % 16]] for i in range(16)]
        if number < len(keys) - 1:
            mixed = []
            for column in (state[i : i + 4] for i in range(0, 16, 4)):
                total = column[0] ^ column[1] ^ column[2] ^ column[3]
                mixed += [c ^ total ^ double(c ^ column[(i + 1) % 4]) for i, c in enumerate(column)]
            state = mixed
        state = [a ^ b for a, b in zip(state, key)]
    return bytes(state)


def ghash(h, data):
    h, y = int.from_bytes(h, "big"), 0
    for i in range(0, len(data), 16):
        x, v, y = y ^ int.from_bytes(data[i : i + 16], "big"), h, 0
        for bit in range(127, -1, -1):
            if x >> bit & 1:
                y ^= v
            v = v >> 1 ^ (0xE1 << 120 if v & 1 else 0)
    return y.to_bytes(16, "big")


def padded_block(data):
    return data + bytes(-len(data) % 16)


def gcm_open(key, nonce, aad, sealed):
    """The plaintext; None if it does not open."""
    keys, (text, tag) = round_keys(key), (sealed[:-16], sealed[-16:])
    lengths = struct.pack(">QQ", len(aad) * 8, len(text) * 8)
    hashed = ghash(aes(keys, bytes(16)), padded_block(aad) + padded_block(text) + lengths)
    first = aes(keys, nonce + struct.pack(">I", 1))
    if bytes(a ^ b for a, b in zip(hashed, first)) != tag:
        return None
    blocks = range(2, 2 + (len(text) + 15) // 16)
    stream = b"".join(aes(keys, nonce + struct.pack(">I", counter)) for counter in blocks)
    return bytes(a ^ b for a, b in zip(text, stream))


# ---- X25519 (RFC 7748) and HPKE in base mode (RFC 9180)

P = 2**255 - 19


def x25519(scalar, point):
    k = int.from_bytes(scalar, "little") & ~7 & ~(1 << 255) | 1 << 254
    u = (int.from_bytes(point, "little") & (2**255 - 1)) % P
    x2, z2, x3, z3, swapped = 1, 0, u, 1, 0
    for t in range(254, -1, -1):
        bit = k >> t & 1
        if swapped != bit:
            x2, x3, z2, z3 = x3, x2, z3, z2
        swapped = bit
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        aa, bb, da, cb = a * a % P, b * b % P, d * a % P, c * b % P
        e = aa - bb
        x3, z3 = (da + cb) ** 2 % P, u * (da - cb) ** 2 % P
        x2, z2 = aa * bb % P, e * (aa + 121665 * e) % P
    if swapped:
        x2, z2 = x3, z3
    return (x2 * pow(z2, P - 2, P) % P).to_bytes(32, "little")


KEM = b"KEM" + struct.pack(">H", 0x20)
SUITE = b"HPKE" + struct.pack(">HHH", 0x20, 1, 1)


def extract(suite, salt, label, key):
    return mac(salt or bytes(32), b"HPKE-v1", suite, label, key)


def expand(suite, key, label, info, length):
    labeled = struct.pack(">H", length) + b"HPKE-v1" + suite + label + info
    return mac(key, labeled, b"\x01")[:length]


def derive_key_pair(seed):
    secret = expand(KEM, extract(KEM, b"", b"dkp_prk", seed), b"sk", b"", 32)
    return secret, x25519(secret, (9).to_bytes(32, "little"))


def hpke_open(secret, public, info, sealed):
    enc, text = sealed[:32], sealed[32:]
    shared = extract(KEM, b"", b"eae_prk", x25519(secret, enc))
    shared = expand(KEM, shared, b"shared_secret", enc + public, 32)
    context = b"\x00" + extract(SUITE, b"", b"psk_id_hash", b"")
    context += extract(SUITE, b"", b"info_hash", info)
    secret = extract(SUITE, shared, b"secret", b"")
    key = expand(SUITE, secret, b"key", context, 16)
    return gcm_open(key, expand(SUITE, secret, b"base_nonce", context, 12), b"", text)


# ---- what part two says


def unpad(plain):
    """The content of `length 4 | content | zeros`; None if it is not that."""
    if plain is None:
        return None
    end = 4 + struct.unpack(">I", plain[:4])[0]
    return plain[4:end] if end <= len(plain) and not any(plain[end:]) else None


def open_item(key, aad, value):
    return unpad(gcm_open(key, value[:12], aad, value[12:])) if len(value) in SIZES else None


def fields(message):
    """(number, value) of a protobuf message: integers, and bytes for length-delimited fields."""

    def varint():
        nonlocal message
        value = shift = 0
        while True:
            byte, message = message[0], message[1:]
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    found = []
    while message:
        tag = varint()
        value = varint()
        if tag & 7 == 2:
            value, message = message[:value], message[value:]
        found.append((tag >> 3, value))
    return found


def words(hash, count):
    bits = "".join(f"{byte:08b}" for byte in hash)
    return [int(bits[i * 11 : i * 11 + 11], 2) for i in range(count)]


def words_of(account):
    subject = bytes.fromhex(account["account"]) + bytes.fromhex(account["root_key"])
    hash = b"valise safety words 1"
    for _ in range(5200):
        hash = sha256(hash, subject)
    return words(hash, 6)


def envelope_of(vector):
    """The fields of `Envelope` in the order of their numbers, without absent ones."""
    found = [(1, bytes.fromhex(vector["stream"])), (2, vector["first_counter"])]
    found += [(3, bytes.fromhex(message)) for message in vector["messages"]]
    found += [(4, vector["part"]), (5, int(vector["poke"]))]
    return [(number, value) for number, value in found if value]


def check_frames():
    file = load("frames.json")
    hint, envelope = (bytes.fromhex(file["keys"][key]) for key in ("hint", "envelope"))
    for v in file["read"]:
        payload = bytes.fromhex(v["payload"])
        stated, nonce = payload[:8], payload[8:20]
        check("nonce", nonce.hex(), v["nonce"])
        check("hint", mac(hint, nonce)[:8].hex(), v["hint"])
        check("hint", stated.hex(), v["hint"])
        content = unpad(gcm_open(envelope, nonce, stated, payload[20:]))
        check(v["name"], content.hex(), v["envelope"])
        size = min(size for size in SIZES if len(content) + 40 <= size)
        check(f"{v['name']}: smallest size", len(payload), size)
        got, expected = fields(content), envelope_of(v["fields"])
        for i, (number, value) in enumerate(got):
            if number == 4:
                part = dict(fields(value))
                bytes_ = part.get(3, b"").hex()
                got[i] = 4, {"index": part.get(1, 0), "count": part.get(2, 0), "bytes": bytes_}
        check(f"{v['name']}: fields", got, expected)
    for v in file["refused"]:
        payload = bytes.fromhex(v["payload"])
        stated, nonce = payload[:8], payload[8:20]
        if len(payload) not in SIZES:
            error = "not_padded"
        elif mac(hint, nonce)[:8] != stated:
            error = "hint"
        elif unpad(gcm_open(envelope, nonce, stated, payload[20:])) is None:
            error = "does_not_open"
        else:
            error = "malformed"
        check(v["name"], error, v["error"])


def check_greetings():
    file = load("greetings.json")
    secret, public = derive_key_pair(bytes.fromhex(file["hpke_seed"]))
    check("HPKE key", public.hex(), file["hpke_key"])
    whole = {}
    for payload, v in zip(file["payloads"], file["parts"], strict=True):
        payload = bytes.fromhex(payload)
        check("size", len(payload) in SIZES, True)
        check("hint", payload[:8], bytes(8))
        part = dict(fields(unpad(hpke_open(secret, public, b"valise greeting 1", payload[8:]))))
        index, bytes_ = part.get(2, 0), part[4]
        got = {"transfer": part[1].hex(), "index": index, "count": part[3], "bytes": bytes_.hex()}
        check("part", got, v)
        whole[index] = bytes_
    check("greeting", b"".join(whole[i] for i in sorted(whole)).hex(), file["greeting"])


def check_slots():
    file = load("slots.json")
    envelope, key = (bytes.fromhex(file["keys"][key]) for key in ("envelope", "slot"))
    seed = bytes.fromhex(file["seed"])

    def slot(attempt, part):
        if part == 0:
            return mac(key, b"valise slot 1", struct.pack(">II", attempt, 0)).hex()
        return mac(key, b"valise slot part 1", struct.pack(">II", attempt, part), seed).hex()

    for v in file["ids"]:
        check("slot", slot(v["attempt"], 0), v["slot"])
        for part in v["parts"]:
            check("slot of a part", slot(v["attempt"], part["part"]), part["slot"])
    for v in file["commits"]:
        commit = bytes(i % 251 for i in range(v["commit_bytes"]))
        written, rest = v["written_in_order"], b""
        for part, value in zip(range(len(written) - 1, -1, -1), written, strict=True):
            check(f"{v['name']}: order", value["slot"], slot(v["attempt"], part))
            if not value["value"]:
                continue
            sealed = bytes.fromhex(value["value"])
            check("nonce of a value", sealed[:12].hex(), value["nonce"])
            check("hash of a value", hashlib.sha256(sealed).hexdigest(), value["sha256"])
            content = dict(fields(open_item(envelope, bytes.fromhex(value["slot"]), sealed)))
            check("count", content[2], len(written))
            check("seed", content.get(3, b""), b"" if part else seed)
            rest = content[1] + rest
        check(f"{v['name']}: commit", commit.endswith(rest) and len(rest) > 0, True)
    void = file["void"]
    check("slot of a void", slot(void["attempt"], void["part"]), void["slot"])
    content = open_item(envelope, bytes.fromhex(void["slot"]), bytes.fromhex(void["value"]))
    check("a void is empty", content, b"")


def check_identities():
    v = load("credentials.json")
    raw = {name: bytes.fromhex(v[name]) for name in ("account", "device", "root_key")}
    signed = b"valise device 1" + raw["account"] + raw["device"]
    check("statement", (signed + bytes.fromhex(v["signature_key"])).hex(), v["statement"])
    check("account", base32(raw["account"]), v["account_text"])
    check("device", base32(raw["device"]), v["device_text"])
    parts = list(raw.values()) + [bytes.fromhex(v["certificate"])]
    encoded = b"".join(bytes([n << 3 | 2, len(p)]) + p for n, p in enumerate(parts, 1))
    check("credential", encoded.hex(), v["credential"])

    by_hash = {}
    for v in load("account_records.json")["records"]:
        record, name = bytes.fromhex(v["record"]), v["name"]
        check(f"{name}: statement", (b"valise account record 1" + record).hex(), v["statement"])
        check(f"{name}: hash", sha256(record).hex(), v["hash"])
        by_hash[v["hash"]] = v
        read = fields(record)
        content = dict(read)
        check(f"{name}: account", content[1].hex(), v["fields"]["account"])
        check(f"{name}: root key", content[4].hex(), v["fields"]["root_key"])
        check(f"{name}: notice key", content[6].hex(), v["fields"]["notice_key"])
        signed = {n: value.hex() for n, value in fields(bytes.fromhex(v["signed_record"]))}
        parts = (v["record"], v["signature"], v["previous_signature"])
        check(f"{name}: signed", signed, {n: part for n, part in enumerate(parts, 1) if part})
        check(f"{name}: sequence", content[2], v["fields"]["sequence"])
        check(f"{name}: previous", content.get(3, b"").hex(), v["fields"]["previous"])
        devices = [dict(fields(value)) for number, value in read if number == 5]
        keys = ("device", "signature_key", "hpke_key", "name", "since_ms")
        for device, expected in zip(devices, v["fields"]["devices"], strict=True):
            shown = [device[n].hex() for n in (1, 2, 3)] + [device[4].decode(), device[5]]
            check(f"{name}: device", dict(zip(keys, shown)), expected)
        if content[2] > 1:
            before = by_hash[v["fields"]["previous"]]
            check(f"{name}: follows", before["fields"]["sequence"] + 1, content[2])


def check_links_and_items():
    file = load("links.json")
    secret = bytes.fromhex(file["secret"])
    for v in file["read"]:
        text = v["text"].strip().lower()
        host = f"[{v['host']}]" if ":" in v["host"] else v["host"]
        realm = base32(bytes.fromhex(v["realm"]))
        check("secret", v["secret"], file["secret"])
        written = f"valise://{host}:{v['port']}/{realm}#{base32(secret)}"
        check("link", (text, v["written"]), (written, written))
    for name, label in (("invite", b"valise invite "), ("device", b"valise link ")):
        check(f"{name} slot", sha256(label + b"slot 1", secret).hex(), file[name]["slot"])
        check(f"{name} key", mac(secret, label + b"key 1").hex(), file[name]["key"])

    file = load("items.json")
    for v in file["items"]:
        content = open_item(bytes.fromhex(file["key"]), b"", bytes.fromhex(v["value"]))
        check(v["name"], content.hex(), v["content"])


def check_words():
    file = load("words.json")
    known = {}
    for v in file["safety"]:
        first, second = sorted((v["one"], v["other"]), key=lambda account: account["account"])
        check("safety words", words_of(first) + words_of(second), v["indices"])
    for v in file["link"]:
        record = bytes.fromhex(v["device_record"])
        hash = b"valise link words 2"
        for _ in range(5200):
            hash = mac(bytes.fromhex(v["secret"]), hash, record)
        check("link words", words(hash, 6), v["indices"])
    # The list itself is not here; but it is sorted, and has one word for one index.
    for v in file["safety"] + file["link"]:
        for index, word in zip(v["indices"], v["words"], strict=True):
            check("word", known.setdefault(index, word), word)
    in_order = [known[index] for index in sorted(known)]
    check("order of the words", in_order, sorted(set(in_order)))


def main():
    check_frames()
    check_greetings()
    check_slots()
    check_identities()
    check_links_and_items()
    check_words()
    print("the test vectors agree with docs/PROTOCOL.md, part two")


main()
