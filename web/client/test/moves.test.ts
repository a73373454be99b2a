import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { Client, type Change } from "../src/client.js";
import { MovePhase, Reason } from "../src/gen/valise/v1/valise_pb.js";
import { OwnerKey } from "../src/keys.js";
import type { Mailbox } from "../src/mailbox.js";
import { FakeRelay, type Guest } from "./fake-relay.js";
import { inState, padded, until } from "./helpers.js";

const BOUND = { timeout: 30_000 };
const TOKEN = new Uint8Array(60);
let a: FakeRelay;
let b: FakeRelay;
let serves: Map<FakeRelay, (mailbox: number) => boolean>;
let guests: Map<FakeRelay, Guest[]>;
let serving: { guest: Guest; attachment: number } | undefined;
// What becomes of an attach that a relay grants; answered at once where nothing is said.
let granting: Map<FakeRelay, (guest: Guest, answer: () => void) => void>;
let client: Client;

/** Two relays of one realm, each of which serves what `serves` says, by a capability's first byte; 7 is the device's own. */
beforeEach(async () => {
  a = await FakeRelay.start();
  b = await FakeRelay.start(a);
  serves = new Map([[a, () => true], [b, () => true]]);
  guests = new Map([[a, []], [b, []]]);
  serving = undefined;
  granting = new Map();
  for (const relay of [a, b]) {
    relay.flaws = { record: { endpoints: [a.endpoint, b.endpoint] } };
    const attaches = new Map<Guest, number>();
    relay.script = (packet, guest) => {
      if (packet.case === "hello") guests.get(relay)!.push(guest);
      const serves_ = serves.get(relay)!;
      const refused = (request: number): void => guest.say({ case: "refused", value: { request, reason: Reason.MOVED } });
      if (packet.case === "attach") {
        const attachment = attaches.get(guest) ?? 0;
        attaches.set(guest, attachment + 1);
        if (!serves_(7)) return refused(packet.value.request);
        serving?.guest.say({ case: "replaced", value: { attachment: serving.attachment } });
        serving = { guest, attachment };
        const { request } = packet.value;
        const answer = (): void => {
          guest.say({ case: "attached", value: { request, attachment } });
          guest.say({ case: "caughtUp", value: { attachment } });
        };
        const grant = granting.get(relay);
        if (grant) grant(guest, answer);
        else answer();
      } else if (packet.case === "post") {
        const { request, frameId, capabilities } = packet.value;
        const outcomes = capabilities.map((token) => (serves_(token[0]!) ? Reason.ACCEPTED : Reason.MOVED));
        guest.say({ case: "posted", value: { request, frameId, outcomes } });
      } else if (packet.case === "issue") {
        if (!serves_(7)) return refused(packet.value.request);
        guest.say({ case: "issued", value: { request: packet.value.request, tokens: [new Uint8Array(60).fill(relay === a ? 1 : 2)] } });
      } else if (packet.case === "getSlots") {
        if (!serves_(8)) return refused(packet.value.request);
        guest.say({ case: "slots", value: { request: packet.value.request, payloads: [new Uint8Array()] } });
      }
    };
  }
  client = new Client(a.address, { backoffFirstMs: 50 });
});

afterEach(() => {
  client.close();
  a.stop();
  b.stop();
});

const heard = (relay: FakeRelay, kind: string): number => relay.heard.filter((packet) => packet.case === kind).length;
const go = (relay: FakeRelay, endpoints: string[], realmRecord?: { record: Uint8Array; signature: Uint8Array }): void =>
  guests.get(relay)!.at(-1)!.say({ case: "move", value: { phase: MovePhase.GO, endpoints, spreadMs: 10, ...(realmRecord ? { realmRecord } : {}) } });

async function attached(): Promise<{ mailbox: Mailbox; states: string[]; frames: number[] }> {
  const states: string[] = [];
  const frames: number[] = [];
  const mailbox = client.attach(OwnerKey.generate(), TOKEN, async (some) => void frames.push(...some.map(({ payload }) => payload[0]!)));
  mailbox.on("changed", (state) => void states.push(state));
  await inState(mailbox, "attached");
  return { mailbox, states, frames };
}

