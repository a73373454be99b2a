import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { Client } from "valise-client";
import { RelayProcess } from "valise-client/testing";

import { hex } from "../src/bytes.js";
import { sealFrame } from "../src/frame.js";
import type { Content } from "../src/gen/valise/chat/v1/chat_pb.js";
import { content } from "../src/group.js";
import { CannotError, ChatClient, type Change } from "../src/index.js";
import { isPrivate } from "../src/relays.js";
import { Stranger } from "./stranger.js";

const BOUND = { timeout: 60_000 };
let relay: RelayProcess;
let other: RelayProcess;

before(async () => void ([relay, other] = await Promise.all([RelayProcess.temporary(), RelayProcess.temporary()])), BOUND);
after(() => Promise.all([relay?.dispose(), other?.dispose()]), BOUND);

/** A commit hook that can be held back at one kind of change. */
function gate(): { commit: (changes: readonly Change[]) => Promise<void>; hold: (kind: Change["kind"]) => () => void; kept: string[] } {
  const kept: string[] = [];
  let held: { kind: string; open: Promise<void> } | undefined;
  return {
    kept,
    async commit(changes) {
      while (held && changes.some(({ kind }) => kind === held?.kind)) await held.open;
      kept.push(...changes.map(({ kind }) => kind));
    },
    hold(kind) {
      let release!: () => void;
      held = { kind, open: new Promise<void>((resolve) => (release = resolve)) };
      return () => {
        held = undefined;
        release();
      };
    },
  };
}

test("nothing is posted before it is kept, and nothing is confirmed before", BOUND, async () => {
  const [annsDisk, nodsDisk] = [gate(), gate()];
  const [ann, nod] = await Promise.all([
    Stranger.begin("Ann", relay.address, { commit: annsDisk.commit }),
    Stranger.begin("Nod", relay.address, { commit: nodsDisk.commit }),
  ]);
  try {
    const atNod = await nod.chat.follow(await ann.chat.invite());
    const atAnn = await ann.group("", 2);
    await nod.says(atNod, "first", "delivered");

    const kept = annsDisk.hold("frame");
    const mine = ann.chat.send(atAnn, "held back");
    await sleep(300);
    assert.deepEqual([mine.state, nod.heard.length], ["sending", 0]);
    kept();
    await nod.hears("held back");

    const taken = nodsDisk.hold("message");
    const next = ann.chat.send(atAnn, "not taken yet");
    await ann.until("it is relayed", () => next.state === "relayed" || undefined);
    await sleep(500); // longer than a receipt waits
    assert.deepEqual([next.state, nod.heard.length], ["relayed", 1]);
    taken();
    await ann.until("it is delivered", () => next.state === "delivered" || undefined);
    for (const kind of ["packages", "invite", "group", "message", "contact", "revoke"]) assert.ok(annsDisk.kept.includes(kind), kind);
  } finally {
    for (const one of [ann, nod]) one.chat.close();
  }
});

test("people on two relays: slots at one, mailboxes at both", BOUND, async () => {
  const [ann, nod] = await Promise.all([Stranger.begin("Ann", relay.address), Stranger.begin("Nod", other.address)]);
  try {
    const link = await ann.chat.invite();
    await assert.rejects(nod.chat.follow(link), /new to this client/);
    const atNod = await nod.chat.follow(link, true);
    await nod.says(atNod, "from elsewhere");
    await ann.hears("from elsewhere");
    // Ann's user was not asked about Nod's relay: what would go there waits, and is told of once.
    const [atAnn1] = ann.chat.groups;
    const held = ann.chat.send(atAnn1!, "one");
    const [asked] = await ann.until("it asks", () => (ann.asked.length > 0 ? ann.asked : undefined));
    assert.equal(asked, other.address);
    ann.chat.send(atAnn1!, "two");
    await sleep(400);
    assert.deepEqual([held.state, nod.heard.length, ann.asked.length], ["sending", 0, 1]);
    ann.chat.allowRelay(other.address);
    await nod.hears("two");
    assert.deepEqual(nod.heard.map(({ text }) => text), ["one", "two"]);
    assert.deepEqual(nod.lost, []);
    await nod.says(atNod, "heard", "delivered");
    await nod.until("Ann's card", () => nod.chat.contacts.some(({ name, devices }) => name === "Ann" && devices[0]!.address!.relay === relay.address) || undefined);

    // The group's slots are at Ann's relay: Nod puts with the token that the group has for that.
    await ann.until("Nod's card", () => ann.chat.contacts.length === 1 || undefined);
    const atAnn = await ann.chat.createGroup("Far", [nod.chat.profile.account]);
    const far = await nod.group("Far", 2);
    await nod.chat.rename(far, "Not so far");
    await ann.until("the new name", () => atAnn.roster.info.name === "Not so far" || undefined);
    await ann.says(atAnn, "not so far");
    await nod.hears("not so far");
    assert.deepEqual([ann.junk, nod.junk], [[], []]);

    const wary = await Stranger.begin("Wary", other.address, { allowPrivateRelays: false });
    await assert.rejects(wary.chat.follow(await ann.chat.invite(), true), CannotError);
    wary.chat.close();
  } finally {
    for (const one of [ann, nod]) one.chat.close();
  }
});

