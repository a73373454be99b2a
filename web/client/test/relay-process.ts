import { spawn, execFileSync, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

/** The relay under test. */
const BINARY = process.env["VALISE"] ?? fileURLToPath(new URL("../../../../target/debug/valise", import.meta.url));

/** A relay that keeps its state in a directory of its own, under the system's temporary one. */
export class RelayProcess {
  readonly #directory = mkdtempSync(join(tmpdir(), "valise-client-test-"));
  readonly #options: string[];
  #child: ChildProcess | undefined;
  #address = "";

  private constructor(options: string[]) {
    this.#options = options;
  }

  /** A relay whose state goes with it. */
  static temporary(): Promise<RelayProcess> {
    return RelayProcess.#start(["--temporary"]);
  }

  /** A relay that can be started again, and asked for invite codes. */
  static lasting(...options: string[]): Promise<RelayProcess> {
    return RelayProcess.#start(options);
  }

  static async #start(options: string[]): Promise<RelayProcess> {
    const relay = new RelayProcess(options);
    await relay.start();
    return relay;
  }

  get address(): string {
    return this.#address;
  }

  /** Starts the relay; after the first time, where it was before. */
  async start(): Promise<void> {
    const listen = /\/\/(.*)\//.exec(this.#address)?.[1] ?? "127.0.0.1:0";
    const state = this.#options.includes("--temporary") ? [] : ["--state-directory", this.#directory];
    const child = spawn(BINARY, ["serve", "--listen", listen, "--admin", "off", "--log", "warn", ...state, ...this.#options], {
      stdio: ["ignore", "pipe", "pipe"],
      // A temporary state directory lies in ours, so that it goes even if the relay is killed.
      env: { ...process.env, TMPDIR: this.#directory },
    });
    this.#child = child;
    // Whatever ends the tests ends the relay.
    const kill = (): void => void child.kill("SIGKILL");
    process.once("exit", kill);
    child.once("exit", () => process.off("exit", kill));
    let log = "";
    child.stderr!.on("data", (text: Buffer) => (log += text.toString()));
    this.#address = await new Promise<string>((resolve, reject) => {
      const late = setTimeout(() => reject(new Error(`the relay does not start: ${log}`)), 20_000);
      child.once("error", reject);
      child.once("exit", () => reject(new Error(`the relay has ended: ${log}`)));
      createInterface(child.stdout!).on("line", (line) => {
        if (!line.startsWith("valise://")) return;
        clearTimeout(late);
        resolve(line);
      });
    });
  }

  /** Asks the relay to end, and waits until it has; kills it if it does not. */
  async terminate(): Promise<void> {
    const child = this.#child;
    this.#child = undefined;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, "exit");
    child.kill("SIGTERM");
    const late = setTimeout(() => child.kill("SIGKILL"), 20_000);
    await ended;
    clearTimeout(late);
  }

  /** One invite code. */
  inviteCode(): string {
    return execFileSync(BINARY, ["invite-code", "--state-directory", this.#directory], { encoding: "utf8", timeout: 20_000 }).trim();
  }

  /** Ends the relay and removes what it kept. */
  async dispose(): Promise<void> {
    await this.terminate();
    rmSync(this.#directory, { recursive: true, force: true });
  }
}
