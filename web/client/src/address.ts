import { isIPv4, isIPv6 } from "node:net";

import { decodeBase32, encodeBase32 } from "./base32.js";
import { AddressError } from "./errors.js";

/** Where a relay listens, and for which realm. */
export interface Address {
  /** A name or an IP address, without brackets. */
  readonly host: string;
  readonly port: number;
  /** The realm id, 20 bytes. */
  readonly realm: Uint8Array;
}

const SCHEME = "valise://";
const NAME = /^[A-Za-z0-9._-]+$/;

/** Reads `valise://HOST:PORT/REALM`. Throws {@link AddressError}. */
export function parseAddress(text: string): Address {
  const trimmed = trimAscii(text);
  if (!trimmed.startsWith(SCHEME)) throw new AddressError("scheme", text);
  const rest = trimmed.slice(SCHEME.length);
  const slash = rest.indexOf("/");
  if (slash < 0) throw new AddressError("no_realm", text);
  const realm = decodeBase32(rest.slice(slash + 1), 20);
  const endpoint = parseEndpoint(rest.slice(0, slash));
  if (!endpoint) throw new AddressError("host_port", text);
  if (!realm) throw new AddressError("realm", text);
  return { ...endpoint, realm };
}

/** The text of an address, in its one normal form. */
export function formatAddress(address: Address): string {
  const host = address.host.includes(":") ? `[${address.host}]` : address.host;
  return `${SCHEME}${host}:${address.port}/${encodeBase32(address.realm)}`;
}

/** An invite code (96 characters of base32) as the join token it is. */
export function parseInviteCode(text: string): Uint8Array {
  const token = decodeBase32(trimAscii(text), 60);
  if (!token) throw new AddressError("code", "an invite code has 96 characters of base32");
  return token;
}

/** Without the white space of ASCII around it: what another reader takes for a part of a text is one here, too. */
export function trimAscii(text: string): string {
  return text.replace(/^[ \t\n\f\r]+|[ \t\n\f\r]+$/g, "");
}

/** The server name to send, which must be a name and not an IP address. */
export function serverName(host: string): string | undefined {
  return isIPv4(host) || isIPv6(host) ? undefined : host;
}

/** Reads `HOST:PORT`; undefined where it is none. */
export function parseEndpoint(text: string): { host: string; port: number } | undefined {
  const colon = text.lastIndexOf(":");
  if (colon < 0) return undefined;
  const digits = text.slice(colon + 1);
  const port = /^[0-9]+$/.test(digits) ? Number(digits) : 0;
  if (port < 1 || port > 65_535) return undefined;
  const host = text.slice(0, colon);
  if (host.startsWith("[") && host.endsWith("]")) {
    const inner = host.slice(1, -1);
    // A zone ("%eth0") means something on one machine only, and an address travels.
    return isIPv6(inner) && !inner.includes("%") ? { host: inner, port } : undefined;
  }
  return NAME.test(host) ? { host, port } : undefined;
}
