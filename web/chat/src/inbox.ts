import type { Frame } from "valise-client";
import type { Welcome } from "ts-mls";

import { hex, join, same } from "./bytes.js";
import type { Published } from "./bundle.js";
import type { Changes } from "./changes.js";
import { newCard } from "./contacts.js";
import { changeOf, type Change, type Core, type Message } from "./core.js";
import { RefusedInput } from "./errors.js";
import { isGreeting, openFrame, type Envelope } from "./frame.js";
import { GroupInfo_Kind, type Greeting } from "./gen/valise/chat/v1/chat_pb.js";
import { openFirstContact, Transfers } from "./greeting.js";
import { content, Group, type Place, type Said } from "./group.js";
import type { Invites } from "./invites.js";
import { decodeMessage } from "./key-package.js";
import { PARKED_MAX, PARKED_MS, WHOLE_BYTES_MAX } from "./numbers.js";
import type { Outbox } from "./outbox.js";
import type { Receipts } from "./receipts.js";

interface Parts {
  readonly count: number;
  readonly bytes: Map<number, Uint8Array>;
  since: number;
}

/** Messages of which some parts have come, of all groups. */
const INCOMPLETE_MAX = 64;

/** Takes what the relay delivers: section 24, receiving. Everything runs with the lock held. */
export class Inbox {
  readonly #transfers = new Transfers();
  readonly #parts = new Map<string, Parts>();
  #parked: { payload: Uint8Array; since: number }[] = [];

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

  /** A new epoch may open what nobody could open before. */
  async #unpark(): Promise<void> {
    const work = new Work();
    const parked = this.#parked.filter(({ since }) => Date.now() - since < PARKED_MS);
    this.#parked = [];
    for (const one of parked) {
      if (this.#groupOf(one.payload)) await this.#one(one.payload, work);
      else this.#parked.push(one);
    }
    await this.#finish(work);
  }

  async #finish(work: Work): Promise<void> {
    await this.core.commit([...work.changes, ...[...work.groups].map(changeOf)]);
    for (const group of work.groups) group.forget();
    for (const after of work.afterwards) after();
    for (const group of work.walks) this.walkSoon(group);
  }

  /** Looks at a group's slots when everything that waited has been taken. */
  walkSoon(group: Group): void {
    void this.core
      .caughtUp()
      .then(() => this.core.lock.run(() => this.changes.walk(group)))
      .catch((error: unknown) => void this.core.events.emit("trouble", error));
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
      if (!group) return this.#park(payload, work);
      work.groups.add(group);
      await this.#envelope(group, openFrame(group.match(payload)!, payload), work);
    } catch (error) {
      // What breaks a rule is dropped, and acknowledged like everything else: it would only come again.
      work.afterwards.push(() => void this.core.events.emit("trouble", error));
    }
  }

  #park(payload: Uint8Array, work: Work): void {
    this.#parked = [...this.#parked, { payload, since: Date.now() }].slice(-PARKED_MAX);
    work.changes.push({ kind: "parked", payload });
    for (const group of this.core.groups.values()) if (group.active) work.walks.add(group);
  }

  async #envelope(group: Group, envelope: Envelope, work: Work): Promise<void> {
    switch (envelope.form) {
      case "poke":
        work.walks.add(group);
        return;
      case "messages":
        for (const [i, message] of envelope.messages.entries()) {
          const { stream, firstCounter } = envelope;
          const place = stream ? { stream, counter: firstCounter + BigInt(i) } : undefined;
          // One that is broken says nothing about the next.
          const said = await group.open(message, place).catch((error: unknown) => {
            work.afterwards.push(() => void this.core.events.emit("trouble", error));
            return undefined;
          });
          if (said) this.#said(group, said, work);
        }
        return;
      case "part": {
        const place = { stream: envelope.stream, counter: envelope.firstCounter };
        const whole = this.#part(group, place, envelope);
        const said = whole && (await group.open(whole, place));
        if (said) this.#said(group, said, work);
      }
    }
  }

  /** Nobody has proven a part: so there is a limit to what is kept, and the first copy of each counts. */
  #part(group: Group, place: Place, { index, count, bytes }: Extract<Envelope, { form: "part" }>): Uint8Array | undefined {
    const key = `${hex(group.id)}/${hex(place.stream)}/${place.counter}/${count}`;
    for (const [old, { since }] of this.#parts) if (Date.now() - since > PARKED_MS) this.#parts.delete(old);
    const known = this.#parts.get(key) ?? { count, bytes: new Map<number, Uint8Array>(), since: Date.now() };
    if (!this.#parts.has(key) && this.#parts.size >= INCOMPLETE_MAX) throw new RefusedInput("too_large", "too many incomplete messages");
    if (!known.bytes.has(index)) known.bytes.set(index, bytes);
    this.#parts.set(key, known);
    if (known.bytes.size < count) return undefined;
    this.#parts.delete(key);
    const whole = join(...Array.from({ length: count }, (_, i) => known.bytes.get(i)!));
    if (whole.length > WHOLE_BYTES_MAX) throw new RefusedInput("too_large", "message");
    return whole;
  }

  #said(group: Group, { from, content: said, place, missing }: Said, work: Work): void {
    const { events, contacts } = this.core;
    if (missing > 0n) work.afterwards.push(() => void events.emit("lost", group, from.account, missing));
    if (place) work.afterwards.push(() => this.receipts.delivered(group, from, place.stream));
    const body = said?.body;
    switch (body?.case) {
      case "text": {
        const message: Message = {
          group: group.id,
          account: from.account,
          device: from.device,
          name: contacts.get(from.account)?.name ?? from.member.name,
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
        const address = body.value;
        group.addresses.set(hex(from.device), address);
        work.afterwards.push(() => this.outbox.addressed(group, from.device, address));
        return;
      }
      case "card": {
        const contact = contacts.take(body.value, from.account);
        if (contact) work.changes.push({ kind: "contact", contact });
        if (contact) work.afterwards.push(() => void events.emit("contact", contact));
        return;
      }
      case "name": {
        const known = contacts.get(from.account);
        if (!known) return;
        contacts.set({ ...known, name: body.value });
        work.changes.push({ kind: "contact", contact: contacts.get(from.account)! });
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
    // Who was removed could draw this device aside with a group of the same id, and a Welcome can be played again.
    if (core.groups.get(hex(group.id))?.active) throw new RefusedInput("malformed", "a group this device is in");
    core.bundle.used(published);
    const alarmed = core.contacts.compareRoots(members);
    for (const contact of alarmed) {
      work.changes.push({ kind: "contact", contact } satisfies Change);
      work.afterwards.push(() => void core.events.emit("contact", contact));
    }
    // Somebody under another root: nothing of it is to be shown as that contact's.
    if (group.direct && alarmed.length > 0) return;
    core.groups.set(hex(group.id), group);
    work.groups.add(group);
    work.afterwards.push(() => {
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

/** What a batch of frames leads to. */
class Work {
  readonly changes: Change[] = [];
  readonly groups = new Set<Group>();
  readonly walks = new Set<Group>();
  /** Runs when everything is kept. */
  readonly afterwards: (() => void)[] = [];
}
