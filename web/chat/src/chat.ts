import { EventEmitter, once } from "node:events";

import { create } from "@bufbuild/protobuf";
import { Client, TokenKind, type ClientOptions, type Mailbox } from "valise-client";

import { Bundle } from "./bundle.js";
import { hex } from "./bytes.js";
import { adding, Changes, isGroup } from "./changes.js";
import { Contacts, takePackages, type Contact } from "./contacts.js";
import { changeOf, Lock, type Commit, type Core, type Events, type OwnMessage } from "./core.js";
import { CannotError } from "./errors.js";
import { GroupInfo_Kind, GroupInfoSchema } from "./gen/valise/chat/v1/chat_pb.js";
import { content, type Group } from "./group.js";
import { Inbox } from "./inbox.js";
import { Invites, newGroup } from "./invites.js";
import { contextExtensions } from "./mls.js";
import { CONTENT_BYTES_MAX } from "./numbers.js";
import { Outbox } from "./outbox.js";
import { newProfile, type Profile } from "./profile.js";
import { Receipts } from "./receipts.js";
import { Relays } from "./relays.js";
import { safetyWords } from "./words.js";

/** How a chat client begins. */
export interface ChatOptions {
  /** The own relay, as an address. */
  readonly relay: string;
  /** The name others see. */
  readonly name: string;
  /** The relay's invite code, where it asks for one. */
  readonly code?: Uint8Array;
  /** See {@link Commit}. */
  readonly commit?: Commit;
  /** Relays of others may be on this machine or in a private network. */
  readonly allowPrivateRelays?: boolean;
  /** One-time key packages that are left at the relay, 20 by default; with 0 there is the last resort alone. */
  readonly oneTimePackages?: number;
  /** For the connections to relays. */
  readonly client?: Omit<ClientOptions, "commit">;
}

/** A chat client: one account with one device, whose state is in memory. */
export class ChatClient extends EventEmitter<Events> {
  readonly profile: Profile;
  readonly #core: Core;
  readonly #outbox: Outbox;
  readonly #changes: Changes;
  readonly #receipts: Receipts;
  readonly #invites: Invites;
  readonly #inbox: Inbox;

