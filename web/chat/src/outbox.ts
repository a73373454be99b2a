import { hex, random, same } from "./bytes.js";
import { changeOf, type Core, type OwnMessage } from "./core.js";
import { encodeEnvelope, ENVELOPE_BYTES_MAX, partsOf, sealFrame, type Envelope } from "./frame.js";
import type { Address, Content, Receipt } from "./gen/valise/chat/v1/chat_pb.js";
import { content, type Group } from "./group.js";
import type { MemberLeaf } from "./mls.js";

/** An own message and how far each other account has got with it. */
interface Tracked {
  readonly own: OwnMessage;
  readonly group: Group;
  counter: bigint;
  readonly accounts: Map<string, { relayed: boolean; delivered: boolean; read: boolean }>;
}

/** Something that is to be said in a group. */
interface Utterance {
  readonly content: Content;
  /** An unordered message goes to the devices of one account only. */
  readonly to?: Uint8Array;
  readonly own?: OwnMessage;
}

/** A frame on its way. */
interface Outgoing {
  readonly frameId: Uint8Array;
  readonly payload: Uint8Array;
  readonly targets: readonly { readonly leaf: MemberLeaf; readonly address: Address }[];
  readonly tracked: readonly Tracked[];
}

/** What cannot be posted to a device now. */
interface Waiting {
  readonly group: Group;
  readonly leaf: MemberLeaf;
  frames: Outgoing[];
  draining: boolean;
}

/** Frames that wait for a device's next address, at most. */
const WAITING_MAX = 100;

/** Sends what is said, one frame after the other in each group; what is said meanwhile goes together. */
export class Outbox {
  readonly #pending = new Map<Group, Utterance[]>();
  readonly #running = new Set<Group>();
  readonly #tracked = new Map<Group, Tracked[]>();
  /** What waits for a device's next address or for a relay to be allowed, in order, by group and device. */
  readonly #waiting = new Map<string, Waiting>();
  /** Pokes and greetings to relays that the user was not asked about yet. */
  #held: { payload: Uint8Array; frameId: Uint8Array; target: Address }[] = [];
  #loose = 0;

  /** `ready` brings a group to its latest epoch; it is called with the lock held. */
  constructor(
    private readonly core: Core,
    private readonly ready: (group: Group) => Promise<void>,
  ) {}

  /** Says something in a group, in order, or to one account without a place. */
  say(group: Group, content: Content, { to, own }: { to?: Uint8Array; own?: OwnMessage } = {}): void {
    const pending = this.#pending.get(group) ?? [];
    pending.push({ content, ...(to ? { to } : {}), ...(own ? { own } : {}) });
    this.#pending.set(group, pending);
    this.#start(group);
  }

  #start(group: Group): void {
    if (this.#running.has(group)) return;
    this.#running.add(group);
    void this.#pump(group);
  }

