// What keeps others out from between two parties of a call: the link's secret, tags of descriptions, words to compare.
//
// As `proto/trust.py`. SHA-256, HMAC and HKDF are those of `bytes.js` and not the browser's own: those answer later, so
// that messages could overtake each other while a tag is computed, and a page without https has none. What is computed
// here is a few kilobytes a connection, 1 ms.
//
//     const link = LinkSecret.make();                   link.token is all that a signalling server sees
//     const mine = new Handshake(link.key, "tea", { offers: true });
//     mine.meet(theirCommitment);                       each side has sent its `commitment`
//     const tag = mine.seal(offer);                     goes with the offer
//     mine.check(answer, theirTag);                     NotProven: somebody may be in between
//     mine.reveal(theirNonce);                          over the connection that was made; from then on there are `words`

import { base64url, digest, fromBase64url, fromHex, hex, hkdf, hmac, joined, sameSecret, utf8 } from "./bytes.js";
import { BadInput, BadPacket, NotProven } from "./errors.js";
import { WORDS } from "./words.js";

const VERSION = Uint8Array.of(1);
const NONCE_BYTES = 32;
const LEAST_SECRET_BYTES = 16;
const MOST_SECRET_BYTES = 48;
/** One byte each: whoever is in between gets by them once in four thousand million calls. */
export const SPOKEN_WORDS = 4;
export const NOT_PROVEN = "the other side could not prove that it has the link; somebody may be in between";

/** @typedef {"offer" | "answer"} Role */
const ROLES = /** @type {const} */ (["offer", "answer"]);

const FINGERPRINT = /^a=fingerprint:sha-256 ((?:[0-9A-Fa-f]{2}:){31}[0-9A-Fa-f]{2})$/;

/**
 * Each field behind its length as four bytes, so that no two lists of fields are the same bytes.
 * @param {readonly Uint8Array[]} fields
 */
function encode(fields) {
  return joined(fields.flatMap((one) => [Uint8Array.of(one.length >>> 24, one.length >> 16, one.length >> 8, one.length), one]));
}

/** What stands behind the # of a call's link: 16 to 48 bytes. Throws BadInput for a text that is none. */
export class LinkSecret {
  /** @param {string} text base64url without padding */
  constructor(text) {
    const allowed = `allowed are ${LEAST_SECRET_BYTES} to ${MOST_SECRET_BYTES} random bytes as base64url`;
    const hint = "leave it out and one is made, or copy the whole link";
    if (!/^[A-Za-z0-9_-]+$/.test(text)) {
      throw new BadInput(`the link's secret holds other characters than letters, digits, - and _; ${allowed}: ${hint}`);
    }
    const data = fromBase64url(text);
    if (data === null) {
      throw new BadInput(`the link's secret of ${text.length} characters is not base64url; ${allowed}`);
    }
    if (data.length < LEAST_SECRET_BYTES || data.length > MOST_SECRET_BYTES) {
      throw new BadInput(`the link's secret has ${8 * data.length} bits; ${allowed}: ${hint}`);
    }
    if (base64url(data) !== text) {
      throw new BadInput(`the link's secret of ${text.length} characters is not base64url; ${allowed}`);
    }
    this.text = text;
    this.data = data;
  }

  /** 128 random bits. */
  static make() {
    return new LinkSecret(base64url(random(LEAST_SECRET_BYTES)));
  }

  /** What lets into the room: 32 bytes as base64url. Tells nothing about the secret or the key. */
  get token() {
    return base64url(hkdf(this.data, utf8("kilocall 1 join token")));
  }

  /** What descriptions are authenticated with. */
  get key() {
    return hkdf(this.data, utf8("kilocall 1 description key"));
  }

  /** Under which a computer keeps what it knows about this link: 64 hexadecimal digits. */
  get name() {
    return hex(hkdf(this.data, utf8("kilocall 1 local name")));
  }
}

/** One side of the making of one connection; with the next connection there is another. */
export class Handshake {
  /** @type {Partial<Record<Role, Uint8Array>>} */
  #commitments = {};
  /** @type {Partial<Record<Role, string>>} */
  #sdps = {};
  /** @type {Uint8Array | null} */
  #theirNonce = null;
  #key;

  /**
   * @param {Uint8Array} key the link's
   * @param {string} room
   * @param {{ offers: boolean, nonce?: Uint8Array }} side whether this side makes the offer; the nonce is for tests
   */
  constructor(key, room, { offers, nonce = random(NONCE_BYTES) }) {
    this.room = room;
    this.nonce = nonce;
    this.role = /** @type {Role} */ (offers ? "offer" : "answer");
    this.#key = key;
    this.#commitments[this.role] = commit(nonce);
  }

  /** @returns {Role} */
  get theirRole() {
    return this.role === "offer" ? "answer" : "offer";
  }

