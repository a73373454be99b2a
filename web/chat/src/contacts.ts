import { create } from "@bufbuild/protobuf";
import { TokenKind } from "valise-client";

import { hex, same } from "./bytes.js";
import { freshAddress, type Core } from "./core.js";
import { CannotError, RefusedInput } from "./errors.js";
import { CardSchema, type Card, type DeviceCard } from "./gen/valise/chat/v1/chat_pb.js";
import { openKeyPackage, type ForeignKeyPackage } from "./key-package.js";
import type { Group } from "./group.js";
import { encode } from "./message.js";
import type { MemberLeaf } from "./mls.js";
import { CARD_BYTES_MAX, DEVICES_MAX } from "./numbers.js";
import { checkName, isName } from "./profile.js";
import { judge, openRecord, recordHash, type GenuineRecord } from "./record.js";
import { within, type Relays } from "./relays.js";
import { openItem } from "./sealed.js";

/** Somebody this account knows by a card. */
export interface Contact {
  readonly account: Uint8Array;
  readonly record: GenuineRecord;
  readonly devices: readonly DeviceCard[];
  /** As the contact calls itself. */
  readonly name: string;
  /** The words were compared. */
  readonly verified: boolean;
  /** Why nothing is sent there until the user decides. */
  readonly alarm?: "reset";
}

/** The people this account knows. */
export class Contacts {
  readonly #known = new Map<string, Contact>();
  /** What others call themselves. */
  readonly #names = new Map<string, string>();
  /** Of which records and leaves the user was told. */
  readonly #told = new Set<string>();

