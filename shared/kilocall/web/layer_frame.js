// Frames of the layer: a thin video stream under the motion, one AV1 temporal unit each, in fragments on the wire.
//
//   number u8 | key 1, last 1, index 3, whole 1, zero 2 bits | time u16 | length LEB128 | data
//
// `proto/wire.md` has examples. As `proto/layer_frame.py`.

import { joined, same, unsigned } from "./bytes.js";
import { BadInput, BadPacket } from "./errors.js";
import { TIMES_MS, modulo, timeInFullUs } from "./motion_packet.js";

/** Layer frames count modulo this. */
export const LAYER_NUMBERS = 256;
/** Of a frame, and in a message. */
export const MAX_FRAGMENTS = 8;
export const MAX_FRAGMENT_BYTES = 1000;
export const MAX_LAYER_BYTES = MAX_FRAGMENTS * MAX_FRAGMENT_BYTES;
/** Frames of which a receiver waits for the rest: at 25 frames a second a sixth of one, and 32 KB. */
export const MAX_UNFINISHED = 4;

const FIXED_BYTES = 4;
const [KEY, LAST, INDEX_SHIFT, WHOLE, ZERO] = [0x80, 0x40, 3, 0x04, 0x03];
const WINDOW = LAYER_NUMBERS / 2;
const TIME_BYTES = 5;

/**
 * Of a fragment in a message: so many bytes of data, and its header.
 * @param {number} dataBytes
 */
export function fragmentBytes(dataBytes) {
  return FIXED_BYTES + (dataBytes > 127 ? 2 : 1) + dataBytes;
}

/** One coded frame of the layer. */
export class LayerFrame {
  /**
   * Raises BadPacket when a field is out of its range.
   * @param {object} fields
   * @param {number} fields.number 0..255; counts coded layer frames and wraps
   * @param {number} fields.timeMs capture time on the sender's clock, milliseconds modulo 65536, as a motion packet's
   * @param {boolean} fields.key whether it can be decoded without any other
   * @param {Uint8Array} fields.data an AV1 temporal unit without its temporal delimiter, 1 to MAX_LAYER_BYTES bytes
   * @param {boolean} [fields.whole] whether it is the camera's whole picture, to be shown as it is, and not the crop under the
   * motion
   */
  constructor({ number, timeMs, key, data, whole = false }) {
    this.number = number;
    this.timeMs = timeMs;
    this.key = key;
    this.data = data;
    this.whole = whole;
    check("frame number", number, 0, LAYER_NUMBERS - 1);
    check("frame timeMs", timeMs, 0, TIMES_MS - 1);
    if (data.length < 1 || data.length > MAX_LAYER_BYTES) {
      throw new BadPacket(`layer frame is ${data.length} bytes, allowed are 1 to ${MAX_LAYER_BYTES}`);
    }
  }

  /**
   * Capture time in full: the moment nearest to `nearUs` that ends in `timeMs`.
   * @param {number} nearUs
   */
  timeUs(nearUs) {
    return timeInFullUs(this.timeMs, nearUs);
  }

  /**
   * The frame in pieces of `most` bytes of data, the last one shorter. Raises BadPacket for more than eight.
   * @param {number} most
   */
  fragments(most) {
    check("fragment data's limit", most, 1, MAX_FRAGMENT_BYTES);
    const { number, timeMs, key, data, whole } = this;
    const count = Math.ceil(data.length / most);
    if (count > MAX_FRAGMENTS) {
      throw new BadPacket(`layer frame of ${data.length} bytes is ${count} fragments of ${most} bytes, most is ${MAX_FRAGMENTS}`);
    }
    return Array.from({ length: count }, (_, index) => new LayerFragment({
      number, timeMs, key, index, last: index === count - 1, data: data.subarray(index * most, (index + 1) * most), whole,
    }));
  }
}

/** A piece of a layer frame. */
export class LayerFragment {
  /**
   * Raises BadPacket when a field is out of its range.
   * @param {object} fields
   * @param {number} fields.number of the frame, as are the next two, and `whole`
   * @param {number} fields.timeMs
   * @param {boolean} fields.key
   * @param {number} fields.index 0..7: which piece of the frame
   * @param {boolean} fields.last whether the frame ends with it; piece 7 is always the last
   * @param {Uint8Array} fields.data 1 to MAX_FRAGMENT_BYTES bytes
   * @param {boolean} [fields.whole]
   */
  constructor({ number, timeMs, key, index, last, data, whole = false }) {
    this.number = number;
    this.timeMs = timeMs;
    this.key = key;
    this.index = index;
    this.last = last;
    this.data = data;
    this.whole = whole;
    check("fragment number", number, 0, LAYER_NUMBERS - 1);
    check("fragment timeMs", timeMs, 0, TIMES_MS - 1);
    check("fragment index", index, 0, MAX_FRAGMENTS - 1);
    if (index === MAX_FRAGMENTS - 1 && !last) {
      throw new BadPacket(`layer fragment ${index} is not the last, and none can follow`);
    }
    if (data.length < 1 || data.length > MAX_FRAGMENT_BYTES) {
      throw new BadPacket(`layer fragment has ${data.length} bytes of data, allowed are 1 to ${MAX_FRAGMENT_BYTES}`);
    }
  }