test("the client goes where it is sent, and nobody sees it", BOUND, async () => {
  const events: string[] = [];
  for (const event of ["connected", "disconnected", "stopped"] as const) client.on(event, () => void events.push(event));
  const { mailbox, states, frames } = await attached();
  const other = new Uint8Array(60).fill(3);
  go(a, [b.endpoint]);
  await until(() => heard(b, "attach") === 1);
  // It posts all the time, and each post has its outcome.
  while (heard(b, "post") === 0) assert.deepEqual(await client.post({ capabilities: [other], payload: padded("x") }), [Reason.ACCEPTED]);
  assert.deepEqual([...(await mailbox.issue({ kind: 2 }))[0]!.slice(0, 1)], [2]);
  serving!.guest.say({ case: "deliver", value: { attachment: serving!.attachment, n: 1n, frameId: new Uint8Array(16), payload: padded("m") } });
  await until(() => heard(b, "ack") === 1);
  assert.deepEqual(frames, ["m".charCodeAt(0)]);
  assert.deepEqual(new Set(states), new Set(["attached"]));
  assert.deepEqual(events, ["connected"]);
  assert.equal(mailbox.state, "attached");
  // b is where it comes back to.
  guests.get(b)!.at(-1)!.end();
  await until(() => heard(b, "attach") === 2);
  assert.equal(heard(a, "attach"), 1);
});

test("a place that the record does not list is not dialled, and one that attaches nothing is left alone", BOUND, async () => {
  const trap = await FakeRelay.start(a);
  try {
    const { mailbox } = await attached();
    go(a, [trap.endpoint]);
    go(a, [b.endpoint, trap.endpoint]);
    await sleep(300);
    assert.equal(trap.connections.length + b.connections.length, 0);
    serves.set(b, () => false);
    go(a, [b.endpoint]);
    await until(() => heard(b, "attach") === 1);
    await sleep(100);
    assert.equal(mailbox.state, "attached");
    assert.deepEqual([...(await mailbox.issue({ kind: 2 }))[0]!.slice(0, 1)], [1]);
    // Four within a minute, and no more.
    for (let i = 0; i < 20; i += 1) {
      go(a, [b.endpoint]);
      await sleep(50);
    }
    assert.ok(b.connections.length <= 4, `${b.connections.length}`);
  } finally {
    trap.stop();
  }
});

test("a mailbox that is served elsewhere is attached there, and followed", BOUND, async () => {
  serves.set(a, () => false);
  const { mailbox } = await attached();
  assert.equal(heard(b, "attach"), 1);
  // It moves back while nobody says so, and no `Replaced` comes.
  serves.set(a, () => true);
  serves.set(b, () => false);
  serving = undefined;
  assert.deepEqual([...(await mailbox.issue({ kind: 2 }))[0]!.slice(0, 1)], [1]);
  assert.equal(mailbox.state, "attached");
});

test("a client is attached in one place at a time", BOUND, async () => {
  serves.set(a, () => false);
  const held: (() => void)[] = [];
  granting.set(b, (_guest, answer) => void held.push(answer));
  const mailbox = client.attach(OwnerKey.generate(), TOKEN, async () => undefined);
  await until(() => heard(b, "attach") === 1);
  // While it dialled there, it may have asked here again: all of that is here before its answer.
  guests.get(a)!.at(-1)!.say({ case: "ping", value: { request: 1 } });
  await until(() => heard(a, "pong") === 1);
  const before = heard(a, "attach");
  serves.set(a, () => true);
  await sleep(1_000);
  held.forEach((answer) => answer());
  await inState(mailbox, "attached");
  await sleep(500);
  assert.deepEqual([heard(a, "attach"), heard(b, "attach")], [before, 1]);
  assert.equal(mailbox.state, "attached");
});

test("a place that does not answer an attach holds nobody up for long", BOUND, async () => {
  const { mailbox, states } = await attached();
  let asked = 0;
  granting.set(b, (_guest, answer) => void (asked++ > 0 && answer()));
  go(a, [b.endpoint]);
  await until(() => asked === 1);
  // The connection here is lost meanwhile: the mailbox is attached over the next one.
  guests.get(a)!.at(-1)!.end();
  await until(() => mailbox.state === "waiting");
  await inState(mailbox, "attached", 15_000);
  assert.ok(!states.includes("replaced"), states.join());
});

