import { EventEmitter, once } from "node:events";

import { fromBinary } from "@bufbuild/protobuf";

import { parseAddress, type Address } from "./address.js";
import { Aside } from "./aside.js";
import { Backoff, pause } from "./backoff.js";
import { Connection, type ConnectionOptions, type End } from "./connection.js";
import { ConnectionLostError, DistrustError, MalformedError, RefusedError, StoppedError } from "./errors.js";
import { CloseReason, Reason, RealmRecordSchema, type Move } from "./gen/valise/v1/valise_pb.js";
import { mailboxId, randomId } from "./ids.js";
import type { OwnerKey } from "./keys.js";
import { MOVED_TRIES, MOVE_SPREAD_MS_MAX, SLOTS_MAX } from "./limits.js";
import { Mailbox, type Frame } from "./mailbox.js";
import { postUntilDecided, type Outgoing, type Posting } from "./posting.js";
import { openRealmRecord, sameBytes } from "./realm-record.js";
import { Route } from "./route.js";
import { checkEpoch, type SeenRealm } from "./welcome.js";

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
  /** Whether a host may be dialled that the realm's record lists; the given one may. Any, by default. */
  readonly mayDial?: (host: string) => boolean;
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
  readonly #route: Route;
  // For what is served at another place of a realm that is being moved.
  readonly #aside: Aside;
  #moving = false;
  // How often in a row the place in use said that it does not serve a mailbox.
  #turns = 0;
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
    this.#route = new Route(this.address, options.mayDial);
    this.#aside = new Aside(() => this.#open(this.#route.others(this.#connection?.address ?? this.address)));
    if (options.seen?.record) {
      try {
        this.#route.learn(fromBinary(RealmRecordSchema, options.seen.record));
      } catch {
        // What was kept is damaged: it is learnt again.
      }
    }
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
    const mailbox = new Mailbox(owner, id, memberToken, deliver, () => this.#wake(), (connection) => this.#leave(connection));
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
    return postUntilDecided(outgoing, posting.signal, (ask, elsewhere) => this.#request(ask, posting.signal, elsewhere));
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

  /**
   * Runs a request on a usable connection; repeats it on the next one if its connection ends first, and at another
   * place of the realm, to and fro, if it is refused `moved`.
   */
  async #request<T>(ask: (connection: Connection) => Promise<T>, signal?: AbortSignal, elsewhere = false): Promise<T> {
    const backoff = new Backoff(100, 2_000);
    let tries = 0;
    this.#requests += 1;
    try {
      for (let there = elsewhere; ; ) {
        const here = await this.#usable(signal);
        const aside = there ? await this.#aside.get().catch(() => undefined) : undefined;
        const connection = aside ?? here;
        try {
          return await ask(connection);
        } catch (error) {
          if (error instanceof RefusedError && error.reason === Reason.MOVED && (tries += 1) < MOVED_TRIES) {
            if (aside) {
              this.#route.later(aside.address);
              this.#aside.close();
            }
            there = !aside;
            // The other side is asked at once, the first time.
            if (tries > 1) await pause(backoff.next(), signal);
            continue;
          }
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

  /** One attempt, one connection if it succeeds and those it moves to, and the wait after it. */
  async #serve(): Promise<void> {
    let connection: Connection;
    try {
      connection = await this.#open(this.#route.candidates());
    } catch (error) {
      // A place whose record is behind may not have heard of the newest one yet.
      if (error instanceof DistrustError && error.check !== "epoch_old") throw error;
      if (!(error instanceof ConnectionLostError || error instanceof MalformedError || error instanceof DistrustError)) throw error;
      if (error instanceof ConnectionLostError && FATAL.has(error.closeReason ?? CloseReason.UNSPECIFIED)) throw error;
      await pause(this.#backoff.next(), this.#ending.signal);
      return;
    }
    if (this.#stopped) return connection.close();
    this.#connection = connection;
    for (const mailbox of this.#mailboxes) void mailbox.bind(connection);
    this.emit("connected");
    this.emit("changed");

    let end = await connection.ended;
    while (this.#connection && this.#connection !== connection) {
      connection = this.#connection;
      end = await connection.ended;
    }
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

  /** A connection to the first of these places that can be reached and proves the realm. */
  async #open(places: readonly Address[]): Promise<Connection> {
    let fatal: unknown;
    let lost: unknown;
    let distrust: unknown;
    for (const place of places) {
      try {
        return await this.#openAt(place);
      } catch (error) {
        const isDistrust = error instanceof DistrustError;
        if (!(isDistrust || error instanceof ConnectionLostError || error instanceof MalformedError)) throw error;
        this.#route.later(place);
        if (!isDistrust || error.check === "epoch_old") lost ??= error;
        else if (place === this.address && !this.#route.givenIsLeft) fatal ??= error;
        else distrust ??= error;
      }
    }
    throw fatal ?? lost ?? distrust ?? new ConnectionLostError();
  }

  async #openAt(place: Address): Promise<Connection> {
    const connection = await Connection.open(place, {
      ...this.#options,
      seen: this.#seen,
      memberToken: [...this.#mailboxes].find(({ state }) => state !== "failed")?.memberToken,
      believed: (realm) => this.#learn(realm),
    });
    connection.onMove = (move) => void this.#consider(connection, move).catch(() => undefined);
    return connection;
  }

  /** This record, which is genuine, counts from now on, if it is newer. */
  async #learn(realm: Required<SeenRealm>): Promise<void> {
    if (this.#seen && realm.epoch === this.#seen.epoch && this.#seen.record) return;
    await this.#options.commit?.({ kind: "realm", ...realm });
    this.#seen = realm;
    this.#route.learn(fromBinary(RealmRecordSchema, realm.record));
  }

  /** The relay says that this client is better served elsewhere. Rejects where the packet is to be ignored. */
  async #consider(connection: Connection, move: Move): Promise<void> {
    if (move.realmRecord) {
      const bytes = move.realmRecord.record;
      const record = openRealmRecord(move.realmRecord, this.address.realm);
      checkEpoch(record, bytes, { seen: this.#seen });
      const isKnown = this.#seen?.record && sameBytes(bytes, this.#seen.record);
      if (!isKnown && !this.#route.mayLearn(Date.now())) return;
      await this.#learn({ epoch: record.epoch, record: bytes });
    }
    if (connection !== this.#connection) return;
    const places = this.#route.judge(move, connection.address, Date.now());
    if (places) await this.#move(connection, places, Math.random() * Math.min(move.spreadMs, MOVE_SPREAD_MS_MAX));
  }

  /** A place does not serve a mailbox of this client: another one does. */
  #leave(connection: Connection): void {
    if (connection !== this.#connection || this.#moving) return;
    const wait = this.#turns === 0 ? 0 : Math.random() * Math.min(50 * 2 ** this.#turns, 10_000);
    this.#turns += 1;
    this.#route.later(connection.address);
    void this.#move(connection, this.#route.others(connection.address), wait);
  }

  /** Goes to the first of these places that lets it attach; where none does, it stays where it is. */
  async #move(from: Connection, places: readonly Address[], waitMs: number): Promise<void> {
    if (this.#moving || places.length === 0) return;
    this.#moving = true;
    const isHere = (): boolean => this.#connection === from && !this.#stopped;
    try {
      await pause(waitMs, this.#ending.signal);
      if (!isHere()) return;
      // The next connection begins there; nobody needs one before.
      if (this.#mailboxes.size === 0 && this.#requests === 0) return from.leave();
      const to = await this.#open(places);
      const all = [...this.#mailboxes];
      const followed = isHere() ? await Promise.all(all.map((mailbox) => mailbox.follow(to))) : [false];
      if (isHere() && followed.every(Boolean)) {
        this.#turns = 0;
        this.#route.found(to.address);
        this.#connection = to;
        this.emit("changed");
        from.leave();
        // Those that were attached meanwhile.
        this.#wake();
        return;
      }
      this.#route.later(to.address);
      to.close();
      for (const mailbox of all) mailbox.unbind(to);
      this.#wake();
    } catch {
      // It is served where it is.
    } finally {
      this.#moving = false;
    }
  }

  #stop(error: unknown): void {
    if (this.#stopped) return;
    this.#stopped = { error };
    this.#ending.abort();
    this.#connection?.close();
    this.#connection = undefined;
    this.#aside.close();
    for (const mailbox of this.#mailboxes) mailbox.stop(new StoppedError(error));
    if (error !== undefined) this.emit("stopped", error);
    this.emit("changed");
  }
}
