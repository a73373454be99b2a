import type { Connection } from "./connection.js";

/** A second connection, to another place of the realm: for what is refused `moved` where the client is. */
export class Aside {
  #connection: Promise<Connection> | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(
    private readonly open: () => Promise<Connection>,
    private readonly idleMs = 60_000,
  ) {}

  /** The connection; opened if there is none. Rejects where none can be opened. */
  async get(): Promise<Connection> {
    const opening = (this.#connection ??= this.open());
    try {
      const connection = await opening;
      if (!connection.usable) throw new Error("it has ended meanwhile");
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.close(), this.idleMs).unref();
      return connection;
    } catch (error) {
      if (this.#connection === opening) this.#connection = undefined;
      throw error;
    }
  }

  /** Ends it, once what was asked is answered. The next one may lead to another place. */
  close(): void {
    clearTimeout(this.#timer);
    const closing = this.#connection;
    this.#connection = undefined;
    closing?.then((connection) => connection.leave(), () => undefined);
  }
}