test("an attach that was never answered is not another device", BOUND, async () => {
  granting.set(a, (guest) => guest.end());
  const mailbox = client.attach(OwnerKey.generate(), TOKEN, async () => undefined);
  await until(() => heard(a, "attach") === 1);
  granting.clear();
  await inState(mailbox, "attached");
  const replace = (): void => {
    serving!.guest.say({ case: "replaced", value: { attachment: serving!.attachment } });
    serving = undefined;
  };
  const attaches = heard(a, "attach");
  replace();
  await until(() => heard(a, "attach") === attaches + 1);
  await inState(mailbox, "attached");
  // That was the one; whoever comes now is another device.
  replace();
  await inState(mailbox, "replaced");
});

test("a client that is turned away everywhere goes on trying, less and less often", BOUND, async () => {
  serves.set(a, () => false);
  serves.set(b, () => false);
  const mailbox = client.attach(OwnerKey.generate(), TOKEN, async () => undefined);
  await until(() => heard(a, "attach") + heard(b, "attach") >= 6);
  const tries = heard(a, "attach") + heard(b, "attach");
  await sleep(1_000);
  assert.ok(heard(a, "attach") + heard(b, "attach") < tries + 20);
  assert.equal(mailbox.state, "waiting");
  serves.set(b, () => true);
  await inState(mailbox, "attached", 20_000);
});

test("a post goes where each of its mailboxes is served, with one id", BOUND, async () => {
  await attached();
  serves.set(a, (mailbox) => mailbox === 1);
  serves.set(b, (mailbox) => mailbox !== 1);
  const capabilities = [1, 2, 3].map((i) => new Uint8Array(60).fill(i));
  assert.deepEqual(await client.post({ capabilities, payload: padded("x") }), Array(3).fill(Reason.ACCEPTED));
  const posts = [a, b].map((relay) => relay.heard.flatMap((packet) => (packet.case === "post" ? [packet.value] : [])));
  assert.deepEqual(posts.map((some) => some.map((post) => post.capabilities.map((token) => token[0]))), [[[1, 2, 3]], [[2, 3]]]);
  assert.deepEqual(posts[0]![0]!.frameId, posts[1]![0]!.frameId);
  assert.equal(heard(b, "attach"), 0);
  // So is a question.
  serves.set(a, () => false);
  assert.deepEqual(await client.getSlots([new Uint8Array(32)]), [undefined]);
  assert.equal(b.connections.length, 1);
});

test("the newest record counts, is kept, and leads there after a restart", BOUND, async () => {
  client.close();
  const changes: Change[] = [];
  client = new Client(a.address, { backoffFirstMs: 50, commit: (change) => void changes.push(change) });
  await attached();
  const newest = a.signed({ epoch: 6n, endpoints: [b.endpoint] });
  b.flaws = { record: { epoch: 6n, endpoints: [b.endpoint] } };
  go(a, [b.endpoint], { ...newest, signature: new Uint8Array(64) });
  go(a, [b.endpoint], a.signed({ epoch: 4n, endpoints: [b.endpoint] }));
  go(a, [b.endpoint], newest);
  await until(() => heard(b, "attach") === 1);
  const realms = changes.filter((change) => change.kind === "realm");
  assert.deepEqual(realms.map(({ epoch }) => epoch), [5n, 6n]);
  const hello = b.heard.find((packet) => packet.case === "hello");
  assert.equal(hello?.value.realmEpoch, 6n);
  // Whoever shows an older one is told nothing, and is tried again.
  client.close();
  const gone = a.address;
  a.stop();
  b.flaws = { record: { epoch: 5n } };
  const { epoch, record } = realms[1]!;
  client = new Client(gone, { backoffFirstMs: 50, seen: { epoch, record } });
  const hellos = heard(b, "hello");
  const count = b.connections.length;
  const attaching = attached();
  await until(() => b.connections.length >= count + 2);
  assert.equal(heard(b, "hello"), hellos);
  b.flaws = { record: { epoch: 6n, endpoints: [b.endpoint] } };
  await attaching;
});
