import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { Client } from "../src/client.js";
import { Connection } from "../src/connection.js";
import { ConnectionLostError, StoppedError } from "../src/errors.js";
import { CloseReason, MovePhase, Reason } from "../src/gen/valise/v1/valise_pb.js";
import { FakeRelay, type Guest } from "./fake-relay.js";
import { padded, until } from "./helpers.js";

const BOUND = { timeout: 30_000 };
const TOKEN = new Uint8Array(60);
let fake: FakeRelay;

beforeEach(async () => void (fake = await FakeRelay.start()));
afterEach(() => fake.stop());

const heard = (kind: string): number => fake.heard.filter((packet) => packet.case === kind).length;

test("after silence the client pings, and takes a relay that does not answer for gone", BOUND, async () => {
  fake.script = (packet, guest) => {
    if (packet.case === "ping" && heard("ping") < 3) guest.say({ case: "pong", value: { request: packet.value.request } });
  };
  const connection = await Connection.open(fake.address, { pingAfterMs: 50, pongWithinMs: 5_000 });
  const end = await connection.ended;
  assert.match(String(end.error), /does not answer/);
  assert.ok(heard("ping") >= 3);
});

test("a ping of the relay is answered with its number", BOUND, async () => {
  fake.script = (packet, guest) => packet.case === "hello" && guest.say({ case: "ping", value: { request: 77 } });
  const connection = await Connection.open(fake.address);
  await until(() => heard("pong") === 1);
  assert.ok(fake.heard.some((packet) => packet.case === "pong" && packet.value.request === 77));
  connection.close();
});

test("undecided targets are posted again with the same frame id, after the time asked for", BOUND, async () => {
  const times: number[] = [];
  fake.script = (packet, guest) => {
    if (packet.case !== "post") return;
    times.push(Date.now());
    const { request, frameId, capabilities } = packet.value;
    const outcomes = [[Reason.ACCEPTED, Reason.BUSY, Reason.MAILBOX_FULL, 99], [Reason.RATE_LIMITED, Reason.ACCEPTED], [Reason.TOKEN_REVOKED]][times.length - 1]!;
    assert.equal(capabilities.length, outcomes.length);
    guest.say({ case: "posted", value: { request, frameId, outcomes, retryAfterMs: 150 } });
  };
  const client = new Client(fake.address);
  const frameId = new Uint8Array(16).fill(9);
  const outcomes = await client.post({ capabilities: [1, 2, 3, 4].map((i) => new Uint8Array(60).fill(i)), payload: padded("x"), frameId });
  assert.deepEqual(outcomes, [Reason.ACCEPTED, Reason.TOKEN_REVOKED, Reason.ACCEPTED, 99]);
  const posts = fake.heard.flatMap((packet) => (packet.case === "post" ? [packet.value] : []));
  assert.deepEqual(posts.map((post) => [...post.frameId]), Array(3).fill([...frameId]));
  assert.deepEqual(posts.map((post) => post.capabilities.map((token) => token[0])), [[1, 2, 3, 4], [2, 3], [2]]);
  assert.ok(times[1]! - times[0]! >= 145 && times[2]! - times[1]! >= 145);
  client.close();
});

test("a post whose answer is lost is repeated on the next connection", BOUND, async () => {
  fake.script = (packet, guest) => {
    if (packet.case !== "post") return;
    const { request, frameId } = packet.value;
    if (heard("post") < 3) guest.end();
    else guest.say({ case: "posted", value: { request, frameId, outcomes: [Reason.ACCEPTED] } });
  };
  const committed: string[] = [];
  const client = new Client(fake.address, { backoffFirstMs: 20, commit: ({ kind }) => void committed.push(kind) });
  assert.deepEqual(await client.post({ capabilities: [TOKEN], payload: padded("x") }), [Reason.ACCEPTED]);
  assert.equal(fake.connections.length, 3);
  const ids = fake.heard.flatMap((packet) => (packet.case === "post" ? [Buffer.from(packet.value.frameId).toString("hex")] : []));
  assert.equal(new Set(ids).size, 1);
  assert.deepEqual(committed, ["frame", "realm"]);
  client.close();
});

