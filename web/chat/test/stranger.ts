import { encodeBase32 } from "valise-client";

import { ChatClient, type ChatOptions, type Group, type MemberLeaf, type Message } from "../src/index.js";
import { until } from "./person.js";

/** The client under test, with what a test asks of it. */
export class Stranger {
  readonly heard: Message[] = [];
  readonly junk: unknown[] = [];
  readonly lost: bigint[] = [];
  /** Relays it asks its user about. */
  readonly asked: string[] = [];
  readonly lostTrack: unknown[] = [];
  readonly impostors: MemberLeaf[] = [];
  /** What was dropped, for the message of a test that fails. */
  readonly troubles: unknown[] = [];

  private constructor(readonly chat: ChatClient) {
    chat.on("message", (message) => void this.heard.push(message));
    chat.on("junk", (_, why) => void this.junk.push(why));
    chat.on("lost", (_, __, count) => void this.lost.push(count));
    chat.on("relay", (address) => void this.asked.push(address));
    chat.on("impostor", (_, leaf) => void this.impostors.push(leaf));
    chat.on("lostTrack", (_, why) => void this.lostTrack.push(why));
    chat.on("trouble", (why) => void this.troubles.push(why));
  }

  static async begin(name: string, relay: string, options: Partial<ChatOptions> = {}): Promise<Stranger> {
    const chat = await ChatClient.begin({ relay, name, allowPrivateRelays: true, client: { backoffFirstMs: 100 }, ...options });
    return new Stranger(chat);
  }

  /** The account as the other client writes it. */
  get account(): string {
    return encodeBase32(this.chat.profile.account);
  }

  /** Waits for a text. */
  hears(text: string): Promise<Message> {
    return this.until(`hears "${text.slice(0, 40)}"`, () => this.heard.find((message) => message.text === text));
  }

  /** Waits for a group of this name with so many devices. */
  group(name: string, devices: number): Promise<Group> {
    return this.until(`a group "${name}" of ${devices}`, () =>
      this.chat.groups.find(({ active, roster }) => active && roster.info.name === name && roster.members.length === devices),
    );
  }

  /** Says something, and waits until it has got so far. */
  async says(group: Group, text: string, state: "relayed" | "delivered" | "read" = "relayed"): Promise<void> {
    const order = ["sending", "relayed", "delivered", "read"];
    const own = this.chat.send(group, text);
    await this.until(`what it says is ${state}`, () => order.indexOf(own.state) >= order.indexOf(state) || undefined);
  }

  async until<T>(what: string, look: () => T | undefined): Promise<T> {
    try {
      return await until(`the stranger: ${what}`, look);
    } catch (error) {
      throw new Error(`${(error as Error).message}; troubles: ${this.troubles.map(String).join("; ")}`, { cause: this.troubles.at(-1) });
    }
  }
}
