// Whether the other side is who the person here takes it for: words to compare, and what is kept of having compared.
//
// As `control/acquaintance.py`; what is kept lies in the browser's local storage, under the link's local name.
//
//     opened      -> Reveal
//     Reveal      words are known; -> Recognise for each secret kept
//     Recognise   one of the secrets kept here: the other side was there when the words were compared
//     the button  kept as compared by the person here; -> Compared, for the other side to keep

import { fromHex, hex, sameSecret } from "./bytes.js";
import { Compared, Recognise, Reveal } from "./control.js";
import { BadInput } from "./errors.js";

/** @typedef {import("./trust.js").Handshake} Handshake */

/**
 * Secrets of the connections whose words were last said to be the same, by whom: the person here, or the one there alone.
 * @typedef {{ here: string | null, there: string | null }} Kept
 */

const MOST_LINKS = 500;
const PREFIX = "kilocall/links/";
const KEY = /^[0-9a-f]{64}$/;

/**
 * @typedef {object} AcquaintancePorts
 * @property {(message: import("./control.js").ControlMessage) => void} say
 * @property {(why: string) => void} drop
 * @property {() => void} changed
 */

/** Of one link, through all its connections. */
export class Acquaintance {
  #name;
  #ports;
  #storage;
  #kept;
  /** @type {Handshake | null} */
  #handshake = null;

  /**
   * @param {string} name the link's
   * @param {AcquaintancePorts} ports
   * @param {Storage | null} storage what outlives the page; null: nothing does
   */
  constructor(name, ports, storage = null) {
    /** Whether the person here has compared words with whoever is on the other end of this connection, or was. */
    this.verified = false;
    this.#name = name;
    this.#ports = ports;
    this.#storage = storage;
    this.#kept = this.#read();
  }

  /** Of this connection; none while there is none. */
  get words() {
    return this.#handshake?.words ?? [];
  }

  /** Whether the words were compared on this link once: another other side is worth a warning. */
  get expected() {
    return this.#kept.here !== null;
  }

  /**
   * Another connection.
   * @param {Handshake} handshake
   */
  opened(handshake) {
    this.#handshake = handshake;
    this.verified = false;
    this.#ports.say(new Reveal(handshake.nonce));
  }

  /** There are no words until the next one. */
  closed() {
    this.#handshake = null;
  }

  /**
   * The person here has seen that these are the same. Throws BadInput if they are not those of now.
   * @param {readonly string[]} words
   */
  compared(words) {
    const now = this.words;
    if (this.#handshake === null || !now.length || now.join(" ") !== words.join(" ")) {
      throw new BadInput("the words have changed with the connection: please compare them again");
    }
    this.verified = true;
    this.#keep({ ...this.#kept, here: hex(this.#handshake.acquaintance) });
    this.#ports.say(new Compared());
    this.#ports.changed();
  }

  /**
   * Throws NotProven for a nonce that is not the one committed to.
   * @param {Reveal | Recognise | Compared} message
   */
  take(message) {
    const handshake = this.#handshake;
    if (handshake === null || (!this.words.length && !(message instanceof Reveal))) {
      this.#ports.drop(`${message.constructor.name} before Reveal`);
      return;
    }
    if (message instanceof Reveal) {
      if (this.words.length) {
        this.#ports.drop("second Reveal");
        return;
      }
      handshake.reveal(message.nonce);
      for (const secret of this.#secrets()) this.#ports.say(new Recognise(handshake.recognition(secret, { mine: true })));
    } else if (message instanceof Recognise) {
      const { here } = this.#kept;
      if (here !== null && sameSecret(handshake.recognition(fromHex(here), { mine: false }), message.proof)) {
        this.verified = true;
      }
    } else {
      this.#keep({ ...this.#kept, there: hex(handshake.acquaintance) });
    }
    this.#ports.changed();
  }

  #secrets() {
    const keys = new Set([this.#kept.here, this.#kept.there]);
    return [...keys].flatMap((key) => (key === null ? [] : [fromHex(key)]));
  }

  /** @returns {Kept} */
  #read() {
    const none = { here: null, there: null };
    try {
      const text = this.#storage?.getItem(PREFIX + this.#name) ?? null;
      if (text === null) return none;
      const found = JSON.parse(text);
      const keys = [found.here, found.there];
      if (keys.every((key) => key === null || (typeof key === "string" && KEY.test(key)))) {
        return { here: found.here, there: found.there };
      }
    } catch {
      // Told below: not what the error says, which may show what is kept.
    }
    console.warn("what was kept of this link cannot be read, its words are to be compared again");
    return none;
  }

  /** @param {Kept} kept */
  #keep(kept) {
    if (kept.here === this.#kept.here && kept.there === this.#kept.there) return;
    this.#kept = kept;
    if (this.#storage === null) return;
    try {
      const order = names(this.#storage).filter((name) => name !== this.#name);
      for (const old of order.slice(0, Math.max(0, order.length + 1 - MOST_LINKS))) this.#storage.removeItem(PREFIX + old);
      this.#storage.setItem(PREFIX + this.#name, JSON.stringify({ ...kept, keptMs: Date.now() }));
    } catch (error) {
      console.warn(`that the words were compared cannot be kept: ${error}`);
    }
  }
}

/**
 * Of the links of which something is kept, the oldest first.
 * @param {Storage} storage
 */
function names(storage) {
  const kept = [];
  for (let n = 0; n < storage.length; n++) {
    const key = storage.key(n) ?? "";
    if (key.startsWith(PREFIX)) kept.push({ name: key.slice(PREFIX.length), keptMs: writtenMs(storage.getItem(key)) });
  }
  return kept.sort((a, b) => a.keptMs - b.keptMs).map(({ name }) => name);
}

/** @param {string | null} text */
function writtenMs(text) {
  try {
    return Number(JSON.parse(text ?? "").keptMs) || 0;
  } catch {
    return 0;
  }
}
