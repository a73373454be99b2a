import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { fromBinary, fromJson, toBinary, toJson, type JsonValue } from "@bufbuild/protobuf";

import { formatAddress, parseAddress, parseInviteCode } from "../src/address.js";
import { encodeBase32 } from "../src/base32.js";
import { AddressError, DistrustError, MalformedError } from "../src/errors.js";
import { Deframer, frame } from "../src/framing.js";
import { ClientPacketSchema, RealmRecordSchema, ServerPacketSchema } from "../src/gen/valise/v1/valise_pb.js";
import { channelOf, mailboxId, realmId } from "../src/ids.js";
import { OwnerKey, verifies } from "../src/keys.js";
import { PACKET_BYTES_MAX } from "../src/limits.js";
import { decodeClientPacket, decodeServerPacket, encodePacket, type Say } from "../src/packet.js";
import { openRealmRecord } from "../src/realm-record.js";
import { attachStatement, joinStatement, realmRecordStatement, welcomeStatement } from "../src/statements.js";

const DIRECTORY = new URL("../../../../proto/vectors/", import.meta.url);

function load<T>(name: string): T {
  return JSON.parse(readFileSync(new URL(name, DIRECTORY), "utf8")) as T;
}

const bytes = (hex: string): Uint8Array => new Uint8Array(Buffer.from(hex, "hex"));
const hex = (data: Uint8Array): string => Buffer.from(data).toString("hex");

test("packets.json: each packet is decoded and encoded again", () => {
  const { packets } = load<{ packets: { name: string; from: "client" | "relay"; fields: JsonValue; hex: string }[] }>("packets.json");
  assert.ok(packets.length > 50);
  for (const packet of packets) {
    const schema = packet.from === "client" ? ClientPacketSchema : ServerPacketSchema;
    const encoded = bytes(packet.hex);
    assert.deepEqual(toJson(schema, fromBinary(schema, encoded)), packet.fields, packet.name);
    assert.equal(hex(toBinary(schema, fromJson(schema, packet.fields))), packet.hex, packet.name);
    // The library's own way, which looks at fixed lengths too.
    if (packet.from === "client") assert.equal(hex(encodePacket(decodeClientPacket(encoded) as Say)), packet.hex);
    else assert.ok(decodeServerPacket(encoded), packet.name);
  }
});

test("strange_packets.json: read as the vectors say", () => {
  const { client_packets: packets } = load<{ client_packets: { name: string; hex: string; read_as: string }[] }>("strange_packets.json");
  for (const packet of packets) {
    let read: string;
    try {
      const decoded = decodeClientPacket(bytes(packet.hex));
      if (decoded.case === undefined) read = "ignored";
      else if (decoded.case === "ping") read = `ping ${decoded.value.request}`;
      else if (decoded.case === "hello") read = `hello ${decoded.value.version}`;
      else read = decoded.case;
    } catch (error) {
      assert.ok(error instanceof MalformedError, packet.name);
      read = "malformed";
    }
    assert.equal(read, packet.read_as, packet.name);
  }
});

test("framing.json: streams, whole and byte by byte", () => {
  type Stream = { name: string; stream: string; packets: string[]; error: string | null; waiting_bytes: number };
  const framing = load<{ packet_bytes_max: number; streams: Stream[] }>("framing.json");
  assert.equal(framing.packet_bytes_max, PACKET_BYTES_MAX);
  for (const stream of framing.streams) {
    const whole = bytes(stream.stream);
    for (const chunks of [[whole], [...whole].map((byte) => Uint8Array.of(byte))]) {
      const deframer = new Deframer();
      const packets = chunks.flatMap((chunk) => deframer.push(chunk));
      assert.deepEqual(packets.map(hex), stream.packets, stream.name);
      assert.equal(deframer.broken?.kind ?? null, stream.error, stream.name);
      assert.equal(deframer.waiting, stream.waiting_bytes, stream.name);
    }
    for (const packet of stream.packets) {
      assert.deepEqual(new Deframer().push(frame(bytes(packet))).map(hex), [packet]);
    }
  }
});

