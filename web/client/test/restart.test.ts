import assert from "node:assert/strict";
import { test } from "node:test";

import type { End } from "../src/connection.js";
import { CloseReason, Reason } from "../src/gen/valise/v1/valise_pb.js";
import { device, inState, until } from "./helpers.js";
import { RelayProcess } from "./relay-process.js";

for (const transport of ["raw", "websocket"] as const) {
  test(`${transport}: the relay restarts, and nothing is lost`, { timeout: 120_000 }, async () => {
    const relay = await RelayProcess.lasting();
    const ben = await device(relay.address, { transport });
    const anna = await device(relay.address, { transport });
    try {
      const capability = await ben.capability();
      await ben.mailbox.detach();
      assert.deepEqual(await anna.post(capability, "before"), [Reason.ACCEPTED]);
      const ends: End[] = [];
      anna.client.on("disconnected", (end) => void ends.push(end));
      await relay.terminate();
      await until(() => ends.length > 0);
      assert.equal(ends[0]!.closeReason, CloseReason.RESTARTING);
      const told = ends[0]!.restarting;
      assert.ok(told && told.reconnectInMs > 0 && told.tryForMs > 0);

      // Posted while there is no relay, attached while there is none: both wait.
      const during = anna.post(capability, "during");
      ben.mailbox.takeBack();
      await relay.start();
      assert.deepEqual(await during, [Reason.ACCEPTED]);
      await inState(anna.mailbox, "attached", 30_000);
      await until(() => ben.texts.length === 2, 30_000);
      assert.deepEqual(ben.texts, ["before", "during"]);
    } finally {
      ben.client.close();
      anna.client.close();
      await relay.dispose();
    }
  });
}