  /** To be sent first: 64 hexadecimal digits. */
  get commitment() {
    return hex(this.#commitment(this.role));
  }

  /**
   * Takes the other side's commitment, once. Throws NotProven for one that cannot be another side's.
   * @param {string} commitment
   */
  meet(commitment) {
    const theirs = bytesOf(commitment);
    if (theirs.length !== 32 || commitment === this.commitment || this.#commitments[this.theirRole] !== undefined) {
      throw new NotProven(NOT_PROVEN);
    }
    this.#commitments[this.theirRole] = theirs;
  }

  /**
   * The tag of this side's description, 64 hexadecimal digits; after `meet`, an answer's after `check`.
   * @param {string} sdp
   */
  seal(sdp) {
    const tag = this.#tag(this.role, sdp);
    this.#sdps[this.role] = sdp;
    return hex(tag);
  }

  /**
   * Takes the other side's description. Throws NotProven unless `tag` is its tag in this very handshake.
   * @param {string} sdp
   * @param {string} tag
   */
  check(sdp, tag) {
    let expected;
    try {
      expected = this.#tag(this.theirRole, sdp);
    } catch (error) {
      if (!(error instanceof BadPacket)) throw error;
      throw new NotProven(NOT_PROVEN);
    }
    if (!sameSecret(expected, bytesOf(tag))) throw new NotProven(NOT_PROVEN);
    this.#sdps[this.theirRole] = sdp;
  }

  /**
   * Takes the other side's nonce. Throws NotProven for one that it had not committed to.
   * @param {Uint8Array} nonce
   */
  reveal(nonce) {
    const theirs = this.#commitments[this.theirRole];
    if (theirs === undefined || nonce.length !== NONCE_BYTES || !sameSecret(commit(nonce), theirs)) {
      throw new NotProven("the other side has not kept to what it had committed to; somebody may be in between");
    }
    this.#theirNonce = nonce.slice();
  }

  /** What both sides must see the same; empty before the other side's nonce is known. */
  get words() {
    return Array.from(this.#shared("kilocall words", SPOKEN_WORDS), (byte) => WORDS[byte]);
  }

  /** 32 bytes that nobody but the two ends of this connection knows, to recognise each other by another time. */
  get acquaintance() {
    return this.#shared("kilocall acquaintance", 32);
  }

  /**
   * What shows, in this connection alone, that its sender holds `acquaintance`: this side, or the other.
   * @param {Uint8Array} acquaintance
   * @param {{ mine: boolean }} whose
   */
  recognition(acquaintance, { mine }) {
    return hmac(acquaintance, encode(this.#transcript("kilocall recognition", mine ? this.role : this.theirRole)));
  }

  /** @param {Role} role */
  #commitment(role) {
    const commitment = this.#commitments[role];
    if (commitment === undefined) throw new NotProven(NOT_PROVEN);
    return commitment;
  }

  /**
   * @param {Role} role
   * @param {string} sdp
   */
  #tag(role, sdp) {
    fingerprint(sdp); // a description that two programs could read differently is worth no tag
    const commitments = ROLES.map((one) => this.#commitment(one));
    const answers = role === "offer" ? new Uint8Array() : digest(utf8(this.#sdps.offer ?? ""));
    const begin = [utf8("kilocall description"), VERSION, utf8(role), utf8(this.room)];
    return hmac(this.#key, encode([...begin, ...commitments, answers, utf8(sdp)]));
  }

  /**
   * @param {string} label
   * @param {...string} more
   */
  #transcript(label, ...more) {
    const prints = ROLES.map((role) => fingerprint(this.#sdps[role] ?? ""));
    const texts = [...more, this.room].map(utf8);
    return [utf8(label), VERSION, ...texts, ...ROLES.map((role) => this.#commitment(role)), ...prints];
  }

  /**
   * @param {string} label
   * @param {number} size
   */
  #shared(label, size) {
    if (this.#theirNonce === null) return new Uint8Array();
    const nonces = [this.nonce, this.#theirNonce];
    if (this.role === "answer") nonces.reverse();
    return hkdf(joined(nonces), encode(this.#transcript(label)), size);
  }
}

/**
 * What is told of a nonce before it is revealed.
 * @param {Uint8Array} nonce
 */
function commit(nonce) {
  return digest(encode([utf8("kilocall commitment"), VERSION, nonce]));
}

/**
 * SHA-256 of the DTLS certificate that a description names, the same in all its sections.
 *
 * Throws BadPacket for none, several, or one of another kind: programs differ in which of several they look at, and
 * the one that is compared must be the one that counts.
 * @param {string} sdp
 */
export function fingerprint(sdp) {
  const found = new Set();
  for (const line of fingerprintLines(sdp)) {
    const match = FINGERPRINT.exec(line);
    if (match === null) {
      throw new BadPacket(`description has a fingerprint that is none of SHA-256: ${JSON.stringify(line).slice(0, 80)}`);
    }
    found.add(match[1].replaceAll(":", "").toLowerCase());
  }
  if (found.size !== 1) throw new BadPacket(`description has ${found.size} fingerprints, needed is one`);
  const [only] = found;
  return fromHex(only);
}

/**
 * Every line of a description that any program could take for a fingerprint. Throws BadPacket for other than ASCII.
 *
 * Beyond ASCII there are characters that only some programs take for the end of a line.
 * @param {string} sdp
 */
export function fingerprintLines(sdp) {
  if (/[^\t\r\n\x20-\x7e]/.test(sdp)) throw new BadPacket("description holds other characters than those of ASCII");
  return sdp.split(/[\r\n]+/).filter((line) => line.toLowerCase().includes("fingerprint"));
}

/**
 * Of hexadecimal digits; nothing for what is none.
 * @param {string} digits
 */
function bytesOf(digits) {
  return /^(?:[0-9a-f]{2})*$/.test(digits) ? fromHex(digits) : new Uint8Array();
}

/** @param {number} size */
function random(size) {
  return crypto.getRandomValues(new Uint8Array(size));
}
