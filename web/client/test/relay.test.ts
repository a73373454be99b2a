import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { Client, type Change } from "../src/client.js";
import { Connection, type AttachmentEvents } from "../src/connection.js";
import { NotAttachedError, RefusedError } from "../src/errors.js";
import { CloseReason, Reason, TokenKind, type Deliver } from "../src/gen/valise/v1/valise_pb.js";
import { randomId } from "../src/ids.js";
import { OwnerKey } from "../src/keys.js";
import { device, inState, padded, textOf, until } from "./helpers.js";
import { RelayProcess } from "./relay-process.js";

const BOUND = { timeout: 60_000 };
let relay: RelayProcess;

before(async () => void (relay = await RelayProcess.temporary()), BOUND);
after(() => relay?.dispose(), BOUND);

const refused = (reason: Reason) => (error: unknown) => error instanceof RefusedError && error.reason === reason;

/** Events of an attachment that are kept. */
function recorder(): AttachmentEvents & { deliveries: Deliver[]; events: string[] } {
  const deliveries: Deliver[] = [];
  const events: string[] = [];
  return {
    deliveries,
    events,
    attached: () => undefined,
    delivered: (delivery) => void deliveries.push(delivery),
    caughtUp: () => void events.push("caughtUp"),
    signaled: (payload) => void events.push(`signal ${textOf(payload)}`),
    replaced: () => void events.push("replaced"),
    bundleLow: (items) => void events.push(`low ${items}`),
  };
}

test("two devices chat, one on each transport", BOUND, async () => {
  const changes: Change[] = [];
  const commit = (change: Change): void => void changes.push(change);
  const anna = await device(relay.address, { transport: "raw", commit });
  const ben = await device(relay.address, { transport: "websocket" });
  const toAnna = await anna.capability();
  const toBen = await ben.capability();
  for (let i = 0; i < 20; i++) {
    assert.deepEqual(await anna.post(toBen, `to ben ${i}`), [Reason.ACCEPTED]);
    assert.deepEqual(await ben.post(toAnna, `to anna ${i}`), [Reason.ACCEPTED]);
  }
  await until(() => anna.texts.length === 20 && ben.texts.length === 20);
  assert.deepEqual(ben.texts, Array.from({ length: 20 }, (_, i) => `to ben ${i}`));
  assert.deepEqual(anna.texts, Array.from({ length: 20 }, (_, i) => `to anna ${i}`));
  assert.deepEqual([...new Set(changes.map(({ kind }) => kind))], ["realm", "member_token", "frame"]);
  anna.client.close();
  ben.client.close();
});

test("a browser's signatures are accepted on WebSocket, and refused on raw", BOUND, async () => {
  const ben = await device(relay.address, { transport: "websocket", withoutChannel: true });
  ben.client.close();
  const raw = await Connection.open(relay.address, { transport: "raw", withoutChannel: true });
  await assert.rejects(raw.join(OwnerKey.generate()), refused(Reason.CHANNEL_REQUIRED));
  raw.close();
});

test("several mailboxes on one connection; one post to all; two capabilities of a mailbox make one frame", BOUND, async () => {
  const client = new Client(relay.address, { transport: "websocket" });
  const got: string[][] = [[], [], []];
  const capabilities: Uint8Array[] = [];
  for (const texts of got) {
    const owner = OwnerKey.generate();
    const mailbox = client.attach(owner, await client.join(owner), async (frames) => void texts.push(...frames.map((f) => textOf(f.payload))));
    capabilities.push(...(await mailbox.issue({ kind: TokenKind.POST, count: 2 })));
  }
  const outcomes = await client.post({ capabilities: [...capabilities, new Uint8Array(60)], payload: padded("to all") });
  assert.deepEqual(outcomes, [0, 0, 0, 0, 0, 0, Reason.TOKEN_INVALID]);
  await until(() => got.every(({ length }) => length > 0));
  await sleep(100);
  assert.deepEqual(got, [["to all"], ["to all"], ["to all"]]);
  client.close();
});

test("a frame that is repeated is delivered once", BOUND, async () => {
  const ben = await device(relay.address);
  const capability = await ben.capability();
  const frameId = randomId();
  const sender = new Client(relay.address);
  for (let i = 0; i < 3; i++) {
    assert.deepEqual(await sender.post({ capabilities: [capability], payload: padded("once"), frameId }), [Reason.ACCEPTED]);
  }
  await ben.post(capability, "then");
  await until(() => ben.texts.includes("then"));
  assert.deepEqual(ben.texts, ["once", "then"]);
  sender.close();
  ben.client.close();
});