  /** What goes on the wire; `parseRun` reads any number of them. */
  bytes() {
    const { length } = this.data;
    const flags = (this.key ? KEY : 0) | (this.last ? LAST : 0) | this.index << INDEX_SHIFT | (this.whole ? WHOLE : 0);
    const size = length < 128 ? [length] : [length & 127 | 128, length >> 7];
    return joined([Uint8Array.of(this.number, flags, this.timeMs >> 8, this.timeMs & 255, ...size), this.data]);
  }

  /**
   * Reads fragments one behind the other that fill `data` exactly; none where it is empty. Raises BadPacket.
   * @param {Uint8Array} data
   */
  static parseRun(data) {
    /** @type {LayerFragment[]} */
    const found = [];
    for (let place = 0; place < data.length;) {
      if (found.length === MAX_FRAGMENTS) throw new BadPacket(`more than ${MAX_FRAGMENTS} layer fragments in a message`);
      const { fragment, end } = taken(data, place);
      found.push(fragment);
      place = end;
    }
    return found;
  }
}

/**
 * The fragment at `start`, and where it ends.
 * @param {Uint8Array} data
 * @param {number} start
 */
function taken(data, start) {
  let place = start + FIXED_BYTES;
  if (place >= data.length) throw new BadPacket(`layer fragment is cut after ${data.length - start} bytes, inside its header`);
  const [number, flags] = [data[start], data[start + 1]];
  if (flags & ZERO) throw new BadPacket(`layer fragment has flags ${flags.toString(2)}, the last two bits must be zero`);
  let length = data[place++];
  if (length > 127) {
    if (place === data.length) throw new BadPacket("layer fragment is cut inside its length");
    if (data[place] < 1 || data[place] > 127) throw new BadPacket("layer fragment states its length in more digits than it needs");
    length = length & 127 | data[place++] << 7;
  }
  const end = place + length;
  if (end > data.length) throw new BadPacket(`layer fragment of ${length} bytes is cut after ${data.length - place}`);
  const fragment = new LayerFragment({
    number,
    timeMs: data[start + 2] << 8 | data[start + 3],
    key: Boolean(flags & KEY),
    index: flags >> INDEX_SHIFT & MAX_FRAGMENTS - 1,
    last: Boolean(flags & LAST),
    data: data.subarray(place, end),
    whole: Boolean(flags & WHOLE),
  });
  return { fragment, end };
}

/**
 * Puts fragments together that come in any order, some of them twice and some never.
 *
 * Frames are given in the order in which they become whole, each once. Numbers are compared modulo 256: up to 128 ahead of the
 * newest is newer, what lies further back than 127 is not known any more. Holds the pieces of at most MAX_UNFINISHED frames,
 * the newest ones.
 */
export class LayerAssembly {
  constructor() {
    /** Frames dropped before all of their fragments had come. */
    this.givenUp = 0;
    /** Fragments dropped: repeated, or of a frame that was given or given up before. */
    this.unused = 0;
    /** Fragments dropped because they contradict another one of their frame. */
    this.refused = 0;
    /** @type {Map<number, Unfinished>} */
    this.unfinished = new Map();
    /** @type {Set<number>} given or given up, as far back as the window goes */
    this.closed = new Set();
    /** @type {LayerFragment | null} */
    this.newest = null;
  }

  /**
   * The whole frame with its last missing fragment, otherwise null.
   * @param {LayerFragment} fragment
   * @returns {LayerFrame | null}
   */
  add(fragment) {
    const { number } = fragment;
    let held = this.unfinished.get(number);
    if (held === undefined) {
      this.#advance(fragment);
      if (this.closed.has(number)) {
        this.unused++;
        return null;
      }
      held = new Unfinished(fragment);
      this.unfinished.set(number, held);
    } else if (held.contradicts(fragment)) {
      this.refused++;
      return null;
    } else if (held.pieces.has(fragment.index)) {
      this.unused++;
      return null;
    }
    const frame = held.add(fragment);
    if (frame !== null) {
      this.unfinished.delete(number);
      this.closed.add(number);
    } else if (this.unfinished.size > MAX_UNFINISHED) {
      this.#giveUp([...this.unfinished.keys()].reduce((oldest, one) => (this.#age(one) > this.#age(oldest) ? one : oldest)));
    }
    return frame;
  }

