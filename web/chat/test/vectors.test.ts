import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { create } from "@bufbuild/protobuf";
import { encodeBase32, OwnerKey } from "valise-client";

import { hex, join, sha256 } from "../src/bytes.js";
import { certify, deviceStatement, openCredential } from "../src/credential.js";
import { RefusedInput } from "../src/errors.js";
import { encodeEnvelope, openFrame, sealFrame, type Envelope, type EpochKeys } from "../src/frame.js";
import { DeviceRecordSchema, GreetingSchema, SignedRecordSchema, SlotValueSchema } from "../src/gen/valise/chat/v1/chat_pb.js";
import { openFirstContact, sealGreeting, Transfers } from "../src/greeting.js";
import { deviceLinkSecrets, formatLink, inviteSecrets, parseLink } from "../src/link.js";
import { decode, encode } from "../src/message.js";
import { judge, openRecord, recordStatement, signRecord, type GenuineRecord } from "../src/record.js";
import { openItem, sealItem } from "../src/sealed.js";
import { joinParts, openDecision, openPart, slotOfDecision, slotOfPart, slotWrites, voidOf } from "../src/slot.js";
import { hpkeKey } from "../src/suite.js";
import { linkWords, safetyWords } from "../src/words.js";

const DIRECTORY = new URL("../../../../crates/chat-core/vectors/", import.meta.url);

function load<T>(name: string): T {
  return JSON.parse(readFileSync(new URL(name, DIRECTORY), "utf8")) as T;
}

const bytes = (text: string): Uint8Array => new Uint8Array(Buffer.from(text, "hex"));
const refused = (fault: string) => (error: unknown) => error instanceof RefusedInput && error.fault === fault;
const keysOf = (keys: Record<"hint" | "envelope" | "slot", string>): EpochKeys => ({
  hint: bytes(keys.hint),
  envelope: bytes(keys.envelope),
  slot: bytes(keys.slot),
});

test("credentials.json: one is made and read, the others are refused", () => {
  const v = load<Record<string, string> & { refused: { name: string; error: string; credential: string }[] }>("credentials.json");
  const at = (name: string): Uint8Array => bytes(v[name] as string);
  const root = OwnerKey.fromSeed(at("root_seed"));
  assert.equal(hex(root.publicKey), v["root_key"]);
  assert.equal(hex(deviceStatement(at("account"), at("device"), at("signature_key"))), v["statement"]);
  assert.equal(hex(certify(root, at("account"), at("device"), at("signature_key"))), v["credential"]);
  assert.deepEqual(openCredential(at("credential"), at("signature_key")), {
    account: at("account"),
    device: at("device"),
    rootKey: at("root_key"),
  });
  assert.equal(encodeBase32(at("account")), v["account_text"]);
  assert.equal(encodeBase32(at("device")), v["device_text"]);
  assert.ok(v.refused.length >= 7);
  for (const { name, error, credential } of v.refused) {
    assert.throws(() => openCredential(bytes(credential), at("signature_key")), refused(error), name);
  }
});

interface RecordVector {
  name: string;
  hash: string;
  record: string;
  signature: string;
  previous_signature: string;
  signed_record: string;
  statement: string;
  fields: { account: string; sequence: number; previous: string; root_key: string; notice_key: string; devices: Record<string, string>[] };
}

test("account_records.json: read, made again, and judged by everyone who knows another", () => {
  const v = load<{
    root_seed: string;
    next_root_seed: string;
    records: RecordVector[];
    judged: { known: string; incoming: string; verdict: string | Record<string, unknown> }[];
    refused: { name: string; error: string; signed_record: string }[];
  }>("account_records.json");
  const known = new Map<string, GenuineRecord>();
  const roots = [v.root_seed, v.next_root_seed].map((seed) => OwnerKey.fromSeed(bytes(seed)));
  for (const { name, record, signature, previous_signature, signed_record, statement, hash, fields } of v.records) {
    const signed = decode(SignedRecordSchema, bytes(signed_record));
    const genuine = openRecord(signed);
    known.set(name, genuine);
    assert.equal(hex(signed.record), record, name);
    assert.equal(hex(signed.previousSignature), previous_signature, name);
    assert.equal(hex(recordStatement(signed.record)), statement, name);
    assert.equal(hex(sha256(signed.record)), hash, name);
    const root = roots.find(({ publicKey }) => hex(publicKey) === fields.root_key)!;
    const again = signRecord(root, {
      account: bytes(fields.account),
      sequence: BigInt(fields.sequence),
      previous: bytes(fields.previous),
      rootKey: bytes(fields.root_key),
      noticeKey: bytes(fields.notice_key),
      devices: fields.devices.map((device) =>
        create(DeviceRecordSchema, {
          device: bytes(device["device"]!),
          signatureKey: bytes(device["signature_key"]!),
          hpkeKey: bytes(device["hpke_key"]!),
          name: device["name"]!,
          sinceMs: BigInt(device["since_ms"]!),
        }),
      ),
    });
    assert.equal(hex(again.signed.record), record, name);
    assert.equal(hex(again.signed.signature), signature, name);
  }
  assert.equal(v.judged.length, known.size ** 2);
  for (const { known: before, incoming, verdict } of v.judged) {
    const judged = judge(known.get(before), known.get(incoming)!);
    const got =
      judged.kind === "newer"
        ? { added: judged.added.map(hex), removed: judged.removed.map(hex), root_changed: judged.rootChanged, skipped: judged.skipped, forked: judged.forked }
        : judged.kind;
    assert.deepEqual(got, verdict, `${before} knows, ${incoming} comes`);
  }
  assert.equal(judge(undefined, known.get("first")!).kind, "first");
  for (const { name, error, signed_record } of v.refused) {
    assert.throws(() => openRecord(decode(SignedRecordSchema, bytes(signed_record))), refused(error), name);
  }
});

