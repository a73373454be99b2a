import { parseAddress, type Address } from "./address.js";
import { ConnectionLostError, MalformedError, RefusedError } from "./errors.js";
import { type CloseReason, type Deliver, type Move, type Restarting, type Welcome } from "./gen/valise/v1/valise_pb.js";
import { mailboxId } from "./ids.js";
import type { OwnerKey } from "./keys.js";
import { PING_AFTER_SECONDS, PING_JITTER_SECONDS, PONG_WITHIN_SECONDS, VERSION } from "./limits.js";
import { readWelcome } from "./opening.js";
import { decodeServerPacket, encodePacket, type Said, type Say } from "./packet.js";
import { RawTransport } from "./raw-transport.js";
import { attachStatement, joinStatement, NO_CHANNEL, type Place } from "./statements.js";
import type { Transport } from "./transport.js";
import { checkWelcome, type SeenRealm } from "./welcome.js";
import { WebSocketTransport } from "./websocket-transport.js";

/** How to open a connection. */
export interface ConnectionOptions {
  /** `raw` by default. */
  readonly transport?: "raw" | "websocket";
  /** Sign zeros for the channel, as a browser must; the relay accepts it on WebSocket only. */
  readonly withoutChannel?: boolean;
  /** What the app has kept of the realm. */
  readonly seen?: SeenRealm | undefined;
  /** The user has agreed to a jump of more than 1,000 epochs. */
  readonly believeEpochAhead?: boolean;
  /** Lets the connection wait without attaching. */
  readonly memberToken?: Uint8Array | undefined;
  /** Called with a record that was believed, before a byte is sent. */
  readonly believed?: (realm: Required<SeenRealm>) => Promise<void> | void;
  /** How long connecting may take, up to `Welcome`. */
  readonly openWithinMs?: number;
  /** Silence after which to ping. */
  readonly pingAfterMs?: number;
  /** How long a pong may take. */
  readonly pongWithinMs?: number;
}

/** What happens at an attachment. Called in the order of the packets, and must not throw. */
export interface AttachmentEvents {
  attached(attachment: number): void;
  delivered(delivery: Deliver): void;
  caughtUp(): void;
  signaled(payload: Uint8Array): void;
  replaced(): void;
  bundleLow(items: number): void;
}

/** How a connection ended. */
export interface End {
  readonly closeReason?: CloseReason;
  readonly restarting?: Restarting;
  readonly error?: Error;
  /** Whether the relay has answered any request. */
  readonly answered: boolean;
}

type Asking = Extract<Say, { value: { request?: number } }>;
type Answer = Extract<Said, { value: { request: number } }>;
type AnswerOf<K extends Answer["case"]> = Extract<Answer, { case: K }>;

interface Waiting {
  readonly answers: readonly string[];
  /** Called before the next packet is looked at. */
  readonly accept: (answer: Answer) => void;
  readonly reject: (error: Error) => void;
}

/** One connection to a relay that has passed the checks. It ends once, and is never opened again. */
export class Connection {
  readonly #transport: Transport;
  readonly #options: ConnectionOptions;
  readonly #place: Place;
  readonly #waiting = new Map<number, Waiting>();
  readonly #attachments = new Map<number, { next: bigint; events: AttachmentEvents }>();
  #request = 0;
  #attaches = 0;
  #answered = false;
  #restarting: Restarting | undefined;
  #closeReason: CloseReason | undefined;
  #ended = false;
  #finish!: (end: End) => void;
  #pingTimer: NodeJS.Timeout | undefined;
  #pongTimer: NodeJS.Timeout | undefined;
  #leaveTimer: NodeJS.Timeout | undefined;

  /** Resolves when the connection has ended. */
  readonly ended: Promise<End>;
  /** Called when the relay says that it is about to stop. */
  onRestarting: (() => void) | undefined;
  /** Called when the relay says that this client is better served elsewhere. May be ignored. */
  onMove: ((move: Move) => void) | undefined;
  #leaving = false;