  get all(): readonly Contact[] {
    return [...this.#known.values()];
  }

  get(account: Uint8Array): Contact | undefined {
    return this.#known.get(hex(account));
  }

  set(contact: Contact): void {
    this.#known.set(hex(contact.account), contact);
  }

  /** What a member of a group is called. */
  nameOf({ account, member }: MemberLeaf): string {
    return this.get(account)?.name || this.#names.get(hex(account)) || member.name;
  }

  /** An account goes by another name: what was heard last counts. The contact, if it is one. */
  named(account: Uint8Array, name: string): Contact | undefined {
    checkName(name);
    this.#names.set(hex(account), name);
    const known = this.get(account);
    if (!known) return undefined;
    this.set({ ...known, name });
    return this.get(account);
  }

  /**
   * Takes over a card, said by a device or found under an invite. Throws {@link RefusedInput} where it is none, or
   * somebody else's.
   */
  take(card: Card, by?: MemberLeaf): TakenCard {
    const { record, devices } = openCard(card);
    const { account, rootKey } = record.record;
    if (by && !same(account, by.account)) throw new RefusedInput("malformed", "a card of somebody else");
    const known = this.get(account);
    // Before there is a record, the leaf has a root.
    if (by && !known && !same(rootKey, by.rootKey)) throw new RefusedInput("malformed", "a card under another root");
    const verdict = judge(known?.record, record);
    const isFork = verdict.kind === "fork" || (verdict.kind === "newer" && verdict.forked);
    const forked = known !== undefined && isFork && this.#isNews(known.record, record);
    if (known && verdict.kind === "reset") {
      this.set({ ...known, alarm: "reset", verified: false });
      return { contact: this.get(account), forked, rootIsNew: false };
    }
    if (verdict.kind === "older" || verdict.kind === "fork") return { contact: undefined, forked, rootIsNew: false };
    const rootIsNew = verdict.kind === "first" || (verdict.kind === "newer" && verdict.rootChanged);
    const merged = mergeDevices(known?.devices ?? [], devices, record, by?.device);
    const name = isName(card.name) ? card.name : (known?.name ?? "");
    const verified = known?.verified === true && !rootIsNew;
    this.set({ account, record, devices: merged, name, verified, ...(known?.alarm ? { alarm: known.alarm } : {}) });
    return { contact: this.get(account), forked, rootIsNew };
  }

  /** Whether a leaf uses the account of somebody this account knows under another root: section 23, roots. */
  isImpostor({ account, rootKey }: MemberLeaf): boolean {
    const known = this.get(account);
    return known !== undefined && !same(known.record.record.rootKey, rootKey);
  }

  /** Those in a group of whom that was not told yet. */
  newImpostors({ id, others }: Pick<Group, "id" | "others">): MemberLeaf[] {
    return others.filter((leaf) => {
      const key = `${hex(id)}/${hex(leaf.account)}/${hex(leaf.rootKey)}`;
      if (this.#told.has(key) || !this.isImpostor(leaf)) return false;
      this.#told.add(key);
      return true;
    });
  }

  /** A fork is told once for each record. What follows upon one that was told of is its continuation, and no news. */
  #isNews(known: GenuineRecord, incoming: GenuineRecord): boolean {
    const hashes = [known, incoming].map((record) => hex(recordHash(record)));
    const rival = known.record.sequence === incoming.record.sequence;
    const follows = !rival && this.#told.has(hex(incoming.record.previous));
    const news = !follows && !this.#told.has(hashes[1]!);
    for (const hash of hashes) this.#told.add(hash);
    return news;
  }
}

/** What has become of a card. */
export interface TakenCard {
  /** The contact, if it is another one now. */
  readonly contact: Contact | undefined;
  /** There are two histories of the account, and its user was not told of this one. */
  readonly forked: boolean;
  /** Groups may have somebody else under the account. */
  readonly rootIsNew: boolean;
}

/**
 * What a device says of itself counts; what a card says of another one, only where nothing is known of that. Devices
 * that the record no longer lists go.
 */
function mergeDevices(known: readonly DeviceCard[], said: readonly DeviceCard[], { record }: GenuineRecord, by?: Uint8Array): DeviceCard[] {
  const merged = new Map(known.map((one) => [hex(one.device), one]));
  for (const one of said) {
    if (!merged.has(hex(one.device)) || (by && same(by, one.device))) merged.set(hex(one.device), one);
  }
  return [...merged.values()].filter(({ device }) => record.devices.some((one) => same(one.device, device)));
}

/**
 * A card whose record is genuine, and the devices in it that the record lists and that can be reached by it. Throws
 * {@link RefusedInput}.
 */
export function openCard(card: Card): { record: GenuineRecord; devices: readonly DeviceCard[] } {
  if (encode(CardSchema, card).length > CARD_BYTES_MAX) throw new RefusedInput("too_large", "card");
  const ids = new Set(card.devices.map(({ device }) => hex(device)));
  if (card.devices.length > DEVICES_MAX || ids.size !== card.devices.length) throw new RefusedInput("malformed", "devices of a card");
  const record = openRecord(card.record);
  const devices = card.devices.filter(({ device, address, takeToken, bundleKey }) => {
    const listed = record.record.devices.some((one) => same(one.device, device));
    return listed && address?.capability.length === 60 && takeToken.length === 60 && bundleKey.length === 32;
  });
  return { record, devices };
}

/** A card of our own with a capability and a take token that are in no other. */
export async function newCard(core: Pick<Core, "profile" | "mailbox" | "relays">): Promise<Card> {
  const { device, bundleKey, record, name } = core.profile;
  const address = await freshAddress(core);
  const [takeToken] = await core.mailbox.issue({ kind: TokenKind.TAKE });
  return create(CardSchema, { record: record.signed, devices: [{ device, address, takeToken: takeToken!, bundleKey }], name });
}

/**
 * A key package of each device of a card. A device whose package cannot be had is left out; its account brings it.
 * Everyone with the bundle key can seal an item, and a relay can hand it out: so each is held against the record.
 */
export async function takePackages(relays: Relays, { record }: GenuineRecord, devices: readonly DeviceCard[]): Promise<ForeignKeyPackage[]> {
  const taken = await Promise.allSettled(
    devices.map(async ({ device, address, takeToken, bundleKey }) => {
      const listed = record.devices.find((one) => same(one.device, device));
      if (!listed || !address) throw new RefusedInput("malformed", "device of a card");
      const { payload } = await within(15_000, relays.at(address.relay).takeBundle(takeToken), "the bundle cannot be reached");
      const opened = await openKeyPackage(openItem(bundleKey, new Uint8Array(), payload));
      const fits =
        same(opened.account, record.account) &&
        same(opened.device, device) &&
        same(opened.rootKey, record.rootKey) &&
        same(opened.signatureKey, listed.signatureKey);
      if (!fits) throw new RefusedInput("malformed", "a package of somebody else");
      return opened;
    }),
  );
  const packages = taken.flatMap((one) => (one.status === "fulfilled" ? [one.value] : []));
  if (packages.length === 0) {
    const failed = taken.find((one) => one.status === "rejected");
    throw new CannotError(`no device of this account can be added: ${String(failed?.reason)}`, { cause: failed?.reason });
  }
  return packages;
}
