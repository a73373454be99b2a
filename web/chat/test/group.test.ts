import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { OwnerKey } from "valise-client";
import { RelayProcess } from "valise-client/testing";

import { random } from "../src/bytes.js";
import type { Group } from "../src/index.js";
import { newProfile, type Profile } from "../src/profile.js";
import { ghostCommit, putDecision } from "./ghost.js";
import { met, Person, until } from "./person.js";
import { Stranger } from "./stranger.js";

const BOUND = { timeout: 90_000 };
let relay: RelayProcess;

before(async () => void (relay = await RelayProcess.temporary()), BOUND);
after(() => relay?.dispose(), BOUND);

test("a group of valise-chat: members come and go, and the stranger follows", BOUND, async () => {
  const [ann, bob, cid, nod] = await Promise.all([
    ...["Ann", "Bob", "Cid"].map((name) => Person.begin(name, relay.address)),
    Stranger.begin("Nod", relay.address),
  ] as [Promise<Person>, Promise<Person>, Promise<Person>, Promise<Stranger>]);
  try {
    await met(ann, [bob, cid, nod]);
    const account = await Promise.all([ann, bob, cid].map((one) => one.account()));
    const { conversation } = await ann.ask<{ conversation: number }>("group_create", {
      name: "Friends",
      members: [account[1], nod.account],
    });
    const group = await nod.group("Friends", 3);
    const atBob = await bob.conversation("Friends", 3);
    const first = await ann.says(conversation, "hello, all");
    await Promise.all([nod.hears("hello, all"), bob.hears(atBob, "hello, all")]);
    // Receipts in a group wait for more of their kind: both at once.
    await Promise.all([
      nod.says(group, "hello from the stranger", "delivered"),
      ann.state(conversation, first, "delivered"),
      ann.hears(conversation, "hello from the stranger"),
      bob.hears(atBob, "hello from the stranger"),
    ]);

    // Ann adds Cid and removes Bob; both are commits that the stranger finds in the slots.
    await ann.ask("group_add", { conversation, account: account[2] });
    await nod.group("Friends", 4);
    const atCid = await cid.conversation("Friends", 4);
    await nod.says(group, "welcome, Cid");
    await Promise.all([ann.hears(conversation, "welcome, Cid"), bob.hears(atBob, "welcome, Cid"), cid.hears(atCid, "welcome, Cid")]);
    await cid.says(atCid, "thank you");
    await nod.hears("thank you");
    await ann.ask("group_remove", { conversation, account: account[1] });
    await nod.group("Friends", 3);
    await nod.says(group, "without Bob");
    await Promise.all([ann.hears(conversation, "without Bob"), cid.hears(atCid, "without Bob")]);
    await ann.says(conversation, "indeed");
    await nod.hears("indeed");

    // Another name is a commit, too.
    await ann.ask("group_rename", { conversation, name: "Good friends" });
    await nod.group("Good friends", 3);

    // The stranger is removed, and cannot read what is said afterwards.
    await ann.ask("group_remove", { conversation, account: nod.account });
    await nod.until("it is removed", () => (group.active ? undefined : true));
    await ann.says(conversation, "now we are among ourselves");
    await cid.hears(atCid, "now we are among ourselves");
    assert.throws(() => nod.chat.send(group, "let me in"), /not in the group/);
    assert.ok(!nod.heard.some(({ text }) => text === "now we are among ourselves"));
    assert.deepEqual([nod.junk, nod.lost], [[], []]);
  } finally {
    nod.chat.close();
    await Promise.all([ann, bob, cid].map((one) => one.dispose()));
  }
});

