import { join } from "./bytes.js";
import { RefusedInput } from "./errors.js";
import { PARKED_MS, PARTS_MAX, WHOLE_BYTES_MAX } from "./numbers.js";

/** So many parts are kept of what is not whole yet: four of the largest messages. */
const KEPT_MAX = 4 * PARTS_MAX;

interface Unfinished {
  /** Which message, or which count of parts: what says otherwise has begun anew. */
  readonly which: string;
  readonly parts: Map<number, Uint8Array>;
  readonly since: number;
}

/** One part of something. */
export interface Part {
  readonly index: number;
  readonly count: number;
  readonly bytes: Uint8Array;
}

/**
 * What has come in parts and is not whole yet, one thing for each key. Nobody has proven a part, so there is a limit to
 * what is kept, and the oldest thing goes first.
 */
export class Parts {
  readonly #open = new Map<string, Unfinished>();

  /** The whole, once all its parts are there: in any order and twice. Throws {@link RefusedInput}. */
  add(key: string, { index, count, bytes }: Part, which = "", now = Date.now()): Uint8Array | undefined {
    for (const [old, { since }] of this.#open) if (now - since > PARKED_MS) this.#open.delete(old);
    const full = `${which}/${count}`;
    const known = this.#open.get(key);
    const mine: Unfinished = known?.which === full ? known : { which: full, parts: new Map(), since: now };
    mine.parts.set(index, bytes);
    // In the order in which they were begun.
    if (mine !== known) this.#open.delete(key);
    this.#open.set(key, mine);
    if (mine.parts.size < count) {
      this.#bound(key);
      return undefined;
    }
    this.#open.delete(key);
    const whole = join(...Array.from({ length: count }, (_, i) => mine.parts.get(i)!));
    if (whole.length > WHOLE_BYTES_MAX) throw new RefusedInput("too_large", "all parts together");
    return whole;
  }

  #bound(current: string): void {
    let kept = [...this.#open.values()].reduce((sum, { parts }) => sum + parts.size, 0);
    for (const [key, { parts }] of this.#open) {
      if (kept <= KEPT_MAX) return;
      if (key === current) continue;
      this.#open.delete(key);
      kept -= parts.size;
    }
  }
}
