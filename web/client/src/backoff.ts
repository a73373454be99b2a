import { setTimeout as sleep } from "node:timers/promises";

/** Waits that grow: each is a random part of a limit that doubles. */
export class Backoff {
  #limit: number;

  constructor(
    private readonly first = 1_000,
    private readonly most = 60_000,
  ) {
    this.#limit = first;
  }

  /** The next wait in milliseconds. */
  next(): number {
    const wait = Math.random() * this.#limit;
    this.#limit = Math.min(this.#limit * 2, this.most);
    return wait;
  }

  /** Begins anew. */
  reset(): void {
    this.#limit = this.first;
  }
}

/** Waits; returns early, without an error, when `signal` is aborted. */
export async function pause(ms: number, signal?: AbortSignal): Promise<void> {
  await sleep(ms, undefined, signal ? { signal } : {}).catch(() => undefined);
}
