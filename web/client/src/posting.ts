import { Backoff, pause } from "./backoff.js";
import type { Connection } from "./connection.js";
import { MalformedError, RefusedError } from "./errors.js";
import { Reason } from "./gen/valise/v1/valise_pb.js";

/** What to post. */
export interface Posting {
  /** The capabilities of the target mailboxes. */
  readonly capabilities: readonly Uint8Array[];
  /** Sealed, and of one of the four sizes. */
  readonly payload: Uint8Array;
  /** 0, the default, means 720. */
  readonly ttlHours?: number;
  /** The id of a frame that the app stored earlier, to go on with it after a restart of its own. */
  readonly frameId?: Uint8Array;
  /** Ends the repeating; the outcomes are then those known so far, with `BUSY` for unknown ones. */
  readonly signal?: AbortSignal;
}

/** A frame as it is stored before its first post. */
export type Outgoing = Required<Omit<Posting, "signal">>;

/** The outcomes that are not final. */
const AGAIN: ReadonlySet<Reason> = new Set([Reason.BUSY, Reason.RATE_LIMITED, Reason.MAILBOX_FULL, Reason.MOVED]);

/**
 * Posts until no outcome is worth a repetition, always with the same frame id; returns the outcomes in the order of
 * the capabilities. A repetition names only the targets that have not decided: those that accepted would take the
 * frame as new once they have forgotten it.
 */
export async function postUntilDecided(
  { frameId, capabilities, ttlHours, payload }: Outgoing,
  signal: AbortSignal | undefined,
  request: <T>(ask: (connection: Connection) => Promise<T>, elsewhere: boolean) => Promise<T>,
): Promise<Reason[]> {
  const outcomes: Reason[] = capabilities.map(() => Reason.BUSY);
  // Those that are served at another place of the realm.
  const elsewhere = new Set<number>();
  const backoff = new Backoff(200, 30_000);
  const decide = async (targets: number[], side: boolean): Promise<number> => {
    const answer = await request(
      (connection) =>
        connection.ask(
          { case: "post", value: { frameId, capabilities: targets.map((i) => capabilities[i]!), ttlHours, payload } },
          "posted",
        ),
      side,
    ).catch((error: unknown) => {
      if (signal?.aborted) return undefined; // it waited for a connection
      if (error instanceof RefusedError && error.reason === Reason.MOVED) return undefined; // by all, for now
      throw error;
    });
    if (!answer) return 0;
    const posted = answer.value;
    if (posted.outcomes.length !== targets.length) throw new MalformedError("not one outcome per capability");
    targets.forEach((target, i) => {
      outcomes[target] = posted.outcomes[i]!;
      if (outcomes[target] !== Reason.MOVED) return;
      if (side) elsewhere.delete(target);
      else elsewhere.add(target);
    });
    return posted.retryAfterMs;
  };
  let open = capabilities.map((_, i) => i);
  for (let round = 0; !signal?.aborted; round += 1) {
    const there = open.filter((target) => elsewhere.has(target));
    const here = open.filter((target) => !elsewhere.has(target));
    // One without a target is for the relay to refuse.
    const sides = [...(here.length > 0 || round === 0 ? [decide(here, false)] : []), ...(there.length > 0 ? [decide(there, true)] : [])];
    const retryAfterMs = Math.max(...(await Promise.all(sides)));
    open = open.filter((target) => AGAIN.has(outcomes[target]!));
    if (open.length === 0) break;
    // The other side is asked at once, the first time.
    if (round === 0 && open.every((target) => outcomes[target] === Reason.MOVED)) continue;
    // Many frames may be told the same short time, and would come back all at once.
    await pause(Math.max(retryAfterMs, backoff.next()), signal);
  }
  return outcomes;
}
