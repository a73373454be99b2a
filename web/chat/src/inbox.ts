import type { Frame } from "valise-client";
import type { Welcome } from "ts-mls";

import { hex, same } from "./bytes.js";
import type { Published } from "./bundle.js";
import type { Changes } from "./changes.js";
import { newCard } from "./contacts.js";
import { cardTaken, changeOf, tellImpostors, type Change, type Core, type Message } from "./core.js";
import { RefusedInput } from "./errors.js";
import { isGreeting, openFrame, type Envelope } from "./frame.js";
import { GroupInfo_Kind, type Greeting } from "./gen/valise/chat/v1/chat_pb.js";
import { openFirstContact, Transfers } from "./greeting.js";
import { content, Group, type Said } from "./group.js";
import type { Invites } from "./invites.js";
import { decodeMessage } from "./key-package.js";
import type { MemberLeaf } from "./mls.js";
import { LOST_MS } from "./numbers.js";
import type { Outbox } from "./outbox.js";
import { Parking } from "./parking.js";
import { Parts } from "./parts.js";
import { isName } from "./profile.js";
import type { Receipts } from "./receipts.js";

/** After slots could not be read they are looked at again. */
const WALK_LATER_MS = 5_000;

/** Takes what the relay delivers: section 24, receiving. Everything runs with the lock held. */
export class Inbox {
  readonly #transfers = new Transfers();
  readonly #parts = new Parts();
  readonly #parking = new Parking();
  /** A walk of all groups is under way, and what comes next. */
  #walking: "no" | "yes" | "and again" = "no";
  #later: NodeJS.Timeout | undefined;

  constructor(
    private readonly core: Core,
    private readonly outbox: Outbox,
    private readonly changes: Changes,
    private readonly receipts: Receipts,
    private readonly invites: Invites,
  ) {
    changes.entered = () => this.#unpark();
  }

  /** Takes frames; when this resolves, what they led to is kept, and they may be acknowledged. */
  async take(frames: readonly Frame[]): Promise<void> {
    await this.core.lock.run(async () => {
      const work = new Work();
      for (const { payload } of frames) await this.#one(payload, work);
      await this.#finish(work);
    });
  }

  /** Nothing is looked at any more. */
  close(): void {
    clearTimeout(this.#later);
  }

  /** A new epoch may open what nobody could open before. */
  async #unpark(): Promise<void> {
    const work = new Work();
    for (const payload of this.#parking.take((one) => this.#groupOf(one) !== undefined)) await this.#one(payload, work);
    await this.#finish(work);
  }

  async #finish(work: Work): Promise<void> {
    await this.core.commit([...work.changes, ...[...work.groups].map(changeOf)]);
    for (const group of work.groups) group.forget();
    for (const after of work.afterwards) after();
    for (const group of work.walks) this.walkSoon(group);
    if (work.walksAll) this.walkAll();
  }

  /** Looks at a group's slots when everything that waited has been taken. */
  walkSoon(group: Group): void {
    void this.core.caughtUp().then(() => this.#walk(group));
  }

  /** Looks at the slots of all groups: of those that cannot be read now again later. */
  walkAll(): void {
    const idle = this.#walking === "no";
    this.#walking = idle ? "yes" : "and again";
    if (idle) void this.#round();
  }

  async #round(): Promise<void> {
    await this.core.caughtUp();
    const { came } = this.#parking;
    const ends = [];
    for (const group of this.core.groups.values()) ends.push(!group.follows || (await this.#walk(group)));
    // What nobody could open in all that is junk, or of a group whose Welcome has not come.
    if (ends.every((end) => end)) this.#parking.walked(came);
    const again = this.#walking === "and again";
    this.#walking = "no";
    if (again) this.walkAll();
  }

  /** Whether the end of the group's slots was reached. */
  async #walk(group: Group): Promise<boolean> {
    try {
      await this.core.lock.run(() => this.changes.walk(group));
      return true;
    } catch (error) {
      this.core.events.emit("trouble", error);
      clearTimeout(this.#later);
      // Where the user was not asked yet, the answer is what it waits for.
      if (this.core.relays.allows(group.roster.info.home)) this.#later = setTimeout(() => this.walkAll(), WALK_LATER_MS).unref();
      return false;
    }
  }

  #groupOf(payload: Uint8Array): Group | undefined {
    return [...this.core.groups.values()].find((group) => group.match(payload));
  }

  async #one(payload: Uint8Array, work: Work): Promise<void> {
    try {
      if (isGreeting(payload)) {
        const greeting = this.#transfers.add(await openFirstContact(this.core.profile.hpke.seed, payload));
        if (greeting) await this.#greeted(greeting, work);
        return;
      }
      const group = this.#groupOf(payload);
      if (!group) {
        this.#parking.add(payload);
        work.changes.push({ kind: "parked", payload });
        work.walksAll = true;
        return;
      }
      const { epoch, keys } = group.match(payload)!;
      work.groups.add(group);
      await this.#envelope(group, epoch, openFrame(keys, payload), work);
    } catch (error) {
      // What breaks a rule is dropped, and acknowledged like everything else: it would only come again.
      work.afterwards.push(() => void this.core.events.emit("trouble", error));
    }
  }

