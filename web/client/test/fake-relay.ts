import { randomBytes, X509Certificate } from "node:crypto";
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { createServer, type Server, type TLSSocket } from "node:tls";

import { create, toBinary, type MessageInitShape } from "@bufbuild/protobuf";

import type { Address } from "../src/address.js";
import { Deframer, frame } from "../src/framing.js";
import { RealmRecordSchema, ServerPacketSchema, type ClientPacket, type RealmRecord } from "../src/gen/valise/v1/valise_pb.js";
import { channelOf, realmId } from "../src/ids.js";
import { OwnerKey } from "../src/keys.js";
import { decodeClientPacket } from "../src/packet.js";
import { realmRecordStatement, welcomeStatement } from "../src/statements.js";
import { selfSigned } from "./certificate.js";

/** What a {@link FakeRelay} says. */
export type RelaySays = NonNullable<MessageInitShape<typeof ServerPacketSchema>["packet"]>;

/** One client's connection, as the fake relay sees it. */
export interface Guest {
  say(packet: RelaySays): void;
  bytes(bytes: Uint8Array): void;
  end(): void;
}

/** What is different from a good `Welcome`. */
export interface Flaws {
  record?: Partial<Pick<RealmRecord, "epoch" | "endpoints" | "relayKeys" | "keyAlgorithm">>;
  versions?: number[];
  channel?: Uint8Array;
  /** Sent in place of `Welcome`. */
  first?: RelaySays;
}

/** A relay for what a good one does not do: it listens on the raw transport and follows a script. */
export class FakeRelay {
  readonly root: OwnerKey;
  readonly #signing: OwnerKey;
  readonly #server: Server;
  readonly #channel: Uint8Array;
  /** The packets of all clients so far. */
  readonly heard: ClientPacket["packet"][] = [];
  /** When each connection came. */
  readonly connections: number[] = [];
  /** Bytes that clients have sent inside TLS. */
  bytes = 0;
  flaws: Flaws = {};
  /** Answers a packet. */
  script: (packet: ClientPacket["packet"], guest: Guest) => void = () => undefined;

  private constructor(sibling?: FakeRelay) {
    this.root = sibling?.root ?? OwnerKey.generate();
    this.#signing = sibling ? sibling.#signing : OwnerKey.generate();
    const certificate = selfSigned();
    this.#channel = channelOf(new X509Certificate(certificate.cert).raw);
    this.#server = createServer({ ...certificate, ALPNProtocols: ["valise/1"], minVersion: "TLSv1.3" }, (socket) => this.#serve(socket));
    this.#server.on("tlsClientError", () => undefined);
  }

  /** A relay of a realm of its own, or of that of another one. */
  static async start(sibling?: FakeRelay): Promise<FakeRelay> {
    const relay = new FakeRelay(sibling);
    relay.#server.listen(0, "127.0.0.1");
    await once(relay.#server, "listening");
    return relay;
  }

  get address(): Address {
    return { host: "127.0.0.1", port: (this.#server.address() as AddressInfo).port, realm: realmId(this.root.publicKey) };
  }

  get endpoint(): string {
    return `127.0.0.1:${this.address.port}`;
  }

  /** The realm's record, signed. */
  signed(overrides: Flaws["record"] = {}): { record: Uint8Array; signature: Uint8Array } {
    const record = toBinary(
      RealmRecordSchema,
      create(RealmRecordSchema, {
        realm: this.address.realm,
        keyAlgorithm: 1,
        rootKey: this.root.publicKey,
        epoch: 5n,
        relayKeys: [{ key: this.#signing.publicKey, lastDay: 40_000 }],
        ...overrides,
      }),
    );
    return { record, signature: this.root.sign(realmRecordStatement(record)) };
  }

  stop(): void {
    this.#server.close();
  }

  #serve(socket: TLSSocket): void {
    this.connections.push(Date.now());
    const say = (packet: RelaySays): void =>
      void socket.write(frame(toBinary(ServerPacketSchema, create(ServerPacketSchema, { packet }))));
    const guest = { say, bytes: (bytes: Uint8Array) => void socket.write(bytes), end: () => void socket.end() };
    const deframer = new Deframer();
    socket.on("error", () => undefined);
    socket.on("data", (bytes) => {
      this.bytes += bytes.length;
      for (const packet of deframer.push(bytes).map(decodeClientPacket)) {
        this.heard.push(packet);
        this.script(packet, guest);
      }
    });
    say(this.flaws.first ?? this.#welcome());
    if (this.flaws.first) socket.end();
  }

  #welcome(): RelaySays {
    const { record: overrides, versions = [1], channel = this.#channel } = this.flaws;
    const { realm } = this.address;
    const nonce = new Uint8Array(randomBytes(32));
    return {
      case: "welcome",
      value: {
        versions,
        realmRecord: this.signed(overrides),
        nonce,
        signingKey: this.#signing.publicKey,
        signature: this.#signing.sign(welcomeStatement({ realm, channel, nonce }, 0n, versions)),
      },
    };
  }
}
