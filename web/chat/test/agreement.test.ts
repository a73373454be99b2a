import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { create } from "@bufbuild/protobuf";
import { Client, TokenKind } from "valise-client";
import { RelayProcess } from "valise-client/testing";

import { Agreement } from "../src/agreement.js";
import { random, same } from "../src/bytes.js";
import { makeCommit } from "../src/commit.js";
import type { Core } from "../src/core.js";
import { RefusedInput } from "../src/errors.js";
import { GroupInfo_Kind, SlotValueSchema } from "../src/gen/valise/chat/v1/chat_pb.js";
import type { Group } from "../src/index.js";
import { encode } from "../src/message.js";
import { newProfile } from "../src/profile.js";
import { Relays } from "../src/relays.js";
import { sealItem } from "../src/sealed.js";
import { slotOfDecision, slotOfPart, voidOf } from "../src/slot.js";
import { groupOf, infoOf, people } from "./forge.js";
import { met, Person } from "./person.js";
import { Stranger } from "./stranger.js";

const BOUND = { timeout: 60_000 };
let relay: RelayProcess;

before(async () => void (relay = await RelayProcess.temporary()), BOUND);
after(() => relay?.dispose(), BOUND);

/** The values of a commit in two parts, cut where its writer likes: part 0, part 1. */
function inTwo({ keys, attempt }: Group, commit: Uint8Array): { slot: Uint8Array; value: Uint8Array }[] {
  const seed = random(16);
  const half = Math.floor(commit.length / 2);
  const slots = [slotOfDecision(keys, attempt), slotOfPart(keys, attempt, 1, seed)];
  return [commit.slice(0, half), commit.slice(half)].map((bytes, part) => {
    const value = create(SlotValueSchema, { bytes, count: 2, ...(part === 0 ? { seed } : {}) });
    return { slot: slots[part]!, value: sealItem(keys.envelope, slots[part]!, encode(SlotValueSchema, value)) };
  });
}

/** A group whose slots are at the relay, as two members have it, and what the second one agrees by. */
async function agreeing(): Promise<{ atAnn: Group; atBob: Group; agreement: Agreement; client: Client; token: Uint8Array }> {
  const client = new Client(relay.address);
  const { owner } = await newProfile("Bob");
  const mailbox = client.attach(owner, await client.join(owner), async () => undefined);
  const [token] = await mailbox.issue({ kind: TokenKind.SLOT });
  const core = { relays: new Relays(client, true, {}), slotToken: token!, commit: () => undefined };
  const { ann, joined } = await groupOf(infoOf(GroupInfo_Kind.GROUP, { home: relay.address }), [people.bob]);
  return { atAnn: ann, atBob: joined[0]!, agreement: new Agreement(core as unknown as Core), client, token: token! };
}

test("what becomes of one's own puts", BOUND, async () => {
  const { atAnn, atBob, agreement, client, token } = await agreeing();
  try {
    const made = await makeCommit(atBob.state, []);
    const pending = await agreement.prepare(atBob, made, undefined);
    assert.equal((await agreement.put(atBob, pending)).kind, "stored");
    // No answer, or a crash: the same puts again.
    assert.equal((await agreement.put(atBob, pending)).kind, "stored");
    // The very value is one's own, whoever's put it was.
    const puts = pending.puts.map((one) => ({ ...one, putId: random(16) }));
    assert.equal((await agreement.put(atBob, { ...pending, puts })).kind, "stored");
    // Somebody was first.
    const later = await agreement.put(atAnn, await agreement.prepare(atAnn, await makeCommit(atAnn.state, []), undefined));
    assert.ok(later.kind === "taken" && same(later.value, pending.puts.at(-1)!.value));
    assert.deepEqual(await agreement.whole(atAnn, later.value), made.commit);

    // A void lies in the place of a later part: nothing more of the commit is put.
    atBob.attempt = 1;
    const [first, second] = inTwo(atBob, made.commit) as [{ slot: Uint8Array; value: Uint8Array }, { slot: Uint8Array; value: Uint8Array }];
    await client.putSlot(token, second.slot, voidOf(atBob.keys, second.slot));
    const spoilt = { ...pending, puts: [second, first].map((one) => ({ ...one, putId: random(16) })) };
    assert.equal((await agreement.put(atBob, spoilt)).kind, "spoilt");
    assert.equal(await agreement.decision(atBob), undefined);

    // What the relay refuses for good is no answer: the slot tells.
    const refused = new Agreement({ relays: new Relays(client, true, {}), slotToken: random(60), commit: () => undefined } as unknown as Core);
    await assert.rejects(refused.put(atBob, pendingAt(atBob)), /does not take the change/);
    atBob.attempt = 0;
    assert.equal((await refused.put(atBob, pending)).kind, "stored");
    function pendingAt(group: Group): typeof pending {
      return { ...pending, puts: [{ ...first, slot: slotOfDecision(group.keys, group.attempt), putId: random(16) }] };
    }
  } finally {
    client.close();
  }
});

