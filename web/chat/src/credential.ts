import { create } from "@bufbuild/protobuf";
import { verifies, type OwnerKey } from "valise-client";

import { join, same } from "./bytes.js";
import { RefusedInput } from "./errors.js";
import { CredentialSchema, type Credential } from "./gen/valise/chat/v1/chat_pb.js";
import { decode, encode, need } from "./message.js";

/** Whose device a leaf is. */
export interface Identity {
  readonly account: Uint8Array;
  readonly device: Uint8Array;
  readonly rootKey: Uint8Array;
}

/** What an account signs of each of its devices. */
export function deviceStatement(account: Uint8Array, device: Uint8Array, signatureKey: Uint8Array): Uint8Array {
  return join("valise device 1", account, device, signatureKey);
}

/** The credential of a device, certified by its account's root. */
export function certify(root: OwnerKey, account: Uint8Array, device: Uint8Array, signatureKey: Uint8Array): Uint8Array {
  const certificate = root.sign(deviceStatement(account, device, signatureKey));
  return encode(CredentialSchema, create(CredentialSchema, { account, device, rootKey: root.publicKey, certificate }));
}

/** Reads a credential without judging who signed it. Throws {@link RefusedInput}. */
export function readCredential(identity: Uint8Array): Credential {
  const credential = decode(CredentialSchema, identity);
  need(credential.account, 32, "account");
  need(credential.device, 16, "device");
  need(credential.rootKey, 32, "root key");
  need(credential.certificate, 64, "certificate");
  // There is one encoding; unknown fields, which the decoder keeps, would be in it.
  const plain = create(CredentialSchema, {
    account: credential.account,
    device: credential.device,
    rootKey: credential.rootKey,
    certificate: credential.certificate,
  });
  if (!same(encode(CredentialSchema, plain), identity)) throw new RefusedInput("malformed", "not the one encoding");
  return credential;
}

/** Whose device this is, if its account has signed it: a *ghost* is refused. Throws {@link RefusedInput}. */
export function openCredential(identity: Uint8Array, signatureKey: Uint8Array): Identity {
  const { account, device, rootKey, certificate } = readCredential(identity);
  if (!verifies(rootKey, deviceStatement(account, device, signatureKey), certificate)) throw new RefusedInput("certificate");
  return { account, device, rootKey };
}
