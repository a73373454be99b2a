import { EventEmitter, once } from "node:events";

import { Backoff, pause } from "./backoff.js";
import type { AttachmentEvents, Connection } from "./connection.js";
import { ConnectionLostError, NotAttachedError, RefusedError } from "./errors.js";
import { Reason, TokenKind, type Deliver } from "./gen/valise/v1/valise_pb.js";
import { randomId } from "./ids.js";
import type { OwnerKey } from "./keys.js";
import { ATTACH_DOUBT_MS, FOLLOW_WITHIN_MS, MOVED_TRIES, TOKEN_DAYS_MAX } from "./limits.js";

/** A frame that has arrived. It may arrive more than once: drop copies by what is inside. */
export interface Frame {
  readonly frameId: Uint8Array;
  readonly payload: Uint8Array;
}

/** Which tokens to issue. */
export interface IssueOptions {
  readonly kind: TokenKind;
  /** 1 by default, at most 100. */
  readonly count?: number;
  /** Days of validity, 400 by default and at most. */
  readonly days?: number;
}

/** What to add to a bundle. */
export interface Publication {
  readonly items: readonly Uint8Array[];
  readonly lastResort?: Uint8Array;
  /** What the bundle held goes first. */
  readonly replace?: boolean;
  /** Given to repeat a publication that was stored before; drawn otherwise. */
  readonly publicationId?: Uint8Array;
}

/**
 * Where a mailbox stands: `waiting` for a connection; `attached`; `replaced` by another device, until its
 * user asks for it with {@link Mailbox.takeBack}; `detached`; or `failed`, because the relay refused it or the
 * handler threw.
 */
export type MailboxState = "waiting" | "attached" | "replaced" | "detached" | "failed";

interface Attachment {
  readonly connection: Connection;
  readonly number: number;
}

