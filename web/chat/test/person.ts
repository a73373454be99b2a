import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

import type { Stranger } from "./stranger.js";

/** The chat client that this one is to understand. */
const BINARY = process.env["VALISE_CHAT"] ?? fileURLToPath(new URL("../../../../target/debug/valise-chat", import.meta.url));
/** How long anything may take. */
export const PATIENCE_MS = 20_000;

/** What the other client tells of a message. */
export interface Told {
  number: number;
  conversation: number;
  kind: "text" | "notice" | "gap";
  account: string;
  name: string;
  mine: boolean;
  text: string;
  state: string;
}

/** What it tells of a conversation. */
export interface Conversation {
  number: number;
  kind: "direct" | "group";
  title: string;
  account: string | null;
  members: number;
  closed: string | null;
}

/** Somebody who uses `valise-chat`: a profile, and the real process that holds it and speaks JSON-RPC. */
export class Person {
  readonly #home = mkdtempSync(join(tmpdir(), "valise-chat-test-"));
  readonly #answers = new Map<number, { resolve: (value: unknown) => void; reject: (error: Error) => void }>();
  #daemon: ChildProcess | undefined;
  #asked = 0;
  #log = "";

  private constructor(readonly name: string) {}

  /** Somebody with a new account. */
  static async begin(name: string, relay: string): Promise<Person> {
    const person = new Person(name);
    await person.#run(["init", "--relay", relay, "--name", name]);
    person.#hold();
    return person;
  }

  /** Another device of somebody's account. */
  static async link(of: Person, deviceName: string): Promise<Person> {
    const person = new Person(of.name);
    const { link } = await of.ask<{ link: string }>("link_device");
    const linked = person.#run(["init", "--link", link, "--device-name", deviceName]);
    const device = await until("a request to be linked", async () => (await of.ask<{ device: string }[]>("link_requests"))[0]?.device);
    await of.ask("confirm_link", { device, accept: true });
    await linked;
    person.#hold();
    return person;
  }

  /** A call of the other client's own interface. */
  ask<T = unknown>(method: string, params: Record<string, unknown> = {}): Promise<T> {
    const id = (this.#asked += 1);
    return new Promise<T>((resolve, reject) => {
      const late = setTimeout(() => reject(new Error(`${this.name}: no answer to ${method}: ${this.#log}`)), PATIENCE_MS);
      const settle = <V>(done: (value: V) => void) => (value: V): void => {
        clearTimeout(late);
        done(value);
      };
      this.#answers.set(id, { resolve: settle(resolve as (value: unknown) => void), reject: settle(reject) });
      this.#daemon!.stdin!.write(`${JSON.stringify({ jsonrpc: "2.0", id, method, params })}\n`);
    });
  }

  async account(): Promise<string> {
    return (await this.ask<{ account: string }>("status")).account;
  }

  /** The number of a conversation, once there is one with this title (or person) and so many members. */
  conversation(title: string, members?: number): Promise<number> {
    return until(`${this.name} sees "${title}" with ${members ?? "any"} members`, async () => {
      const all = await this.ask<Conversation[]>("conversations");
      return all.find((one) => one.title === title && (members === undefined || one.members === members) && !one.closed)?.number;
    });
  }

  /** Everything in a conversation. */
  messages(conversation: number): Promise<Told[]> {
    return this.ask<Told[]>("messages", { conversation, before: null, limit: 200 });
  }

  /** Waits for a text of somebody else. */
  async hears(conversation: number, text: string): Promise<Told> {
    return until(`${this.name} hears "${text.slice(0, 40)}"`, async () => {
      const all = await this.messages(conversation);
      return all.find((one) => one.kind === "text" && !one.mine && one.text === text);
    });
  }

  async says(conversation: number, text: string): Promise<number> {
    return (await this.ask<{ message: number }>("send", { conversation, text, key: null })).message;
  }

  /** Waits until an own message is in a state, or further. */
  async state(conversation: number, message: number, state: "relayed" | "delivered" | "read"): Promise<void> {
    const order = ["relayed", "delivered", "read"];
    await until(`${this.name}'s message is ${state}`, async () => {
      const one = (await this.messages(conversation)).find(({ number }) => number === message);
      return one && order.indexOf(one.state) >= order.indexOf(state) ? true : undefined;
    });
  }

  /** Ends the process and removes the profile. */
  async dispose(): Promise<void> {
    const daemon = this.#daemon;
    if (daemon && daemon.exitCode === null && daemon.signalCode === null) {
      const ended = once(daemon, "exit");
      daemon.stdin!.end();
      const late = setTimeout(() => daemon.kill("SIGKILL"), 5_000);
      await ended;
      clearTimeout(late);
    }
    rmSync(this.#home, { recursive: true, force: true });
  }

  #spawn(command: readonly string[]): ChildProcess {
    const profile = ["--profile", join(this.#home, "profile"), "--no-passphrase", "--allow-private-relays"];
    const env = { ...process.env };
    for (const name of Object.keys(env)) if (name.startsWith("VALISE_CHAT_")) delete env[name];
    const child = spawn(BINARY, [...profile, ...command], { stdio: ["pipe", "pipe", "pipe"], env });
    // Whatever ends the tests ends the process.
    const kill = (): void => void child.kill("SIGKILL");
    process.once("exit", kill);
    child.once("exit", () => process.off("exit", kill));
    child.stderr!.on("data", (text: Buffer) => (this.#log += text.toString()));
    return child;
  }

  async #run(command: readonly string[]): Promise<void> {
    const child = this.#spawn(command);
    child.stdout!.resume();
    const late = setTimeout(() => child.kill("SIGKILL"), PATIENCE_MS);
    const [code] = (await once(child, "exit")) as [number | null];
    clearTimeout(late);
    if (code !== 0) throw new Error(`valise-chat ${command[0]}: exit code ${code}: ${this.#log}`);
  }

  #hold(): void {
    const daemon = this.#spawn(["daemon", "--stdio"]);
    this.#daemon = daemon;
    createInterface(daemon.stdout!).on("line", (line) => {
      const said = JSON.parse(line) as { id?: number; result?: unknown; error?: { message: string } };
      const answer = said.id === undefined ? undefined : this.#answers.get(said.id);
      if (said.id === undefined || !answer) return;
      this.#answers.delete(said.id);
      if (said.error) answer.reject(new Error(`${this.name}: ${said.error.message}`));
      else answer.resolve(said.result);
    });
    daemon.once("exit", (code) => {
      for (const { reject } of this.#answers.values()) reject(new Error(`${this.name} has ended with ${code}: ${this.#log}`));
      this.#answers.clear();
    });
  }
}

/** Looks until there is something to see; fails when it takes too long. */
export async function until<T>(what: string, look: () => Promise<T | undefined> | T | undefined, ms = PATIENCE_MS): Promise<T> {
  const end = Date.now() + ms;
  for (;;) {
    const found = await look();
    if (found !== undefined && found !== false) return found;
    if (Date.now() > end) throw new Error(`not within ${ms} ms: ${what}`);
    await sleep(25);
  }
}

/** All of `others` know somebody by an invite. */
export async function met(ann: Person, others: readonly (Person | Stranger)[]): Promise<void> {
  for (const one of others) {
    const { link } = await ann.ask<{ link: string }>("invite");
    if (one instanceof Person) await one.ask("join", { link, allow_relay: false });
    else await one.chat.follow(link);
  }
  await until("Ann knows them all", async () => {
    const known = await ann.ask<{ conversation: number | null }[]>("contacts");
    return known.filter(({ conversation }) => conversation !== null).length === others.length || undefined;
  });
}
