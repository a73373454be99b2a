import { create } from "@bufbuild/protobuf";
import {
  createApplicationMessage,
  createGroup,
  encodeGroupState,
  encodeMlsMessage,
  processPrivateMessage,
  type ClientState,
  type PrivateMessage,
  type RatchetTree,
  type Welcome,
} from "ts-mls";
import { decryptSenderData } from "ts-mls/privateMessage.js";

import type { PendingCommit } from "./agreement.js";
import { hex, join, random, same, u64 } from "./bytes.js";
import { RefusedInput } from "./errors.js";
import { fits, type EpochKeys } from "./frame.js";
import { ContentSchema, GroupInfo_Kind, MemberSchema, type Address, type Content, type GroupInfo } from "./gen/valise/chat/v1/chat_pb.js";
import { joinByWelcome } from "./join.js";
import { decodeMessage, type OwnKeyPackage } from "./key-package.js";
import { decode, encode } from "./message.js";
import { CONFIG, contextExtensions, epochKeys, membersOf, NO_PSKS, rosterOf, type MemberLeaf, type Roster } from "./mls.js";
import { PAST_EPOCHS } from "./numbers.js";
import { suite } from "./suite.js";

/** Where a message stands in its sender's count. */
export interface Place {
  readonly stream: Uint8Array;
  readonly counter: bigint;
}

/** Something a member has said, proven to be that member's. */
export interface Said {
  readonly from: MemberLeaf;
  /** None where it cannot be read: its counter counts all the same. */
  readonly content: Content | undefined;
  readonly place: Place | undefined;
  /** So many messages before this one never came. */
  readonly missing: bigint;
}

/** A stream of another device, and how far this one has got with it. */
interface Stream {
  readonly stream: Uint8Array;
  readonly account: Uint8Array;
  highest: bigint;
  /** What the sender was told, and what this user has seen: numbers only grow. */
  read: bigint;
}

/** A group as it is kept: with this it would go on where it was. */
export interface KeptGroup {
  readonly id: Uint8Array;
  readonly epoch: bigint;
  readonly attempt: number;
  readonly active: boolean;
  readonly lostSince: number;
  /** The MLS state, as ts-mls encodes it. */
  readonly mls: Uint8Array;
  readonly keys: readonly (readonly [epoch: bigint, keys: EpochKeys])[];
  readonly stream: Uint8Array;
  readonly counter: bigint;
  readonly streams: readonly (readonly [key: string, stream: Stream])[];
  readonly addresses: readonly (readonly [device: string, address: Address])[];
  readonly ownAddress: Address;
}

/** So many streams of one device are remembered. */
const STREAMS_MAX = 16;

/** Of an unordered message, instead of stream and counter. */
const NO_PLACE = new Uint8Array(24);

/** A group as this device sees it. Whoever changes it holds the lock. */
export class Group {
  readonly id: Uint8Array;
  /** Whether this device is in it. */
  active = true;
  /** Since when this device has lost track of it, in milliseconds since 1970; 0: it has not. */
  lostSince = 0;
  /** Our own commit whose slot has not decided yet. */
  pending: PendingCommit | undefined;
  /** The attempt of the current epoch that is looked at next. */
  attempt = 0;
  /** What is said here is counted in a stream of its own, drawn anew for each joining. */
  readonly stream = random(16);
  counter = 0n;
  /** The streams of the others, by device and stream: the same bytes of another device are another stream. */
  readonly streams = new Map<string, Stream>();
  /** Where each device of the group is reached, by its id. */
  readonly addresses = new Map<string, Address>();
  /** By which the others reach this device; revoked when another takes its place. */
  ownAddress: Address;
  /** Secrets that are over, to be overwritten once what came of them is stored. */
  readonly consumed: Uint8Array[] = [];
  #keys = new Map<bigint, EpochKeys>();
  #current!: EpochKeys;
  /** Who has signed the Welcome by which this device came. */
  addedBy: MemberLeaf | undefined;
  readonly #joinedAt: bigint;
  readonly #presentThen: ReadonlySet<string>;

