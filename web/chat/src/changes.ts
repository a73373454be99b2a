import { create } from "@bufbuild/protobuf";
import type { Proposal } from "ts-mls";

import { hex, random, same } from "./bytes.js";
import { makeCommit, type MadeCommit } from "./commit.js";
import { changeOf, freshAddress, revokeLater, type Core } from "./core.js";
import { CannotError } from "./errors.js";
import { sealFrame } from "./frame.js";
import { GreetingSchema, GroupInfo_Kind, type Address } from "./gen/valise/chat/v1/chat_pb.js";
import { sealGreeting } from "./greeting.js";
import { content, type Group } from "./group.js";
import { judgeCommit, type GoodCommit } from "./judge.js";
import { openLeaf, rosterOf } from "./mls.js";
import { REVOKED_AFTER_MS } from "./numbers.js";
import type { Outbox } from "./outbox.js";
import { joinParts, openDecision, openPart, slotOfDecision, slotOfPart, slotWrites } from "./slot.js";

/** What to change in the group as it is now; undefined where nothing is left to do. */
export type Want = (group: Group) => readonly Proposal[] | undefined;

/** Follows the commits of groups through their slots, and makes own ones: section 27. */
export class Changes {
  outbox!: Outbox;
  /** A group has come into a new epoch: what could not be opened may be now. With the lock held. */
  entered: (group: Group) => Promise<void> = async () => {};

  constructor(private readonly core: Core) {}

  /** Brings a group to its latest epoch. With the lock held; throws where slots cannot be read now. */
  async walk(group: Group): Promise<void> {
    while (group.active && group.roster.members.length > 1) {
      const { keys, attempt } = group;
      const [value] = await this.#slots(group, [slotOfDecision(keys, attempt)]);
      if (!value) return;
      let good: GoodCommit;
      try {
        const first = openDecision(keys, attempt, value);
        const ids = Array.from({ length: first.count - 1 }, (_, i) => slotOfPart(keys, attempt, i + 1, first.seed));
        const later = ids.length > 0 ? await this.#slots(group, ids) : [];
        // Whoever wrote the decision had written the others: a relay that holds one back must not split the group.
        if (later.includes(undefined)) throw new CannotError("a part of a commit is missing");
        const parts = later.map((part, i) => openPart(keys, attempt, i + 1, first, part!));
        good = await judgeCommit(group.state, joinParts(first, parts));
      } catch (error) {
        if (error instanceof CannotError) throw error;
        group.attempt += 1;
        await this.core.commit([changeOf(group)]);
        this.core.events.emit("junk", group, error);
        continue;
      }
      await this.#follow(group, good);
    }
  }

  /** Makes the group agree on a change. Resolves once it has, or nothing is left to do. */
  async change(group: Group, want: Want, invite?: Uint8Array): Promise<void> {
    await this.core.caughtUp();
    await this.core.lock.run(async () => {
      let made: MadeCommit | undefined;
      for (;;) {
        await this.walk(group);
        if (!group.active) throw new CannotError("this device is not in the group");
        const proposals = want(group);
        if (!proposals) return;
        // Where only junk was in the way the epoch is the same, and so is the commit: it is put once more.
        if (made?.before !== group.state) made = await makeCommit(group.state, proposals);
        if (await this.#decide(group, made)) return this.#merge(group, made, invite);
      }
    });
  }

  /** Removes all devices of an account, whoever is first. */
  remove(group: Group, account: Uint8Array): Promise<void> {
    return this.change(group, ({ others }) => {
      const gone = others.filter((member) => same(member.account, account));
      if (gone.length === 0) return undefined;
      return gone.map(({ index }) => ({ proposalType: "remove", remove: { removed: index } }));
    });
  }

  /** Puts the commit into the slots of this attempt; whether it is the group's. */
  async #decide(group: Group, { commit }: MadeCommit): Promise<boolean> {
    // Nobody else can commit.
    if (group.roster.members.length === 1) return true;
    const { home, slotToken } = group.roster.info;
    const relay = this.core.relays.at(home);
    const token = relay === this.core.relays.home ? this.core.slotToken : slotToken;
    const puts = slotWrites(group.keys, group.attempt, commit).map((write) => ({ ...write, putId: random(16) }));
    await this.core.commit(puts.map(({ slot, putId, value }) => ({ kind: "put", group: group.id, slot, putId, value })));
    for (const { slot, value, putId } of puts) {
      // The decision comes last: whoever sees it finds the others.
      const put = await relay.putSlot(token, slot, value, putId);
      if (!put.stored) return false;
    }
    return true;
  }

