import { EventEmitter } from "node:events";

import { create } from "@bufbuild/protobuf";
import { TokenKind, type Mailbox } from "valise-client";

import type { Bundle } from "./bundle.js";
import type { Contact, Contacts, TakenCard } from "./contacts.js";
import { AddressSchema, MemberSchema, type Address, type Member } from "./gen/valise/chat/v1/chat_pb.js";
import type { Group, KeptGroup } from "./group.js";
import type { MemberLeaf } from "./mls.js";
import type { Profile } from "./profile.js";
import type { Relays } from "./relays.js";

/** A message as a user sees it. */
export interface Message {
  readonly group: Uint8Array;
  readonly account: Uint8Array;
  readonly device: Uint8Array;
  readonly name: string;
  readonly text: string;
  readonly sentMs: number;
}

/** Section 31. */
export type MessageState = "sending" | "relayed" | "delivered" | "read" | "failed";

/** A message of our own. */
export interface OwnMessage {
  readonly group: Uint8Array;
  readonly text: string;
  state: MessageState;
}

/**
 * What the app has to keep, all of one list in one transaction. What it is told is relied on only when the promise of
 * `commit` has resolved: a frame is acknowledged, posted or put after that.
 */
export type Change =
  | ({ readonly kind: "group" } & KeptGroup)
  | { readonly kind: "message"; readonly message: Message }
  | { readonly kind: "contact"; readonly contact: Contact }
  | { readonly kind: "frame"; readonly frameId: Uint8Array; readonly payload: Uint8Array; readonly targets: readonly Address[] }
  /** A commit of our own that is put: the MLS state once it is the group's, and the Welcome that follows then. */
  | { readonly kind: "commit"; readonly group: Uint8Array; readonly after: Uint8Array; readonly welcome?: Uint8Array }
  | { readonly kind: "put"; readonly group: Uint8Array; readonly slot: Uint8Array; readonly putId: Uint8Array; readonly value: Uint8Array }
  | { readonly kind: "parked"; readonly payload: Uint8Array }
  | { readonly kind: "packages"; readonly packages: readonly { readonly bytes: Uint8Array; readonly initKey: Uint8Array; readonly leafKey: Uint8Array }[] }
  | { readonly kind: "invite"; readonly secret: Uint8Array; readonly capability: Uint8Array; readonly takeToken: Uint8Array }
  | { readonly kind: "revoke"; readonly token: Uint8Array; readonly afterMs: number };

export type Commit = (changes: readonly Change[]) => Promise<void> | void;

export interface Events {
  message: [message: Message];
  /** An own message has got further. */
  state: [message: OwnMessage];
  /** A group is new, or has other members, another name, or this device no more. */
  group: [group: Group];
  contact: [contact: Contact];
  /** Something waits until the user has allowed this relay to be contacted: it will see this machine's address. */
  relay: [address: string];
  /** So many messages of somebody never came. */
  lost: [group: Group, account: Uint8Array, count: bigint];
  /** This device cannot follow a commit that the others may have applied: it does no more in this group. */
  lostTrack: [group: Group, why: unknown];
  /** Somebody in a group uses a contact's account under another key; its user is told that it reads along. */
  impostor: [group: Group, leaf: MemberLeaf];
  /** An account was changed in two ways at once, or somebody has its key: told once for each record. */
  forked: [contact: Contact];
  /** A commit broke the rules, and the group went on to its next attempt. */
  junk: [group: Group, why: unknown];
  /** Something was dropped, or has to be tried again. */
  trouble: [why: unknown];
}

/** One thing at a time, in the order of asking. */
export class Lock {
  #tail: Promise<unknown> = Promise.resolve();

  run<T>(task: () => Promise<T>): Promise<T> {
    const done = this.#tail.then(task);
    this.#tail = done.catch(() => undefined);
    return done;
  }
}

/** What the parts of a client share. */
export interface Core {
  readonly profile: Profile;
  readonly relays: Relays;
  readonly mailbox: Mailbox;
  /** The right to put into slots of the own relay. */
  readonly slotToken: Uint8Array;
  /** When it was issued, in milliseconds since 1970. */
  readonly slotTokenMs: bigint;
  readonly bundle: Bundle;
  readonly contacts: Contacts;
  readonly groups: Map<string, Group>;
  readonly lock: Lock;
  readonly events: EventEmitter<Events>;
  readonly commit: Commit;
  /** Resolves when everything that waited at the own relay has come. */
  caughtUp(): Promise<void>;
}

/** A group as a change to keep. */
export function changeOf(group: Group): Change {
  return { kind: "group", ...group.kept() };
}

/** A card was taken over: what the app keeps of it, and what its user is told when that is kept. */
export function cardTaken({ groups, contacts, events }: Core, account: Uint8Array, { contact, forked, rootIsNew }: TakenCard): { changes: Change[]; tell: () => void } {
  const tell = (): void => {
    if (contact) events.emit("contact", contact);
    const known = contacts.get(account);
    if (forked && known) events.emit("forked", known);
    if (rootIsNew) for (const group of groups.values()) tellImpostors({ contacts, events }, group);
  };
  return { changes: contact ? [{ kind: "contact", contact }] : [], tell };
}

/** Tells of everybody in a group who uses a contact's account under another key. */
export function tellImpostors({ contacts, events }: Pick<Core, "contacts" | "events">, group: Group): void {
  for (const leaf of contacts.newImpostors(group)) events.emit("impostor", group, leaf);
}

/** An address of this device with a capability that nobody else has. */
export async function freshAddress({ mailbox, relays }: Pick<Core, "mailbox" | "relays">): Promise<Address> {
  const [capability] = await mailbox.issue({ kind: TokenKind.POST });
  return create(AddressSchema, { relay: relays.homeAddress, capability: capability! });
}

/** What a leaf of this device says of it. */
export function memberAt({ profile }: Pick<Core, "profile">, address: Address): Member {
  return create(MemberSchema, { address, name: profile.name, hpkeKey: profile.hpke.publicKey });
}

/** Ends a token later; how late is the app's to keep. */
export async function revokeLater({ mailbox, commit }: Pick<Core, "mailbox" | "commit">, token: Uint8Array, afterMs: number): Promise<void> {
  await commit([{ kind: "revoke", token, afterMs }]);
  const revoke = (): void => void mailbox.revoke(token).catch(() => undefined);
  if (afterMs === 0) revoke();
  else setTimeout(revoke, afterMs).unref();
}
