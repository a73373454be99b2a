import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";

import { Client, type ClientOptions } from "../src/client.js";
import { TokenKind } from "../src/gen/valise/v1/valise_pb.js";
import { OwnerKey } from "../src/keys.js";
import type { Frame, Mailbox, MailboxState } from "../src/mailbox.js";

/** A payload of 512 bytes (or another size) that begins with `text`. */
export function padded(text: string, size = 512): Uint8Array {
  const payload = new Uint8Array(size);
  payload.set(Buffer.from(text));
  return payload;
}

/** The text of {@link padded}. */
export function textOf(payload: Uint8Array): string {
  return Buffer.from(payload).toString().replace(/\0+$/, "");
}

/** Waits until `condition` holds; fails after `ms`. */
export async function until(condition: () => boolean, ms = 10_000, what = condition.toString()): Promise<void> {
  const end = Date.now() + ms;
  while (!condition()) {
    if (Date.now() > end) throw new Error(`not within ${ms} ms: ${what}`);
    await sleep(5);
  }
}

/** Waits until a mailbox is in a state. */
export async function inState(mailbox: Mailbox, state: MailboxState, ms = 10_000): Promise<void> {
  while (mailbox.state !== state) await once(mailbox, "changed", { signal: AbortSignal.timeout(ms) });
}

/** A device with one mailbox, which keeps the texts it was told. */
export interface Device {
  readonly client: Client;
  readonly owner: OwnerKey;
  readonly mailbox: Mailbox;
  readonly texts: string[];
  /** A new capability of the mailbox. */
  capability(): Promise<Uint8Array>;
  post(capability: Uint8Array, text: string): Promise<number[]>;
}

/** Joins and attaches. `before` runs before each batch is taken. */
export async function device(address: string, options: ClientOptions & { code?: Uint8Array; before?: (frames: Frame[]) => Promise<void> } = {}): Promise<Device> {
  const client = new Client(address, { backoffFirstMs: 100, ...options });
  const owner = OwnerKey.generate();
  const token = await client.join(owner, options.code);
  const texts: string[] = [];
  const mailbox = client.attach(owner, token, async (frames) => {
    await options.before?.(frames);
    texts.push(...frames.map(({ payload }) => textOf(payload)));
  });
  await inState(mailbox, "attached");
  return {
    client,
    owner,
    mailbox,
    texts,
    capability: async () => (await mailbox.issue({ kind: TokenKind.POST }))[0]!,
    post: (capability, text) => client.post({ capabilities: [capability], payload: padded(text) }),
  };
}