test("hosts that nobody may be sent to", () => {
  for (const host of ["127.0.0.1", "10.1.2.3", "172.16.0.1", "172.31.9.9", "192.168.1.1", "169.254.1.1", "100.64.0.1", "0.0.0.0", "::1", "fe80::1", "fd00::1", "::ffff:10.0.0.1", "LOCALHOST", "a.localhost", "printer.local"]) {
    assert.ok(isPrivate(host), host);
  }
  for (const host of ["192.0.2.7", "172.32.0.1", "100.128.0.1", "2001:db8::1", "relay.example", "localhost.example"]) {
    assert.ok(!isPrivate(host), host);
  }
});

test("names have a length, and nothing that moves a cursor", async () => {
  for (const name of ["", "x".repeat(65), "a\u001bb"]) {
    await assert.rejects(ChatClient.begin({ relay: relay.address, name }), RangeError);
  }
});

test("of who is gone, what it said still counts, and nothing else", BOUND, async () => {
  const people = await Promise.all(["Ann", "Nod", "Eve"].map((name) => Stranger.begin(name, relay.address)));
  const [ann, nod, eve] = people as [Stranger, Stranger, Stranger];
  try {
    for (const one of [nod, eve]) {
      await one.chat.follow(await ann.chat.invite());
    }
    await ann.until("both cards", () => ann.chat.contacts.length === 2 || undefined);
    const atAnn = await ann.chat.createGroup("Gone", [nod, eve].map(({ chat }) => chat.profile.account));
    const [atNod, atEve] = await Promise.all([nod.group("Gone", 3), eve.group("Gone", 3)]);
    await eve.says(atEve, "I am Eve");
    assert.equal((await nod.hears("I am Eve")).name, "Eve");
    const { keys } = atEve;
    const { relay: at, capability } = atEve.addresses.get(hex(nod.chat.profile.device))!;
    await ann.chat.remove(atAnn, eve.chat.profile.account);
    await nod.group("Gone", 2);
    await eve.until("it is removed", () => !atEve.active || undefined);

    // It has the keys of the epoch before, and so have the others.
    const said: Content["body"][] = [{ case: "name", value: "Ann" }, { case: "leave", value: true }, { case: "text", value: "goodbye" }];
    const messages = [];
    const firstCounter = atEve.counter + 1n;
    for (const body of said) messages.push(await atEve.seal(content(body), true));
    const client = new Client(at);
    await client.post({ capabilities: [capability], payload: sealFrame(keys, { form: "messages", stream: atEve.stream, firstCounter, messages }) });
    client.close();
    assert.equal((await nod.hears("goodbye")).name, "Eve");
    assert.deepEqual([nod.lost, atNod.epoch], [[], atAnn.epoch]);

    // Added again it comes with a new stream, and goes on.
    await ann.chat.add(atAnn, eve.chat.profile.account);
    const again = await eve.group("Gone", 3);
    assert.notDeepEqual(again.stream, atEve.stream);
    assert.deepEqual(again.addedBy?.account, ann.chat.profile.account);
    await Promise.all([eve.says(again, "back"), nod.hears("back"), ann.hears("back")]);
    assert.deepEqual(people.flatMap(({ junk, lostTrack }) => [...junk, ...lostTrack]), []);
  } finally {
    for (const one of people) one.chat.close();
  }
});
