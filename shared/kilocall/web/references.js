// Further pictures of the speaker between two parties, in the background of a call.
//
// As `control/references.py`.
//
//     ReferenceOffer, once the source picture is confirmed  ->
//                                                           <-  WantPicture, unless it is in the cache
//     ReferencePiece, ReferencePiece ...                    ->      one every few seconds
//                                                           <-  HavePicture, once frames can be shown on it

import { HavePicture, MAX_REFERENCE_BYTES, ReferenceOffer, ReferencePiece, SourcePicture, WantPicture } from "./control.js";
import { BadInput } from "./errors.js";
import { Arriving, Cache, dropOldest } from "./exchange.js";
import { MOST_PICTURES } from "./limits.js";

/** @typedef {import("./control.js").ControlMessage} ControlMessage */
/** @typedef {import("./control.js").PictureFormat} PictureFormat */

export const PIECE_BYTES = 800;
export const PIECE_EVERY_US = 4_000_000;
const MOST = MOST_PICTURES - 1;
/** Offers looked at on one connection: some people change their source picture now and then. */
const MOST_OFFERS = 10 * MOST;

/**
 * `got` is called with base, hash and data of each picture of the other side's that is whole, and answered by `ready` or
 * `refused`; `confirmed` with the hash of each of this side's that the other side holds.
 * @typedef {object} ReferencePorts
 * @property {(message: ControlMessage) => void} say
 * @property {(why: string) => void} drop
 * @property {(baseHash: string, pictureHash: string, data: Uint8Array) => void} got
 * @property {(pictureHash: string) => void} confirmed
 */

/** Both directions, over one connection after the other. */
export class ReferenceExchange {
  #ports;
  #cache;
  #base = "";
  #baseConfirmed = false;
  /** @type {Map<string, SourcePicture>} */
  #own = new Map();
  /** @type {Map<string, number>} bytes sent of what was asked for */
  #sending = new Map();
  /** @type {number | null} */
  #sentUs = null;
  /** @type {Map<string, { baseHash: string, format: PictureFormat, pieces: Arriving }>} on their way */
  #coming = new Map();
  #offers = 0;
  /** @type {Map<string, { baseHash: string, picture: SourcePicture }>} */
  #arrived = new Map();
  /** @type {Map<string, { baseHash: string, picture: SourcePicture }>} */
  #held = new Map();
  /** @type {string | null} */
  #shown = null;

  /**
   * @param {ReferencePorts} ports
   * @param {import("./blob_store.js").BlobStore | null} store
   */
  constructor(ports, store = null) {
    this.#ports = ports;
    this.#cache = new Cache(store, { inMemory: MOST });
    /** @type {Set<string>} this side's that the other side holds */
    this.confirmed = new Set();
    /** Of pieces, all connections together. */
    this.sentBytes = 0;
    this.fromCache = 0;
  }