  /** Posts payloads that have no place: pokes and greetings. Nobody waits for it. */
  post(payloads: readonly Uint8Array[], targets: readonly Address[]): void {
    this.#aside(async () => {
      for (const payload of payloads) {
        const frameId = random(16);
        await this.core.commit([{ kind: "frame", frameId, payload, targets }]);
        const allowed = targets.filter(({ relay }) => this.core.relays.allowsOrAsks(relay));
        for (const target of targets) if (!allowed.includes(target)) this.#held.push({ payload, frameId, target });
        await this.core.relays.post(payload, allowed, frameId);
      }
    });
  }

  /** Nothing waits to be posted. */
  get idle(): boolean {
    return this.#running.size === 0 && this.#loose === 0;
  }

  /** A device has a new address: what waited for it goes there. */
  addressed(group: Group, device: Uint8Array): void {
    const waiting = this.#waiting.get(keyOf(group, device));
    if (waiting) this.#aside(() => this.#drain(waiting));
  }

  /** A relay may be contacted now. */
  relayAllowed(): void {
    for (const waiting of this.#waiting.values()) this.#aside(() => this.#drain(waiting));
    const held = this.#held.filter(({ target }) => this.core.relays.allows(target.relay));
    this.#held = this.#held.filter((one) => !held.includes(one));
    for (const { payload, frameId, target } of held) this.#aside(() => this.core.relays.post(payload, [target], frameId));
    for (const group of this.#pending.keys()) this.#start(group);
  }

  /** This device was let into a group again: what is not with every other account yet is said there once more. */
  sayAgain(former: Group, group: Group): void {
    const unsaid = (this.#tracked.get(former) ?? []).map(({ own }) => own).filter(({ state }) => state === "sending" || state === "relayed");
    for (const own of unsaid) this.say(group, content({ case: "text", value: own.text }), { own });
    for (const { content: said, own } of this.#pending.get(former) ?? []) if (own) this.say(group, said, { own });
    for (const of of [this.#tracked, this.#pending]) of.delete(former);
    for (const [key, waiting] of this.#waiting) if (waiting.group === former) this.#waiting.delete(key);
  }

  /** Somebody has told how far it has got with what this device said. */
  confirmed(group: Group, account: Uint8Array, { stream, delivered, read }: Receipt): void {
    if (!same(stream, group.stream)) return;
    for (const tracked of this.#tracked.get(group) ?? []) {
      const progress = tracked.accounts.get(hex(account));
      if (!progress || tracked.counter === 0n) continue;
      // Numbers of receipts only grow; a lower one takes nothing back.
      progress.delivered ||= tracked.counter <= delivered || tracked.counter <= read;
      progress.read ||= tracked.counter <= read;
      this.#settle(tracked);
    }
  }

  #aside(work: () => Promise<unknown>): void {
    this.#loose += 1;
    void work()
      .catch((error: unknown) => void this.core.events.emit("trouble", error))
      .finally(() => (this.#loose -= 1));
  }

  async #pump(group: Group): Promise<void> {
    try {
      for (;;) {
        await this.core.caughtUp();
        const frames = await this.core.lock.run(() => this.#seal(group));
        if (frames.length === 0 && !this.#saysOn(group)) return;
        for (const frame of frames) await this.#deliver(group, frame);
      }
    } catch (error) {
      this.core.events.emit("trouble", error);
    } finally {
      this.#running.delete(group);
    }
  }

  /** Whether there is something to say, and it may be said. */
  #saysOn(group: Group): boolean {
    const waits = (this.#pending.get(group) ?? []).length > 0;
    return waits && !group.lost && this.core.relays.allows(group.roster.info.home);
  }

  /** Seals everything that waits in the epoch there is now, and stores it before any of it is posted. */
  async #seal(group: Group): Promise<Outgoing[]> {
    if ((this.#pending.get(group) ?? []).length === 0) return [];
    await this.ready(group).catch((error: unknown) => void this.core.events.emit("trouble", error));
    // What is written meanwhile waits until this device is in again, and until the user allows the group's relay.
    if (group.lost || !this.core.relays.allowsOrAsks(group.roster.info.home)) return [];
    const pending = this.#pending.get(group) ?? [];
    this.#pending.set(group, []);
    if (!group.active) {
      for (const { own } of pending) if (own) this.#become(own, "failed");
      return [];
    }
    const frames: Outgoing[] = [];
    const everyone = group.others;
    const frame = (envelope: Envelope, leaves: readonly MemberLeaf[], tracked: readonly Tracked[]): void => {
      const targets = leaves.flatMap((leaf) => {
        const address = group.addresses.get(hex(leaf.device));
        return address ? [{ leaf, address }] : [];
      });
      if (targets.length > 0) frames.push({ frameId: random(16), payload: sealFrame(group.keys, envelope), targets, tracked });
    };

    let gathered: { firstCounter: bigint; messages: Uint8Array[]; tracked: Tracked[] } | undefined;
    const flush = (): void => {
      if (!gathered) return;
      const { firstCounter, messages, tracked } = gathered;
      frame({ form: "messages", stream: group.stream, firstCounter, messages }, everyone, tracked);
      gathered = undefined;
    };
    for (const { content, own } of pending.filter(({ to }) => !to)) {
      const message = await group.seal(content, true);
      const tracked = own ? [this.#track(group, own)] : [];
      const messages = [...(gathered?.messages ?? []), message];
      const firstCounter = gathered?.firstCounter ?? group.counter;
      if (fitsFrame(group.stream, firstCounter, messages)) {
        gathered = { firstCounter, messages, tracked: [...(gathered?.tracked ?? []), ...tracked] };
        continue;
      }
      flush();
      if (fitsFrame(group.stream, group.counter, [message])) gathered = { firstCounter: group.counter, messages: [message], tracked };
      else for (const part of partsOf(group.stream, group.counter, message)) frame(part, everyone, tracked);
    }
    flush();
    for (const { content, to } of pending) {
      if (!to) continue;
      const messages = [await group.seal(content, false)];
      frame({ form: "messages", firstCounter: 0n, messages }, everyone.filter(({ account }) => same(account, to)), []);
    }
    await this.core.commit([
      changeOf(group),
      ...frames.map(({ frameId, payload, targets }) => ({
        kind: "frame" as const,
        frameId,
        payload,
        targets: targets.map(({ address }) => address),
      })),
    ]);
    group.forget();
    return frames;
  }

  async #deliver(group: Group, outgoing: Outgoing): Promise<void> {
    const now: Outgoing["targets"][number][] = [];
    for (const target of outgoing.targets) {
      // In order: what comes after a frame that waits, waits too.
      const waiting = this.#waiting.get(keyOf(group, target.leaf.device));
      if (waiting) this.#wait(group, target.leaf, outgoing);
      else if (this.core.relays.allowsOrAsks(target.address.relay)) now.push(target);
      else this.#wait(group, target.leaf, outgoing);
    }
    const addresses = now.map(({ address }) => address);
    const outcomes = await this.core.relays.post(outgoing.payload, addresses, outgoing.frameId);
    now.forEach(({ leaf, address }, i) => {
      if (outcomes[i] === "accepted") this.#relayed(outgoing, leaf);
      if (outcomes[i] !== "refused") return;
      // The capability is over: the frame waits for the device's next address, which may have come meanwhile.
      const waiting = this.#wait(group, leaf, outgoing);
      if (!sameAddress(group.addresses.get(hex(leaf.device)), address)) this.#aside(() => this.#drain(waiting));
    });
  }

  #wait(group: Group, leaf: MemberLeaf, outgoing: Outgoing): Waiting {
    const key = keyOf(group, leaf.device);
    const waiting = this.#waiting.get(key) ?? { group, leaf, frames: [], draining: false };
    waiting.frames = [...waiting.frames, outgoing].slice(-WAITING_MAX);
    this.#waiting.set(key, waiting);
    return waiting;
  }

  /** Posts what has waited for a device, as far as it can be posted now. */
  async #drain(waiting: Waiting): Promise<void> {
    if (waiting.draining) return;
    waiting.draining = true;
    const { group, leaf } = waiting;
    try {
      for (;;) {
        const [outgoing] = waiting.frames;
        const address = group.addresses.get(hex(leaf.device));
        if (!outgoing || !address) return void this.#waiting.delete(keyOf(group, leaf.device));
        if (!this.core.relays.allows(address.relay)) return;
        const [outcome] = await this.core.relays.post(outgoing.payload, [address], outgoing.frameId);
        if (outcome === "refused") {
          if (sameAddress(group.addresses.get(hex(leaf.device)), address)) return;
          continue; // another one has come meanwhile
        }
        if (outcome === "accepted") this.#relayed(outgoing, leaf);
        waiting.frames = waiting.frames.filter((one) => one !== outgoing);
      }
    } finally {
      waiting.draining = false;
    }
  }

  /** A device's relay has a frame. */
  #relayed({ tracked }: Outgoing, { account }: MemberLeaf): void {
    for (const one of tracked) {
      const progress = one.accounts.get(hex(account));
      if (progress) progress.relayed = true;
      this.#settle(one);
    }
  }

  #track(group: Group, own: OwnMessage): Tracked {
    const progress = { relayed: false, delivered: false, read: false };
    const mine = hex(this.core.profile.account);
    const accounts = new Map(
      group.others.filter(({ account }) => hex(account) !== mine).map(({ account }) => [hex(account), { ...progress }]),
    );
    const tracked: Tracked = { own, group, counter: group.counter, accounts };
    this.#tracked.set(group, [...(this.#tracked.get(group) ?? []), tracked]);
    return tracked;
  }

  #settle({ own, group, accounts }: Tracked): void {
    // Of who has gone since nobody waits for a word.
    const present = new Set(group.others.map(({ account }) => hex(account)));
    const still = [...accounts].filter(([account]) => present.has(account)).map(([, progress]) => progress);
    const everyone = still.length > 0 ? still : [...accounts.values()];
    if (everyone.every(({ read }) => read)) this.#become(own, "read");
    else if (everyone.every(({ delivered }) => delivered)) this.#become(own, "delivered");
    else if (everyone.every(({ relayed, delivered }) => relayed || delivered)) this.#become(own, "relayed");
  }

  #become(own: OwnMessage, state: OwnMessage["state"]): void {
    const order = ["sending", "relayed", "delivered", "read"];
    if (own.state === state || (state !== "failed" && order.indexOf(state) < order.indexOf(own.state))) return;
    own.state = state;
    this.core.events.emit("state", own);
  }
}

function keyOf(group: Group, device: Uint8Array): string {
  return `${hex(group.id)}/${hex(device)}`;
}

function sameAddress(a: Address | undefined, b: Address): boolean {
  return a !== undefined && a.relay === b.relay && same(a.capability, b.capability);
}

function fitsFrame(stream: Uint8Array, firstCounter: bigint, messages: readonly Uint8Array[]): boolean {
  return encodeEnvelope({ form: "messages", stream, firstCounter, messages }).length <= ENVELOPE_BYTES_MAX;
}
