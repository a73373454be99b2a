export { ChatClient, type ChatOptions } from "./chat.js";
export { type Contact } from "./contacts.js";
export type { Change, Commit, Events, Message, MessageState, OwnMessage } from "./core.js";
export * from "./errors.js";
export type { Group } from "./group.js";
export type { MemberLeaf, Roster } from "./mls.js";
export { formatLink, parseLink, type Link } from "./link.js";