  private constructor(
    public state: ClientState,
    public roster: Roster,
    ownAddress: Address,
  ) {
    this.id = state.groupContext.groupId;
    this.ownAddress = ownAddress;
    this.#joinedAt = state.groupContext.epoch;
    this.#presentThen = new Set(roster.members.map(({ device }) => hex(device)));
  }

  /** A new group of this device alone. */
  static async begin(info: GroupInfo, own: OwnKeyPackage, address: Address): Promise<Group> {
    const extensions = contextExtensions(info);
    const state = await createGroup(random(16), own.publicPackage, own.privatePackage, extensions, await suite(), CONFIG);
    return Group.#ready(state, address);
  }

  /** The group of a Welcome, checked as a whole. Throws where it is not to be joined. */
  static async join(welcome: Welcome, own: OwnKeyPackage, address: Address): Promise<Group> {
    const { state, signer } = await joinByWelcome(welcome, own);
    const group = await Group.#ready(state, address);
    group.addedBy = group.roster.members.find(({ index }) => index === signer);
    return group;
  }

  static async #ready(state: ClientState, address: Address): Promise<Group> {
    if (state.groupContext.groupId.length !== 16) throw new RefusedInput("malformed", "group id");
    const group = new Group(state, rosterOf(state), address);
    await group.#entered();
    return group;
  }

  get epoch(): bigint {
    return this.state.groupContext.epoch;
  }

  get lost(): boolean {
    return this.lostSince > 0;
  }

  /** Whether this device goes on with the group's epochs. */
  get follows(): boolean {
    return this.active && !this.lost;
  }

  /** The keys of the current epoch. */
  get keys(): EpochKeys {
    return this.#current;
  }

  get direct(): boolean {
    return this.roster.info.kind === GroupInfo_Kind.DIRECT;
  }

  /** The other devices. */
  get others(): readonly MemberLeaf[] {
    return this.roster.members.filter(({ index }) => index !== this.state.privatePath.leafIndex);
  }

  /** The epoch in which a payload was sealed, if it is one of this group's whose keys are known. */
  match(payload: Uint8Array): { epoch: bigint; keys: EpochKeys } | undefined {
    const found = [...this.#keys].reverse().find(([, keys]) => fits(keys, payload));
    return found && { epoch: found[0], keys: found[1] };
  }

  /** Goes on to the state after a commit. */
  async advance(after: ClientState, roster: Roster): Promise<void> {
    const before = this.roster.members;
    this.state = after;
    this.roster = roster;
    this.attempt = 0;
    await this.#entered(before);
  }

  /** Whether the own leaf has the address by which this device is reached: who is added learns that one. */
  get addressIsInTree(): boolean {
    const own = this.roster.members.find(({ index }) => index === this.state.privatePath.leafIndex);
    return same(own?.member.address?.capability ?? new Uint8Array(), this.ownAddress.capability);
  }

  /** A commit has removed this device: it keeps what it has, and nothing new is for it. */
  end(): void {
    this.active = false;
  }

  /** There is a commit that this device cannot judge. */
  lose(): void {
    this.lostSince = Date.now();
    this.pending = undefined;
  }

  /** Seals what is said, as the next of the own stream or without a place. */
  async seal(content: Content, ordered: boolean): Promise<Uint8Array> {
    const place = ordered ? join(this.stream, u64(this.counter + 1n)) : NO_PLACE;
    const made = await createApplicationMessage(this.state, encode(ContentSchema, content), await suite(), place);
    this.state = made.newState;
    this.consumed.push(...made.consumed);
    if (ordered) this.counter += 1n;
    return encodeMlsMessage({ version: "mls10", wireformat: "mls_private_message", privateMessage: made.privateMessage });
  }

  /** What a message of an epoch's frame says; undefined for a copy, and for what nobody has said. */
  async open(message: Uint8Array, place: Place | undefined, epoch = this.epoch): Promise<Said | undefined> {
    const decoded = decodeMessage(message);
    if (decoded.wireformat !== "mls_private_message") throw new RefusedInput("malformed", "no private message");
    const sealed = decoded.privateMessage;
    const expected = place ? join(place.stream, u64(place.counter)) : NO_PLACE;
    const here = sealed.contentType === "application" && same(sealed.groupId, this.id) && sealed.epoch === epoch;
    if (!here || !same(sealed.authenticatedData, expected)) {
      throw new RefusedInput("malformed", "not of this place");
    }
    const opened = await this.#decrypt(sealed);
    if (!opened) return undefined;
    let content: Content | undefined;
    try {
      content = decode(ContentSchema, opened.plain);
    } catch {
      content = undefined;
    }
    const missing = place ? this.#count(place, opened.from) : 0n;
    return missing === undefined ? undefined : { from: opened.from, content, place, missing };
  }

  /** Everything that has to be kept. */
  kept(): KeptGroup {
    const { id, epoch, attempt, active, lostSince, stream, counter, ownAddress } = this;
    return {
      id,
      epoch,
      attempt,
      active,
      lostSince,
      mls: encodeGroupState(this.state),
      keys: [...this.#keys],
      stream,
      counter,
      streams: structuredClone([...this.streams]),
      addresses: [...this.addresses],
      ownAddress,
    };
  }

  /** Overwrites what is over. Call it when the state that came of it is stored. */
  forget(): void {
    for (const secret of this.consumed.splice(0)) secret.fill(0);
  }

  async #decrypt(sealed: PrivateMessage): Promise<{ plain: Uint8Array; from: MemberLeaf } | undefined> {
    const past = this.state.historicalReceiverData.get(sealed.epoch);
    const current = sealed.epoch === this.epoch;
    if (!past && !current) return undefined;
    const secret = current ? this.state.keySchedule.senderDataSecret : past!.senderDataSecret;
    const tree: RatchetTree = current ? this.state.ratchetTree : past!.ratchetTree;
    const cs = await suite();
    try {
      // ts-mls proves the sender, and does not say who it was.
      const sender = await decryptSenderData(sealed, secret, cs);
      const from = sender && membersOf(tree).find(({ index }) => index === sender.leafIndex);
      const result = await processPrivateMessage(this.state, sealed, NO_PSKS, cs);
      if (result.kind !== "applicationMessage" || !from) return undefined;
      this.state = result.newState;
      this.consumed.push(...result.consumed);
      return { plain: result.message, from };
    } catch {
      return undefined;
    }
  }

  /** Section 25, order: how many are missing before this one; undefined where it is dropped. */
  #count({ stream, counter }: Place, { device, account }: MemberLeaf): bigint | undefined {
    const key = `${hex(device)}/${hex(stream)}`;
    const known = this.streams.get(key);
    if (known && counter <= known.highest) return undefined;
    // What was there before this device came is no gap, unless the group was new then.
    if (!known) this.#boundStreams(device);
    const anyFirst = !known && this.#joinedAt > 1n && this.#presentThen.has(hex(device));
    const missing = anyFirst ? 0n : counter - (known?.highest ?? 0n) - 1n;
    this.streams.set(key, { stream, account, highest: counter, read: known?.read ?? 0n });
    return missing;
  }

  /** A device begins a stream when it joins. Of whoever begins more than that the oldest one is forgotten. */
  #boundStreams(device: Uint8Array): void {
    const own = [...this.streams.keys()].filter((key) => key.startsWith(hex(device)));
    if (own.length >= STREAMS_MAX) this.streams.delete(own[0]!);
  }

  /** A new epoch: its keys, and where its devices are. */
  async #entered(before: readonly MemberLeaf[] = []): Promise<void> {
    this.#current = await epochKeys(this.state);
    this.#keys.set(this.epoch, this.#current);
    for (const epoch of this.#keys.keys()) if (epoch + BigInt(PAST_EPOCHS) < this.epoch) this.#keys.delete(epoch);
    const present = new Set(this.roster.members.map(({ device }) => hex(device)));
    for (const device of this.addresses.keys()) if (!present.has(device)) this.addresses.delete(device);
    for (const { device, member } of this.others) {
      // An address that was said in the group stays, unless the leaf says something else of the device than before.
      const had = before.find((one) => same(one.device, device))?.member;
      const brings = !had || !same(encode(MemberSchema, had), encode(MemberSchema, member));
      if (brings && member.address) this.addresses.set(hex(device), member.address);
    }
  }
}

/** A `Content` that says one thing, now. */
export function content(body: Content["body"]): Content {
  return create(ContentSchema, { sentMs: BigInt(Date.now()), body });
}