interface EnvelopeVector {
  stream: string;
  first_counter: number;
  messages: string[];
  part: { index: number; count: number; bytes: string } | null;
  poke: boolean;
}

function envelopeOf({ stream, first_counter, messages, part, poke }: EnvelopeVector): Envelope {
  const [firstCounter, of] = [BigInt(first_counter), bytes(stream)];
  if (poke) return { form: "poke" };
  if (part) return { form: "part", stream: of, firstCounter, index: part.index, count: part.count, bytes: bytes(part.bytes) };
  return { form: "messages", ...(of.length > 0 ? { stream: of } : {}), firstCounter, messages: messages.map(bytes) };
}

test("frames.json: opened, and sealed again to the same bytes", () => {
  const v = load<{
    keys: Record<"hint" | "envelope" | "slot", string>;
    read: { name: string; nonce: string; payload: string; envelope: string; fields: EnvelopeVector }[];
    refused: { name: string; error: string; payload: string }[];
  }>("frames.json");
  const keys = keysOf(v.keys);
  for (const { name, nonce, payload, envelope, fields } of v.read) {
    const expected = envelopeOf(fields);
    assert.deepEqual(openFrame(keys, bytes(payload)), expected, name);
    assert.equal(hex(encodeEnvelope(expected)), envelope, name);
    assert.equal(hex(sealFrame(keys, expected, () => bytes(nonce))), payload, name);
  }
  for (const { name, error, payload } of v.refused) {
    assert.throws(() => openFrame(keys, bytes(payload)), refused(error), name);
  }
});

test("greetings.json: opened in any order, and a greeting of our own", async () => {
  const v = load<{ greeting: string; hpke_key: string; hpke_seed: string; parts: Record<string, string | number>[]; payloads: string[] }>("greetings.json");
  const key = await hpkeKey(bytes(v.hpke_seed));
  assert.equal(hex(key.publicKey), v.hpke_key);
  const parts = await Promise.all(v.payloads.map((payload) => openFirstContact(key.seed, bytes(payload))));
  const shown = parts.map(({ transfer, index, count, bytes }) => ({ bytes: hex(bytes), count, index, transfer: hex(transfer) }));
  assert.deepEqual(shown, v.parts);
  const transfers = new Transfers();
  assert.equal(transfers.add(parts[1]!), undefined);
  assert.equal(transfers.add(parts[1]!), undefined);
  const greeting = transfers.add(parts[0]!);
  assert.equal(greeting && hex(encode(GreetingSchema, greeting)), v.greeting);

  const large = create(GreetingSchema, { body: { case: "welcome", value: new Uint8Array(100_000).fill(7) } });
  const sealed = await sealGreeting(key.publicKey, large);
  assert.deepEqual(sealed.map(({ length }) => length), [65_536, 65_536]);
  const opened = await Promise.all(sealed.reverse().map((payload) => openFirstContact(key.seed, payload)));
  assert.equal(transfers.add(opened[0]!), undefined);
  assert.deepEqual(transfers.add(opened[1]!), large);

  await assert.rejects(openFirstContact(bytes("00".repeat(32)), bytes(v.payloads[0]!)), refused("does_not_open"));
  await assert.rejects(sealGreeting(new Uint8Array(32), large), "a key of small order");
});

