import assert from "node:assert/strict";
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { after, before, test } from "node:test";
import { connect, createServer, type Server } from "node:tls";
import { setTimeout as sleep } from "node:timers/promises";

import { fromBinary } from "@bufbuild/protobuf";

import { parseAddress, type Address } from "../src/address.js";
import { Client } from "../src/client.js";
import { Connection, type ConnectionOptions } from "../src/connection.js";
import { DistrustError, StoppedError, type Distrust } from "../src/errors.js";
import { RealmRecordSchema, type RealmRecord } from "../src/gen/valise/v1/valise_pb.js";
import { OwnerKey } from "../src/keys.js";
import { selfSigned } from "./certificate.js";
import { FakeRelay, type Flaws } from "./fake-relay.js";
import { RelayProcess } from "./relay-process.js";

const BOUND = { timeout: 60_000 };
let relay: RelayProcess;
let address: Address;

before(async () => {
  relay = await RelayProcess.temporary();
  address = parseAddress(relay.address);
}, BOUND);
after(() => relay?.dispose(), BOUND);

const distrust = (check: Distrust) => (error: unknown) => error instanceof DistrustError && error.check === check;

/** Someone in the middle: its own certificate, and the true relay behind it. Keeps what the client says inside TLS. */
async function middleman(alpn: string): Promise<{ server: Server; port: number; said: () => string }> {
  let said = "";
  const server = createServer({ ...selfSigned(), ALPNProtocols: [alpn], minVersion: "TLSv1.3" }, (client) => {
    const behind = connect({ host: address.host, port: address.port, ALPNProtocols: [alpn], rejectUnauthorized: false });
    client.on("data", (bytes) => {
      said += bytes.toString("latin1");
      behind.write(bytes);
    });
    behind.pipe(client);
    for (const socket of [client, behind]) socket.on("error", () => undefined);
    client.on("close", () => behind.destroy());
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return { server, port: (server.address() as AddressInfo).port, said: () => said };
}

for (const [transport, alpn] of [["raw", "valise/1"], ["websocket", "http/1.1"]] as const) {
  /** What was said, less the upgrade request. */
  const beyondUpgrade = (said: string): string => (transport === "raw" ? said : said.replace(/^GET [^]*?\r\n\r\n/, ""));

  test(`${transport}: someone in the middle is noticed before a byte is sent`, BOUND, async () => {
    const middle = await middleman(alpn);
    const open = Connection.open({ ...address, port: middle.port }, { transport });
    await assert.rejects(open, distrust("welcome_signature"));
    await sleep(50);
    assert.equal(beyondUpgrade(middle.said()), "");
    middle.server.close();
  });

  test(`${transport}: another realm is refused before a byte is sent`, BOUND, async () => {
    const realm = new Uint8Array(20).fill(7);
    await assert.rejects(Connection.open({ ...address, realm }, { transport }), distrust("another_realm"));
    const middle = await middleman(alpn);
    await assert.rejects(Connection.open({ ...address, port: middle.port, realm }, { transport }), distrust("another_realm"));
    await sleep(50);
    assert.equal(beyondUpgrade(middle.said()), "");
    middle.server.close();
  });
}

test("a client stops at a relay it cannot trust", BOUND, async () => {
  const client = new Client({ ...address, realm: new Uint8Array(20) });
  const errors: unknown[] = [];
  client.on("stopped", (error) => void errors.push(error));
  await assert.rejects(client.join(OwnerKey.generate()), (error) => error instanceof StoppedError && distrust("another_realm")(error.cause));
  await assert.rejects(client.join(OwnerKey.generate()), StoppedError);
  assert.equal(errors.length, 1);
});

test("each check of Welcome, before a byte is sent", BOUND, async () => {
  const fake = await FakeRelay.start();
  const today = Math.floor(Date.now() / 86_400_000);
  const cases: [Distrust, Flaws, ConnectionOptions?][] = [
    ["not_welcome", { first: { case: "pong", value: {} } }],
    ["algorithm", { record: { keyAlgorithm: 2 } }],
    ["epoch_old", {}, { seen: { epoch: 6n } }],
    ["epoch_ahead", { record: { epoch: 1_006n } }, { seen: { epoch: 5n } }],
    ["signed_twice", {}, { seen: { epoch: 5n, record: new Uint8Array(9) } }],
    ["key_unknown", { record: { relayKeys: [] } }],
    ["welcome_signature", { channel: new Uint8Array(32) }],
    ["version", { versions: [2] }],
  ];
  for (const [check, flaws, options] of cases) {
    fake.flaws = flaws;
    await assert.rejects(Connection.open(fake.address, options), distrust(check), check);
  }
  // The key's last day is still a good one; the day after is not.
  const { relayKeys } = await recordOf(fake);
  fake.flaws = { record: { relayKeys: relayKeys.map((key) => ({ ...key, lastDay: today - 1 })) } };
  await assert.rejects(Connection.open(fake.address), distrust("key_expired"));
  assert.equal(fake.bytes, 0);
  fake.flaws = { record: { relayKeys: relayKeys.map((key) => ({ ...key, lastDay: today })) }, versions: [1, 2] };
  (await Connection.open(fake.address, { seen: { epoch: 5n } })).close();
  fake.flaws = { record: { epoch: 1_005n } };
  (await Connection.open(fake.address, { seen: { epoch: 5n } })).close();
  fake.stop();
});

async function recordOf(fake: FakeRelay): Promise<RealmRecord> {
  let bytes = new Uint8Array();
  fake.flaws = {};
  const connection = await Connection.open(fake.address, { believed: ({ record }) => void (bytes = new Uint8Array(record)) });
  connection.close();
  await sleep(50);
  fake.bytes = 0;
  return fromBinary(RealmRecordSchema, bytes);
}
