import { ConnectionLostError, DistrustError } from "./errors.js";
import type { Welcome } from "./gen/valise/v1/valise_pb.js";
import { decodeServerPacket } from "./packet.js";
import type { Transport } from "./transport.js";

/** A relay's first packet, which nobody has checked yet. */
export interface Opening {
  readonly welcome: Welcome;
  /** Hands over what came behind `Welcome`, and what comes from now on. */
  readonly later: (packets: (packets: Uint8Array[]) => void, ended: (error?: Error) => void) => void;
}

/** Waits for the first packet. Throws {@link DistrustError} if it is not `Welcome`. */
export async function readWelcome(transport: Transport, signal: AbortSignal): Promise<Opening> {
  let kept: Uint8Array[] = [];
  let end: { error: Error | undefined } | undefined;
  let packets = (more: Uint8Array[]): void => void kept.push(...more);
  let ended = (error?: Error): void => void (end = { error });
  const first = await new Promise<Uint8Array>((resolve, reject) => {
    const lost = (cause?: unknown): void => reject(new ConnectionLostError(undefined, { cause }));
    signal.addEventListener("abort", () => lost(signal.reason), { once: true });
    transport.receive({
      packets: (more) => {
        packets(more);
        if (kept.length > 0) resolve(kept[0]!);
      },
      ended: (error) => {
        ended(error);
        lost(error);
      },
    });
  });
  kept.shift();
  const said = decodeServerPacket(first);
  // A relay that has no room may say so in place of Welcome; it has proved nothing, and lost nothing.
  if (said?.case === "closing") throw new ConnectionLostError(said.value.reason);
  if (said?.case !== "welcome") throw new DistrustError("not_welcome");
  return {
    welcome: said.value,
    later: (onPackets, onEnded) => {
      packets = onPackets;
      ended = onEnded;
      if (kept.length > 0) onPackets(kept);
      kept = [];
      if (end) onEnded(end.error);
    },
  };
}
