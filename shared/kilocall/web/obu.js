// AV1 temporal units of the video layer: what is given to a browser's decoder, and nothing else. As `runtime/obu.py`.
//
// A unit is a run of open bitstream units (AV1 Bitstream & Decoding Process Specification, 5.3): a sequence header, on key
// frames alone, and one frame. A browser's decoder cannot be told how large a picture may be, so the size is read here.

import { joined } from "./bytes.js";
import { BadPacket } from "./errors.js";

export const MOST_SIDE = 256;

const SEQUENCE_HEADER = 1;
const TEMPORAL_DELIMITER = 2;
const FRAME = 6;
const KEY_FRAME = 0;
const DELIMITER = Uint8Array.of(TEMPORAL_DELIMITER << 3 | 2, 0);
const MOST_LENGTH_BYTES = 4;
/** With no more bits for it a frame says no other side than one up to MOST_SIDE, whatever the header's largest is. */
const MOST_SIDE_BITS = 8;
/** Of a camera's whole picture, which may be twice as long as wide and has no more pixels. */
const MOST_WHOLE_BITS = 9;

/**
 * The unit as it is sent: its two first bytes say nothing that a message's end does not.
 * @param {Uint8Array} unit
 */
export function withoutDelimiter(unit) {
  return unit[0] === DELIMITER[0] && unit[1] === DELIMITER[1] ? unit.subarray(DELIMITER.length) : unit;
}

/**
 * Whether a unit that was checked can be decoded without any other: its sequence header comes first.
 * @param {Uint8Array} data
 */
export function isKey(data) {
  return data[0] >> 3 === SEQUENCE_HEADER;
}

/**
 * The unit for a decoder, with its delimiter. Raises BadPacket for anything but a sequence header and a frame, or a frame
 * alone; the frame is one that is shown, and a picture of at most 256x256.
 * @param {Uint8Array} data
 * @param {{ key: boolean, whole?: boolean }} wanted whether it has to be one that needs no other; a camera's `whole` picture is
 * of any shape, with as many pixels
 */
export function checkedUnit(data, { key, whole = false }) {
  const found = unitsOf(data);
  const kinds = found.map(({ kind }) => kind).join();
  const header = kinds === `${SEQUENCE_HEADER},${FRAME}`;
  if (!header && kinds !== `${FRAME}`) {
    throw new BadPacket(`layer frame holds open bitstream units [${kinds}], allowed are [1,6] and [6]`);
  }
  const frame = found[found.length - 1].payload;
  if (header) checkSequence(found[0].payload, whole);
  if (!frame.length) throw new BadPacket("layer frame has an empty frame");
  // show_existing_frame 1, frame_type 2, show_frame 1 bit.
  if ((frame[0] & 0b1001_0000) !== 0b0001_0000) throw new BadPacket("layer frame is none that is shown");
  if (key && !(header && frame[0] >> 5 === KEY_FRAME)) throw new BadPacket("layer frame is said to be a key frame and is none");
  return joined([DELIMITER, data]);
}

/**
 * Type and payload of each open bitstream unit. Raises BadPacket where one does not fit.
 * @param {Uint8Array} data
 */
function unitsOf(data) {
  /** @type {{ kind: number, payload: Uint8Array }[]} */
  const found = [];
  for (let at = 0; at < data.length;) {
    const header = data[at];
    // Forbidden bit, extension, reserved bit: the layer has neither spatial nor temporal layers of its own.
    if (header & 0b1000_0101 || !(header & 0b10)) {
      throw new BadPacket(`layer frame has an open bitstream unit with header 0x${header.toString(16)}`);
    }
    const { value: size, at: start } = leb128(data, at + 1);
    if (size > data.length - start) throw new BadPacket(`layer frame breaks off: a unit of ${size} bytes has ${data.length - start}`);
    found.push({ kind: header >> 3 & 15, payload: data.subarray(start, start + size) });
    at = start + size;
  }
  return found;
}

/**
 * @param {Uint8Array} data
 * @param {number} at
 */
function leb128(data, at) {
  let value = 0;
  for (let digit = 0; digit < MOST_LENGTH_BYTES && at < data.length; digit++, at++) {
    value |= (data[at] & 127) << 7 * digit;
    if (data[at] < 128) return { value, at: at + 1 };
  }
  throw new BadPacket("layer frame has a unit whose length has no end");
}

/**
 * Raises BadPacket unless the header allows no picture but squares of at most 256x256 (5.5.1), or others with no more pixels.
 * @param {Uint8Array} header
 * @param {boolean} whole
 */
function checkSequence(header, whole) {
  const bits = new Bits(header);
  const profile = bits.take(3);
  if (profile !== 0) throw new BadPacket(`layer is AV1 of profile ${profile}, allowed is 0`);
  bits.take(1); // still_picture
  if (bits.take(1)) throw new BadPacket("layer has the header of a still picture");
  let [decoderModel, delayBits] = [0, 0];
  if (bits.take(1)) { // timing_info_present_flag
    bits.skip(64);
    if (bits.take(1)) bits.skipUvlc(); // equal_picture_interval
    decoderModel = bits.take(1);
    if (decoderModel) {
      delayBits = bits.take(5) + 1;
      bits.skip(42);
    }
  }
  const displayDelay = bits.take(1);
  for (let points = bits.take(5) + 1; points > 0; points--) {
    bits.skip(12);
    if (bits.take(5) > 7) bits.skip(1); // seq_tier
    if (decoderModel && bits.take(1)) bits.skip(2 * delayBits + 1);
    if (displayDelay && bits.take(1)) bits.skip(4);
  }
  const [wide, high] = [bits.take(4) + 1, bits.take(4) + 1];
  const [width, height] = [bits.take(wide) + 1, bits.take(high) + 1];
  const bitsOfSide = whole ? MOST_WHOLE_BITS : MOST_SIDE_BITS;
  if (!(whole || width === height) || width * height > MOST_SIDE * MOST_SIDE || Math.max(wide, high) > bitsOfSide) {
    throw new BadPacket(`layer's pictures are up to ${width}x${height}, allowed is ${MOST_SIDE}x${MOST_SIDE}`);
  }
}

/** The bits of some bytes in their order. Raises BadPacket behind the last. */
class Bits {
  #at = 0;

  /** @param {Uint8Array} data */
  constructor(data) {
    this.data = data;
  }

  /** @param {number} count */
  take(count) {
    let value = 0;
    for (let n = 0; n < count; n++, this.#at++) {
      if (this.#at >> 3 >= this.data.length) throw new BadPacket("layer's sequence header breaks off");
      value = value << 1 | this.data[this.#at >> 3] >> 7 - (this.#at & 7) & 1;
    }
    return value;
  }

  /** @param {number} count */
  skip(count) {
    this.#at += count;
  }

  skipUvlc() {
    let zeros = 0;
    while (!this.take(1)) zeros++;
    if (zeros < 32) this.skip(zeros);
  }
}
