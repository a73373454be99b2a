import { isIP } from "node:net";

import { Client, formatAddress, parseAddress, Reason, type ClientOptions, type Put } from "valise-client";

import { random, same } from "./bytes.js";
import { CannotError } from "./errors.js";
import type { Address } from "./gen/valise/chat/v1/chat_pb.js";

/** How long a relay may be silent before it counts as out of reach for now. */
const PATIENCE_MS = 15_000;

/** What became of a post to one address. */
export type Outcome = "accepted" | "refused" | "unknown";

/** The relays this client talks to: its own, and those of others that its user has allowed. */
export class Relays {
  readonly #clients = new Map<string, Client>();
  readonly #allowed = new Set<string>();
  readonly #asked = new Set<string>();
  readonly #ending = new AbortController();
  /** Something waits for the user's word on a relay; told once. */
  ask: (relay: string) => void = () => undefined;

  constructor(
    readonly home: Client,
    private readonly allowPrivate: boolean,
    private readonly options: ClientOptions,
  ) {}

  /** The own relay's address as text. */
  get homeAddress(): string {
    return formatAddress(this.home.address);
  }

  /** Whether an address is in the own relay's realm. */
  isHome(address: string): boolean {
    return same(parseAddress(address).realm, this.home.address.realm);
  }

  /** The user has allowed a relay to be contacted: it sees this machine's address then. */
  allow(address: string): void {
    this.#allowed.add(normal(address));
  }

  /**
   * Whether a relay may be contacted: by its whole address, for the realm is proven only after the connection is
   * there. What is no address is refused later.
   */
  allows(address: string): boolean {
    try {
      return this.isHome(address) || this.#allowed.has(normal(address));
    } catch {
      return true;
    }
  }

  /** Whether a relay may be contacted; if not, the user is asked. */
  allowsOrAsks(address: string): boolean {
    const allowed = this.allows(address);
    if (!allowed && !this.#asked.has(normal(address))) {
      this.#asked.add(normal(address));
      this.ask(normal(address));
    }
    return allowed;
  }

  /** The client for an address that came from somebody else. */
  at(address: string): Client {
    if (this.isHome(address)) return this.home;
    if (!this.allowsOrAsks(address)) throw new CannotError(`the user was not asked about this relay yet: ${address}`);
    const key = normal(address);
    const known = this.#clients.get(key);
    if (known) return known;
    const parsed = parseAddress(address);
    if (!this.allowPrivate && isPrivate(parsed.host)) throw new CannotError(`a relay in a private network: ${parsed.host}`);
    const mayDial = (host: string): boolean => this.allowPrivate || !isPrivate(host);
    const client = new Client(parsed, { ...this.options, mayDial });
    this.#clients.set(key, client);
    return client;
  }

  /** One post for each relay: the same frame id, the same bytes. Outcomes are in the order of the addresses. */
  async post(payload: Uint8Array, addresses: readonly Address[], frameId = random(16)): Promise<Outcome[]> {
    const outcomes: Outcome[] = addresses.map(() => "refused");
    const relays = new Map<Client, number[]>();
    for (const [i, { relay, capability }] of addresses.entries()) {
      let client: Client;
      try {
        client = this.at(relay);
      } catch {
        continue; // no address, or one in a private network; whoever posts has looked whether it is allowed
      }
      if (capability.length !== 60) continue;
      relays.set(client, [...(relays.get(client) ?? []), i]);
    }
    const signal = this.#ending.signal;
    await Promise.all(
      [...relays].map(async ([client, targets]) => {
        const capabilities = targets.map((i) => addresses[i]!.capability);
        const reasons = await client.post({ capabilities, payload, frameId, signal }).catch(() => targets.map(() => Reason.BUSY));
        targets.forEach((i, at) => (outcomes[i] = outcomeOf(reasons[at])));
      }),
    );
    return outcomes;
  }

  /** Values of slots at a relay. Throws {@link CannotError} where it cannot be reached now. */
  async slots(relay: string, ids: readonly Uint8Array[]): Promise<(Uint8Array | undefined)[]> {
    return within(PATIENCE_MS, this.at(relay).getSlots(ids), "the slots cannot be read now");
  }

  /** Puts a value into a slot of a relay. Throws {@link CannotError} where there is no answer now. */
  async putSlot(relay: string, token: Uint8Array, slot: Uint8Array, value: Uint8Array, putId: Uint8Array): Promise<Put> {
    return within(PATIENCE_MS, this.at(relay).putSlot(token, slot, value, putId), "the group's relay does not answer now");
  }

  close(): void {
    this.#ending.abort();
    for (const client of [this.home, ...this.#clients.values()]) client.close();
  }
}

/** One text for an address. Throws where it is none. */
function normal(address: string): string {
  const { host, port, realm } = parseAddress(address);
  return formatAddress({ host: host.toLowerCase(), port, realm });
}

/** Hosts that a stranger may not send this client to: section 29. Names are not looked up. */
export function isPrivate(host: string): boolean {
  const name = host.toLowerCase();
  if (isIP(name) === 4) return /^(0|10|127|169\.254|192\.168|172\.(1[6-9]|2\d|3[01])|100\.(6[4-9]|[7-9]\d|1[01]\d|12[0-7]))\./.test(name);
  if (isIP(name) === 6) return name === "::" || name === "::1" || /^(fe[89ab]|f[cd]|::ffff:)/.test(name);
  return name === "localhost" || name.endsWith(".localhost") || name.endsWith(".local");
}

/** Gives up waiting, not the work. */
export async function within<T>(ms: number, work: Promise<T>, what: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => (timer = setTimeout(() => reject(new CannotError(what)), ms)));
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

function outcomeOf(reason: number | undefined): Outcome {
  if (reason === Reason.ACCEPTED) return "accepted";
  return reason === undefined || reason === Reason.BUSY || reason === Reason.MOVED ? "unknown" : "refused";
}