  async #merge(group: Group, made: MadeCommit, invite?: Uint8Array): Promise<void> {
    const poke = this.#poke(group);
    const was = new Set(group.others.map(({ index, device }) => `${index}/${hex(device)}`));
    await group.advance(made.after, rosterOf(made.after));
    group.consumed.push(...made.consumed);
    const added = group.others.filter(({ index, device }) => !was.has(`${index}/${hex(device)}`));
    const body = made.welcome && create(GreetingSchema, { body: { case: "welcome", value: made.welcome }, ...(invite ? { invite } : {}) });
    const greetings = await Promise.all(
      (body ? added : []).flatMap(({ member }) =>
        member.address ? [sealGreeting(member.hpkeKey, body!).then((payloads) => ({ payloads, address: member.address! }))] : [],
      ),
    );
    await this.core.commit([changeOf(group)]);
    group.forget();
    this.core.events.emit("group", group);
    const left = [...was].some((one) => !group.others.some(({ index, device }) => one === `${index}/${hex(device)}`));
    if (left) void this.renewAddress(group).catch((error: unknown) => void this.core.events.emit("trouble", error));
    this.outbox.post(poke.payloads, poke.targets);
    for (const { payloads, address } of greetings) this.outbox.post(payloads, [address]);
    if (added.length > 0) this.#tellAddress(group);
    await this.entered(group);
  }

  async #follow(group: Group, { after, roster, removesUs, consumed }: GoodCommit): Promise<void> {
    const before = group.others;
    if (removesUs) {
      group.end();
    } else {
      await group.advance(after, roster);
      group.consumed.push(...consumed);
    }
    await this.core.commit([changeOf(group)]);
    group.forget();
    for (const contact of this.core.contacts.compareRoots(roster.members)) this.core.events.emit("contact", contact);
    this.core.events.emit("group", group);
    if (removesUs) return;
    const left = before.some(({ device }) => !group.others.some((one) => same(one.device, device)));
    // Who is gone knows this device's address.
    if (left) void this.renewAddress(group).catch((error: unknown) => void this.core.events.emit("trouble", error));
    else if (group.others.some(({ device }) => !before.some((one) => same(one.device, device)))) this.#tellAddress(group);
    await this.entered(group);
  }

  /** The tree has the address this device came with: whoever is added later has to hear of the one it has now. */
  #tellAddress(group: Group): void {
    if (!group.addressIsInTree) this.outbox.say(group, content({ case: "address", value: group.ownAddress }));
  }

  /** Says a new address, and ends the former one when those who are away have had time to hear of it. */
  async renewAddress(group: Group): Promise<void> {
    const former = group.ownAddress;
    const address = await freshAddress(this.core);
    group.ownAddress = address;
    this.outbox.say(group, content({ case: "address", value: address }));
    await revokeLater(this.core, former.capability, REVOKED_AFTER_MS);
  }

  /** To all who are members before the commit, also those it removes: they find that in the slot. */
  #poke(group: Group): { payloads: Uint8Array[]; targets: Address[] } {
    const targets = group.others.flatMap(({ device }) => group.addresses.get(hex(device)) ?? []);
    return { payloads: targets.length > 0 ? [sealFrame(group.keys, { form: "poke" })] : [], targets };
  }

  #slots(group: Group, ids: readonly Uint8Array[]): Promise<(Uint8Array | undefined)[]> {
    return this.core.relays.slots(group.roster.info.home, ids);
  }
}

/** Adds these devices, as far as they are not in the group yet. */
export function adding(packages: readonly { readonly keyPackage: Parameters<typeof proposalOf>[0] }[]): Want {
  return (group) => {
    const missing = packages.filter(({ keyPackage }) => {
      const { account, device } = openLeaf(keyPackage.leafNode);
      return !group.roster.members.some((member) => same(member.account, account) && same(member.device, device));
    });
    return missing.length === 0 ? undefined : missing.map(({ keyPackage }) => proposalOf(keyPackage));
  };
}

function proposalOf(keyPackage: Extract<Proposal, { proposalType: "add" }>["add"]["keyPackage"]): Proposal {
  return { proposalType: "add", add: { keyPackage } };
}

/** Whether a group may have members added and removed by name. */
export function isGroup(group: Group): boolean {
  return group.roster.info.kind === GroupInfo_Kind.GROUP;
}
