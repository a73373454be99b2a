import { hex, random, same } from "./bytes.js";
import { changeOf, type Core, type OwnMessage } from "./core.js";
import { encodeEnvelope, ENVELOPE_BYTES_MAX, partsOf, sealFrame, type Envelope } from "./frame.js";
import type { Address, Content, Receipt } from "./gen/valise/chat/v1/chat_pb.js";
import type { Group } from "./group.js";
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

/** Frames that wait for a device's next address, at most. */
const WAITING_MAX = 100;

/** Sends what is said, one frame after the other in each group; what is said meanwhile goes together. */
export class Outbox {
  readonly #pending = new Map<Group, Utterance[]>();
  readonly #running = new Set<Group>();
  readonly #tracked = new Map<Group, Tracked[]>();
  readonly #waiting = new Map<string, Outgoing[]>();
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
        await this.core.relays.post(payload, targets, frameId);
      }
    });
  }

  /** Nothing waits to be posted. */
  get idle(): boolean {
    return this.#running.size === 0 && this.#loose === 0;
  }

  /** A device has a new address: what waited for it goes there. */
  addressed(group: Group, device: Uint8Array, address: Address): void {
    const key = `${hex(group.id)}/${hex(device)}`;
    const waiting = this.#waiting.get(key) ?? [];
    this.#waiting.delete(key);
    this.#aside(async () => {
      for (const { payload, frameId, tracked, targets } of waiting) {
        const leaf = targets.find((target) => same(target.leaf.device, device))?.leaf;
        if (leaf) await this.#deliver(group, { payload, frameId, tracked, targets: [{ leaf, address }] });
      }
    });
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

  #aside(work: () => Promise<void>): void {
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
        if (frames.length === 0) return;
        for (const frame of frames) await this.#deliver(group, frame);
      }
    } catch (error) {
      this.core.events.emit("trouble", error);
    } finally {
      this.#running.delete(group);
    }
  }

  /** Seals everything that waits in the epoch there is now, and stores it before any of it is posted. */
  async #seal(group: Group): Promise<Outgoing[]> {
    if ((this.#pending.get(group) ?? []).length === 0) return [];
    await this.ready(group).catch((error: unknown) => void this.core.events.emit("trouble", error));
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
    const { payload, frameId, targets, tracked } = outgoing;
    const outcomes = await this.core.relays.post(
      payload,
      targets.map(({ address }) => address),
      frameId,
    );
    targets.forEach(({ leaf }, i) => {
      for (const one of tracked) {
        const progress = one.accounts.get(hex(leaf.account));
        if (progress && outcomes[i] === "accepted") progress.relayed = true;
      }
      if (outcomes[i] !== "refused") return;
      // The capability is over: the frame waits for the device's next address.
      const key = `${hex(group.id)}/${hex(leaf.device)}`;
      this.#waiting.set(key, [...(this.#waiting.get(key) ?? []), outgoing].slice(-WAITING_MAX));
    });
    for (const one of tracked) this.#settle(one);
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

  #settle({ own, accounts }: Tracked): void {
    const everyone = [...accounts.values()];
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

function fitsFrame(stream: Uint8Array, firstCounter: bigint, messages: readonly Uint8Array[]): boolean {
  return encodeEnvelope({ form: "messages", stream, firstCounter, messages }).length <= ENVELOPE_BYTES_MAX;
}