test("the stranger's own commits: it makes a group, adds, renames and removes", BOUND, async () => {
  const [ann, bob, nod] = await Promise.all([Person.begin("Ann", relay.address), Person.begin("Bob", relay.address), Stranger.begin("Nod", relay.address)]);
  try {
    for (const one of [ann, bob]) await one.ask("join", { link: await nod.chat.invite(), allow_relay: false });
    await nod.until("both cards", () => nod.chat.contacts.length === 2 || undefined);
    const [annId, bobId] = ["Ann", "Bob"].map((name) => nod.chat.contacts.find((contact) => contact.name === name)!.account);
    const group = await nod.chat.createGroup("Garden", [annId!]);
    const atAnn = await ann.conversation("Garden", 2);
    await nod.says(group, "two of us");
    await ann.hears(atAnn, "two of us");

    // It adds somebody to a group that others follow: the commit has a path, though it only adds.
    await nod.chat.add(group, bobId!);
    const atBob = await bob.conversation("Garden", 3);
    await ann.conversation("Garden", 3);
    await nod.says(group, "three of us");
    await Promise.all([ann.hears(atAnn, "three of us"), bob.hears(atBob, "three of us")]);
    await bob.says(atBob, "hello, garden");
    await Promise.all([nod.hears("hello, garden"), ann.hears(atAnn, "hello, garden")]);

    await nod.chat.rename(group, "Kitchen garden");
    await Promise.all([ann.conversation("Kitchen garden", 3), bob.conversation("Kitchen garden", 3)]);

    // Both commit at once: one is first, and the other wants its change again upon the new epoch.
    await Promise.all([nod.chat.rename(group, "Herbs"), ann.ask("group_rename", { conversation: atAnn, name: "Roses" })]);
    await nod.until("it has followed", () => group.epoch >= 5n || undefined);
    await nod.says(group, "whichever it is");
    await Promise.all([ann.hears(atAnn, "whichever it is"), bob.hears(atBob, "whichever it is")]);

    await nod.chat.remove(group, bobId!);
    await ann.conversation(group.roster.info.name, 2);
    const delivered = nod.says(group, "two again", "delivered");
    await ann.hears(atAnn, "two again");
    await until("Bob is out", async () => {
      const all = await bob.ask<{ number: number; closed: string | null }[]>("conversations");
      return all.find(({ number }) => number === atBob)?.closed ?? undefined;
    });
    assert.ok(!(await bob.messages(atBob)).some(({ text }) => text === "two again"));

    await delivered;

    // Who leaves says so, and any member removes it.
    await ann.ask("group_leave", { conversation: atAnn });
    await nod.until("Ann has left", () => group.roster.members.length === 1 || undefined);
    assert.deepEqual(nod.junk, []);
  } finally {
    nod.chat.close();
    await Promise.all([ann, bob].map((one) => one.dispose()));
  }
});

test("a ghost is junk: the group goes on at the next attempt, on both sides", BOUND, async () => {
  const [ann, bob] = await Promise.all(["Ann", "Bob"].map((name) => Person.begin(name, relay.address)) as [Promise<Person>, Promise<Person>]);
  const strangers = await Promise.all(["Nod", "Eve", "Dan"].map((name) => Stranger.begin(name, relay.address)));
  const [nod, eve, dan] = strangers as [Stranger, Stranger, Stranger];
  try {
    await met(ann, [bob, ...strangers]);
    const members = [await bob.account(), ...strangers.map(({ account }) => account)];
    const { conversation } = await ann.ask<{ conversation: number }>("group_create", { name: "Haunted", members });
    const [group, atEve, atDan] = (await Promise.all(strangers.map((one) => one.group("Haunted", 5)))) as [Group, Group, Group];
    const atBob = await bob.conversation("Haunted", 5);
    await nod.says(group, "before");

    // A device that claims Bob's account, certified by a root of its own.
    const bobLeaf = group.roster.members.find(({ member }) => member.name === "Bob")!;
    const ghost: Profile = { ...(await newProfile("Bob")), account: bobLeaf.account, device: random(16), rootKey: bobLeaf.rootKey, root: OwnerKey.generate() };
    const epoch = group.epoch;
    await putDecision(relay.address, atEve, await ghostCommit(atEve, ghost));

    // Everybody finds it in the slot, and nobody takes it over; the next commit goes to attempt 1.
    await ann.ask("group_rename", { conversation, name: "Quiet" });
    await nod.group("Quiet", 5);
    assert.equal(nod.junk.length, 1);
    assert.match(String(nod.junk[0]), /certificate/);
    assert.equal(group.epoch, epoch + 1n);
    await bob.conversation("Quiet", 5);
    const counted = await ann.ask<{ devices: number }[]>("members", { conversation });
    assert.deepEqual(counted.map(({ devices }) => devices), [1, 1, 1, 1, 1]);
    // Whoever has made it cannot tell what became of it: it goes on alone with nothing, and says so.
    await eve.until("it has lost track", () => atEve.lost || undefined);
    assert.match(String(eve.lostTrack[0]), /in this device's own name/);
    assert.equal(atEve.epoch, epoch);
    assert.throws(() => eve.chat.send(atEve, "am I alone?"), /lost track/);
    await assert.rejects(eve.chat.rename(atEve, "Mine"), /lost track/);

    await nod.says(group, "after");
    await Promise.all([ann.hears(conversation, "after"), bob.hears(atBob, "after")]);
    await bob.says(atBob, "nobody was there");
    await Promise.all([nod.hears("nobody was there"), ann.hears(conversation, "nobody was there")]);

    // And with the stranger's own next commit in the epoch of the junk.
    await dan.group("Quiet", 5);
    await putDecision(relay.address, atDan, await ghostCommit(atDan, { ...ghost, device: random(16) }));
    await nod.chat.rename(group, "Quiet again");
    assert.equal(nod.junk.length, 2);
    await Promise.all([ann.conversation("Quiet again", 5), bob.conversation("Quiet again", 5)]);
    await ann.says(conversation, "the end");
    await Promise.all([nod.hears("the end"), bob.hears(atBob, "the end")]);
    assert.deepEqual(nod.lostTrack, []);
  } finally {
    for (const one of strangers) one.chat.close();
    await Promise.all([ann, bob].map((one) => one.dispose()));
  }
});
