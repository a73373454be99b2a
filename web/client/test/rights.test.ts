import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { after, before, test } from "node:test";

import { parseInviteCode } from "../src/address.js";
import { Client } from "../src/client.js";
import { RefusedError } from "../src/errors.js";
import { Reason, TokenKind } from "../src/gen/valise/v1/valise_pb.js";
import { randomId } from "../src/ids.js";
import { OwnerKey } from "../src/keys.js";
import { device, inState, padded, textOf, until } from "./helpers.js";
import { RelayProcess } from "./relay-process.js";

const BOUND = { timeout: 60_000 };
let relay: RelayProcess;

before(async () => void (relay = await RelayProcess.temporary()), BOUND);
after(() => relay?.dispose(), BOUND);

const refused = (reason: Reason) => (error: unknown) => error instanceof RefusedError && error.reason === reason;
const slotId = (): Uint8Array => new Uint8Array(randomBytes(32));

test("an invite code joins one owner, as often as that one asks", BOUND, async () => {
  const closed = await RelayProcess.lasting("--access", "codes");
  try {
    const code = parseInviteCode(closed.inviteCode());
    const anna = await device(closed.address, { code });
    const capability = await anna.capability();
    assert.deepEqual(await anna.post(capability, "hello"), [Reason.ACCEPTED]);
    await anna.client.join(anna.owner, code);
    await assert.rejects(anna.client.join(OwnerKey.generate(), code), refused(Reason.CODE_SPENT));
    await assert.rejects(anna.client.join(OwnerKey.generate()), refused(Reason.CODE_REQUIRED));
    await assert.rejects(anna.client.join(OwnerKey.generate(), capability), refused(Reason.TOKEN_INVALID));
    anna.client.close();
  } finally {
    await closed.dispose();
  }
});

test("a revoked capability brings nothing more; what it brought stays", BOUND, async () => {
  const ben = await device(relay.address, { transport: "websocket" });
  const [one, two] = await ben.mailbox.issue({ kind: TokenKind.POST, count: 2, days: 1 });
  await ben.mailbox.detach();
  assert.deepEqual(await ben.post(one!, "before"), [Reason.ACCEPTED]);
  ben.mailbox.takeBack();
  await inState(ben.mailbox, "attached");
  await ben.mailbox.revoke(one!);
  await ben.mailbox.revoke(one!); // once more says the same
  assert.deepEqual(await ben.post(one!, "after"), [Reason.TOKEN_REVOKED]);
  assert.deepEqual(await ben.post(two!, "by the other"), [Reason.ACCEPTED]);
  await until(() => ben.texts.length === 2);
  assert.deepEqual(ben.texts, ["before", "by the other"]);
  // A token of another mailbox, and one that nobody sealed.
  const anna = await device(relay.address);
  await assert.rejects(anna.mailbox.revoke(two!), refused(Reason.TOKEN_INVALID));
  await assert.rejects(anna.mailbox.revoke(new Uint8Array(60)), refused(Reason.TOKEN_INVALID));
  anna.client.close();
  ben.client.close();
});

test("a revoked member token attaches no more, and what is attached stays", BOUND, async () => {
  const ben = await device(relay.address);
  const capability = await ben.capability();
  await ben.mailbox.revoke(ben.mailbox.memberToken);
  assert.deepEqual(await ben.post(capability, "still here"), [Reason.ACCEPTED]);
  await until(() => ben.texts.length === 1);
  await ben.mailbox.detach();
  ben.mailbox.takeBack();
  await inState(ben.mailbox, "failed");
  assert.ok(refused(Reason.TOKEN_REVOKED)(ben.mailbox.failure));
  // Joining again gives another token.
  ben.mailbox.memberToken = await ben.client.join(ben.owner);
  ben.mailbox.takeBack();
  await inState(ben.mailbox, "attached");
  ben.client.close();
});

