import { create } from "@bufbuild/protobuf";
import type { Proposal } from "ts-mls";

import { Agreement, Dropped, type Decided, type PendingCommit } from "./agreement.js";
import { hex, same } from "./bytes.js";
import { makeCommit, type MadeCommit } from "./commit.js";
import { changeOf, freshAddress, revokeLater, tellImpostors, type Core } from "./core.js";
import { CannotError, LostTrack, RefusedInput } from "./errors.js";
import { sealFrame } from "./frame.js";
import { GreetingSchema, GroupInfo_Kind, type Address } from "./gen/valise/chat/v1/chat_pb.js";
import { sealGreeting } from "./greeting.js";
import { content, type Group } from "./group.js";
import { judgeCommit, type GoodCommit } from "./judge.js";
import { openLeaf, rosterOf } from "./mls.js";
import { REVOKED_AFTER_MS } from "./numbers.js";
import type { Outbox } from "./outbox.js";

/** What to change in the group as it is now; undefined where nothing is left to do. */
export type Want = (group: Group) => readonly Proposal[] | undefined;

/** So many others may be first before a change is given up. */
const TRIES_MAX = 200;

/** Follows the commits of groups through their slots, and makes own ones: section 27. */
export class Changes {
  outbox!: Outbox;
  /** A group has come into a new epoch: what could not be opened may be now. With the lock held. */
  entered: (group: Group) => Promise<void> = async () => {};
  readonly #agreement: Agreement;

  constructor(private readonly core: Core) {
    this.#agreement = new Agreement(core);
  }

  /**
   * Brings a group to its latest epoch; `known` is what its next slot is known to hold. With the lock held; throws
   * where slots cannot be used now.
   */
  async walk(group: Group, known?: Uint8Array): Promise<void> {
    let value = known;
    if (group.pending) {
      const decided = await this.#settle(group, group.pending);
      if (decided.kind === "taken") value = decided.value;
    }
    while (group.follows && group.roster.members.length > 1) {
      value ??= await this.#agreement.decision(group);
      if (!value) return;
      let good: GoodCommit;
      try {
        good = await judgeCommit(group.state, await this.#agreement.whole(group, value));
      } catch (error) {
        if (error instanceof LostTrack) return this.#lose(group, error);
        if (!(error instanceof RefusedInput)) throw error;
        value = undefined;
        group.attempt += 1;
        await this.core.commit([changeOf(group)]);
        this.core.events.emit("junk", group, error);
        continue;
      }
      value = undefined;
      await this.#follow(group, good);
    }
  }

  /** Makes the group agree on a change. Resolves once it has, or nothing is left to do. */
  async change(group: Group, want: Want, invite?: Uint8Array): Promise<void> {
    await this.core.caughtUp();
    await this.core.lock.run(async () => {
      let made: MadeCommit | undefined;
      let taken: Uint8Array | undefined;
      for (let tries = 0; tries < TRIES_MAX; tries += 1) {
        await this.walk(group, taken);
        taken = undefined;
        if (!group.active) throw new CannotError("this device is not in the group");
        if (group.lost) throw new CannotError("this device has lost track of the group");
        const proposals = want(group);
        if (!proposals) return;
        // Where only junk was in the way the epoch is the same, and so is the commit: it is put once more.
        if (made?.epoch !== group.epoch) made = await this.#make(group, proposals);
        // Nobody else can commit.
        if (group.roster.members.length === 1) return this.#merge(group, made, invite);
        group.pending = await this.#agreement.prepare(group, made, invite);
        const decided = await this.#settle(group, group.pending);
        if (decided.kind === "stored") return;
        if (decided.kind === "taken") taken = decided.value;
        else made = undefined;
      }
      throw new CannotError("others keep changing the group");
    });
  }

  /** A commit of our own, of which the others will not say that it is junk. */
  async #make(group: Group, proposals: readonly Proposal[]): Promise<MadeCommit> {
    const made = await makeCommit(group.state, proposals);
    group.state = made.meanwhile;
    rosterOf(made.after(group.state));
    return made;
  }

