// Range decoder over integer frequency tables, bit-exact. As `codec/range_coder.py`.

import { BadPacket } from "./errors.js";

export const TOTAL_BITS = 16;
export const TOTAL = 1 << TOTAL_BITS;
const FULL = 0xffffffff;
const BOTTOM = 1 << 24; // below this the range is widened by a byte

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
