import assert from "node:assert/strict";
import { test } from "node:test";

import { create } from "@bufbuild/protobuf";
import { OwnerKey } from "valise-client";

import { random } from "../src/bytes.js";
import { Contacts } from "../src/contacts.js";
import { CardSchema, DeviceRecordSchema, MemberSchema, type Card, type DeviceRecord } from "../src/gen/valise/chat/v1/chat_pb.js";
import type { MemberLeaf } from "../src/mls.js";
import { recordHash, signRecord, type GenuineRecord } from "../src/record.js";

const root = OwnerKey.generate();
const account = random(32);
const noticeKey = random(32);
const device = (name: string): DeviceRecord => create(DeviceRecordSchema, { device: random(16), signatureKey: random(32), hpkeKey: random(32), name });
const [phone, laptop, tablet] = [device("phone"), device("laptop"), device("tablet")];

function record(sequence: bigint, devices: DeviceRecord[], previous?: GenuineRecord, by = root): GenuineRecord {
  return signRecord(by, { account, sequence, previous: previous ? recordHash(previous) : new Uint8Array(), rootKey: by.publicKey, noticeKey, devices });
}

function card({ signed }: GenuineRecord, devices: DeviceRecord[], name = "Ann"): Card {
  const cards = devices.map((one) => ({
    device: one.device,
    address: { relay: "valise://relay.example:7443/mfrggzdfmztwq2lknnwg23tpobyxe43u", capability: random(60) },
    takeToken: random(60),
    bundleKey: random(32),
  }));
  return create(CardSchema, { record: signed, devices: cards, name });
}

const leafOf = (of: DeviceRecord, by = root): MemberLeaf => ({ account, device: of.device, rootKey: by.publicKey, index: 1, signatureKey: of.signatureKey, member: create(MemberSchema, { name: "leaf" }) });

test("cards are put together by device", () => {
  const contacts = new Contacts();
  const [first, second] = [record(1n, [phone]), record(2n, [phone, laptop], record(1n, [phone]))];
  const invite = card(first, [phone]);
  contacts.take(invite);
  const tokens = (): Uint8Array[] => contacts.get(account)!.devices.map(({ takeToken }) => takeToken);
  assert.deepEqual(tokens(), [invite.devices[0]!.takeToken]);
  // The laptop says of itself how it is reached, and what it says of the phone counts for nothing.
  const both = card(second, [laptop, phone]);
  assert.ok(contacts.take(both, leafOf(laptop)).contact);
  assert.deepEqual(tokens(), [invite.devices[0]!.takeToken, both.devices[0]!.takeToken]);
  const again = card(second, [phone]);
  contacts.take(again, leafOf(phone));
  assert.deepEqual(tokens(), [again.devices[0]!.takeToken, both.devices[0]!.takeToken]);
  // An old card changes nothing, and a device that the record does not list any more goes.
  contacts.take(invite, leafOf(phone));
  assert.deepEqual(tokens(), [again.devices[0]!.takeToken, both.devices[0]!.takeToken]);
  contacts.take(card(record(3n, [laptop], second), [laptop, phone], "Ann\u001b"), leafOf(laptop));
  assert.equal(tokens().length, 1);
  assert.equal(contacts.get(account)!.name, "Ann", "what is no name is not taken over");
});

test("a card is bounded, and of whoever says it", () => {
  const first = record(1n, [phone]);
  const contacts = new Contacts();
  assert.throws(() => contacts.take(card(first, [phone, phone])), /devices of a card/);
  assert.throws(() => contacts.take(card(first, Array.from({ length: 17 }, (_, i) => device(String(i))))), /devices of a card/);
  assert.throws(() => contacts.take(card(first, [phone], "x".repeat(16_384))), /too_large/);
  assert.throws(() => contacts.take(card(first, [phone]), { ...leafOf(phone), account: random(32) }), /somebody else/);
  assert.throws(() => contacts.take(card(first, [phone]), leafOf(phone, OwnerKey.generate())), /another root/);
  assert.equal(contacts.get(account), undefined);
});

test("two histories of an account come together, and are told once", () => {
  const first = record(1n, [phone]);
  const [one, other] = [record(2n, [phone, laptop], first), record(2n, [phone, tablet], first)].sort((a, b) => Buffer.compare(recordHash(a), recordHash(b))) as [GenuineRecord, GenuineRecord];
  for (const order of [[one, other], [other, one]]) {
    const contacts = new Contacts();
    contacts.take(card(first, [phone]));
    const told = order.map((next) => contacts.take(card(next, [phone]), leafOf(phone)).forked);
    assert.deepEqual(told, [false, true]);
    assert.deepEqual(contacts.get(account)!.record.signed.record, one.signed.record, "the smaller hash counts");
    assert.equal(contacts.get(account)!.alarm, undefined);
    assert.equal(contacts.take(card(other, [phone]), leafOf(phone)).forked, false, "again");
    // What follows upon the one that has lost is taken over, and no news.
    const next = contacts.take(card(record(3n, [phone], other), [phone]), leafOf(phone));
    assert.deepEqual([next.forked, next.contact?.record.record.sequence], [false, 3n]);
  }
});

test("whoever claims to be a contact changes nothing about it", () => {
  const contacts = new Contacts();
  contacts.take(card(record(1n, [phone]), [phone]));
  const known = contacts.get(account)!;
  const claimed = leafOf(tablet, OwnerKey.generate());
  assert.deepEqual([contacts.isImpostor(claimed), contacts.isImpostor(leafOf(phone))], [true, false]);
  const group = { id: random(16), others: [leafOf(phone), claimed] };
  assert.deepEqual(contacts.newImpostors(group), [claimed]);
  assert.deepEqual(contacts.newImpostors(group), [], "told once");
  assert.deepEqual(contacts.get(account), known);
  // A record that claims it in the direct conversation is for the user to decide about.
  const reset = contacts.take(card(record(1n, [tablet], undefined, OwnerKey.generate()), [tablet]), leafOf(phone));
  assert.deepEqual([reset.contact?.alarm, reset.contact?.record], ["reset", known.record]);
});
