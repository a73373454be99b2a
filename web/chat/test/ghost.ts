import assert from "node:assert/strict";

import { create } from "@bufbuild/protobuf";
import { defaultAuthenticationService } from "ts-mls";
import { Client } from "valise-client";

import { makeCommit } from "../src/commit.js";
import { certify } from "../src/credential.js";
import { MemberSchema } from "../src/gen/valise/chat/v1/chat_pb.js";
import type { Group } from "../src/index.js";
import { newKeyPackage } from "../src/key-package.js";
import type { Profile } from "../src/profile.js";
import { slotWrites } from "../src/slot.js";

/** A commit that adds a device which its account has not signed, made by a member that does not care. */
export async function ghostCommit(group: Group, ghost: Profile): Promise<Uint8Array> {
  const { account, device, signature, root, rootKey } = ghost;
  // The certificate is by another root than the credential says.
  const credential = certify(root, account, device, signature.publicKey);
  credential.set(rootKey, 54);
  const [address] = group.addresses.values();
  const member = create(MemberSchema, { address: address!, name: ghost.name, hpkeKey: ghost.hpke.publicKey });
  const { publicPackage } = await newKeyPackage({ ...ghost, credential }, member);
  const careless = { ...group.state, clientConfig: { ...group.state.clientConfig, authService: defaultAuthenticationService } };
  return (await makeCommit(careless, [{ proposalType: "add", add: { keyPackage: publicPackage } }])).commit;
}

/** Puts a commit into the slot of the group's current attempt, without taking it over. */
export async function putDecision(relay: string, group: Group, commit: Uint8Array): Promise<void> {
  const client = new Client(relay);
  for (const { slot, value } of slotWrites(group.keys, group.attempt, commit)) {
    const put = await client.putSlot(group.roster.info.slotToken, slot, value);
    assert.ok(put.stored, "nobody was first");
  }
  client.close();
}