  /**
   * Moves the window to a fragment that is newer than all before.
   * @param {LayerFragment} fragment
   */
  #advance(fragment) {
    const { newest } = this;
    if (newest !== null && this.#age(fragment.number) < WINDOW) {
      const laterMs = modulo(fragment.timeMs - newest.timeMs, TIMES_MS);
      if (fragment.number === newest.number || laterMs === 0 || laterMs >= TIMES_MS / 2) return;
      // Older by its number, newer by its time: more than 128 frames were lost in a row, or the sender began anew. Without this
      // all would be taken for repeats until the numbers are past the newest again, for 10 s or more.
      for (const number of [...this.unfinished.keys()]) this.#giveUp(number);
      this.closed.clear();
    }
    this.newest = fragment;
    for (const number of [...this.unfinished.keys()]) if (this.#age(number) >= WINDOW) this.#giveUp(number);
    for (const number of [...this.closed]) if (this.#age(number) >= WINDOW) this.closed.delete(number);
  }

  /**
   * How many frames before the newest, modulo 256.
   * @param {number} number
   */
  #age(number) {
    return this.newest === null ? 0 : modulo(this.newest.number - number, LAYER_NUMBERS);
  }

  /** @param {number} number */
  #giveUp(number) {
    this.unfinished.delete(number);
    this.closed.add(number);
    this.givenUp++;
  }
}

/** The pieces of one frame that have come. */
class Unfinished {
  /** @type {number | null} */
  #last = null;

  /** @param {LayerFragment} first */
  constructor(first) {
    this.first = first;
    /** @type {Map<number, LayerFragment>} */
    this.pieces = new Map();
  }

  /**
   * Whether `other` cannot be of the same frame.
   * @param {LayerFragment} other
   */
  contradicts(other) {
    const { key, timeMs, whole } = this.first;
    if (other.key !== key || other.timeMs !== timeMs || other.whole !== whole) return true;
    const held = this.pieces.get(other.index);
    if (held !== undefined) return held.last !== other.last || !same(held.data, other.data);
    if (other.last) return this.#last !== null || other.index < Math.max(...this.pieces.keys());
    return this.#last !== null && other.index > this.#last;
  }

  /**
   * @param {LayerFragment} fragment
   * @returns {LayerFrame | null}
   */
  add(fragment) {
    this.pieces.set(fragment.index, fragment);
    if (fragment.last) this.#last = fragment.index;
    if (this.#last === null || this.pieces.size <= this.#last) return null;
    const { number, timeMs, key, whole } = fragment;
    const parts = [...this.pieces.values()].sort((one, other) => one.index - other.index);
    return new LayerFrame({ number, timeMs, key, data: joined(parts.map(({ data }) => data)), whole });
  }
}

/** A layer frame in a stream file: time u40, counted from the stream's start | 1: key, else 0 u8 | data. */
export class TimedLayerFrame {
  /**
   * Raises BadInput for a field out of range.
   * @param {number} timeUs
   * @param {boolean} key
   * @param {Uint8Array} data a whole one without any is no frame: it says that the camera is shown no more
   * @param {boolean} [whole] whether it is the camera's whole picture; a record of a type of its own
   */
  constructor(timeUs, key, data, whole = false) {
    this.timeUs = timeUs;
    this.key = key;
    this.data = data;
    this.whole = whole;
    if (!(timeUs >= 0 && timeUs < 2 ** (8 * TIME_BYTES))) {
      throw new BadInput(`layer frame time is ${timeUs} us, allowed is 0 to ${2 ** (8 * TIME_BYTES) - 1}`);
    }
    const least = whole && !key ? 0 : 1;
    if (data.length < least || data.length > MAX_LAYER_BYTES) {
      throw new BadInput(`layer frame is ${data.length} bytes, allowed are ${least} to ${MAX_LAYER_BYTES}`);
    }
  }

  bytes() {
    const time = new DataView(new ArrayBuffer(8));
    time.setBigUint64(0, BigInt(this.timeUs));
    return joined([new Uint8Array(time.buffer, 8 - TIME_BYTES), Uint8Array.of(Number(this.key)), this.data]);
  }

  /**
   * Raises BadInput for bytes that are none.
   * @param {Uint8Array} body
   * @param {boolean} [whole]
   */
  static parse(body, whole = false) {
    const start = TIME_BYTES + 1;
    if (body.length < start) throw new BadInput(`layer frame record is ${body.length} bytes, its time and flags need ${start}`);
    const flags = body[TIME_BYTES];
    if (flags > 1) throw new BadInput(`layer frame record has flags ${flags}, allowed are 0 and 1`);
    return new TimedLayerFrame(unsigned(body.subarray(0, TIME_BYTES)), Boolean(flags), body.subarray(start), whole);
  }
}

/**
 * @param {string} name
 * @param {number} value
 * @param {number} least
 * @param {number} most
 */
function check(name, value, least, most) {
  if (value >= least && value <= most) return;
  throw new BadPacket(`layer ${name} is ${value}, allowed is ${least} to ${most}`);
}
