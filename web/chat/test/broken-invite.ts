import { create } from "@bufbuild/protobuf";
import { Client, parseAddress, TokenKind } from "valise-client";

import { random } from "../src/bytes.js";
import { CardSchema } from "../src/gen/valise/chat/v1/chat_pb.js";
import { formatLink, inviteSecrets } from "../src/link.js";
import { encode } from "../src/message.js";
import { newProfile } from "../src/profile.js";
import { sealItem } from "../src/sealed.js";

/** An invite as it should be, but for what is in the bundle. */
export async function brokenInvite(relay: string): Promise<string> {
  const profile = await newProfile("Broken");
  const client = new Client(relay);
  const mailbox = client.attach(profile.owner, await client.join(profile.owner), async () => undefined);
  const none = new Uint8Array();
  await mailbox.publish({ items: [], lastResort: sealItem(profile.bundleKey, none, random(700)) });
  const issue = async (kind: TokenKind): Promise<Uint8Array> => (await mailbox.issue({ kind }))[0]!;
  const [capability, takeToken, slotToken] = [await issue(TokenKind.POST), await issue(TokenKind.TAKE), await issue(TokenKind.SLOT)];
  const { device, bundleKey, record } = profile;
  const devices = [{ device, address: { relay, capability }, takeToken, bundleKey }];
  const card = create(CardSchema, { record: record.signed, devices, name: profile.name });
  const secret = random(16);
  const { slot, key } = inviteSecrets(secret);
  await client.putSlot(slotToken, slot, sealItem(key, none, encode(CardSchema, card)));
  client.close();
  return formatLink({ relay: parseAddress(relay), secret });
}