  /** The other side's on which frames can be shown here, by hash: those of the source picture that is shown. */
  get held() {
    const shown = [...this.#held].filter(([, { baseHash }]) => baseHash === this.#shown);
    return new Map(shown.map(([name, { picture }]) => [name, picture]));
  }

  /** Of this side's pictures, sent or not. */
  get ownBytes() {
    return [...this.#own.values()].reduce((sum, { data }) => sum + data.length, 0);
  }

  /** Another connection: this side's are offered again once the source picture is confirmed. */
  opened() {
    this.confirmed.clear();
    this.#baseConfirmed = false;
    this.#sending.clear();
    this.#coming.clear();
    this.#offers = 0;
  }

  // This side's

  /**
   * Another source picture of this side's; pictures of the one before mean nothing beside it.
   * @param {string} baseHash
   */
  follow(baseHash) {
    if (baseHash === this.#base) return;
    this.#base = baseHash;
    this.#baseConfirmed = false;
    this.#own.clear();
    this.#sending.clear();
    this.confirmed.clear();
  }

  /**
   * The other side can move this source picture of this side's.
   * @param {string} baseHash
   */
  baseConfirmed(baseHash) {
    if (baseHash !== this.#base || this.#baseConfirmed) return;
    this.#baseConfirmed = true;
    for (const picture of this.#own.values()) this.#offer(picture);
  }

  /**
   * A further picture, offered now and with every connection; false when the source picture is another by now. Throws
   * BadInput for one too many or too large.
   * @param {string} baseHash
   * @param {SourcePicture} picture
   */
  offer(baseHash, picture) {
    const { length } = picture.data;
    if (length < 1 || length > MAX_REFERENCE_BYTES) {
      throw new BadInput(`a further picture is ${length} bytes, allowed are 1 to ${MAX_REFERENCE_BYTES}`);
    }
    if (baseHash !== this.#base) return false;
    if (this.#own.size >= MOST && !this.#own.has(picture.pictureHash)) {
      throw new BadInput(`${1 + this.#own.size} pictures of the speaker are offered, most are ${MOST_PICTURES}`);
    }
    this.#own.set(picture.pictureHash, picture);
    if (this.#baseConfirmed) this.#offer(picture);
    return true;
  }

  /**
   * Answers WantPicture, some seconds from now on; false when that was not offered here.
   * @param {string} pictureHash
   */
  send(pictureHash) {
    if (!this.#own.has(pictureHash)) return false;
    this.#sending.set(pictureHash, 0);
    return true;
  }

  /**
   * Takes HavePicture; false when that was not offered here.
   * @param {string} pictureHash
   */
  confirm(pictureHash) {
    if (!this.#own.has(pictureHash)) return false;
    this.#sending.delete(pictureHash);
    if (!this.confirmed.has(pictureHash)) {
      this.confirmed.add(pictureHash);
      this.#ports.confirmed(pictureHash);
    }
    return true;
  }

  /**
   * Sends a piece if one is due. Called about once a second, while there is room on the link.
   * @param {number} nowUs
   */
  tick(nowUs) {
    if (!this.#sending.size || (this.#sentUs !== null && nowUs - this.#sentUs < PIECE_EVERY_US)) return;
    const [[pictureHash, offset]] = this.#sending;
    const data = this.#own.get(pictureHash)?.data ?? new Uint8Array();
    const piece = data.subarray(offset, offset + PIECE_BYTES);
    this.#ports.say(new ReferencePiece(pictureHash, offset, piece));
    this.#sentUs = nowUs;
    this.sentBytes += piece.length;
    this.#sending.set(pictureHash, offset + piece.length);
    if (offset + piece.length >= data.length) this.#sending.delete(pictureHash);
  }

  /** @param {SourcePicture} picture */
  #offer(picture) {
    this.#ports.say(new ReferenceOffer(this.#base, picture.pictureHash, picture.format, picture.data.length));
  }

  // The other side's

  /**
   * Asks for the picture unless it is here.
   * @param {ReferenceOffer} offer
   */
  takeOffer({ baseHash, pictureHash, format, size }) {
    this.#offers++;
    if (this.#offers > MOST_OFFERS) {
      this.#ports.drop("too many further pictures are offered");
      return;
    }
    const kept = this.#cache.get(pictureHash);
    if (kept !== null) {
      this.fromCache++;
      this.#arrive(baseHash, kept);
      return;
    }
    this.#coming.set(pictureHash, { baseHash, format, pieces: new Arriving(pictureHash, size) });
    dropOldest(this.#coming, MOST);
    this.#ports.say(new WantPicture(pictureHash));
  }

  /**
   * Puts the picture together; one whose hash is not the one offered is dropped.
   * @param {ReferencePiece} piece
   */
  takePiece({ pictureHash, offset, data }) {
    const coming = this.#coming.get(pictureHash);
    if (coming === undefined || !coming.pieces.take(offset, data)) {
      this.#ports.drop("a piece of a further picture that was not asked for");
      return;
    }
    if (coming.pieces.offset < coming.pieces.size) return;
    this.#coming.delete(pictureHash);
    const whole = coming.pieces.whole();
    if (whole === null) {
      this.#ports.drop("a further picture without the hash that it was offered by");
      return;
    }
    const picture = new SourcePicture(coming.format, whole, pictureHash);
    this.#cache.put(picture);
    this.#arrive(coming.baseHash, picture);
  }

  /**
   * @param {string} baseHash
   * @param {SourcePicture} picture
   */
  #arrive(baseHash, picture) {
    this.#arrived.set(picture.pictureHash, { baseHash, picture });
    dropOldest(this.#arrived, MOST);
    this.#ports.got(baseHash, picture.pictureHash, picture.data);
  }

  /**
   * Frames can be shown on it from now on.
   * @param {string} pictureHash
   */
  ready(pictureHash) {
    const arrived = this.#arrived.get(pictureHash);
    if (arrived !== undefined) {
      this.#arrived.delete(pictureHash);
      this.#held.set(pictureHash, arrived);
    }
    this.#ports.say(new HavePicture(pictureHash));
  }

  /**
   * It cannot be used; nobody waits for it.
   * @param {string} pictureHash
   * @param {string} reason
   */
  refused(pictureHash, reason) {
    this.#arrived.delete(pictureHash);
    console.warn(`a further picture of the other side is not used: ${reason}`);
  }

  /**
   * The other side's source picture that is shown from now on; the further ones of others are forgotten.
   * @param {string | null} baseHash
   */
  show(baseHash) {
    this.#shown = baseHash;
    for (const [name, { baseHash: of }] of [...this.#held]) if (of !== baseHash) this.#held.delete(name);
  }
}