  private constructor(core: Omit<Core, "events">, taking: (take: Inbox["take"]) => void) {
    super();
    this.profile = core.profile;
    this.#core = { ...core, events: this };
    core.relays.ask = (address) => void this.emit("relay", address);
    this.#changes = new Changes(this.#core);
    this.#outbox = new Outbox(this.#core, (group) => this.#changes.walk(group));
    this.#changes.outbox = this.#outbox;
    this.#receipts = new Receipts(this.#outbox);
    this.#invites = new Invites(this.#core, this.#outbox, this.#changes);
    this.#inbox = new Inbox(this.#core, this.#outbox, this.#changes, this.#receipts, this.#invites);
    taking((frames) => this.#inbox.take(frames));
    // Come online and caught up: the groups may have gone on.
    core.mailbox.on("caughtUp", () => this.#inbox.walkAll());
  }

  /** A new account on a relay, whose device can be found from now on. */
  static async begin(options: ChatOptions): Promise<ChatClient> {
    const profile = await newProfile(options.name);
    const commit: Commit = options.commit ?? (() => undefined);
    const home = new Client(options.relay, options.client ?? {});
    const relays = new Relays(home, options.allowPrivateRelays ?? false, options.client ?? {});
    try {
      const token = await home.join(profile.owner, options.code);
      // What comes before there is an inbox waits for it: it would be acknowledged otherwise.
      let taking!: (take: Inbox["take"]) => void;
      const take = new Promise<Inbox["take"]>((resolve) => (taking = resolve));
      const mailbox = home.attach(profile.owner, token, async (frames) => (await take)(frames));
      const caughtUp = watchCaughtUp(mailbox);
      const [slotToken] = await mailbox.issue({ kind: TokenKind.SLOT });
      const core = {
        profile,
        relays,
        mailbox,
        slotToken: slotToken!,
        slotTokenMs: BigInt(Date.now()),
        bundle: new Bundle(profile, mailbox, relays.homeAddress, commit, options.oneTimePackages),
        contacts: new Contacts(),
        groups: new Map<string, Group>(),
        lock: new Lock(),
        commit,
        caughtUp,
      };
      const client = new ChatClient(core, taking);
      await core.bundle.publish();
      return client;
    } catch (error) {
      relays.close();
      throw error;
    }
  }

  get contacts(): readonly Contact[] {
    return this.#core.contacts.all;
  }

  get groups(): readonly Group[] {
    return [...this.#core.groups.values()];
  }

  /** The direct conversation with somebody: of two the one that was joined last. */
  direct(account: Uint8Array): Group | undefined {
    const with_ = this.groups.filter((group) => group.direct && group.active && group.others.some((one) => hex(one.account) === hex(account)));
    return with_.at(-1);
  }

  /** A link for one person. */
  invite(): Promise<string> {
    return this.#invites.make();
  }

  /** Follows somebody's link. */
  follow(link: string, allowRelay = false): Promise<Group> {
    return this.#invites.follow(link, allowRelay);
  }

  /** Lets a relay of others be contacted, by its whole address; what waits for it goes there. */
  allowRelay(address: string): void {
    this.#core.relays.allow(address);
    this.#outbox.relayAllowed();
    this.#inbox.walkAll();
  }

  /** Says something. The message is on its way when this returns; its `state` and the event tell how far it is. */
  send(group: Group, text: string): OwnMessage {
    if (!group.active) throw new CannotError("this device is not in the group");
    if (group.lost) throw new CannotError("this device has lost track of the group");
    if (Buffer.byteLength(text) > CONTENT_BYTES_MAX - 64) throw new CannotError("the text is too long");
    const alarmed = group.others.find(({ account }) => this.#core.contacts.get(account)?.alarm);
    if (group.direct && alarmed) throw new CannotError("the account key has changed: the user decides first");
    const own: OwnMessage = { group: group.id, text, state: "sending" };
    this.#outbox.say(group, content({ case: "text", value: text }), { own });
    return own;
  }

  /** The user has seen what there is in a group. */
  read(group: Group): void {
    this.#receipts.read(group);
  }

  /** A group with people this account knows. */
  async createGroup(name: string, accounts: readonly Uint8Array[]): Promise<Group> {
    const packages = (await Promise.all(accounts.map((account) => this.#packages(account)))).flat();
    const group = await newGroup(this.#core, GroupInfo_Kind.GROUP, name);
    await this.#changes.change(group, adding(packages));
    return group;
  }

  /** Adds all devices of a contact. Resolves once the group has agreed. */
  async add(group: Group, account: Uint8Array): Promise<void> {
    this.#needsGroup(group);
    await this.#changes.change(group, adding(await this.#packages(account)));
  }

  /** Removes all devices of an account. Resolves once the group has agreed. */
  async remove(group: Group, account: Uint8Array): Promise<void> {
    this.#needsGroup(group);
    await this.#changes.remove(group, account);
  }

  /** Gives a group another name. Resolves once the group has agreed. */
  async rename(group: Group, name: string): Promise<void> {
    this.#needsGroup(group);
    await this.#changes.change(group, ({ roster: { info } }) => {
      if (info.name === name) return undefined;
      const extensions = contextExtensions(create(GroupInfoSchema, { ...info, name }));
      return [{ proposalType: "group_context_extensions", groupContextExtensions: { extensions } }];
    });
  }

  /** Gives this device's leaf fresh keys: whoever has copied its state reads on until then. An app does it every week. */
  async renew(group: Group): Promise<void> {
    await this.#changes.renew(group);
  }

  /** Says that this account leaves: somebody else removes it. */
  leave(group: Group): void {
    this.#needsGroup(group);
    this.#outbox.say(group, content({ case: "leave", value: true }));
  }

  /** The indices of the words to compare with somebody. */
  words(account: Uint8Array): number[] {
    const known = this.#core.contacts.get(account);
    if (!known) throw new CannotError("nobody this account knows");
    return safetyWords(this.profile, { account, rootKey: known.record.record.rootKey });
  }

  /** Nothing waits to be posted. */
  get idle(): boolean {
    return this.#outbox.idle;
  }

  /** Ends all connections. */
  close(): void {
    this.#receipts.close();
    this.#inbox.close();
    this.#core.relays.close();
  }

  /** What has to be kept before the program ends: all groups as they are. */
  async store(): Promise<void> {
    await this.#core.lock.run(async () => this.#core.commit(this.groups.map(changeOf)));
  }

  async #packages(account: Uint8Array): ReturnType<typeof takePackages> {
    const known = this.#core.contacts.get(account);
    if (!known) throw new CannotError("nobody this account knows");
    if (known.alarm) throw new CannotError("the account key has changed: the user decides first");
    return takePackages(this.#core.relays, known.record, known.devices);
  }

  #needsGroup(group: Group): void {
    if (!isGroup(group)) throw new CannotError("a direct conversation has no members to change");
  }
}

/** Follows whether what waited at the relay has come since the mailbox was last attached. */
function watchCaughtUp(mailbox: Mailbox): () => Promise<void> {
  let caught = false;
  mailbox.on("changed", (state) => {
    if (state !== "attached") caught = false;
  });
  mailbox.on("caughtUp", () => (caught = true));
  return async () => {
    while (!caught) await once(mailbox, "caughtUp");
  };
}