test("ids.json: realm ids, mailbox ids, channels", () => {
  type Ids = {
    realm_ids: { algorithm: number; root_seed: string; root_key: string; realm: string; text: string }[];
    mailbox_ids: { algorithm: number; owner_seed: string; owner_key: string; realm: string; mailbox: string }[];
    channels: { certificate_der: string; channel: string }[];
  };
  const ids = load<Ids>("ids.json");
  for (const v of ids.realm_ids) {
    const key = OwnerKey.fromSeed(bytes(v.root_seed));
    assert.equal(hex(key.publicKey), v.root_key);
    assert.equal(hex(key.seed()), v.root_seed);
    assert.equal(hex(realmId(key.publicKey, v.algorithm)), v.realm);
    assert.equal(encodeBase32(bytes(v.realm)), v.text);
  }
  for (const v of ids.mailbox_ids) {
    assert.equal(hex(OwnerKey.fromSeed(bytes(v.owner_seed)).publicKey), v.owner_key);
    assert.equal(hex(mailboxId(bytes(v.realm), bytes(v.owner_key), v.algorithm)), v.mailbox);
  }
  for (const v of ids.channels) assert.equal(hex(channelOf(bytes(v.certificate_der))), v.channel);
});

test("statements.json: bytes and signatures", () => {
  type Inputs = {
    realm: string;
    channel: string;
    nonce: string;
    features: number;
    versions: number[];
    mailbox: string;
    attaches_before: number;
    record: string;
  };
  type Statement = { name: string; inputs: Partial<Inputs>; signer: string; signature: string; statement: string };
  const { statements } = load<{ statements: Statement[] }>("statements.json");
  // Every signer of the vectors has a seed somewhere in them; those that are known are signed again too.
  const seeds = ["01", "03"].map((byte) => OwnerKey.fromSeed(bytes(byte.repeat(32))));
  for (const { name, inputs, signer, signature, statement } of statements) {
    const at = (field: "realm" | "channel" | "nonce" | "mailbox" | "record"): Uint8Array => bytes(inputs[field]!);
    const made = (): Uint8Array => {
      if (name.startsWith("realm_record")) return realmRecordStatement(at("record"));
      const place = { realm: at("realm"), channel: at("channel"), nonce: at("nonce") };
      if (name.startsWith("welcome")) return welcomeStatement(place, BigInt(inputs.features!), inputs.versions!);
      if (name.startsWith("join")) return joinStatement(place);
      assert.ok(name.startsWith("attach"), name);
      return attachStatement(place, at("mailbox"), inputs.attaches_before!);
    };
    assert.equal(hex(made()), statement, name);
    assert.ok(verifies(bytes(signer), made(), bytes(signature)), name);
    const spoilt = made();
    spoilt[spoilt.length - 1]! ^= 1;
    assert.ok(!verifies(bytes(signer), spoilt, bytes(signature)), name);
    const key = seeds.find(({ publicKey }) => hex(publicKey) === signer);
    if (key) assert.equal(hex(key.sign(made())), signature, name);
  }
});

test("realm_records.json: the genuine one is believed, the others fail the named check", () => {
  type Signed = { record: string; signature: string };
  const records = load<{
    realm: string;
    believed: (Signed & { fields: JsonValue })[];
    refused: (Signed & { name: string; error: string })[];
  }>("realm_records.json");
  const open = (v: Signed, realm = records.realm): unknown =>
    openRealmRecord({ record: bytes(v.record), signature: bytes(v.signature) }, bytes(realm));
  for (const v of records.believed) {
    assert.deepEqual(open(v), fromJson(RealmRecordSchema, v.fields));
    assert.throws(() => open(v, "00".repeat(20)), (error) => error instanceof DistrustError && error.check === "another_realm");
  }
  for (const v of records.refused) {
    assert.throws(() => open(v), (error) => error instanceof DistrustError && error.check === v.error, v.name);
  }
});

test("addresses.json: addresses and a code", () => {
  type Addresses = {
    read: { text: string; host: string; port: number; realm: string; written: string }[];
    refused: { text: string; error: string }[];
    codes: { text: string; token: string }[];
  };
  const addresses = load<Addresses>("addresses.json");
  for (const v of addresses.read) {
    const address = parseAddress(v.text);
    assert.deepEqual(address, { host: v.host, port: v.port, realm: bytes(v.realm) });
    assert.equal(formatAddress(address), v.written);
  }
  for (const v of addresses.refused) {
    assert.throws(() => parseAddress(v.text), (error) => error instanceof AddressError && error.part === v.error, v.text);
  }
  for (const v of addresses.codes) {
    assert.equal(hex(parseInviteCode(v.text)), v.token);
    assert.equal(hex(parseInviteCode(v.text.toUpperCase())), v.token);
    assert.equal(encodeBase32(bytes(v.token)), v.text);
    assert.throws(() => parseInviteCode(v.text.slice(1)), AddressError);
  }
});
