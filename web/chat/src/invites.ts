import { create } from "@bufbuild/protobuf";
import { formatAddress } from "valise-client";

import { hex, random, sha256 } from "./bytes.js";
import { adding, type Changes } from "./changes.js";
import { newCard, openCard, takePackages } from "./contacts.js";
import { cardTaken, freshAddress, memberAt, revokeLater, type Core } from "./core.js";
import { CannotError } from "./errors.js";
import { CardSchema, GroupInfo_Kind, GroupInfoSchema, type GroupInfo } from "./gen/valise/chat/v1/chat_pb.js";
import { content, Group } from "./group.js";
import { newKeyPackage } from "./key-package.js";
import { formatLink, inviteSecrets, parseLink } from "./link.js";
import { decode, encode } from "./message.js";
import { INVITE_REVOKED_AFTER_MS } from "./numbers.js";
import type { Outbox } from "./outbox.js";
import { openItem, sealItem } from "./sealed.js";

/** Makes invites and follows them: section 29. */
export class Invites {
  readonly #open = new Map<string, { capability: Uint8Array; takeToken: Uint8Array }>();

  constructor(
    private readonly core: Core,
    private readonly outbox: Outbox,
    private readonly changes: Changes,
  ) {}

  /** A link for one person. */
  async make(): Promise<string> {
    const { core } = this;
    const secret = random(16);
    const { slot, key } = inviteSecrets(secret);
    const card = await newCard(core);
    const { address, takeToken } = card.devices[0]!;
    const rights = { capability: address!.capability, takeToken };
    await core.commit([{ kind: "invite", secret, ...rights }]);
    const put = await core.relays.home.putSlot(core.slotToken, slot, sealItem(key, new Uint8Array(), encode(CardSchema, card)));
    if (!put.stored) throw new CannotError("the invite's slot is taken");
    this.#open.set(hex(sha256(secret)), rights);
    return formatLink({ relay: core.relays.home.address, secret });
  }

  /** Somebody has followed this invite: it ends. The rest of the greetings may be under way, so they get in still. */
  followed(invite: Uint8Array): void {
    const rights = this.#open.get(hex(invite));
    if (!rights) return;
    this.#open.delete(hex(invite));
    const end = (token: Uint8Array, afterMs: number): void => {
      void revokeLater(this.core, token, afterMs).catch((error: unknown) => void this.core.events.emit("trouble", error));
    };
    end(rights.takeToken, 0);
    end(rights.capability, INVITE_REVOKED_AFTER_MS);
  }

  /**
   * Follows a link: a direct conversation with whoever made it. A relay that is contacted sees this machine's address,
   * so the user is asked before: about that of the link, and about those that the card names, all at once.
   */
  async follow(text: string, allowRelay = false): Promise<Group> {
    const { core } = this;
    const { relay, secret } = parseLink(text);
    const at = formatAddress(relay);
    if (allowRelay) core.relays.allow(at);
    if (!core.relays.allows(at)) throw new CannotError("the link leads to a relay that is new to this client");
    const { slot, key } = inviteSecrets(secret);
    const [value] = await core.relays.slots(at, [slot]);
    if (!value) throw new CannotError("the invite is not there: it is over 90 days old, or was never made");
    const card = decode(CardSchema, openItem(key, new Uint8Array(), value));
    const { record, devices } = openCard(card);
    if (hex(record.record.account) === hex(core.profile.account)) throw new CannotError("this invite is one's own");
    const others = devices.map(({ address }) => address!.relay).filter((one) => !core.relays.allows(one));
    if (others.length > 0) throw new CannotError(`the invite needs relays that are new to this client: ${[...new Set(others)].join(" ")}`);
    const packages = await takePackages(core.relays, record, devices);
    const { account } = record.record;
    const { changes, tell } = cardTaken(core, account, core.contacts.take(card));
    await core.commit(changes);
    tell();
    const alarm = core.contacts.get(account)?.alarm;
    if (alarm) throw new CannotError(`the account of this invite is under alarm: ${alarm}`);

    const group = await newGroup(core, GroupInfo_Kind.DIRECT, "");
    await this.changes.change(group, adding(packages), sha256(secret));
    this.outbox.say(group, content({ case: "card", value: await newCard(core) }));
    return group;
  }
}

/** A group of this device alone, whose slots are at the own relay. */
export async function newGroup(core: Core, kind: GroupInfo["kind"], name: string): Promise<Group> {
  const address = await freshAddress(core);
  const own = await newKeyPackage(core.profile, memberAt(core, address));
  const info = create(GroupInfoSchema, { kind, name, home: core.relays.homeAddress, slotToken: core.slotToken, slotTokenMs: core.slotTokenMs });
  const group = await Group.begin(info, own, address);
  core.groups.set(hex(group.id), group);
  return group;
}