test("Restarting: nothing new is asked, and the client comes back in the time it was told", BOUND, async () => {
  let told: Guest | undefined;
  fake.script = (packet, guest) => {
    if (packet.case === "hello" && fake.connections.length === 1) {
      guest.say({ case: "restarting", value: { reconnectInMs: 300, tryForMs: 60_000 } });
      // Whoever has answered this has read that.
      guest.say({ case: "ping", value: { request: 1 } });
      told = guest;
    }
    if (packet.case === "takeBundle") guest.say({ case: "bundleItem", value: { request: packet.value.request, payload: padded("x") } });
  };
  // The first wait of the backoff would be longer than this test.
  const client = new Client(fake.address, { backoffFirstMs: 1_000_000 });
  await client.signal([TOKEN], padded("now")).catch(() => undefined);
  await until(() => heard("pong") === 1);
  const taken = client.takeBundle(TOKEN);
  await sleep(100);
  assert.deepEqual([heard("takeBundle"), fake.connections.length], [0, 1]);
  const closed = Date.now();
  told!.say({ case: "closing", value: { reason: CloseReason.RESTARTING } });
  told!.end();
  await taken;
  assert.ok(fake.connections[1]! - closed < 20_000, `${fake.connections[1]! - closed} ms`);
  assert.deepEqual([heard("takeBundle"), fake.connections.length], [1, 2]);
  client.close();
});

for (const [reason, stops] of [
  [CloseReason.MALFORMED, true],
  [CloseReason.PACKET_TOO_LARGE, true],
  [CloseReason.OUT_OF_ORDER, true],
  [CloseReason.VERSION_UNSUPPORTED, true],
  [CloseReason.ACK_INVALID, true],
  [CloseReason.ESTABLISHMENT_TIMEOUT, false],
  [CloseReason.IDLE, false],
  [CloseReason.TOO_SLOW, false],
  [CloseReason.STORE_FAILED, false],
  [99, false],
] as const) {
  test(`Closing ${CloseReason[reason] ?? reason}: the client ${stops ? "stops" : "comes back"}`, BOUND, async () => {
    fake.script = (packet, guest) => {
      if (packet.case !== "takeBundle") return;
      if (fake.connections.length > 1) return guest.say({ case: "bundleItem", value: { request: packet.value.request, payload: padded("x") } });
      guest.say({ case: "closing", value: { reason: reason as CloseReason } });
      guest.end();
    };
    const client = new Client(fake.address, { backoffFirstMs: 20 });
    const taken = client.takeBundle(TOKEN);
    if (stops) await assert.rejects(taken, (error) => error instanceof StoppedError && error.cause instanceof ConnectionLostError);
    else await taken;
    assert.equal(fake.connections.length, stops ? 1 : 2);
    client.close();
  });
}

test("Closing in place of Welcome is no reason for distrust", BOUND, async () => {
  fake.flaws = { first: { case: "closing", value: { reason: CloseReason.RESTARTING } } };
  const client = new Client(fake.address, { backoffFirstMs: 20 });
  fake.script = (packet, guest) => packet.case === "takeBundle" && guest.say({ case: "bundleItem", value: { request: packet.value.request, payload: padded("x") } });
  const taken = client.takeBundle(TOKEN);
  await until(() => fake.connections.length > 0);
  fake.flaws = {};
  await taken;
  client.close();
});

test("a relay that breaks the protocol loses its connection", BOUND, async () => {
  for (const bytes of ["818009", "03720208", "0272ff", "054a030a0101"]) {
    fake.script = (packet, guest) => packet.case === "hello" && guest.bytes(Buffer.from(bytes, "hex"));
    const connection = await Connection.open(fake.address);
    assert.ok((await connection.ended).error, bytes);
  }
  // What is only unknown is ignored.
  fake.script = (packet, guest) => packet.case === "hello" && guest.bytes(Buffer.from("00" + "05fa01020801" + "04720208" + "05", "hex"));
  const connection = await Connection.open(fake.address);
  await until(() => fake.heard.some((packet) => packet.case === "pong" && packet.value.request === 5));
  connection.close();
  assert.equal((await connection.ended).error, undefined);
});

test("a client that is told to move to what the record does not list stays where it is", BOUND, async () => {
  fake.script = (packet, guest) => {
    if (packet.case === "hello") guest.say({ case: "move", value: { phase: MovePhase.GO, endpoints: ["127.0.0.1:1"] } });
    if (packet.case === "takeBundle") guest.say({ case: "bundleItem", value: { request: packet.value.request, payload: padded("x") } });
  };
  const client = new Client(fake.address);
  await client.takeBundle(TOKEN);
  await sleep(50);
  await client.takeBundle(TOKEN);
  assert.equal(fake.connections.length, 1);
  client.close();
});

test("a client that closes leaves nothing waiting", BOUND, async () => {
  const client = new Client(fake.address);
  const open = client.takeBundle(TOKEN);
  await until(() => heard("takeBundle") === 1);
  client.close();
  await assert.rejects(open, StoppedError);
  await assert.rejects(client.takeBundle(TOKEN), StoppedError);
});
