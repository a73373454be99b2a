import assert from "node:assert/strict";
import { test } from "node:test";

import { create } from "@bufbuild/protobuf";

import { join, random } from "../src/bytes.js";
import { RefusedInput } from "../src/errors.js";
import { GroupInfoSchema, MemberSchema, RejoinSchema } from "../src/gen/valise/chat/v1/chat_pb.js";
import { decode, encode } from "../src/message.js";
import { Parking } from "../src/parking.js";
import { Parts } from "../src/parts.js";

test("a message is read as proto3 writes it, or not at all", () => {
  const member = create(MemberSchema, { address: { relay: "valise://a:1/b", capability: random(60) }, name: "\ufeffNod", hpkeKey: random(32) });
  const bytes = encode(MemberSchema, member);
  assert.deepEqual(decode(MemberSchema, bytes), member, "also what begins with a byte order mark");
  const raw = (...more: number[]): Uint8Array => join(bytes, new Uint8Array(more));
  // Later versions have more fields: numbers, bytes of a length, 4 and 8 bytes, and groups.
  for (const more of [raw(0x78, 1), raw(0x7a, 1, 7), raw(0x7d, 1, 2, 3, 4), raw(0x79, 1, 2, 3, 4, 5, 6, 7, 8), raw(0x7b, 0x08, 1, 0x7c)]) {
    assert.equal(decode(MemberSchema, more).name, "\ufeffNod");
  }
  for (const [name, more] of Object.entries({
    "a name that is a number": raw(0x10, 1),
    "an address that is a number": raw(0x08, 1),
    "a name that is no UTF-8": raw(0x12, 1, 0xff),
    "field 0": raw(0x02, 0),
    "an unknown wire type": raw(0x7e, 0),
    "a length beyond the end": raw(0x7a, 2, 0),
    "no end of a group": raw(0x7b, 0x08, 1),
    "another group's end": raw(0x7b, 0x74),
    "a number without end": raw(0x78, ...Array<number>(10).fill(0x80), 1),
    "a number of more than 64 bits": raw(0x78, ...Array<number>(9).fill(0xff), 2),
    "cut off in the address": raw(0x0a, 2, 0x0a, 5),
  })) {
    assert.throws(() => decode(MemberSchema, more), RefusedInput, name);
  }
  const info = encode(GroupInfoSchema, create(GroupInfoSchema, { slotTokenMs: 2n ** 63n, kind: 3 }));
  assert.equal(decode(GroupInfoSchema, info).slotTokenMs, 2n ** 63n);
  assert.throws(() => decode(RejoinSchema, new Uint8Array([0x1a, 2, 0x08, 1])), RefusedInput, "inside a message");
});

test("what no walk has tried is not crowded out of the parking", () => {
  const frames = (count: number, size: number): Uint8Array[] => Array.from({ length: count }, () => new Uint8Array(size));
  const parking = new Parking();
  for (const frame of frames(2_000, 512)) parking.add(frame);
  assert.equal(parking.size, 2_000);
  // The walk began when 1,500 had come: the newest 500 are not judged yet.
  parking.walked(1_500);
  assert.equal(parking.size, 1_500);
  parking.walked(900);
  assert.equal(parking.size, 1_500);
  parking.walked(parking.came);
  assert.equal(parking.size, 1_000);

  const large = new Parking();
  for (const frame of frames(300, 65_536)) large.add(frame);
  assert.equal(large.size, 300);
  large.walked(large.came);
  assert.equal(large.size, 128, "8 MiB of what was tried");
  for (const frame of frames(600, 65_536)) large.add(frame);
  assert.equal(large.size, 512, "32 MiB together");

  const old = new Parking();
  old.add(new Uint8Array([1]), Date.now() - 31 * 86_400_000);
  old.add(new Uint8Array([2]));
  assert.deepEqual(old.take(() => true), [new Uint8Array([2])]);
  assert.equal(old.size, 0);
});

test("parts make way for those of another message, and the oldest ones when there are too many", () => {
  const parts = new Parts();
  const part = (index: number, count: number, ...bytes: number[]): { index: number; count: number; bytes: Uint8Array } => ({ index, count, bytes: new Uint8Array(bytes) });
  assert.equal(parts.add("a", part(0, 2, 1), "1"), undefined);
  // Another counter of the stream: the former message never becomes whole.
  assert.equal(parts.add("a", part(1, 2, 4), "2"), undefined);
  assert.deepEqual(parts.add("a", part(0, 2, 3), "2"), new Uint8Array([3, 4]));
  assert.equal(parts.add("a", part(1, 2, 2), "1"), undefined);
  // Streams that nobody ends crowd each other out.
  assert.equal(parts.add("b", part(0, 2, 1)), undefined);
  for (let i = 0; i < 600; i += 1) assert.equal(parts.add(`junk ${i}`, part(0, 2, 9)), undefined);
  assert.equal(parts.add("b", part(1, 2, 2)), undefined, "it was the oldest");
  assert.deepEqual(parts.add("b", part(0, 2, 1)), new Uint8Array([1, 2]));
});
