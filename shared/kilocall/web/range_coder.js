// Range coder over integer frequency tables: symbols to the fewest whole bytes and back, bit-exact.
// As `codec/range_coder.py`.

import { BadPacket } from "./errors.js";

export const TOTAL_BITS = 16;
export const TOTAL = 1 << TOTAL_BITS;
const FULL = 0xffffffff;
const BOTTOM = 1 << 24; // below this the range is widened by a byte

/** @typedef {[number, number]} Interval start and frequency, of 0..65535 */

/**
 * The interval of `value` in 0..2^bits-1 coded without a model, `bits` at most 16.
 * @param {number} value
 * @param {number} bits
 * @returns {Interval}
 */
export function rawInterval(value, bits) {
  return [value * 2 ** (TOTAL_BITS - bits), 2 ** (TOTAL_BITS - bits)];
}

/** Collects intervals; `finish()` gives the bytes. */
export class RangeEncoder {
  constructor() {
    this.low = 0n; // as long as the payload, so that a carry needs no special case
    this.range = FULL;
    this.shifted = 0;
  }

  /** @param {Interval} interval */
  encode([start, frequency]) {
    const unit = this.range >>> TOTAL_BITS;
    this.low += BigInt(unit * start);
    this.range = unit * frequency;
    while (this.range < BOTTOM) {
      this.low <<= 8n;
      this.range *= 256;
      this.shifted++;
    }
  }

  /** The shortest bytes that decode to what was coded; empty when zeros say it all. */
  finish() {
    const length = 4 + this.shifted;
    const end = this.low + BigInt(this.range);
    for (let kept = 0; ; kept++) {
      const unit = BigInt(8 * (length - kept));
      const value = -(-this.low >> unit); // rounded up
      if (value << unit >= end) continue;
      const bytes = new Uint8Array(kept);
      for (let at = kept - 1, rest = value; at >= 0; at--, rest >>= 8n) bytes[at] = Number(rest & 255n);
      return bytes.subarray(0, bytes.findLastIndex((byte) => byte !== 0) + 1);
    }
  }
}

/**
 * Reads what the encoder wrote. Never reads past `data`: missing bytes are zero. The caller knows how many symbols to ask
 * for, and asks `checkEnd()` after the last.
 */
export class RangeDecoder {
  /** @param {Uint8Array} data */
  constructor(data) {
    this.data = data;
    this.position = 4;
    // Not shifts: they would make it negative.
    this.code = [0, 1, 2, 3].reduce((code, at) => code * 256 + (data[at] ?? 0), 0);
    this.range = FULL;
  }

  /**
   * The next symbol.
   * @param {ArrayLike<number>} cumulative rises from 0 to 65536, one entry more than there are symbols
   */
  decode(cumulative) {
    const unit = this.range >>> TOTAL_BITS;
    const value = this.#value(unit);
    let low = 0;
    let high = cumulative.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (cumulative[middle] <= value) low = middle;
      else high = middle;
    }
    this.#narrow(unit, cumulative[low], cumulative[low + 1] - cumulative[low]);
    return low;
  }

  /**
   * The next value in 0..2^bits-1 coded without a model.
   * @param {number} bits at most 16
   */
  decodeRaw(bits) {
    const unit = this.range >>> TOTAL_BITS;
    const value = this.#value(unit) >> (TOTAL_BITS - bits);
    this.#narrow(unit, value << (TOTAL_BITS - bits), 1 << (TOTAL_BITS - bits));
    return value;
  }

  /** Raises BadPacket when bytes are left over or end in zeros, which the encoder never writes. */
  checkEnd() {
    const over = this.data.length - this.position;
    if (over > 0) throw new BadPacket(`range-coded data has ${over} bytes left over`);
    if (this.data.at(-1) === 0) {
      throw new BadPacket("range-coded data ends in a zero byte, which the encoder leaves out");
    }
  }

  /** @param {number} unit */
  #value(unit) {
    const value = Math.floor(this.code / unit);
    if (value >= TOTAL) throw new BadPacket("range-coded data names a value outside every symbol");
    return value;
  }

  /**
   * @param {number} unit
   * @param {number} start
   * @param {number} frequency
   */
  #narrow(unit, start, frequency) {
    this.code -= unit * start;
    this.range = unit * frequency;
    while (this.range < BOTTOM) {
      this.code = this.code * 256 + (this.data[this.position] ?? 0);
      this.position++;
      this.range *= 256;
    }
  }
}
