import type { TLSSocket } from "node:tls";

import type { Address } from "./address.js";
import { frame } from "./framing.js";
import { ALPN_RAW } from "./limits.js";
import { channelOfSocket, dialTls, Inlet, type Receiver, type Transport } from "./transport.js";

/** Packets directly inside TLS. */
export class RawTransport implements Transport {
  readonly channel: Uint8Array;
  readonly #socket: TLSSocket;
  readonly #inlet = new Inlet();

  private constructor(socket: TLSSocket) {
    this.#socket = socket;
    this.channel = channelOfSocket(socket);
    let error: Error | undefined;
    socket.on("data", (bytes) => {
      error = this.#inlet.feed(bytes);
      if (error) socket.destroy();
    });
    socket.on("error", (cause) => (error ??= cause));
    socket.on("close", () => this.#inlet.end(error));
  }

  /** Connects, up to the end of the TLS handshake. */
  static async dial(address: Address, signal: AbortSignal): Promise<RawTransport> {
    return new RawTransport(await dialTls(address, ALPN_RAW, signal));
  }

  receive(receiver: Receiver): void {
    this.#inlet.receive(receiver);
  }

  send(packet: Uint8Array): void {
    if (this.#socket.writable) this.#socket.write(frame(packet));
  }

  close(): void {
    this.#socket.end();
    // The relay may have nothing more to say, or never close its side.
    setTimeout(() => this.#socket.destroy(), 1_000).unref();
  }

  abort(): void {
    this.#socket.destroy();
  }
}
