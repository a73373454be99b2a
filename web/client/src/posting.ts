import { Backoff, pause } from "./backoff.js";
import type { Connection } from "./connection.js";
import { MalformedError } from "./errors.js";
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
const AGAIN: ReadonlySet<Reason> = new Set([Reason.BUSY, Reason.RATE_LIMITED, Reason.MAILBOX_FULL]);

/**
 * Posts until no outcome is worth a repetition, always with the same frame id; returns the outcomes in the order of
 * the capabilities. A repetition names only the targets that have not decided: those that accepted would take the
 * frame as new once they have forgotten it.
 */
export async function postUntilDecided(
  { frameId, capabilities, ttlHours, payload }: Outgoing,
  signal: AbortSignal | undefined,
  request: <T>(ask: (connection: Connection) => Promise<T>) => Promise<T>,
): Promise<Reason[]> {
  const outcomes: Reason[] = capabilities.map(() => Reason.BUSY);
  const backoff = new Backoff(200, 30_000);
  let open = capabilities.map((_, i) => i);
  do {
    const targets = open;
    const answer = await request((connection) =>
      connection.ask(
        { case: "post", value: { frameId, capabilities: targets.map((i) => capabilities[i]!), ttlHours, payload } },
        "posted",
      ),
    ).catch((error: unknown) => {
      if (signal?.aborted) return undefined; // it waited for a connection
      throw error;
    });
    if (!answer) break;
    const posted = answer.value;
    if (posted.outcomes.length !== targets.length) throw new MalformedError("not one outcome per capability");
    targets.forEach((target, i) => (outcomes[target] = posted.outcomes[i]!));
    open = targets.filter((target) => AGAIN.has(outcomes[target]!));
    if (open.length > 0) {
      // Many frames may be told the same short time, and would come back all at once.
      await pause(Math.max(posted.retryAfterMs, backoff.next()), signal);
    }
  } while (open.length > 0 && !signal?.aborted);
  return outcomes;
}
