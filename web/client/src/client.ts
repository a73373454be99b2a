import { EventEmitter, once } from "node:events";

import { parseAddress, type Address } from "./address.js";
import { Backoff, pause } from "./backoff.js";
import { Connection, type ConnectionOptions, type End } from "./connection.js";
import { ConnectionLostError, DistrustError, MalformedError, StoppedError } from "./errors.js";
import { CloseReason } from "./gen/valise/v1/valise_pb.js";
import { mailboxId, randomId } from "./ids.js";
import type { OwnerKey } from "./keys.js";
import { SLOTS_MAX } from "./limits.js";
import { Mailbox, type Frame } from "./mailbox.js";
import { postUntilDecided, type Outgoing, type Posting } from "./posting.js";
import type { SeenRealm } from "./welcome.js";

/** What the app has to keep. It is kept when the promise of `commit` resolves. */
export type Change =
  | ({ kind: "realm" } & Required<SeenRealm>)
  | { kind: "member_token"; mailbox: Uint8Array; token: Uint8Array }
  | ({ kind: "frame" } & Outgoing)
  | { kind: "put"; slotId: Uint8Array; putId: Uint8Array; payload: Uint8Array };

/** How a client behaves. */
export interface ClientOptions extends Omit<ConnectionOptions, "believed" | "memberToken"> {
  /** Called, and waited for, before what it is told is relied on: a frame before its first post, and so on. */
  readonly commit?: (change: Change) => Promise<void> | void;
  /** First limit of the waits between attempts, 1 s by default. */
  readonly backoffFirstMs?: number;
}

/** What a slot holds after a put. */
export type Put = { readonly stored: true } | { readonly stored: false; readonly value: Uint8Array };

// After these the client is at fault, or too old: trying again would only repeat it.
const FATAL: ReadonlySet<CloseReason> = new Set([
  CloseReason.MALFORMED,
  CloseReason.PACKET_TOO_LARGE,
  CloseReason.OUT_OF_ORDER,
  CloseReason.VERSION_UNSUPPORTED,
  CloseReason.ACK_INVALID,
]);