test("slots.json: where commits are, and what lies there", () => {
  const v = load<{
    keys: Record<"hint" | "envelope" | "slot", string>;
    seed: string;
    ids: { attempt: number; slot: string; parts: { part: number; slot: string }[] }[];
    commits: { name: string; attempt: number; commit_bytes: number; written_in_order: { slot: string; nonce: string; value: string; sha256: string; bytes: number }[] }[];
    void: { attempt: number; part: number; slot: string; value: string };
  }>("slots.json");
  const keys = keysOf(v.keys);
  const seed = bytes(v.seed);
  for (const { attempt, slot, parts } of v.ids) {
    assert.equal(hex(slotOfDecision(keys, attempt)), slot);
    for (const { part, slot } of parts) assert.equal(hex(slotOfPart(keys, attempt, part, seed)), slot);
  }
  for (const { name, attempt, commit_bytes, written_in_order: written } of v.commits) {
    const commit = Uint8Array.from({ length: commit_bytes }, (_, i) => i % 251);
    // How long the first part is, is its writer's choice: here it is what the later ones leave.
    let later = 0;
    for (const [nth, { slot, nonce, value, sha256: hash, bytes: size }] of written.entries()) {
      const part = written.length - 1 - nth;
      assert.equal(hex(part === 0 ? slotOfDecision(keys, attempt) : slotOfPart(keys, attempt, part, seed)), slot, name);
      const end = commit.length - later;
      const content = value
        ? decode(SlotValueSchema, openItem(keys.envelope, bytes(slot), bytes(value)))
        : create(SlotValueSchema, { bytes: commit.slice(0, end), count: written.length, seed });
      assert.deepEqual(content.bytes, commit.slice(end - content.bytes.length, end), name);
      later += content.bytes.length;
      const sealed = sealItem(keys.envelope, bytes(slot), encode(SlotValueSchema, content), bytes(nonce));
      assert.deepEqual([sealed.length, hex(sha256(sealed))], [size, hash], name);
      assert.deepEqual([content.count, hex(content.seed)], [written.length, part === 0 ? v.seed : ""], name);
    }
    assert.equal(later, commit.length, name);

    const ours = slotWrites(keys, attempt, commit);
    const first = openDecision(keys, attempt, ours.at(-1)!.value);
    const rest = ours.slice(0, -1).reverse();
    assert.deepEqual(joinParts(first, rest.map(({ value }, i) => openPart(keys, attempt, i + 1, first, value))), commit);
    assert.throws(() => openDecision(keys, attempt + 1, ours.at(-1)!.value), refused("does_not_open"));
  }

  const { attempt, part, slot, value } = v.void;
  assert.equal(hex(slotOfPart(keys, attempt, part, seed)), slot);
  assert.equal(hex(voidOf(keys, bytes(slot), bytes(value).slice(0, 12))), value);
  assert.throws(() => openPart(keys, attempt, part, { bytes: new Uint8Array(1), count: 2, seed }, bytes(value)), refused("malformed"));
});

test("items.json: opened, and sealed again to the same bytes", () => {
  const v = load<{ key: string; nonce: string; items: { name: string; content: string; value: string }[] }>("items.json");
  for (const { name, content, value } of v.items) {
    assert.equal(hex(openItem(bytes(v.key), new Uint8Array(), bytes(value))), content, name);
    assert.equal(hex(sealItem(bytes(v.key), new Uint8Array(), bytes(content), bytes(v.nonce))), value, name);
    const changed = join(bytes(value).fill(1, 40, 41));
    assert.throws(() => openItem(bytes(v.key), new Uint8Array(), changed), refused("does_not_open"), name);
  }
});

test("links.json: read, written and refused", () => {
  const v = load<{
    secret: string;
    invite: { key: string; slot: string };
    device: { key: string; slot: string };
    read: { text: string; written: string; host: string; port: number; realm: string; secret: string }[];
    refused: { name: string; error: string; text: string }[];
  }>("links.json");
  for (const { text, written, host, port, realm, secret } of v.read) {
    const link = parseLink(text);
    assert.deepEqual(link, { relay: { host, port, realm: bytes(realm) }, secret: bytes(secret) }, text);
    assert.equal(formatLink(link), written);
  }
  for (const { name, error, text } of v.refused) assert.throws(() => parseLink(text), refused(error), name);
  for (const [made, expected] of [
    [inviteSecrets(bytes(v.secret)), v.invite],
    [deviceLinkSecrets(bytes(v.secret)), v.device],
  ] as const) {
    assert.deepEqual({ key: hex(made.key), slot: hex(made.slot) }, expected);
  }
});

test("words.json: safety words from both sides, link words", () => {
  const v = load<{
    safety: { one: Record<string, string>; other: Record<string, string>; indices: number[] }[];
    link: { secret: string; device_record: string; indices: number[] }[];
  }>("words.json");
  const rooted = (one: Record<string, string>): { account: Uint8Array; rootKey: Uint8Array } => ({
    account: bytes(one["account"]!),
    rootKey: bytes(one["root_key"]!),
  });
  for (const { one, other, indices } of v.safety) {
    assert.deepEqual(safetyWords(rooted(one), rooted(other)), indices);
    assert.deepEqual(safetyWords(rooted(other), rooted(one)), indices);
  }
  for (const { secret, device_record, indices } of v.link) {
    assert.deepEqual(linkWords(bytes(secret), decode(DeviceRecordSchema, bytes(device_record))), indices);
  }
});
