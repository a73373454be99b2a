/** The numbers of section 36 of the protocol. */

/** Devices of an account. */
export const DEVICES_MAX = 16;
/** Bytes of an account record. */
export const RECORD_BYTES_MAX = 4_096;
/** Bytes of a device's name. */
export const DEVICE_NAME_BYTES_MAX = 128;
/** Bytes of a `Content`. */
export const CONTENT_BYTES_MAX = 4 * 1024 * 1024;
/** Bytes of a message, greeting or commit: all parts together. */
export const WHOLE_BYTES_MAX = 4_259_840;
/** Parts of a message, greeting or commit. */
export const PARTS_MAX = 128;
/** Epochs before the current one whose keys are kept. */
export const PAST_EPOCHS = 8;
/** Bytes of all frames together that nobody could open yet. */
export const PARKED_BYTES_MAX = 32 * 1024 * 1024;
/** Of those that a walk of all groups did not open: how many, and bytes of them together. */
export const WALKED_MAX = 1_000;
export const WALKED_BYTES_MAX = 8 * 1024 * 1024;
/** How long a parked frame, or an incomplete greeting, is kept. */
export const PARKED_MS = 30 * 86_400_000;
/** How long a message is tried. */
export const GIVEN_UP_AFTER_MS = 30 * 86_400_000;
/** How long a device is lost before any Welcome of the group will do. */
export const LOST_MS = 86_400_000;
/** When a replaced address is revoked. */
export const REVOKED_AFTER_MS = 86_400_000;
/** When the capability of an invite that was followed is revoked; its take token is at once. */
export const INVITE_REVOKED_AFTER_MS = 600_000;
/** When a key package is good, in seconds since 1970: at all times, so that no clock decides who follows whom. */
export const KEY_PACKAGE_LIFETIME = { notBefore: 0n, notAfter: 2n ** 63n - 1n } as const;
/** Bytes of a leaf's `Member`, and of a group's `GroupInfo`. */
export const EXTENSION_BYTES_MAX = 1_024;
/** Bytes of a card. */
export const CARD_BYTES_MAX = 16_384;
/** Above so many other devices no receipts are sent. */
export const RECEIPT_DEVICES_MAX = 48;
/** How long a receipt waits for more, in direct conversations and in groups. */
export const RECEIPT_WAIT_MS = { direct: 200, group: 3_000 } as const;
/** One-time key packages in a bundle. */
export const BUNDLE_ITEMS = 20;