test("posts that break a limit are refused as a whole", BOUND, async () => {
  const ben = await device(relay.address);
  const capability = await ben.capability();
  const post = (capabilities: Uint8Array[], payload: Uint8Array, ttlHours = 0): Promise<number[]> =>
    ben.client.post({ capabilities, payload, ttlHours });
  await assert.rejects(post([capability], new Uint8Array(511)), refused(Reason.NOT_PADDED));
  await assert.rejects(post([], padded("x")), refused(Reason.TOO_MANY_TARGETS));
  await assert.rejects(post(Array<Uint8Array>(1_025).fill(capability), padded("x")), refused(Reason.TOO_MANY_TARGETS));
  await assert.rejects(post(Array<Uint8Array>(17).fill(capability), padded("x", 65_536)), refused(Reason.TOO_LARGE));
  await assert.rejects(post([capability], padded("x"), 2_161), refused(Reason.TTL_INVALID));
  await assert.rejects(ben.mailbox.issue({ kind: TokenKind.JOIN }), refused(Reason.KIND_INVALID));
  await assert.rejects(ben.mailbox.issue({ kind: TokenKind.POST, count: 101 }), refused(Reason.LIMITS_INVALID));
  await assert.rejects(ben.mailbox.issue({ kind: TokenKind.POST, days: 401 }), refused(Reason.LIMITS_INVALID));
  assert.equal((await ben.mailbox.issue({ kind: TokenKind.POST, count: 100 })).length, 100);
  assert.deepEqual(ben.texts, []);
  ben.client.close();
});

test("the window: what is not acknowledged holds the rest back", BOUND, async () => {
  const ben = await device(relay.address);
  const capability = await ben.capability();
  const token = ben.mailbox.memberToken;
  await ben.client.detach(ben.mailbox);
  for (let i = 0; i < 5; i++) {
    const posted = await ben.client.post({ capabilities: [capability], payload: padded(`${i}`, 65_536) });
    assert.deepEqual(posted, [Reason.ACCEPTED]);
  }
  const connection = await Connection.open(relay.address);
  const seen = recorder();
  const attachment = await connection.attach(ben.owner, token, seen);
  await until(() => seen.deliveries.length === 2);
  await sleep(200);
  assert.equal(seen.deliveries.length, 2);
  assert.deepEqual(seen.events, []);
  connection.ack(attachment, 1n);
  await until(() => seen.deliveries.length === 3);
  await sleep(100);
  assert.equal(seen.deliveries.length, 3);
  connection.ack(attachment, 3n);
  await until(() => seen.deliveries.length === 5 && seen.events.includes("caughtUp"));
  assert.deepEqual(seen.deliveries.map(({ n }) => n), [1n, 2n, 3n, 4n, 5n]);
  assert.deepEqual(seen.deliveries.map(({ payload }) => textOf(payload)), ["0", "1", "2", "3", "4"]);
  connection.close();
  ben.client.close();
});

test("frames are acknowledged only after the handler, and together", BOUND, async () => {
  let release = (): void => undefined;
  const held = new Promise<void>((resolve) => (release = resolve));
  const batches: number[] = [];
  const ben = await device(relay.address, {
    before: async (frames) => {
      batches.push(frames.length);
      await held;
    },
  });
  const capability = await ben.capability();
  const sender = new Client(relay.address);
  const all = Array.from({ length: 6 }, (_, i) => sender.post({ capabilities: [capability], payload: padded(`${i}`) }));
  await Promise.all(all);
  await until(() => batches.length === 1);
  // Taken over while the handler has not resolved: everything comes again, elsewhere.
  const taker = await Connection.open(relay.address, { transport: "websocket" });
  const seen = recorder();
  await taker.attach(ben.owner, ben.mailbox.memberToken, seen);
  await inState(ben.mailbox, "replaced");
  await until(() => seen.deliveries.length === 6);
  assert.deepEqual(seen.deliveries.map(({ payload }) => textOf(payload)), ["0", "1", "2", "3", "4", "5"]);
  release();
  taker.close();
  // Asked for by its user, the first device gets them once more, and now acknowledges.
  await sleep(50);
  ben.texts.length = 0;
  ben.mailbox.takeBack();
  await until(() => ben.texts.length === 6);
  assert.ok(batches.length < 7, `${batches.length} batches`);
  await ben.client.detach(ben.mailbox);
  const empty = await Connection.open(relay.address);
  const nothing = recorder();
  await empty.attach(ben.owner, ben.mailbox.memberToken, nothing);
  await until(() => nothing.events.includes("caughtUp"));
  assert.equal(nothing.deliveries.length, 0);
  empty.close();
  sender.close();
  ben.client.close();
});

test("a handler that fails acknowledges nothing and detaches", BOUND, async () => {
  let fail = true;
  const ben = await device(relay.address, {
    before: async () => {
      if (fail) throw new Error("the disk is full");
    },
  });
  const capability = await ben.capability();
  assert.deepEqual(await ben.post(capability, "kept"), [Reason.ACCEPTED]);
  await inState(ben.mailbox, "failed");
  assert.match(String(ben.mailbox.failure), /the disk is full/);
  await assert.rejects(ben.capability(), NotAttachedError);
  fail = false;
  ben.mailbox.takeBack();
  await until(() => ben.texts.length === 1);
  assert.deepEqual(ben.texts, ["kept"]);
  ben.client.close();
});

