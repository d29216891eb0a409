// What one side holds as bytes and the other may hold already, brought over on the reliable channel by its hash.
//
// As `control/exchange.py`, for source pictures: the one kind that there is.
//
//     offer (the hash alone)  ->
//                             <-  WantPicture, unless it is in memory or in the cache
//     the message with data   ->      a Peer sends it in parts, at a bounded rate, with motion in between
//                             <-  HavePicture, once it can be used

import { joined, sha256 } from "./bytes.js";
import { HavePicture, MAX_PICTURE_BYTES, SourcePicture, WantPicture, parseControl } from "./control.js";
import { BadInput, BadPacket } from "./errors.js";

/** @typedef {import("./control.js").ControlMessage} ControlMessage */
/** @typedef {import("./blob_store.js").BlobStore} BlobStore */

const PAST = 16;

/**
 * What is exchanged, and its bounds.
 * @typedef {object} Kind
 * @property {string} name
 * @property {number} mostBytes of data; a larger one is not offered, and dropped when it comes
 * @property {number} offers so many are open at a time in each direction; another takes the place of the oldest
 * @property {number} everyUs in this time no more than `offers` new ones are looked at
 * @property {number} kept of the other side's, in memory, for as long as the call lasts; what is in use comes on top
 */

/**
 * A new picture for the other side to keep and prepare; more often than twice a second is no wish of a person.
 * @type {Kind}
 */
export const PICTURES = { name: "pictures", mostBytes: MAX_PICTURE_BYTES, offers: 1, everyUs: 500_000, kept: 3 };

/** Bytes of a known hash and size on their way, put together from pieces that come in order. */
export class Arriving {
  /** @type {Uint8Array[]} */
  #pieces = [];

  /**
   * @param {string} blobHash
   * @param {number} size
   */
  constructor(blobHash, size) {
    this.blobHash = blobHash;
    this.size = size;
    /** Where the next piece begins; `size` when all are here. */
    this.offset = 0;
  }

  /**
   * Adds the next piece; false for one that does not begin where the last ended, or goes past the end.
   * @param {number} offset
   * @param {Uint8Array} piece
   */
  take(offset, piece) {
    if (offset !== this.offset || offset + piece.length > this.size) return false;
    this.#pieces.push(piece.slice());
    this.offset += piece.length;
    return true;
  }

  /** All of it once it is here; null where the hash is another than the one that was told. */
  whole() {
    const data = joined(this.#pieces);
    return sha256(data) === this.blobHash ? data : null;
  }
}

/** The other sides' pictures by hash: some in memory, more in a store that outlives the page, if there is one. */
export class Cache {
  /** @type {Map<string, SourcePicture>} the newest last */
  #memory = new Map();
  #store;
  #most;

  /**
   * @param {BlobStore | null} store
   * @param {{ inMemory?: number }} bounds
   */
  constructor(store, { inMemory = 8 } = {}) {
    this.#store = store;
    this.#most = inMemory;
  }

  /** @param {string} blobHash */
  get(blobHash) {
    const found = this.#memory.get(blobHash) ?? this.#stored(blobHash);
    if (found !== null) this.#remember(found);
    return found;
  }

  /** @param {SourcePicture} picture */
  put(picture) {
    this.#remember(picture);
    this.#store?.put(picture.pictureHash, picture.bytes());
  }

  /** @param {string} blobHash */
  #stored(blobHash) {
    const data = this.#store?.get(blobHash);
    if (data === undefined) return null;
    // One that is damaged, or not ours, is as good as none.
    try {
      const read = parseControl(data);
      return read instanceof SourcePicture && read.data.length && read.pictureHash === blobHash ? read : null;
    } catch (error) {
      if (!(error instanceof BadPacket)) throw error;
      return null;
    }
  }

  /** @param {SourcePicture} picture */
  #remember(picture) {
    this.#memory.delete(picture.pictureHash);
    this.#memory.set(picture.pictureHash, picture);
    dropOldest(this.#memory, this.#most);
  }
}

/**
 * What its owner does for an Exchange. `got` is called with everything of the other side's that is here, and answered by
 * `ready` or `refused`; `offered` with each hash and whether it is the connection's first, before that; `confirmed` with a
 * hash of this side's that the other side can use from now on. `inUse` are hashes of the other side's that stay in memory.
 * @typedef {object} ExchangePorts
 * @property {(message: ControlMessage) => void} say sends a control message over what is open now
 * @property {(why: string) => void} drop counts one that makes no sense
 * @property {() => number} clockUs
 * @property {(picture: SourcePicture) => void} got
 * @property {(blobHash: string, first: boolean) => void} offered
 * @property {(blobHash: string) => void} confirmed
 * @property {() => readonly (string | null)[]} inUse
 */

/** Both directions of one kind, over one connection after the other. */
export class Exchange {
  #ports;
  #cache;
  /** @type {Map<string, SourcePicture>} */
  #own = new Map();
  /** @type {Map<string, SourcePicture>} */
  #theirs = new Map();
  /** @type {Set<string>} */
  #wanted = new Set();
  // What a newer one has taken the place of may still be asked for, or come: nobody's fault.
  /** @type {string[]} */
  #pastOwn = [];
  /** @type {string[]} */
  #pastWanted = [];
  /** @type {number[]} */
  #offersUs = [];