  /** Puts our own commit, and takes over what the slot has decided. */
  async #settle(group: Group, pending: PendingCommit): Promise<Decided> {
    let decided: Decided;
    try {
      decided = await this.#agreement.put(group, pending);
    } catch (error) {
      // Else the same puts are repeated with the next look at the slots.
      if (error instanceof Dropped) group.pending = undefined;
      throw error;
    }
    group.pending = undefined;
    if (decided.kind === "stored") await this.#merge(group, pending.made, pending.invite);
    return decided;
  }

  /** Removes all devices of an account, whoever is first. */
  remove(group: Group, account: Uint8Array): Promise<void> {
    return this.change(group, ({ others }) => {
      const gone = others.filter((member) => same(member.account, account));
      if (gone.length === 0) return undefined;
      return gone.map(({ index }) => ({ proposalType: "remove", remove: { removed: index } }));
    });
  }

  /** Fresh keys for our own leaf: whoever has copied its state reads on until then. */
  renew(group: Group): Promise<void> {
    return this.change(group, () => []);
  }

  async #merge(group: Group, made: MadeCommit, invite?: Uint8Array): Promise<void> {
    const poke = this.#poke(group);
    const before = group.others;
    const after = made.after(group.state);
    await group.advance(after, rosterOf(after));
    group.consumed.push(...made.consumed);
    const added = group.others.filter(({ index }) => made.added.includes(index));
    const body = made.welcome && create(GreetingSchema, { body: { case: "welcome", value: made.welcome }, ...(invite ? { invite } : {}) });
    const greetings = await Promise.all(
      (body ? added : []).flatMap(({ member }) =>
        member.address ? [sealGreeting(member.hpkeKey, body!).then((payloads) => ({ payloads, address: member.address! }))] : [],
      ),
    );
    await this.core.commit([changeOf(group)]);
    group.forget();
    this.core.events.emit("group", group);
    this.outbox.post(poke.payloads, poke.targets);
    for (const { payloads, address } of greetings) this.outbox.post(payloads, [address]);
    this.#afterwards(group, before, added.length > 0);
    await this.entered(group);
  }

  async #follow(group: Group, { after, roster, adds, removesUs, consumed }: GoodCommit): Promise<void> {
    const before = group.others;
    // Who is let in again waits for the Welcome, as one that is lost.
    if (removesUs && roster.members.some(({ device }) => same(device, this.core.profile.device))) {
      return this.#lose(group, new LostTrack("this device was let in again"));
    }
    if (removesUs) {
      group.end();
    } else {
      await group.advance(after, roster);
      group.consumed.push(...consumed);
    }
    await this.core.commit([changeOf(group)]);
    group.forget();
    this.core.events.emit("group", group);
    if (removesUs) return;
    this.#afterwards(group, before, adds);
    await this.entered(group);
  }

  /** What a new epoch asks of each member. */
  #afterwards(group: Group, before: Group["others"], adds: boolean): void {
    tellImpostors(this.core, group);
    // Who is gone knows this device's address.
    const left = before.some(({ device }) => !group.others.some((one) => same(one.device, device)));
    if (left) void this.renewAddress(group).catch((error: unknown) => void this.core.events.emit("trouble", error));
    else if (adds) this.#tellAddress(group);
  }

  /** Others may have gone on, or not: this device looks at no slot any more, and says nothing. */
  async #lose(group: Group, why: LostTrack): Promise<void> {
    group.lose();
    await this.core.commit([changeOf(group)]);
    this.core.events.emit("lostTrack", group, why);
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
}

/** Adds these devices, as far as they are not in the group yet. */
export function adding(packages: readonly { readonly keyPackage: Parameters<typeof proposalOf>[0] }[]): Want {
  return (group) => {
    const missing = packages.filter(({ keyPackage }) => {
      const { device } = openLeaf(keyPackage.leafNode);
      return !group.roster.members.some((member) => same(member.device, device));
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
