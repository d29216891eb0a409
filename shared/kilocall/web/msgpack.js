// What msgpack values this project's formats hold, read with bounds and written in the shortest form: numbers, text,
// bytes, arrays, one extension.
//
// A library would lose what the formats ask for: whether a number was written as a whole one or as a float, and whether
// text is valid.

import { joined, utf8 } from "./bytes.js";
import { BadInput } from "./errors.js";

/** A number that was written as a float: JavaScript does not tell 50 from 50.0. */
export class Float {
  /** @param {number} value */
  constructor(value) {
    this.value = value;
  }
}

/** A Float that is written in 64 bits. */
export class Double extends Float {}

/** An extension value. */
export class Extension {
  /**
   * @param {number} code -128..127
   * @param {Uint8Array} data
   */
  constructor(code, data) {
    this.code = code;
    this.data = data;
  }
}

/** A map without entries; others are refused. */
export class EmptyMap {}

/** @typedef {null | boolean | number | bigint | string | Uint8Array | Float | Extension | EmptyMap} Scalar */
/** @typedef {Scalar | Values} Value whole numbers beyond 2^53 are bigint */
/** @typedef {Value[]} Values */

/** @typedef {{ mostArray?: number, mostExtension?: number }} Bounds */

const MOST_NESTED = 512;

/**
 * The one value that fills `data`. Raises BadInput with the reason.
 * @param {Uint8Array} data
 * @param {Bounds} [bounds] longest array and extension value; no bounds but the data's length where left out
 * @returns {Value}
 */
export function unpack(data, { mostArray = data.length, mostExtension = data.length } = {}) {
  const reader = new Reader(data, mostArray, mostExtension);
  const value = reader.value(0);
  if (reader.place !== data.length) throw new BadInput(`${data.length - reader.place} bytes are left over`);
  return value;
}

class Reader {
  /**
   * @param {Uint8Array} data
   * @param {number} mostArray
   * @param {number} mostExtension
   */
  constructor(data, mostArray, mostExtension) {
    this.data = data;
    this.view = new DataView(data.buffer, data.byteOffset, data.length);
    this.mostArray = mostArray;
    this.mostExtension = mostExtension;
    this.place = 0;
  }

  /**
   * @param {number} depth
   * @returns {Value}
   */
  value(depth) {
    if (depth > MOST_NESTED) throw new BadInput("values are nested too deep");
    const first = this.unsigned(1);
    if (first < 0x80) return first;
    if (first < 0x90) return this.map(first & 15);
    if (first < 0xa0) return this.array(first & 15, depth);
    if (first < 0xc0) return this.text(first & 31);
    if (first >= 0xe0) return first - 256;
    switch (first) {
      case 0xc0: return null;
      case 0xc2: return false;
      case 0xc3: return true;
      case 0xc4: return this.bytes(this.unsigned(1));
      case 0xc5: return this.bytes(this.unsigned(2));
      case 0xc6: return this.bytes(this.unsigned(4));
      case 0xc7: return this.extension(this.unsigned(1));
      case 0xc8: return this.extension(this.unsigned(2));
      case 0xc9: return this.extension(this.unsigned(4));
      case 0xca: return new Float(this.view.getFloat32(this.take(4)));
      case 0xcb: return new Float(this.view.getFloat64(this.take(8)));
      case 0xcc: return this.unsigned(1);
      case 0xcd: return this.unsigned(2);
      case 0xce: return this.unsigned(4);
      case 0xcf: return narrow(this.view.getBigUint64(this.take(8)));
      case 0xd0: return this.view.getInt8(this.take(1));
      case 0xd1: return this.view.getInt16(this.take(2));
      case 0xd2: return this.view.getInt32(this.take(4));
      case 0xd3: return narrow(this.view.getBigInt64(this.take(8)));
      case 0xd4: return this.extension(1);
      case 0xd5: return this.extension(2);
      case 0xd6: return this.extension(4);
      case 0xd7: return this.extension(8);
      case 0xd8: return this.extension(16);
      case 0xd9: return this.text(this.unsigned(1));
      case 0xda: return this.text(this.unsigned(2));
      case 0xdb: return this.text(this.unsigned(4));
      case 0xdc: return this.array(this.unsigned(2), depth);
      case 0xdd: return this.array(this.unsigned(4), depth);
      case 0xde: return this.map(this.unsigned(2));
      case 0xdf: return this.map(this.unsigned(4));
      default: throw new BadInput(`no msgpack value begins with ${first}`);
    }
  }

  /**
   * Where the next bytes begin, which are then behind.
   * @param {number} count
   */
  take(count) {
    const start = this.place;
    if (start + count > this.data.length) throw new BadInput("the value breaks off");
    this.place = start + count;
    return start;
  }

  /** @param {1 | 2 | 4} bytes */
  unsigned(bytes) {
    const at = this.take(bytes);
    return bytes === 1 ? this.view.getUint8(at) : bytes === 2 ? this.view.getUint16(at) : this.view.getUint32(at);
  }

