import { once } from "node:events";
import type { TLSSocket } from "node:tls";

import { WebSocket } from "ws";

import type { Address } from "./address.js";
import { ConnectionLostError, MalformedError } from "./errors.js";
import { frame } from "./framing.js";
import { WEBSOCKET_MESSAGE_BYTES_MAX } from "./limits.js";
import { channelOfSocket, dialTls, Inlet, type Receiver, type Transport } from "./transport.js";

/** Packets in the binary messages of a WebSocket. */
export class WebSocketTransport implements Transport {
  readonly channel: Uint8Array;
  readonly #socket: WebSocket;
  readonly #inlet = new Inlet();

  private constructor(tls: TLSSocket, socket: WebSocket) {
    this.#socket = socket;
    this.channel = channelOfSocket(tls);
    let error: Error | undefined;
    socket.on("message", (data: Buffer, isBinary) => {
      error = isBinary ? this.#inlet.feed(data, true) : new MalformedError("a text message");
      if (error) socket.terminate();
    });
    socket.on("error", (cause) => (error ??= cause));
    socket.on("close", () => this.#inlet.end(error));
  }

  /** Connects, up to the relay's response to the upgrade. */
  static async dial(address: Address, signal: AbortSignal): Promise<WebSocketTransport> {
    // The TLS connection is opened here and not by the WebSocket library, because its certificate
    // has to be seen and is not to be judged.
    const tls = await dialTls(address, "http/1.1", signal);
    const host = address.host.includes(":") ? `[${address.host}]` : address.host;
    const socket = new WebSocket(`wss://${host}:${address.port}/v1/relay`, {
      createConnection: () => tls,
      perMessageDeflate: false,
      maxPayload: WEBSOCKET_MESSAGE_BYTES_MAX,
    });
    socket.binaryType = "nodebuffer";
    const transport = new WebSocketTransport(tls, socket);
    try {
      await once(socket, "open", { signal });
    } catch (cause) {
      tls.destroy();
      throw new ConnectionLostError(undefined, { cause });
    }
    return transport;
  }

  receive(receiver: Receiver): void {
    this.#inlet.receive(receiver);
  }

  send(packet: Uint8Array): void {
    if (this.#socket.readyState === WebSocket.OPEN) this.#socket.send(frame(packet));
  }

  close(): void {
    this.#socket.close();
    setTimeout(() => this.#socket.terminate(), 1_000).unref();
  }

  abort(): void {
    this.#socket.terminate();
  }
}
