import { PARKED_BYTES_MAX, PARKED_MS, WALKED_BYTES_MAX, WALKED_MAX } from "./numbers.js";

interface Parked {
  readonly payload: Uint8Array;
  readonly since: number;
  /** Frames are counted as they come. */
  readonly nth: number;
}

/**
 * Frames that nobody can open yet: of a group's next epoch, of a group whose Welcome is still to come, or junk. Before
 * a walk of all groups has tried them they have as much room as a whole mailbox: section 24, receiving.
 */
export class Parking {
  #frames: Parked[] = [];
  #came = 0;
  /** A walk of all groups that began when so many had come has come to its end. */
  #walked = 0;

  constructor(private readonly bytesMax = PARKED_BYTES_MAX) {}

  get size(): number {
    return this.#frames.length;
  }

  /** How many have ever come. */
  get came(): number {
    return this.#came;
  }

  add(payload: Uint8Array, since = Date.now()): void {
    this.#came += 1;
    this.#frames.push({ payload, since, nth: this.#came });
    while (bytesOf(this.#frames) > this.bytesMax) this.#frames.shift();
  }

  /** Takes out those that can be opened now. */
  take(opens: (payload: Uint8Array) => boolean, now = Date.now()): Uint8Array[] {
    const kept = this.#frames.filter(({ since }) => now - since < PARKED_MS);
    const taken = kept.filter(({ payload }) => opens(payload));
    this.#frames = kept.filter((one) => !taken.includes(one));
    return taken.map(({ payload }) => payload);
  }

  /** All groups were walked to their ends since so many had come: of what is here still, the oldest go first. */
  walked(came: number): void {
    this.#walked = Math.max(this.#walked, came);
    const tried = this.#frames.filter(({ nth }) => nth <= this.#walked);
    while (tried.length > WALKED_MAX || bytesOf(tried) > WALKED_BYTES_MAX) tried.shift();
    this.#frames = [...tried, ...this.#frames.filter(({ nth }) => nth > this.#walked)];
  }
}

function bytesOf(frames: readonly Parked[]): number {
  return frames.reduce((sum, { payload }) => sum + payload.length, 0);
}