  async #envelope(group: Group, epoch: bigint, envelope: Envelope, work: Work): Promise<void> {
    switch (envelope.form) {
      case "poke":
        // Of an epoch that is over, this device knows already.
        if (epoch === group.epoch) work.walks.add(group);
        return;
      case "messages":
        for (const [i, message] of envelope.messages.entries()) {
          const { stream, firstCounter } = envelope;
          const place = stream ? { stream, counter: firstCounter + BigInt(i) } : undefined;
          try {
            const said = await group.open(message, place, epoch);
            if (said) this.#said(group, said, work);
          } catch (error) {
            // One that is broken says nothing about the next.
            work.afterwards.push(() => void this.core.events.emit("trouble", error));
          }
        }
        return;
      case "part": {
        // Only the latest message of a stream is put together: its parts are all posted before the next one's.
        const place = { stream: envelope.stream, counter: envelope.firstCounter };
        const whole = this.#parts.add(`${hex(group.id)}/${hex(place.stream)}`, envelope, String(place.counter));
        const said = whole && (await group.open(whole, place, epoch));
        if (said) this.#said(group, said, work);
      }
    }
  }

  #said(group: Group, { from, content: said, place, missing }: Said, work: Work): void {
    const { events, contacts } = this.core;
    if (missing > 0n) work.afterwards.push(() => void events.emit("lost", group, from.account, missing));
    if (place) work.afterwards.push(() => this.receipts.delivered(group, from, place.stream));
    const body = said?.body;
    if (!body?.case || !this.#counts(group, from, body.case)) return;
    switch (body.case) {
      case "text": {
        const message: Message = {
          group: group.id,
          account: from.account,
          device: from.device,
          name: contacts.nameOf(from),
          text: body.value,
          sentMs: Number(said!.sentMs),
        };
        work.changes.push({ kind: "message", message });
        work.afterwards.push(() => void events.emit("message", message));
        return;
      }
      case "receipt": {
        const receipt = body.value;
        if (!place) work.afterwards.push(() => this.outbox.confirmed(group, from.account, receipt));
        return;
      }
      case "address": {
        group.addresses.set(hex(from.device), body.value);
        work.afterwards.push(() => this.outbox.addressed(group, from.device));
        return;
      }
      case "card": {
        const taken = cardTaken(this.core, from.account, contacts.take(body.value, from));
        work.changes.push(...taken.changes);
        work.afterwards.push(taken.tell);
        return;
      }
      case "name": {
        if (!isName(body.value)) return;
        const contact = contacts.named(from.account, body.value);
        if (contact) work.changes.push({ kind: "contact", contact });
        return;
      }
      case "leave":
        // Any member removes who leaves; whoever is first has done it for all.
        if (!same(from.account, this.core.profile.account)) {
          work.afterwards.push(() => {
            void this.changes.remove(group, from.account).catch((error: unknown) => void events.emit("trouble", error));
          });
        }
        return;
      default:
        return; // timers, sync, and what later versions say
    }
  }

  /** Whether what somebody says counts: sections 23, roots, and 25. */
  #counts(group: Group, from: MemberLeaf, said: string): boolean {
    // Frames of a few epochs before this one can be opened: of who has gone since, only what was said counts.
    const present = group.roster.members.some(({ account, device }) => same(device, from.device) && same(account, from.account));
    if (!present && said !== "text" && said !== "receipt") return false;
    // Where nobody else hears it, and of this client's account there is one device only.
    if (said === "card" && !group.direct) return false;
    // Under another root it is somebody else: where that is reached and what it has got is the group's business.
    return !this.core.contacts.isImpostor(from) || ["receipt", "address", "leave"].includes(said);
  }

  /** Of greetings this client knows Welcomes; it has no other devices, and adds nobody who has lost track. */
  async #greeted({ body, invite }: Greeting, work: Work): Promise<void> {
    if (body.case !== "welcome") return;
    const message = decodeMessage(body.value);
    if (message.wireformat !== "mls_welcome") throw new RefusedInput("malformed", "no Welcome");
    const published = this.core.bundle.find(message.welcome);
    if (published) await this.#welcomed(message.welcome, published, invite, work);
  }

  /** Section 28: joining. */
  async #welcomed(welcome: Welcome, published: Published, invite: Uint8Array, work: Work): Promise<void> {
    const { core } = this;
    const group = await Group.join(welcome, published.own, published.address);
    const { info, members } = group.roster;
    const accounts = new Set(members.map(({ account }) => hex(account)));
    const mine = hex(core.profile.account);
    if (info.kind === GroupInfo_Kind.DIRECT && (accounts.size !== 2 || !accounts.has(mine))) throw new RefusedInput("malformed", "direct");
    if (info.kind === GroupInfo_Kind.OWN_DEVICES && (accounts.size !== 1 || !accounts.has(mine))) throw new RefusedInput("malformed", "own");
    const known = core.groups.get(hex(group.id));
    if (known && !mayReplace(known, group)) throw new RefusedInput("malformed", "a group this device is in");
    core.bundle.used(published);
    // Somebody under another root: nothing of it is to be shown as that contact's.
    if (group.direct && members.some((leaf) => core.contacts.isImpostor(leaf))) {
      work.afterwards.push(() => tellImpostors(core, group));
      return;
    }
    // What it missed while it was lost shows as a gap.
    if (known?.lost) for (const [key, stream] of known.streams) group.streams.set(key, stream);
    core.groups.set(hex(group.id), group);
    work.groups.add(group);
    work.afterwards.push(() => {
      tellImpostors(core, group);
      if (known) this.outbox.sayAgain(known, group);
      if (invite.length > 0) this.invites.followed(invite);
      if (group.direct) void this.#introduce(group);
      if (published.own.lastResort) void this.changes.renewAddress(group).catch(() => undefined);
      core.events.emit("group", group);
    });
    work.walks.add(group);
  }

  /** In a direct conversation each says its card. */
  async #introduce(group: Group): Promise<void> {
    try {
      this.outbox.say(group, content({ case: "card", value: await newCard(this.core) }));
    } catch (error) {
      this.core.events.emit("trouble", error);
    }
  }
}

/**
 * Whether a Welcome may take the place of a group that this device has: whoever knows a group's id can make another one
 * with it, and a Welcome can be played again. This client never asks to be let in.
 */
function mayReplace(known: Group, group: Group): boolean {
  const accounts = ({ roster }: Group): string => [...new Set(roster.members.map(({ account }) => hex(account)))].sort().join();
  if (known.roster.info.kind !== group.roster.info.kind) return false;
  if (group.direct && accounts(known) !== accounts(group)) return false;
  return !known.active || (known.lost && Date.now() - known.lostSince > LOST_MS);
}

/** What a batch of frames leads to. */
class Work {
  readonly changes: Change[] = [];
  readonly groups = new Set<Group>();
  readonly walks = new Set<Group>();
  walksAll = false;
  /** Runs when everything is kept. */
  readonly afterwards: (() => void)[] = [];
}