/** A client of one relay: it connects when there is something to do, and again when a connection is lost. */
export class Client extends EventEmitter<{
  connected: [];
  disconnected: [end: End];
  stopped: [error: unknown];
  /** For this class itself. */
  changed: [];
}> {
  readonly address: Address;
  readonly #options: ClientOptions;
  readonly #mailboxes = new Set<Mailbox>();
  readonly #ending = new AbortController();
  readonly #backoff: Backoff;
  #seen: SeenRealm | undefined;
  #connection: Connection | undefined;
  #requests = 0;
  #running = false;
  #stopped: { error: unknown } | undefined;

  constructor(address: Address | string, options: ClientOptions = {}) {
    super();
    this.setMaxListeners(0); // every open request waits for "changed"
    this.address = typeof address === "string" ? parseAddress(address) : address;
    this.#options = options;
    this.#seen = options.seen;
    this.#backoff = new Backoff(options.backoffFirstMs);
  }

  /** Asks for a member token, with an invite code where the relay wants one. */
  async join(owner: OwnerKey, code?: Uint8Array): Promise<Uint8Array> {
    const token = await this.#request((connection) => connection.join(owner, code));
    await this.#options.commit?.({ kind: "member_token", mailbox: mailboxId(this.address.realm, owner.publicKey), token });
    return token;
  }

  /**
   * Keeps a mailbox attached. `deliver` gets the frames of one read at a time; they are acknowledged after its
   * promise has resolved, so it resolves when what it made of them is on the disk. If it rejects, the mailbox is
   * detached, and nothing is lost.
   */
  attach(owner: OwnerKey, memberToken: Uint8Array, deliver: (frames: Frame[]) => Promise<void>): Mailbox {
    const id = mailboxId(this.address.realm, owner.publicKey);
    const mailbox = new Mailbox(owner, id, memberToken, deliver, () => this.#wake());
    this.#mailboxes.add(mailbox);
    this.#wake();
    return mailbox;
  }

  /** Forgets a mailbox, after detaching it. */
  async detach(mailbox: Mailbox): Promise<void> {
    this.#mailboxes.delete(mailbox);
    await mailbox.detach();
  }

  /** Posts a frame, and repeats it until every target has decided; see {@link Posting}. */
  async post(posting: Posting): Promise<number[]> {
    const outgoing: Outgoing = { ...posting, frameId: posting.frameId ?? randomId(), ttlHours: posting.ttlHours ?? 0 };
    // A frame whose id was given is stored already.
    if (!posting.frameId) await this.#options.commit?.({ kind: "frame", ...outgoing });
    return postUntilDecided(outgoing, posting.signal, (ask) => this.#request(ask, posting.signal));
  }

  /** Sends a signal, which may or may not arrive; resolves when it was handed to a connection. */
  async signal(capabilities: readonly Uint8Array[], payload: Uint8Array): Promise<void> {
    await this.#request(async (connection) =>
      connection.say({ case: "signal", value: { capabilities: [...capabilities], payload } }),
    );
  }

  /** Puts a value into a slot that may be taken. Give the `putId` of an earlier try to repeat it. */
  async putSlot(slotToken: Uint8Array, slotId: Uint8Array, payload: Uint8Array, putId?: Uint8Array): Promise<Put> {
    const id = putId ?? randomId();
    if (!putId) await this.#options.commit?.({ kind: "put", slotId, putId: id, payload });
    const answer = await this.#request((connection) =>
      connection.ask({ case: "putSlot", value: { slotToken, slotId, putId: id, payload } }, ["stored", "taken"]),
    );
    return answer.case === "stored" ? { stored: true } : { stored: false, value: answer.value.payload };
  }

  /** The values of slots, in their order; undefined for a free one. */
  async getSlots(slotIds: readonly Uint8Array[]): Promise<(Uint8Array | undefined)[]> {
    const values: (Uint8Array | undefined)[] = [];
    while (values.length < slotIds.length) {
      const asked = slotIds.slice(values.length, values.length + SLOTS_MAX);
      const { value } = await this.#request((connection) =>
        connection.ask({ case: "getSlots", value: { slotIds: asked } }, "slots"),
      );
      if (value.payloads.length === 0 || value.payloads.length > asked.length) throw new MalformedError("Slots of a wrong length");
      values.push(...value.payloads.map((payload) => (payload.length === 0 ? undefined : payload)));
    }
    return values;
  }

  /** Takes an item of a bundle. If a connection is lost the item may be, and another one is taken. */
  async takeBundle(takeToken: Uint8Array): Promise<{ payload: Uint8Array; lastResort: boolean }> {
    const { value } = await this.#request((connection) =>
      connection.ask({ case: "takeBundle", value: { takeToken } }, "bundleItem"),
    );
    return { payload: value.payload, lastResort: value.lastResort };
  }

  /** Ends the connection and everything that waits for it. Acknowledgements made are still sent. */
  close(): void {
    this.#stop(undefined);
  }

  /** Runs a request on a usable connection; repeats it on the next one if its connection ends first. */
  async #request<T>(ask: (connection: Connection) => Promise<T>, signal?: AbortSignal): Promise<T> {
    this.#requests += 1;
    try {
      for (;;) {
        const connection = await this.#usable(signal);
        try {
          return await ask(connection);
        } catch (error) {
          if (!(error instanceof ConnectionLostError)) throw error;
          if (this.#connection === connection) this.#connection = undefined;
        }
      }
    } finally {
      this.#requests -= 1;
    }
  }

  async #usable(signal?: AbortSignal): Promise<Connection> {
    for (;;) {
      if (this.#stopped) throw new StoppedError(this.#stopped.error);
      if (this.#connection?.usable) return this.#connection;
      this.#wake();
      await once(this, "changed", signal ? { signal } : {});
    }
  }

  /** Something may have to be done. */
  #wake(): void {
    if (this.#stopped) return;
    const connection = this.#connection;
    if (connection?.usable) {
      for (const mailbox of this.#mailboxes) void mailbox.bind(connection);
    }
    if (this.#running) return;
    this.#running = true;
    void this.#run().catch((error: unknown) => this.#stop(error));
  }

  get #wanted(): boolean {
    return !this.#stopped && (this.#requests > 0 || [...this.#mailboxes].some(({ state }) => state === "waiting"));
  }

  async #run(): Promise<void> {
    try {
      while (this.#wanted) await this.#serve();
    } finally {
      this.#running = false;
    }
  }

  /** One attempt, one connection if it succeeds, and the wait after it. */
  async #serve(): Promise<void> {
    let connection: Connection;
    try {
      connection = await this.#open();
    } catch (error) {
      if (error instanceof DistrustError) throw error;
      if (!(error instanceof ConnectionLostError || error instanceof MalformedError)) throw error;
      if (error instanceof ConnectionLostError && FATAL.has(error.closeReason ?? CloseReason.UNSPECIFIED)) throw error;
      await pause(this.#backoff.next(), this.#ending.signal);
      return;
    }
    if (this.#stopped) return connection.close();
    this.#connection = connection;
    for (const mailbox of this.#mailboxes) void mailbox.bind(connection);
    this.emit("connected");
    this.emit("changed");

    const end = await connection.ended;
    this.#connection = undefined;
    for (const mailbox of this.#mailboxes) mailbox.unbind(connection);
    this.emit("disconnected", end);
    if (end.closeReason !== undefined && FATAL.has(end.closeReason)) {
      throw new ConnectionLostError(end.closeReason);
    }
    if (end.answered) this.#backoff.reset();
    // A random part of what the relay says, so that not all of its clients come at once.
    const wait = end.restarting ? Math.random() * end.restarting.reconnectInMs : this.#backoff.next();
    await pause(wait, this.#ending.signal);
  }

  async #open(): Promise<Connection> {
    const { commit } = this.#options;
    return Connection.open(this.address, {
      ...this.#options,
      seen: this.#seen,
      memberToken: [...this.#mailboxes].find(({ state }) => state !== "failed")?.memberToken,
      believed: async (realm) => {
        if (this.#seen && realm.epoch === this.#seen.epoch && this.#seen.record) return;
        await commit?.({ kind: "realm", ...realm });
        this.#seen = realm;
      },
    });
  }

  #stop(error: unknown): void {
    if (this.#stopped) return;
    this.#stopped = { error };
    this.#ending.abort();
    this.#connection?.close();
    this.#connection = undefined;
    for (const mailbox of this.#mailboxes) mailbox.stop(new StoppedError(error));
    if (error !== undefined) this.emit("stopped", error);
    this.emit("changed");
  }
}
