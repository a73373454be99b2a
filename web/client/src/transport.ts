import { once } from "node:events";
import { isIP } from "node:net";
import { connect, type TLSSocket } from "node:tls";

import { serverName, type Address } from "./address.js";
import { ConnectionLostError, MalformedError } from "./errors.js";
import { Deframer } from "./framing.js";
import { channelOf } from "./ids.js";

/** Where a transport's packets go. */
export interface Receiver {
  /** The packets of one read, so that whoever acknowledges may do it once for all. */
  packets(packets: Uint8Array[]): void;
  /** Called once, last. */
  ended(error?: Error): void;
}

/** A way to carry packets: raw TLS, or WebSocket. */
export interface Transport {
  /** Computed from the certificate this connection was served. */
  readonly channel: Uint8Array;
  /** Starts receiving; what came before is not lost. */
  receive(receiver: Receiver): void;
  /** Sends one packet, without prefix. */
  send(packet: Uint8Array): void;
  /** Ends the connection after what was sent. */
  close(): void;
  /** Ends the connection now, and sends nothing more. */
  abort(): void;
}

/**
 * Opens a TLS connection. Any certificate is accepted: TLS itself checks that the handshake is signed
 * by its key, and `Welcome` proves that the key is the relay's.
 */
export async function dialTls(address: Address, alpn: string, signal: AbortSignal): Promise<TLSSocket> {
  const servername = serverName(address.host);
  const socket = connect({
    host: address.host,
    port: address.port,
    ALPNProtocols: [alpn],
    minVersion: "TLSv1.3",
    rejectUnauthorized: false,
    ...(servername === undefined ? {} : { servername }),
    ...(isIP(address.host) === 0 ? { autoSelectFamily: true } : {}),
  });
  socket.setNoDelay(true);
  // Errors are reported with "close" as well; unheard they would end the process.
  socket.on("error", () => undefined);
  try {
    const lost = once(socket, "close", { signal }).then(() => Promise.reject(new Error("closed in the handshake")));
    await Promise.race([once(socket, "secureConnect", { signal }), lost]);
    if (socket.alpnProtocol !== alpn) throw new MalformedError(`the server did not select ${alpn}`);
  } catch (cause) {
    socket.destroy();
    throw new ConnectionLostError(undefined, { cause });
  }
  return socket;
}

/** The channel of an open TLS connection. */
export function channelOfSocket(socket: TLSSocket): Uint8Array {
  const certificate = socket.getPeerX509Certificate();
  if (!certificate) throw new MalformedError("the server has no certificate");
  return channelOf(certificate.raw);
}

/** Cuts what a transport reads into packets, and keeps them until somebody receives. */
export class Inlet {
  readonly #deframer = new Deframer();
  #kept: Uint8Array[] = [];
  #receiver: Receiver | undefined;
  #end: { error?: Error } | undefined;

  receive(receiver: Receiver): void {
    this.#receiver = receiver;
    if (this.#kept.length > 0) receiver.packets(this.#kept);
    this.#kept = [];
    if (this.#end) receiver.ended(this.#end.error);
  }

  /** Returns what is wrong with the bytes, if anything is. `whole`: no packet may be left unfinished. */
  feed(bytes: Uint8Array, whole = false): Error | undefined {
    if (this.#end) return undefined;
    const packets = this.#deframer.push(bytes);
    if (packets.length > 0) {
      if (this.#receiver) this.#receiver.packets(packets);
      else this.#kept.push(...packets);
    }
    if (this.#deframer.broken) return this.#deframer.broken;
    return whole && this.#deframer.waiting > 0 ? new MalformedError("a message ends inside a packet") : undefined;
  }

  end(error?: Error): void {
    if (this.#end) return;
    this.#end = error ? { error } : {};
    this.#receiver?.ended(error);
  }
}