  private constructor(
    transport: Transport,
    welcome: Welcome,
    /** Where it leads. */
    readonly address: Address,
    options: ConnectionOptions,
  ) {
    const { realm } = address;
    this.#transport = transport;
    this.#options = options;
    const channel = options.withoutChannel ? NO_CHANNEL : transport.channel;
    this.#place = { realm, channel, nonce: welcome.nonce };
    this.ended = new Promise((resolve) => (this.#finish = resolve));
  }

  /** Connects, makes the checks of section 5, and says Hello. Throws `DistrustError` if a check fails. */
  static async open(to: Address | string, options: ConnectionOptions = {}): Promise<Connection> {
    const address = typeof to === "string" ? parseAddress(to) : to;
    const signal = AbortSignal.timeout(options.openWithinMs ?? 20_000);
    const dialer = options.transport === "websocket" ? WebSocketTransport : RawTransport;
    const transport = await dialer.dial(address, signal);
    try {
      const { welcome, later } = await readWelcome(transport, signal);
      const { realm } = address;
      const record = checkWelcome(welcome, { ...options, realm, channel: transport.channel });
      await options.believed?.({ epoch: record.epoch, record: welcome.realmRecord!.record });
      const connection = new Connection(transport, welcome, address, options);
      connection.say({
        case: "hello",
        value: { version: VERSION, realmEpoch: record.epoch, memberToken: options.memberToken ?? new Uint8Array() },
      });
      later((packets) => connection.#receive(packets), (error) => connection.#end(error));
      return connection;
    } catch (error) {
      transport.abort();
      throw error;
    }
  }

  /** Whether the relay still takes requests: the connection has not ended and no restart was announced. */
  get usable(): boolean {
    return !this.#ended && !this.#restarting && !this.#leaving;
  }

  /** Asks for a member token of the owner's mailbox. */
  async join(owner: OwnerKey, joinToken: Uint8Array = new Uint8Array()): Promise<Uint8Array> {
    const answer = await this.ask(
      {
        case: "join",
        value: {
          ownerKey: owner.publicKey,
          signature: owner.sign(joinStatement(this.#place)),
          joinToken,
          withoutChannel: this.#options.withoutChannel ?? false,
        },
      },
      "joined",
    );
    return answer.value.memberToken;
  }

  /** Serves a mailbox; returns the attachment number. */
  async attach(owner: OwnerKey, memberToken: Uint8Array, events: AttachmentEvents): Promise<number> {
    const mailbox = mailboxId(this.#place.realm, owner.publicKey);
    // Counted as it is sent, whatever the answer: the signature names the count.
    const number = this.#attaches++;
    const signature = owner.sign(attachStatement(this.#place, mailbox, number));
    const { publicKey: ownerKey } = owner;
    const withoutChannel = this.#options.withoutChannel ?? false;
    await this.ask(
      { case: "attach", value: { memberToken, ownerKey, signature, withoutChannel } },
      "attached",
      // Deliveries may stand behind the answer in the same read.
      (attached) => {
        if (attached.value.attachment !== number) throw new MalformedError("another attachment number");
        this.#attachments.set(number, { next: 1n, events });
        events.attached(number);
      },
    );
    return number;
  }

  /** Ends an attachment. No event comes after it. */
  async detach(attachment: number): Promise<void> {
    await this.ask({ case: "detach", value: { attachment } }, "detached", () => this.#attachments.delete(attachment));
  }

  /** The deliveries of an attachment up to `n` are committed. */
  ack(attachment: number, n: bigint): void {
    this.say({ case: "ack", value: { attachment, n } });
  }

  /** Sends a packet that has no answer, or whose answer nobody waits for. */
  say(say: Say): void {
    if (this.#ended) return;
    this.#transport.send(encodePacket(say));
    this.#armPing();
  }

  /** Sends a request and waits for one of `answers`. Throws {@link RefusedError} or {@link ConnectionLostError}. */
  ask<const K extends Answer["case"]>(say: Asking, answers: K | readonly K[], accept?: (answer: AnswerOf<K>) => void): Promise<AnswerOf<K>> {
    if (this.#ended) return Promise.reject(new ConnectionLostError(this.#closeReason));
    const request = this.#nextRequest();
    say.value.request = request;
    return new Promise((resolve, reject) => {
      this.#waiting.set(request, {
        answers: typeof answers === "string" ? [answers] : answers,
        accept: (answer) => {
          accept?.(answer as AnswerOf<K>);
          resolve(answer as AnswerOf<K>);
        },
        reject,
      });
      try {
        this.say(say);
      } catch (error) {
        this.#waiting.delete(request);
        reject(error as Error);
      }
    });
  }

  /** Ends the connection after what was said, and with it its attachments. */
  close(): void {
    this.#transport.close();
    this.#end();
  }

  /** Ends the connection once what was asked is answered, or `ms` have passed. Nothing more may be asked. */
  leave(ms = 20_000): void {
    if (this.#leaving || this.#ended) return;
    this.#leaving = true;
    this.#leaveTimer = setTimeout(() => this.close(), ms).unref();
    this.#leaveIfDone();
  }

  #leaveIfDone(): void {
    if (this.#leaving && this.#waiting.size === 0) this.close();
  }

  #receive(packets: Uint8Array[]): void {
    clearTimeout(this.#pongTimer);
    this.#pongTimer = undefined;
    try {
      for (const packet of packets) {
        const said = decodeServerPacket(packet);
        if (said && !this.#ended) this.#read(said);
      }
      this.#leaveIfDone();
    } catch (error) {
      // A relay that breaks the protocol is not talked to; a new connection may meet a better one.
      this.#transport.abort();
      this.#end(error as Error);
    }
  }

  #read(said: Said): void {
    switch (said.case) {
      case "deliver": {
        const attachment = this.#attachments.get(said.value.attachment);
        if (!attachment) return;
        if (said.value.n !== attachment.next) throw new MalformedError("deliveries are not numbered without gaps");
        attachment.next += 1n;
        attachment.events.delivered(said.value);
        return;
      }
      case "caughtUp":
        return this.#attachments.get(said.value.attachment)?.events.caughtUp();
      case "signaled":
        return this.#attachments.get(said.value.attachment)?.events.signaled(said.value.payload);
      case "bundleLow":
        return this.#attachments.get(said.value.attachment)?.events.bundleLow(said.value.items);
      case "replaced": {
        const attachment = this.#attachments.get(said.value.attachment);
        this.#attachments.delete(said.value.attachment);
        return attachment?.events.replaced();
      }
      case "ping":
        return this.say({ case: "pong", value: { request: said.value.request } });
      case "restarting":
        this.#restarting = said.value;
        return this.onRestarting?.();
      case "move":
        return this.onMove?.(said.value);
      case "closing":
        this.#closeReason = said.value.reason;
        this.#transport.close();
        return this.#end();
      case "welcome":
        throw new MalformedError("a second Welcome");
      default:
        return this.#answer(said);
    }
  }

  #answer(answer: Answer): void {
    const waiting = this.#waiting.get(answer.value.request);
    if (!waiting) return;
    this.#waiting.delete(answer.value.request);
    this.#answered = true;
    if (answer.case === "refused") {
      waiting.reject(new RefusedError(answer.value.reason, answer.value.retryAfterMs));
    } else if (waiting.answers.includes(answer.case)) {
      waiting.accept(answer);
    } else {
      const error = new MalformedError(`an answer of another kind: ${answer.case}`);
      waiting.reject(error);
      throw error;
    }
  }

  #nextRequest(): number {
    do this.#request = (this.#request % 0xffff_ffff) + 1;
    while (this.#waiting.has(this.#request));
    return this.#request;
  }

  #armPing(): void {
    const { pingAfterMs, pongWithinMs } = this.#options;
    const jitter = (2 * Math.random() - 1) * PING_JITTER_SECONDS;
    clearTimeout(this.#pingTimer);
    this.#pingTimer = setTimeout(() => {
      this.ask({ case: "ping", value: {} }, "pong").catch(() => undefined);
      // Whatever is read is a sign of life: a relay that holds packets back answers late.
      this.#pongTimer ??= setTimeout(() => {
        this.#transport.abort();
        this.#end(new Error("the relay does not answer"));
      }, pongWithinMs ?? PONG_WITHIN_SECONDS * 1_000);
    }, pingAfterMs ?? (PING_AFTER_SECONDS + jitter) * 1_000);
  }

  #end(error?: Error): void {
    if (this.#ended) return;
    this.#ended = true;
    clearTimeout(this.#pingTimer);
    clearTimeout(this.#pongTimer);
    clearTimeout(this.#leaveTimer);
    this.#attachments.clear();
    for (const { reject } of this.#waiting.values()) reject(new ConnectionLostError(this.#closeReason, { cause: error }));
    this.#waiting.clear();
    this.#finish({
      ...(this.#closeReason === undefined ? {} : { closeReason: this.#closeReason }),
      ...(this.#restarting ? { restarting: this.#restarting } : {}),
      ...(error ? { error } : {}),
      answered: this.#answered,
    });
  }
}