/** A mailbox of this device, kept attached through reconnects. Made by `Client.attach`. */
export class Mailbox extends EventEmitter<{
  changed: [state: MailboxState];
  caughtUp: [];
  signal: [payload: Uint8Array];
  bundleLow: [items: number];
}> {
  #state: MailboxState = "waiting";
  #attachment: Attachment | undefined;
  // The connection on which an Attach is open: two would take the mailbox from each other.
  #binding: Connection | undefined;
  // The connection that it moves to, and whether the one it is on has said `Replaced` meanwhile.
  #following: Connection | undefined;
  #dropped = false;
  // When attaches were given up without an answer, which may have an effect later than one that came after them.
  #doubts: number[] = [];
  // How often in a row it was refused because it is served elsewhere.
  #moves = 0;
  #failure: unknown;
  #queue: { delivery: Deliver; from: object }[] = [];
  #handling = false;
  #publishing: Promise<unknown> = Promise.resolve();

  /** @internal */
  constructor(
    readonly owner: OwnerKey,
    /** The mailbox id. */
    readonly id: Uint8Array,
    /** The member token; an app that has a newer one may put it here. */
    public memberToken: Uint8Array,
    private readonly deliver: (frames: Frame[]) => Promise<void>,
    private readonly wake: () => void,
    /** This place says that the mailbox is served at another one. */
    private readonly turnedAway: (connection: Connection) => void,
  ) {
    super();
  }

  get state(): MailboxState {
    return this.#state;
  }

  /** Why the mailbox is `failed`. */
  get failure(): unknown {
    return this.#failure;
  }

  /** Issues tokens of this mailbox. Whoever may want to revoke them keeps them. */
  async issue({ kind, count = 1, days = TOKEN_DAYS_MAX }: IssueOptions): Promise<Uint8Array[]> {
    const issued = await this.#here(({ connection, number: attachment }) =>
      connection.ask({ case: "issue", value: { attachment, kind, count, days } }, "issued"),
    );
    return issued.value.tokens;
  }

  /** Ends a token of this mailbox, durably. */
  async revoke(token: Uint8Array): Promise<void> {
    await this.#here(({ connection, number: attachment }) =>
      connection.ask({ case: "revoke", value: { attachment, token } }, "revoked"),
    );
  }

  /** Adds to the bundle; returns how many items it has then. One publication is open at a time. */
  publish({ items, lastResort, replace, publicationId }: Publication): Promise<number> {
    const id = publicationId ?? randomId();
    const publication = this.#publishing.then(async () => {
      const published = await this.#here(({ connection, number: attachment }) =>
        connection.ask(
          {
            case: "publishBundle",
            value: {
              attachment,
              publicationId: id,
              replace: replace ?? false,
              lastResort: lastResort ?? new Uint8Array(),
              items: [...items],
            },
          },
          "published",
        ),
      );
      return published.value.items;
    });
    this.#publishing = publication.catch(() => undefined);
    return publication;
  }

  /** Ends the attachment; frames that were not acknowledged stay at the relay. */
  async detach(): Promise<void> {
    const attachment = this.#attachment;
    this.#become("detached");
    if (!attachment) return;
    await attachment.connection.detach(attachment.number).catch((error: unknown) => {
      // It has ended already: by Replaced, or with its connection.
      if (error instanceof ConnectionLostError) return;
      if (error instanceof RefusedError && error.reason === Reason.NOT_ATTACHED) return;
      throw error;
    });
  }

  /** Attaches again after `replaced`, `detached` or `failed`. Only a user may ask for it. */
  takeBack(): void {
    if (this.#state === "attached" || this.#state === "waiting") return;
    this.#failure = undefined;
    this.#become("waiting");
    this.wake();
  }

  /** Attaches on this connection, if that is wanted. Called by the client for each connection. @internal */
  async bind(connection: Connection): Promise<void> {
    // Never beside an attach in another place: the two would take the mailbox from each other.
    if (this.#state !== "waiting" || this.#binding === connection || this.#following) return;
    this.#binding = connection;
    try {
      await connection.attach(this.owner, this.memberToken, this.#events(connection));
      this.#moves = 0;
    } catch (error) {
      if (error instanceof ConnectionLostError) return this.#doubt();
      const moved = error instanceof RefusedError && error.reason === Reason.MOVED;
      if (moved) {
        // It may come back here, too.
        const wait = Math.min(100 * 2 ** this.#moves++, 10_000) * (0.5 + Math.random() / 2);
        setTimeout(() => void (connection.usable && this.bind(connection)), wait).unref();
        return this.turnedAway(connection);
      }
      if (error instanceof RefusedError && error.retryAfterMs > 0) {
        setTimeout(() => void (connection.usable && this.bind(connection)), error.retryAfterMs).unref();
        return;
      }
      this.#fail(error);
    } finally {
      if (this.#binding === connection) this.#binding = undefined;
    }
  }

  /**
   * Attaches on another connection while it is served on the old one, whose `Replaced` is no news then; resolves
   * with whether it is served there now. Called by the client when it moves. @internal
   */
  async follow(connection: Connection): Promise<boolean> {
    if (this.#state !== "attached" && this.#state !== "waiting") return true;
    const before = this.#attachment;
    if (this.#binding) this.#doubt();
    this.#following = connection;
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new ConnectionLostError()), FOLLOW_WITHIN_MS);
    });
    try {
      await Promise.race([connection.attach(this.owner, this.memberToken, this.#events(connection)), late]);
      return true;
    } catch (error) {
      if (error instanceof ConnectionLostError) this.#doubt();
      return false;
    } finally {
      clearTimeout(timer);
      this.#following = undefined;
      // It was taken over from here, and not heard of again: one's own doing.
      if (this.#dropped && this.#attachment === before) this.#become("waiting");
      this.#dropped = false;
    }
  }

  /** The connection has ended. @internal */
  unbind(connection: Connection): void {
    if (this.#attachment?.connection === connection) this.#become("waiting");
  }

  /** Nothing attaches this mailbox any more. @internal */
  stop(error: unknown): void {
    if (this.#state === "attached" || this.#state === "waiting") this.#fail(error);
  }

  #events(connection: Connection): AttachmentEvents {
    return {
      attached: (number) => {
        if (this.#state === "waiting" || (this.#state === "attached" && this.#following === connection)) {
          this.#become("attached", { connection, number });
        }
        // Detached meanwhile: the answer came too late for it.
        else void connection.detach(number).catch(() => undefined);
      },
      delivered: (delivery) => {
        if (this.#attachment?.connection !== connection) return;
        this.#queue.push({ delivery, from: connection });
        // Later, so that the frames of one read are handled and acknowledged together.
        if (!this.#handling) {
          this.#handling = true;
          queueMicrotask(() => void this.#handle());
        }
      },
      caughtUp: () => void this.emit("caughtUp"),
      signaled: (payload) => void this.emit("signal", payload),
      bundleLow: (items) => void this.emit("bundleLow", items),
      replaced: () => {
        if (this.#attachment?.connection !== connection) return;
        if (this.#following && this.#following !== connection) this.#dropped = true;
        else if (this.#isOwnDoing()) {
          this.#become("waiting");
          this.wake();
        } else this.#become("replaced");
      },
    };
  }

  #doubt(): void {
    this.#doubts.push(Date.now());
  }

  /** Whether it has replaced its own attachment, for all that is known; each attach without an answer explains it once. */
  #isOwnDoing(): boolean {
    const since = Date.now() - ATTACH_DOUBT_MS;
    this.#doubts = this.#doubts.filter((at) => at > since);
    return this.#doubts.pop() !== undefined;
  }

  /** One batch at a time, even across connections: the handler is never run twice at once. */
  async #handle(): Promise<void> {
    try {
      while (this.#queue.length > 0) {
        const batch = this.#queue;
        this.#queue = [];
        await this.deliver(batch.map(({ delivery: { frameId, payload } }) => ({ frameId, payload })));
        const last = batch[batch.length - 1]!;
        // An attachment that has ended takes no acknowledgement; its frames come again.
        if (this.#attachment && this.#attachment.connection === last.from) {
          this.#attachment.connection.ack(last.delivery.attachment, last.delivery.n);
        }
      }
    } catch (error) {
      // Nothing of the batch is acknowledged, and nothing behind it may be shown before it.
      void this.detach().catch(() => undefined);
      this.#fail(error);
    } finally {
      this.#handling = false;
    }
  }

  #become(state: MailboxState, attachment?: Attachment): void {
    this.#state = state;
    this.#attachment = attachment;
    this.#queue = [];
    this.emit("changed", state);
  }

  #fail(error: unknown): void {
    this.#failure = error;
    this.#become("failed");
  }

  /** Runs a request on the attachment, and repeats it on the next one if its connection ends or the mailbox moves. */
  async #here<T>(ask: (attachment: Attachment) => Promise<T>): Promise<T> {
    const backoff = new Backoff(100, 2_000);
    for (let tries = 0; ; ) {
      const attachment = await this.#attached();
      try {
        return await ask(attachment);
      } catch (error) {
        if (error instanceof RefusedError && error.reason === Reason.MOVED && (tries += 1) < MOVED_TRIES) {
          this.turnedAway(attachment.connection);
          await pause(backoff.next());
        } else if (error instanceof ConnectionLostError) {
          if (this.#attachment === attachment) this.#become("waiting");
        } else {
          throw error;
        }
      }
    }
  }

  async #attached(): Promise<Attachment> {
    while (!this.#attachment || !this.#attachment.connection.usable) {
      if (this.#state === "waiting" || this.#state === "attached") {
        await once(this, "changed");
      } else {
        const options = this.#failure === undefined ? {} : { cause: this.#failure };
        throw new NotAttachedError(this.#state, options);
      }
    }
    return this.#attachment;
  }
}