test("after a takeover the older device does not come back by itself", BOUND, async () => {
  const first = await device(relay.address, { transport: "websocket" });
  const capability = await first.capability();
  const client = new Client(relay.address);
  const second: string[] = [];
  const mailbox = client.attach(first.owner, first.mailbox.memberToken, async (frames) => void second.push(...frames.map((f) => textOf(f.payload))));
  await inState(mailbox, "attached");
  await inState(first.mailbox, "replaced");
  await assert.rejects(first.capability(), NotAttachedError);
  // Still connected, and able to post; but nothing more arrives here.
  assert.deepEqual(await first.post(capability, "hello"), [Reason.ACCEPTED]);
  await until(() => second.length === 1);
  await sleep(500);
  assert.equal(first.mailbox.state, "replaced");
  assert.equal(mailbox.state, "attached");
  assert.deepEqual(first.texts, []);
  client.close();
  first.client.close();
});

test("detached: frames wait, and come in order on the next attachment", BOUND, async () => {
  const ben = await device(relay.address);
  const capability = await ben.capability();
  await ben.mailbox.detach();
  for (const text of ["a", "b", "c"]) assert.deepEqual(await ben.post(capability, text), [Reason.ACCEPTED]);
  await sleep(100);
  assert.deepEqual(ben.texts, []);
  ben.mailbox.takeBack();
  await until(() => ben.texts.length === 3);
  assert.deepEqual(ben.texts, ["a", "b", "c"]);
  ben.client.close();
});

test("a full mailbox takes nothing until there is room", BOUND, async () => {
  const ben = await device(relay.address);
  const capabilities = await ben.mailbox.issue({ kind: TokenKind.POST, count: 5 });
  await ben.mailbox.detach();
  const sender = new Client(relay.address);
  const posts = Array.from({ length: 1_000 }, (_, i) =>
    sender.post({ capabilities: [capabilities[i % 4]!], payload: padded(`${i}`) }),
  );
  const outcomes = (await Promise.all(posts)).flat();
  assert.ok(outcomes.every((outcome) => outcome === Reason.ACCEPTED));
  const posting = { capabilities: [capabilities[4]!], payload: padded("last"), frameId: randomId() };
  // Given up by its user, it tells how it stood.
  assert.deepEqual(await sender.post({ ...posting, signal: AbortSignal.timeout(300) }), [Reason.MAILBOX_FULL]);
  ben.mailbox.takeBack();
  await until(() => ben.texts.length === 1_000, 20_000);
  assert.deepEqual(await sender.post(posting), [Reason.ACCEPTED]);
  await until(() => ben.texts.length === 1_001);
  assert.equal(new Set(ben.texts).size, 1_001);
  assert.equal(ben.texts.at(-1), "last");
  sender.close();
  ben.client.close();
});

test("signals reach who is attached, and are not stored", BOUND, async () => {
  const ben = await device(relay.address);
  const capability = await ben.capability();
  const signals: string[] = [];
  ben.mailbox.on("signal", (payload) => void signals.push(textOf(payload)));
  const sender = new Client(relay.address, { transport: "websocket" });
  await sender.signal([capability], padded("typing"));
  await until(() => signals.length === 1);
  await ben.mailbox.detach();
  await sender.signal([capability], padded("unheard"));
  // What one connection says is handled in its order.
  await sender.getSlots([new Uint8Array(32)]);
  ben.mailbox.takeBack();
  await inState(ben.mailbox, "attached");
  await sender.signal([capability], padded("again"));
  await until(() => signals.length === 2);
  assert.deepEqual(signals, ["typing", "again"]);
  sender.close();
  ben.client.close();
});

test("faults are answered with Closing, and a client with a fault stops", BOUND, async () => {
  const early = await Connection.open(relay.address);
  early.say({ case: "hello", value: { version: 1 } });
  assert.equal((await early.ended).closeReason, CloseReason.OUT_OF_ORDER);
  const ben = await device(relay.address);
  const beyond = await Connection.open(relay.address);
  const attachment = await beyond.attach(ben.owner, ben.mailbox.memberToken, recorder());
  beyond.ack(attachment, 1n);
  assert.equal((await beyond.ended).closeReason, CloseReason.ACK_INVALID);
  const owner = OwnerKey.generate();
  const other = await Connection.open(relay.address);
  await assert.rejects(other.attach(owner, ben.mailbox.memberToken, recorder()), refused(Reason.NOT_OWNER));
  await assert.rejects(other.attach(owner, new Uint8Array(60), recorder()), refused(Reason.TOKEN_INVALID));
  // Two refused ones were counted by both sides.
  assert.equal(await other.attach(ben.owner, ben.mailbox.memberToken, recorder()), 2);
  other.close();
  ben.client.close();
});
