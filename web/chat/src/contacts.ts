import { create } from "@bufbuild/protobuf";
import { TokenKind } from "valise-client";

import { hex, same } from "./bytes.js";
import { freshAddress, type Core } from "./core.js";
import { CannotError, RefusedInput } from "./errors.js";
import { CardSchema, type Card, type DeviceCard } from "./gen/valise/chat/v1/chat_pb.js";
import { openKeyPackage, type ForeignKeyPackage } from "./key-package.js";
import { need } from "./message.js";
import type { MemberLeaf } from "./mls.js";
import { judge, openRecord, type GenuineRecord } from "./record.js";
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
  readonly alarm?: "reset" | "fork";
}

/** The people this account knows. */
export class Contacts {
  readonly #known = new Map<string, Contact>();

  get all(): readonly Contact[] {
    return [...this.#known.values()];
  }

  get(account: Uint8Array): Contact | undefined {
    return this.#known.get(hex(account));
  }

  set(contact: Contact): void {
    this.#known.set(hex(contact.account), contact);
  }

  /** Takes over a card: what becomes of the contact; undefined where the card is old. Throws {@link RefusedInput}. */
  take(card: Card, from?: Uint8Array): Contact | undefined {
    const { record, devices } = openCard(card);
    const { account } = record.record;
    if (from && !same(account, from)) throw new RefusedInput("malformed", "a card of somebody else");
    const known = this.get(account);
    const verdict = judge(known?.record, record);
    if (known && (verdict.kind === "reset" || verdict.kind === "fork")) {
      this.set({ ...known, alarm: verdict.kind });
      return this.get(account);
    }
    if (verdict.kind === "older") return undefined;
    const keeps = known?.verified === true && !(verdict.kind === "newer" && verdict.rootChanged);
    this.set({ account, record, devices, name: card.name, verified: keeps, ...(known?.alarm ? { alarm: known.alarm } : {}) });
    return this.get(account);
  }

  /** Section 23, roots: a leaf under another root than the one that is known is a reset. Who is under alarm now. */
  compareRoots(members: readonly MemberLeaf[]): Contact[] {
    const alarmed: Contact[] = [];
    for (const { account, rootKey } of members) {
      const known = this.get(account);
      if (!known || known.alarm || same(known.record.record.rootKey, rootKey)) continue;
      this.set({ ...known, alarm: "reset", verified: false });
      alarmed.push(this.get(account)!);
    }
    return alarmed;
  }
}

/** A card whose record is genuine and whose devices are in it. Throws {@link RefusedInput}. */
export function openCard(card: Card): { record: GenuineRecord; devices: readonly DeviceCard[] } {
  const record = openRecord(card.record);
  for (const { device, address, takeToken, bundleKey } of card.devices) {
    if (!record.record.devices.some((one) => same(one.device, device))) throw new RefusedInput("malformed", "device of a card");
    need(address?.capability ?? new Uint8Array(), 60, "capability");
    need(takeToken, 60, "take token");
    need(bundleKey, 32, "bundle key");
  }
  return { record, devices: card.devices };
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