  /**
   * @param {Kind} kind
   * @param {ExchangePorts} ports
   * @param {BlobStore | null} store
   */
  constructor(kind, ports, store = null) {
    this.kind = kind;
    this.sent = 0;
    this.sentBytes = 0;
    this.fromCache = 0;
    /** @type {Set<string>} this side's that the other side has confirmed on this connection */
    this.confirmed = new Set();
    this.#ports = ports;
    this.#cache = new Cache(store);
  }

  /** Another connection: what this side has is offered again. */
  opened() {
    this.confirmed.clear();
    this.#wanted.clear();
    this.#offersUs = [];
    for (const picture of this.#own.values()) this.#ports.say(picture.offer());
  }

  // This side's

  /**
   * Offers something now, and again with every connection. Throws BadInput when it is too large.
   * @param {SourcePicture} picture
   */
  offer(picture) {
    const { name, mostBytes, offers } = this.kind;
    if (picture.data.length > mostBytes) throw new BadInput(`${name}: ${picture.data.length} bytes, most is ${mostBytes}`);
    this.#own.delete(picture.pictureHash);
    this.#own.set(picture.pictureHash, picture);
    for (const old of dropOldest(this.#own, offers)) remember(this.#pastOwn, old, PAST);
    this.#ports.say(picture.offer());
  }

  /**
   * Answers WantPicture; false when that was never offered here.
   * @param {string} blobHash
   */
  send(blobHash) {
    const picture = this.#own.get(blobHash);
    if (picture === undefined) return this.#pastOwn.includes(blobHash);
    this.sent++;
    this.sentBytes += picture.data.length;
    this.#ports.say(picture);
    return true;
  }

  /**
   * Takes HavePicture; false when that was never offered here.
   * @param {string} blobHash
   */
  confirm(blobHash) {
    if (!this.#own.has(blobHash)) return this.#pastOwn.includes(blobHash);
    this.confirmed.add(blobHash);
    this.#ports.confirmed(blobHash);
    return true;
  }

  // The other side's

  /**
   * An offer, or what was asked for.
   * @param {SourcePicture} picture
   */
  take(picture) {
    if (picture.data.length) this.#takeData(picture);
    else if (this.#inTime()) this.#takeOffer(picture.pictureHash);
    else this.#ports.drop("offers follow each other too fast");
  }

  /**
   * What is here of the other side's.
   * @param {string | null} blobHash
   */
  get(blobHash) {
    return this.#theirs.get(blobHash ?? "") ?? null;
  }

  /**
   * This side can use it: the other side learns that.
   * @param {string} blobHash
   */
  ready(blobHash) {
    this.#ports.say(new HavePicture(blobHash));
  }

  /**
   * This side cannot use it.
   * @param {string} blobHash
   */
  refused(blobHash) {
    this.#theirs.delete(blobHash);
  }

  #inTime() {
    const { offers, everyUs } = this.kind;
    return this.#offersUs.length < offers || this.#ports.clockUs() - this.#offersUs[0] >= everyUs;
  }

  /** @param {string} blobHash */
  #takeOffer(blobHash) {
    this.#ports.offered(blobHash, !this.#offersUs.length);
    remember(this.#offersUs, this.#ports.clockUs(), this.kind.offers);
    const held = this.#theirs.get(blobHash) ?? this.#cache.get(blobHash);
    if (held !== null) {
      this.fromCache++;
      this.#keep(held);
      return;
    }
    this.#wanted.add(blobHash);
    while (this.#wanted.size > this.kind.offers) {
      const [oldest] = this.#wanted;
      this.#wanted.delete(oldest);
      remember(this.#pastWanted, oldest, PAST);
    }
    this.#ports.say(new WantPicture(blobHash));
  }

  /** @param {SourcePicture} picture */
  #takeData(picture) {
    if (!this.#wanted.delete(picture.pictureHash)) {
      if (!this.#pastWanted.includes(picture.pictureHash)) this.#ports.drop("SourcePicture that was not asked for");
      return;
    }
    if (picture.data.length > this.kind.mostBytes) {
      this.#ports.drop(`SourcePicture of ${picture.data.length} bytes, most is ${this.kind.mostBytes}`);
      return;
    }
    this.#cache.put(picture);
    this.#keep(picture);
  }

  /** @param {SourcePicture} picture */
  #keep(picture) {
    // One that is here already keeps its place, as in a dict of Python.
    this.#theirs.set(picture.pictureHash, picture);
    const stay = new Set([picture.pictureHash, ...this.#ports.inUse()]);
    for (const old of [...this.#theirs.keys()]) {
      if (this.#theirs.size > this.kind.kept && !stay.has(old)) this.#theirs.delete(old);
    }
    this.#ports.got(picture);
  }
}

/**
 * Keeps the newest `most` of a map; what went.
 * @template Key, Item
 * @param {Map<Key, Item>} map
 * @param {number} most
 */
export function dropOldest(map, most) {
  const gone = [...map.keys()].slice(0, Math.max(0, map.size - most));
  for (const key of gone) map.delete(key);
  return gone;
}

/**
 * Adds to a list that holds so many at most.
 * @template Item
 * @param {Item[]} list
 * @param {Item} item
 * @param {number} most
 */
export function remember(list, item, most) {
  list.push(item);
  while (list.length > most) list.shift();
}