test("a later part that is missing is made void, or was there after all", BOUND, async () => {
  const { atBob, agreement, client, token } = await agreeing();
  try {
    const { commit } = await makeCommit(atBob.state, []);
    const whole = inTwo(atBob, commit);
    for (const { slot, value } of whole) await client.putSlot(token, slot, value);
    assert.deepEqual(await agreement.whole(atBob, whole[0]!.value), commit);

    const [half, missing] = inTwo(atBob, commit) as [{ value: Uint8Array }, { slot: Uint8Array; value: Uint8Array }];
    await assert.rejects(agreement.whole(atBob, half.value), (error) => error instanceof RefusedInput && /without one of them/.test(error.message));
    // It is void for everyone and for good: whoever reads it, and whoever writes the part now.
    await assert.rejects(agreement.whole(atBob, half.value), (error) => error instanceof RefusedInput && /slot value/.test(error.message));
    assert.equal((await client.putSlot(token, missing.slot, missing.value)).stored, false);

    // A relay that has held a part back gives it out as the answer.
    const late = inTwo(atBob, commit) as [{ value: Uint8Array }, { slot: Uint8Array; value: Uint8Array }];
    await client.putSlot(token, late[1].slot, late[1].value);
    const relays = new Relays(client, true, {});
    const forgetful = { slots: async (_: string, ids: readonly Uint8Array[]) => ids.map(() => undefined), putSlot: relays.putSlot.bind(relays), isHome: () => true };
    const withheld = new Agreement({ relays: forgetful, slotToken: token } as unknown as Core);
    assert.deepEqual(await withheld.whole(atBob, late[0].value), commit);
  } finally {
    client.close();
  }
});

test("a commit without its later part stops nobody, whoever finds it", BOUND, async () => {
  const ann = await Person.begin("Ann", relay.address);
  const strangers = await Promise.all(["Nod", "Eve", "Dan"].map((name) => Stranger.begin(name, relay.address)));
  const [nod, eve, dan] = strangers as [Stranger, Stranger, Stranger];
  try {
    await met(ann, strangers);
    const { conversation } = await ann.ask<{ conversation: number }>("group_create", { name: "Cut", members: strangers.map(({ account }) => account) });
    const [group, atEve, atDan] = (await Promise.all(strangers.map((one) => one.group("Cut", 4)))) as [Group, Group, Group];
    const putHalf = async (of: Group): Promise<void> => {
      const client = new Client(relay.address);
      const [half] = inTwo(of, (await makeCommit(of.state, [])).commit);
      assert.ok((await client.putSlot(of.roster.info.slotToken, half!.slot, half!.value)).stored);
      client.close();
    };
    // The stranger makes the part void; valise-chat finds the void.
    await putHalf(atEve);
    await nod.chat.rename(group, "Mended");
    await Promise.all([ann.conversation("Mended", 4), dan.group("Mended", 4)]);
    assert.match(String(nod.junk[0]), /without one of them/);
    // And the other way around.
    await putHalf(atDan);
    await ann.ask("group_rename", { conversation, name: "Mended again" });
    await Promise.all([nod.group("Mended again", 4), eve.group("Mended again", 4)]);
    assert.equal(nod.junk.length, 2);

    // Fresh keys for a leaf: a commit without proposals.
    const { epoch } = group;
    await nod.chat.renew(group);
    assert.equal(group.epoch, epoch + 1n);
    await nod.says(group, "renewed");
    await ann.hears(conversation, "renewed");
    await ann.says(conversation, "so I see");
    await nod.hears("so I see");
    assert.deepEqual(strangers.flatMap(({ lostTrack }) => lostTrack), []);
  } finally {
    for (const one of strangers) one.chat.close();
    await ann.dispose();
  }
});
