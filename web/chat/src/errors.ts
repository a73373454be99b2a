/** What every error of this library is. */
export class ChatError extends Error {
  override get name(): string {
    return this.constructor.name;
  }
}

/** Which check something failed that somebody else has made. */
export type Fault =
  | "not_padded"
  | "hint"
  | "does_not_open"
  | "malformed"
  | "signature"
  | "certificate"
  | "address"
  | "no_secret"
  | "secret"
  | "too_large";

/** Something that came from others breaks a rule. */
export class RefusedInput extends ChatError {
  constructor(readonly fault: Fault, what = "", options?: ErrorOptions) {
    super(what ? `${fault}: ${what}` : fault, options);
  }
}

/**
 * This device cannot follow a commit that the others may have applied: section 23, who cannot judge. It does no more in
 * that group, and says so.
 */
export class LostTrack extends ChatError {}

/** What this client was asked to do cannot be done. */
export class CannotError extends ChatError {}
