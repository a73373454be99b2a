import { create } from "@bufbuild/protobuf";
import { TokenKind, type Mailbox } from "valise-client";
import type { Welcome } from "ts-mls";

import { hex } from "./bytes.js";
import type { Commit } from "./core.js";
import { AddressSchema, MemberSchema, type Address } from "./gen/valise/chat/v1/chat_pb.js";
import { newKeyPackage, type OwnKeyPackage } from "./key-package.js";
import { BUNDLE_ITEMS } from "./numbers.js";
import type { Profile } from "./profile.js";
import { sealItem } from "./sealed.js";

/** A package of our own and the address in its leaf. */
export interface Published {
  readonly own: OwnKeyPackage;
  readonly address: Address;
}

/** The key packages this device has left at its relay. */
export class Bundle {
  readonly #packages = new Map<string, Published>();
  #publishing: Promise<void> | undefined;

  constructor(
    private readonly profile: Profile,
    private readonly mailbox: Mailbox,
    private readonly relay: string,
    private readonly commit: Commit,
    private readonly items = BUNDLE_ITEMS,
  ) {
    mailbox.on("bundleLow", () => void this.publish().catch(() => undefined));
  }

  /** Leaves one-time packages, and the first time a last resort. */
  publish(): Promise<void> {
    this.#publishing ??= this.#publish().finally(() => (this.#publishing = undefined));
    return this.#publishing;
  }

  /** The package a Welcome names, if it is one of ours. */
  find(welcome: Welcome): Published | undefined {
    for (const { newMember } of welcome.secrets) {
      const found = this.#packages.get(hex(newMember));
      if (found) return found;
    }
    return undefined;
  }

  /** A Welcome has used it: a one-time package is good for nothing more. */
  used({ own }: Published): void {
    if (!own.lastResort) this.#packages.delete(hex(own.ref));
  }

  async #publish(): Promise<void> {
    const first = this.#packages.size === 0;
    const count = this.items + (first ? 1 : 0);
    if (count === 0) return;
    // No two packages have one capability.
    const capabilities = await this.mailbox.issue({ kind: TokenKind.POST, count });
    const made = await Promise.all(
      capabilities.map(async (capability, i) => {
        const address = create(AddressSchema, { relay: this.relay, capability });
        const member = create(MemberSchema, { address, name: this.profile.name, hpkeKey: this.profile.hpke.publicKey });
        return { own: await newKeyPackage(this.profile, member, i === this.items), address };
      }),
    );
    await this.commit([
      {
        kind: "packages",
        packages: made.map(({ own: { bytes, privatePackage } }) => ({
          bytes,
          initKey: privatePackage.initPrivateKey,
          leafKey: privatePackage.hpkePrivateKey,
        })),
      },
    ]);
    for (const one of made) this.#packages.set(hex(one.own.ref), one);
    const sealed = made.map(({ own }) => sealItem(this.profile.bundleKey, new Uint8Array(), own.bytes));
    const lastResort = sealed[this.items];
    await this.mailbox.publish({ items: sealed.slice(0, this.items), ...(lastResort ? { lastResort } : {}) });
  }
}
