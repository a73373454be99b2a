import { encodeGroupState } from "ts-mls";
import { RefusedError } from "valise-client";

import { random, same } from "./bytes.js";
import type { MadeCommit } from "./commit.js";
import { changeOf, type Core } from "./core.js";
import { CannotError, ChatError, RefusedInput } from "./errors.js";
import type { Group } from "./group.js";
import { joinParts, openDecision, openPart, slotOfDecision, slotOfPart, slotWrites, voidOf, type FirstValue, type SlotWrite } from "./slot.js";

/** A commit of our own whose slot has not decided yet. */
export interface PendingCommit {
  readonly made: MadeCommit;
  /** The invite that is followed by it. */
  readonly invite: Uint8Array | undefined;
  /** In the order in which they are put: the decision comes last. */
  readonly puts: readonly (SlotWrite & { readonly putId: Uint8Array })[];
}

/** What has become of a commit of our own. */
export type Decided =
  | { readonly kind: "stored" }
  /** Somebody was first, with this value. */
  | { readonly kind: "taken"; readonly value: Uint8Array }
  /** A void lies in the place of a later part. */
  | { readonly kind: "spoilt" };

/** A group's slots, by which its members agree on one commit for each epoch: section 27. */
export class Agreement {
  constructor(private readonly core: Core) {}

  /** What lies in the slot of the decision now. */
  async decision(group: Group): Promise<Uint8Array | undefined> {
    return (await this.#read(group, [slotOfDecision(group.keys, group.attempt)]))[0];
  }

  /** Seals a commit for the slots of this attempt, anew each time, and has it kept. */
  async prepare(group: Group, made: MadeCommit, invite: Uint8Array | undefined): Promise<PendingCommit> {
    this.#token(group);
    const puts = slotWrites(group.keys, group.attempt, made.commit).map((write) => ({ ...write, putId: random(16) }));
    const { welcome } = made;
    await this.core.commit([
      changeOf(group),
      { kind: "commit", group: group.id, after: encodeGroupState(made.after(group.state)), ...(welcome ? { welcome } : {}) },
      ...puts.map(({ slot, putId, value }) => ({ kind: "put" as const, group: group.id, slot, putId, value })),
    ]);
    return { made, invite, puts };
  }

  /** Puts a commit, for the first time or again. Throws {@link CannotError} where nobody knows yet what became of it. */
  async put(group: Group, { puts }: PendingCommit): Promise<Decided> {
    const decision = puts.at(-1)!;
    try {
      for (const one of puts) {
        const put = await this.#put(group, one, one.putId);
        // The very value that was put is stored, whoever's put it was.
        if (put.stored || same(put.value, one.value)) continue;
        return one === decision ? { kind: "taken", value: put.value } : { kind: "spoilt" };
      }
      return { kind: "stored" };
    } catch (cause) {
      if (!(cause instanceof RefusedError) || cause.retryAfterMs > 0) throw unanswered(cause);
      // That is no answer to whether an earlier try was stored.
      const value = await this.decision(group);
      if (!value) throw new Dropped(`the group's relay does not take the change: ${cause.message}`, { cause });
      return same(value, decision.value) ? { kind: "stored" } : { kind: "taken", value };
    }
  }

  /**
   * The commit that a decision begins. Throws {@link RefusedInput} where it is junk, and {@link CannotError} where that
   * cannot be told now.
   */
  async whole(group: Group, value: Uint8Array): Promise<Uint8Array> {
    const { keys, attempt } = group;
    const first = openDecision(keys, attempt, value);
    const slots = Array.from({ length: first.count - 1 }, (_, i) => slotOfPart(keys, attempt, i + 1, first.seed));
    const later = slots.length > 0 ? await this.#read(group, slots) : [];
    for (;;) {
      // One part that does not fit is enough, whichever are missing.
      const parts = later.map((part, i) => part && openPart(keys, attempt, i + 1, first, part));
      const missing = parts.indexOf(undefined);
      if (missing < 0) return joinParts(first, parts as Uint8Array[]);
      later[missing] = await this.#askFor(group, first, slots[missing]!);
    }
  }

  /**
   * Whoever writes a decision has written the later parts before, so one that is missing never comes, or is held back:
   * its slot decides, for everyone and for good. The part that was there after all, or junk.
   */
  async #askFor(group: Group, { count }: FirstValue, slot: Uint8Array): Promise<Uint8Array> {
    const put = await this.#put(group, { slot, value: voidOf(group.keys, slot) }, random(16)).catch((cause: unknown) => {
      throw unanswered(cause);
    });
    if (put.stored) throw new RefusedInput("malformed", `a commit of ${count} parts without one of them`);
    return put.value;
  }

  #put(group: Group, { slot, value }: SlotWrite, putId: Uint8Array): ReturnType<Core["relays"]["putSlot"]> {
    return this.core.relays.putSlot(group.roster.info.home, this.#token(group), slot, value, putId);
  }

  /** The right to put into the group's slots: our own in our own realm, else the one that the group gives. */
  #token(group: Group): Uint8Array {
    const { home, slotToken } = group.roster.info;
    if (this.core.relays.isHome(home)) return this.core.slotToken;
    if (slotToken.length === 60) return slotToken;
    throw new CannotError("the group gives members of other relays no right to change it");
  }

  async #read(group: Group, slots: readonly Uint8Array[]): Promise<(Uint8Array | undefined)[]> {
    return this.core.relays.slots(group.roster.info.home, slots);
  }
}

/** The relay has refused a commit for good, and it is not in the slot. */
export class Dropped extends CannotError {}

function unanswered(cause: unknown): ChatError {
  return cause instanceof ChatError ? cause : new CannotError("the group's relay does not answer now", { cause });
}