  /** @param {number} length */
  bytes(length) {
    const start = this.take(length);
    return this.data.subarray(start, start + length);
  }

  /** @param {number} length */
  text(length) {
    const bytes = this.bytes(length);
    try {
      return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    } catch {
      throw new BadInput("text is not valid UTF-8");
    }
  }

  /** @param {number} length */
  extension(length) {
    if (length > this.mostExtension) throw new BadInput(`extension is ${length} bytes, most is ${this.mostExtension}`);
    const code = this.view.getInt8(this.take(1));
    return new Extension(code, this.bytes(length));
  }

  /**
   * @param {number} length
   * @param {number} depth
   */
  array(length, depth) {
    if (length > this.mostArray) throw new BadInput(`array has ${length} values, most is ${this.mostArray}`);
    /** @type {Value[]} */
    const values = [];
    for (let n = 0; n < length; n++) values.push(this.value(depth + 1));
    return values;
  }

  /** @param {number} length */
  map(length) {
    if (length) throw new BadInput(`map has ${length} entries, most is 0`);
    return new EmptyMap();
  }
}

/** @param {bigint} value */
function narrow(value) {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}

/**
 * An extension value in the shortest form.
 * @param {number} code 0..127
 * @param {Uint8Array} data
 */
export function packExtension(code, data) {
  const length = data.length;
  const fixed = [1, 2, 4, 8, 16].indexOf(length);
  const head =
    fixed >= 0 ? [0xd4 + fixed]
    : length < 256 ? [0xc7, length]
    : length < 65536 ? [0xc8, length >> 8, length & 255]
    : [0xc9, length >>> 24, (length >> 16) & 255, (length >> 8) & 255, length & 255];
  const whole = new Uint8Array(head.length + 1 + length);
  whole.set([...head, code]);
  whole.set(data, head.length + 1);
  return whole;
}

/**
 * One value as bytes, as Python's msgpack writes it: whole numbers in the shortest form, a Float in 32 bits, a
 * Double in 64.
 * @param {Value} value whole numbers up to 2^53; no Extension
 * @returns {Uint8Array}
 */
export function pack(value) {
  if (value === null) return Uint8Array.of(0xc0);
  if (typeof value === "boolean") return Uint8Array.of(value ? 0xc3 : 0xc2);
  if (typeof value === "number") return packWhole(value);
  if (typeof value === "string") {
    const text = utf8(value);
    return joined([text.length < 32 ? Uint8Array.of(0xa0 | text.length) : head(0xd9, text.length), text]);
  }
  if (value instanceof Uint8Array) return joined([head(0xc4, value.length), value]);
  if (value instanceof Double) {
    const view = new DataView(new ArrayBuffer(9));
    view.setUint8(0, 0xcb);
    view.setFloat64(1, value.value);
    return new Uint8Array(view.buffer);
  }
  if (value instanceof Float) {
    const view = new DataView(new ArrayBuffer(5));
    view.setUint8(0, 0xca);
    view.setFloat32(1, value.value);
    return new Uint8Array(view.buffer);
  }
  if (Array.isArray(value)) {
    const { length } = value;
    const begin = length < 16 ? Uint8Array.of(0x90 | length) : length < 65536 ? Uint8Array.of(0xdc, length >> 8, length & 255) : null;
    if (begin !== null) return joined([begin, ...value.map(pack)]);
  }
  throw new BadInput("a value that is not written here");
}

/** @param {number} value */
function packWhole(value) {
  if (!Number.isSafeInteger(value) && value !== 2 ** 53) throw new BadInput(`${value} is not a whole number up to 2^53`);
  if (value >= 0) {
    if (value < 0x80) return Uint8Array.of(value);
    return value < 2 ** 32 ? head(0xcc, value) : wide(0xcf, value);
  }
  if (value >= -32) return Uint8Array.of(256 + value);
  if (value >= -(2 ** 7)) return Uint8Array.of(0xd0, 256 + value);
  if (value >= -(2 ** 15)) return Uint8Array.of(0xd1, (value >> 8) & 255, value & 255);
  if (value >= -(2 ** 31)) return Uint8Array.of(0xd2, value >>> 24, (value >> 16) & 255, (value >> 8) & 255, value & 255);
  return wide(0xd3, value);
}

/**
 * A first byte and a number behind it, in one, two or four bytes: the kinds of those follow each other.
 * @param {number} kind of one byte
 * @param {number} value
 */
function head(kind, value) {
  if (value < 256) return Uint8Array.of(kind, value);
  if (value < 65536) return Uint8Array.of(kind + 1, value >> 8, value & 255);
  return Uint8Array.of(kind + 2, value >>> 24, (value >> 16) & 255, (value >> 8) & 255, value & 255);
}

/**
 * @param {number} kind
 * @param {number} value
 */
function wide(kind, value) {
  const view = new DataView(new ArrayBuffer(9));
  view.setUint8(0, kind);
  view.setBigInt64(1, BigInt(value));
  return new Uint8Array(view.buffer);
}
