import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { after, before, test } from "node:test";

import { RelayProcess } from "valise-client/testing";

import { brokenInvite } from "./broken-invite.js";
import { Person, type Conversation } from "./person.js";
import { Stranger } from "./stranger.js";

const BOUND = { timeout: 60_000 };
let relay: RelayProcess;

before(async () => void (relay = await RelayProcess.temporary()), BOUND);
after(() => relay?.dispose(), BOUND);

test("an invite of valise-chat is followed; both talk, and see what became of it", BOUND, async () => {
  const [ann, nod] = await Promise.all([Person.begin("Ann", relay.address), Stranger.begin("Nod", relay.address)]);
  try {
    const { link } = await ann.ask<{ link: string }>("invite");
    const group = await nod.chat.follow(link);
    await nod.says(group, "hello, Ann", "delivered");
    const conversation = await ann.conversation("Nod");
    const heard = await ann.hears(conversation, "hello, Ann");
    assert.deepEqual([heard.account, heard.name], [nod.account, "Nod"]);

    const message = await ann.says(conversation, "hello, Nod");
    assert.equal((await nod.hears("hello, Nod")).name, "Ann");
    await ann.state(conversation, message, "delivered");
    nod.chat.read(group);
    await ann.state(conversation, message, "read");

    const read = nod.says(group, "have you seen it?", "read");
    const { number } = await ann.hears(conversation, "have you seen it?");
    await ann.ask("read", { conversation, up_to: number });
    await read;
    assert.deepEqual(nod.lost, []);

    // The invite is used up: whoever finds the link later takes nothing any more.
    const eve = await Stranger.begin("Eve", relay.address);
    await assert.rejects(eve.chat.follow(link), /no device of this account can be added.*token_revoked/);
    eve.chat.close();

    // Twelve words, the same on both screens.
    const { words } = await ann.ask<{ words: string[] }>("verify", { account: nod.account });
    const indices = nod.chat.words(nod.heard[0]!.account);
    assert.equal(words.length, indices.length);
    // The list is sorted, so words and indices are in the same order.
    const byWord = [...words.keys()].sort((a, b) => (words[a]! < words[b]! ? -1 : 1));
    const byIndex = [...indices.keys()].sort((a, b) => indices[a]! - indices[b]!);
    assert.deepEqual(byWord, byIndex);
  } finally {
    nod.chat.close();
    await ann.dispose();
  }
});

test("valise-chat follows an invite; long texts go both ways in parts", BOUND, async () => {
  const [ann, nod] = await Promise.all([Person.begin("Ann", relay.address), Stranger.begin("Nod", relay.address)]);
  try {
    const link = await nod.chat.invite();
    await ann.ask("join", { link, allow_relay: false });
    const conversation = await ann.conversation("Nod");
    const message = await ann.says(conversation, "here I am");
    await nod.hears("here I am");
    await ann.state(conversation, message, "delivered");
    const group = nod.chat.groups.at(-1)!;
    await nod.says(group, "so I see", "delivered");
    await ann.hears(conversation, "so I see");
    // Its card comes, in the conversation.
    await nod.until("Ann's card", () => nod.chat.contacts.length > 0 || undefined);
    assert.deepEqual(nod.chat.contacts.map(({ name }) => name), ["Ann"]);

    const long = (of: string): string => `${of} ${randomBytes(100_000).toString("hex")}`;
    const [hers, his] = [long("hers"), long("his")];
    await Promise.all([ann.says(conversation, hers), nod.says(group, his, "delivered")]);
    assert.equal((await nod.hears(hers)).text.length, hers.length);
    assert.equal((await ann.hears(conversation, his)).text.length, his.length);
    // The count goes on after it.
    await Promise.all([ann.says(conversation, "after"), nod.says(group, "after it", "delivered")]);
    await Promise.all([nod.hears("after"), ann.hears(conversation, "after it")]);
    assert.deepEqual([nod.lost, (await ann.messages(conversation)).filter(({ kind }) => kind === "gap")], [[], []]);

    const eve = await Person.begin("Eve", relay.address);
    await assert.rejects(eve.ask("join", { link, allow_relay: false }), "the invite is used up");
    await eve.dispose();
  } finally {
    nod.chat.close();
    await ann.dispose();
  }
});

test("an account with two devices: both hear, and either's word is enough", BOUND, async () => {
  const [ann, nod] = await Promise.all([Person.begin("Ann", relay.address), Stranger.begin("Nod", relay.address)]);
  const phone = await Person.link(ann, "phone");
  try {
    const { link } = await ann.ask<{ link: string }>("invite");
    const group = await nod.chat.follow(link);
    // A device whose package could not be had yet is brought by the other one.
    await nod.until("both are in", () => group.roster.members.length === 3 || undefined);
    await nod.says(group, "hello, both of you", "delivered");
    const [onLaptop, onPhone] = await Promise.all([ann.conversation("Nod"), phone.conversation("Nod")]);
    await Promise.all([ann.hears(onLaptop, "hello, both of you"), phone.hears(onPhone, "hello, both of you")]);

    const message = await phone.says(onPhone, "from my phone");
    const heard = await nod.hears("from my phone");
    await ann.says(onLaptop, "from my laptop");
    const other = await nod.hears("from my laptop");
    assert.deepEqual(heard.account, other.account);
    assert.notDeepEqual(heard.device, other.device);
    await phone.state(onPhone, message, "delivered");
    assert.deepEqual(nod.lost, []);

    // A device that goes is removed by the other one, and the stranger follows.
    const { device } = (await ann.ask<{ device: string; this: boolean }[]>("devices")).find((one) => !one.this)!;
    await ann.ask("remove_device", { device });
    await nod.until("the phone is gone", () => group.roster.members.length === 2 || undefined);
    await nod.says(group, "to the laptop", "delivered");
    await ann.hears(onLaptop, "to the laptop");
  } finally {
    nod.chat.close();
    await Promise.all([ann.dispose(), phone.dispose()]);
  }
});

test("where all packages are gone there is the last resort, and a new address after it", BOUND, async () => {
  const [ann, nod] = await Promise.all([Person.begin("Ann", relay.address), Stranger.begin("Nod", relay.address, { oneTimePackages: 0 })]);
  try {
    await ann.ask("join", { link: await nod.chat.invite(), allow_relay: false });
    const group = await nod.until("the conversation", () => nod.chat.groups[0]);
    const conversation = await ann.conversation("Nod");
    await nod.until("it says a new address", () => !group.addressIsInTree || undefined);
    await nod.says(group, "reached after all", "delivered");
    await ann.hears(conversation, "reached after all");
    const message = await ann.says(conversation, "there");
    await nod.hears("there");
    await ann.state(conversation, message, "delivered");
  } finally {
    nod.chat.close();
    await ann.dispose();
  }
});

test("an invite whose key package is no good makes no conversation with nobody", BOUND, async () => {
  const ann = await Person.begin("Ann", relay.address);
  try {
    await assert.rejects(ann.ask("join", { link: await brokenInvite(relay.address), allow_relay: false }), /cannot be reached now/);
    assert.deepEqual(await ann.ask<Conversation[]>("conversations"), []);
  } finally {
    await ann.dispose();
  }
});