test("slots are written once and read by whoever knows the id", BOUND, async () => {
  const ben = await device(relay.address);
  const [token, revoked] = await ben.mailbox.issue({ kind: TokenKind.SLOT, count: 2 });
  const [taken, free, large] = [slotId(), slotId(), slotId()];
  const putId = randomId();
  const reader = new Client(relay.address, { transport: "websocket" });
  assert.deepEqual(await reader.putSlot(token!, taken, padded("first"), putId), { stored: true });
  assert.deepEqual(await reader.putSlot(token!, taken, padded("first"), putId), { stored: true });
  const second = await reader.putSlot(token!, taken, padded("second"));
  assert.ok(!second.stored && textOf(second.value) === "first");
  assert.deepEqual(await reader.putSlot(token!, large, padded("large", 65_536)), { stored: true });
  // 65,536 + 512 bytes do not fit one answer: the library asks again.
  const values = await reader.getSlots([large, free, taken, taken]);
  assert.deepEqual(values.map((value) => value && textOf(value)), ["large", undefined, "first", "first"]);
  assert.deepEqual(await reader.getSlots(Array.from({ length: 100 }, slotId)), Array(100).fill(undefined));
  await assert.rejects(reader.putSlot(token!, slotId(), new Uint8Array(513)), refused(Reason.NOT_PADDED));
  await assert.rejects(reader.putSlot(await ben.capability(), slotId(), padded("x")), refused(Reason.TOKEN_INVALID));
  await ben.mailbox.revoke(revoked!);
  await assert.rejects(reader.putSlot(revoked!, slotId(), padded("x")), refused(Reason.TOKEN_REVOKED));
  reader.close();
  ben.client.close();
});

test("a bundle: items in order, each once, then the last resort", BOUND, async () => {
  const ben = await device(relay.address);
  const low: number[] = [];
  ben.mailbox.on("bundleLow", (items) => void low.push(items));
  const [token, other] = await ben.mailbox.issue({ kind: TokenKind.TAKE, count: 2 });
  const taker = new Client(relay.address, { transport: "websocket" });
  await assert.rejects(taker.takeBundle(token!), refused(Reason.BUNDLE_EMPTY));

  const items = Array.from({ length: 11 }, (_, i) => padded(`item ${i}`));
  const publicationId = randomId();
  const publication = { items, lastResort: padded("last resort"), publicationId };
  assert.equal(await ben.mailbox.publish(publication), 11);
  assert.equal(await ben.mailbox.publish(publication), 11); // repeated, it changes nothing
  const take = async (): Promise<string> => {
    const { payload, lastResort } = await taker.takeBundle(token!);
    return `${textOf(payload)}${lastResort ? "!" : ""}`;
  };
  assert.equal(await take(), "item 0");
  assert.deepEqual(low, []);
  assert.equal(await take(), "item 1");
  await until(() => low.length > 0);
  assert.equal(low[0], 9);

  // `replace` throws away the last resort too.
  assert.equal(await ben.mailbox.publish({ items: [padded("new")], replace: true }), 1);
  assert.equal(await take(), "new");
  await assert.rejects(take(), refused(Reason.BUNDLE_EMPTY));
  assert.equal(await ben.mailbox.publish({ items: [], lastResort: padded("again") }), 0);
  assert.equal(await take(), "again!");
  assert.equal(await take(), "again!");

  await assert.rejects(ben.mailbox.publish({ items: [new Uint8Array(1)] }), refused(Reason.NOT_PADDED));
  await assert.rejects(ben.mailbox.publish({ items: [padded("x", 65_536), padded("x", 65_536), padded("x")] }), refused(Reason.TOO_LARGE));
  await assert.rejects(ben.mailbox.publish({ items: Array(101).fill(padded("x")) }), refused(Reason.BUNDLE_FULL));
  await ben.mailbox.revoke(other!);
  await assert.rejects(taker.takeBundle(other!), refused(Reason.TOKEN_REVOKED));

  // Attached anew, the owner is told that few items are left.
  low.length = 0;
  await ben.mailbox.detach();
  ben.mailbox.takeBack();
  await until(() => low.length > 0);
  assert.deepEqual(low, [0]);
  taker.close();
  ben.client.close();
});
