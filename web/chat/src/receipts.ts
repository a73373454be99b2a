import { create } from "@bufbuild/protobuf";

import { hex } from "./bytes.js";
import { ReceiptSchema } from "./gen/valise/chat/v1/chat_pb.js";
import { content, type Group } from "./group.js";
import type { MemberLeaf } from "./mls.js";
import { RECEIPT_DEVICES_MAX, RECEIPT_WAIT_MS } from "./numbers.js";
import type { Outbox } from "./outbox.js";

/** Tells others how far this device has got with what they said: section 31. */
export class Receipts {
  readonly #due = new Map<Group, Set<string>>();
  readonly #timers = new Set<NodeJS.Timeout>();

  constructor(private readonly outbox: Outbox) {}

  /** Something of this stream has come. */
  delivered(group: Group, { device }: MemberLeaf, stream: Uint8Array): void {
    this.#note(group, `${hex(device)}/${hex(stream)}`);
  }

  /** The user has seen everything there is in the group. */
  read(group: Group): void {
    for (const [key, stream] of group.streams) {
      if (stream.read === stream.highest) continue;
      stream.read = stream.highest;
      this.#note(group, key);
    }
  }

  close(): void {
    for (const timer of this.#timers) clearTimeout(timer);
  }

  /** A receipt waits for more of its kind. */
  #note(group: Group, stream: string): void {
    if (group.others.length > RECEIPT_DEVICES_MAX) return;
    const due = this.#due.get(group);
    if (due) return void due.add(stream);
    this.#due.set(group, new Set([stream]));
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      this.#send(group);
    }, RECEIPT_WAIT_MS[group.direct ? "direct" : "group"]);
    this.#timers.add(timer);
  }

  #send(group: Group): void {
    const due = this.#due.get(group) ?? new Set();
    this.#due.delete(group);
    if (!group.active) return;
    for (const key of due) {
      const known = group.streams.get(key);
      if (!known) continue;
      const value = create(ReceiptSchema, { stream: known.stream, delivered: known.highest, read: known.read });
      this.outbox.say(group, content({ case: "receipt", value }), { to: known.account });
    }
  }
}
