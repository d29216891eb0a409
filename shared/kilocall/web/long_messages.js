// Control messages longer than one part: sent slowly, in parts, so that motion gets through in between.
//
// As `runtime/long_messages.py`.

import { joined } from "./bytes.js";
import { MAX_MESSAGE_BYTES, Part, parseControl } from "./control.js";
import { BadPacket } from "./errors.js";

export const BURST_BYTES = 8192;
/** Until the next look at whether a part may go. */
const LOOK_MS = 10;

/**
 * Whether a control message is one part of a longer one.
 * @param {Uint8Array} data
 */
export function isPart(data) {
  return data[0] === 0x93 && data[1] === Part.TYPE;
}

/** Parts that wait to be sent, at most two of the longest messages. */
export class PartsQueue {
  /** @type {Uint8Array[]} */
  #parts = [];
  #bytes = 0;
  #tokens = BURST_BYTES;
  #then = performance.now();
  /** @type {ReturnType<typeof setTimeout> | null} */
  #timer = null;
  #bulkBps;
  #send;
  #maySend;

  /**
   * @param {number} bulkBps
   * @param {{ send: (part: Uint8Array) => void, maySend: () => boolean }} way where parts go, and whether one may just now
   */
  constructor(bulkBps, { send, maySend }) {
    this.#bulkBps = bulkBps;
    this.#send = send;
    this.#maySend = maySend;
  }

  /**
   * Takes all parts of a message, or, when it does not fit, none.
   * @param {Uint8Array} message
   */
  add(message) {
    if (message.length > MAX_MESSAGE_BYTES || this.#bytes + message.length > 2 * MAX_MESSAGE_BYTES) return false;
    for (const part of Part.split(message)) {
      const data = part.bytes();
      this.#parts.push(data);
      this.#bytes += data.length;
    }
    this.#timer ??= setTimeout(() => this.look(), 0);
    return true;
  }

  /** Forgets them all. */
  clear() {
    this.#parts = [];
    this.#bytes = 0;
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }

  /** Hands on what may go by now, and looks again while something waits. Also to be called when there is room again. */
  look() {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    const now = performance.now();
    this.#tokens = Math.min(BURST_BYTES, this.#tokens + (now - this.#then) * this.#bulkBps / 8000);
    this.#then = now;
    while (this.#parts.length && this.#tokens >= this.#parts[0].length && this.#maySend()) {
      const [part] = this.#parts.splice(0, 1);
      this.#tokens -= part.length;
      this.#bytes -= part.length;
      this.#send(part);
    }
    if (this.#parts.length) this.#timer = setTimeout(() => this.look(), LOOK_MS);
  }
}

/** Puts the parts of one message at a time together again. */
export class Assembly {
  /** @type {Uint8Array[]} */
  #parts = [];
  #left = 0;

  /**
   * The whole message with its last part, otherwise null.
   *
   * BadPacket for what is no part, or none of the message that was begun: that message is then given up.
   * @param {Uint8Array} data
   */
  add(data) {
    const part = this.#parse(data);
    // A copy: the part may be a view of what the caller uses again.
    this.#parts.push(part.data.slice());
    this.#left = part.left;
    if (part.left) return null;
    const message = joined(this.#parts);
    this.#parts = [];
    return message;
  }

  /** @param {Uint8Array} data */
  #parse(data) {
    try {
      const part = parseControl(data);
      if (!(part instanceof Part)) throw new BadPacket("control message is no part");
      const size = part.data.length + part.left;
      if (size !== this.#left && (this.#parts.length || size > MAX_MESSAGE_BYTES)) {
        throw new BadPacket(`part leaves ${size} bytes, not ${this.#left}`);
      }
      return part;
    } catch (error) {
      this.#parts = [];
      this.#left = 0;
      throw error;
    }
  }
}
