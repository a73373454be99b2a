import { CloseReason, Reason } from "./gen/valise/v1/valise_pb.js";

/** The name of a reason as the protocol document writes it, such as `token_expired`. */
export function reasonName(reason: Reason): string {
  return Reason[reason]?.toLowerCase() ?? `reason_${reason}`;
}

/** The name of a close reason as the protocol document writes it. */
export function closeReasonName(reason: CloseReason): string {
  return CloseReason[reason]?.toLowerCase() ?? `close_reason_${reason}`;
}

/** What every error of this library is. */
export class ValiseError extends Error {
  override get name(): string {
    return this.constructor.name;
  }
}

/** An address, a code or base32 that cannot be read. */
export class AddressError extends ValiseError {
  constructor(readonly part: "scheme" | "no_realm" | "host_port" | "realm" | "code", text: string) {
    super(`${part}: ${text}`);
  }
}

/** Bytes that do not decode, or break the framing or a fixed length. */
export class MalformedError extends ValiseError {}

/** What is wrong with a relay or its realm record. */
export type Distrust =
  | "not_welcome"
  | "decode"
  | "too_large"
  | "algorithm"
  | "not_its_key"
  | "another_realm"
  | "signature"
  | "relay_key"
  | "epoch_old"
  | "epoch_ahead"
  | "signed_twice"
  | "key_unknown"
  | "key_expired"
  | "welcome_signature"
  | "version";

/** The relay failed a check of section 5. It is not tried again without its user. */
export class DistrustError extends ValiseError {
  constructor(readonly check: Distrust) {
    super(`the relay cannot be trusted: ${check}`);
  }
}

/** The relay did not carry out a request. */
export class RefusedError extends ValiseError {
  constructor(
    readonly reason: Reason,
    /** When the same request may be repeated; 0 means: not as it stands. */
    readonly retryAfterMs: number,
  ) {
    super(`refused: ${reasonName(reason)}`);
  }
}

/** The connection ended before the answer came; whether the request was carried out is unknown. */
export class ConnectionLostError extends ValiseError {
  constructor(readonly closeReason?: CloseReason, options?: ErrorOptions) {
    super(closeReason === undefined ? "the connection ended" : `the relay closed: ${closeReasonName(closeReason)}`, options);
  }
}

/** The client has stopped and does not reconnect; `cause` says why. */
export class StoppedError extends ValiseError {
  constructor(cause?: unknown) {
    super("the client has stopped", { cause });
  }
}

/** This mailbox is attached elsewhere, detached, or its handler failed. */
export class NotAttachedError extends ValiseError {
  constructor(why: string, options?: ErrorOptions) {
    super(`the mailbox is not attached: ${why}`, options);
  }
}
