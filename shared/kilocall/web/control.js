// The two control messages that a stream file holds: a source picture, and where the square was cut from.
//
// Each is one msgpack array that begins with the message's type number. As `proto/control.py`.

import { hex, sha256 } from "./bytes.js";
import { BadPacket, KilocallError } from "./errors.js";
import { Float, unpack } from "./msgpack.js";

/** @typedef {import("./msgpack.js").Value} Value */

export const PICTURE_FORMATS = /** @type {const} */ (["webp", "avif"]);
export const MAX_PICTURE_BYTES = 256 << 10;
const MAX_KEYPOINT_NUMBERS = 4096;
const MAX_MESSAGE_BYTES = MAX_PICTURE_BYTES + 4 * MAX_KEYPOINT_NUMBERS + 1024;
const MAX_SIDE = 16384;
const MAX_TIME_US = 2 ** 53;

/** A picture that is moved. */
export class SourcePicture {
  /**
   * @param {typeof PICTURE_FORMATS[number]} format
   * @param {Uint8Array} data the encoded picture; empty: an offer
   * @param {string} pictureHash SHA-256 of the encoded picture
   * @param {Float32Array | null} keypoints the family's own numbers for this picture
   */
  constructor(format, data, pictureHash, keypoints) {
    this.format = format;
    this.data = data;
    this.pictureHash = pictureHash;
    this.keypoints = keypoints;
  }

  /**
   * @param {Value[]} fields
   */
  static from([pictureHash, number, data, numbers]) {
    if (typeof number !== "number") throw new BadPacket("SourcePicture format is not a whole number");
    const format = PICTURE_FORMATS[number];
    if (format === undefined) throw new BadPacket(`SourcePicture format is number ${number}, allowed is 0 to 1`);
    if (!(data instanceof Uint8Array)) throw new BadPacket("SourcePicture data is not bytes");
    if (data.length > MAX_PICTURE_BYTES) {
      throw new BadPacket(`SourcePicture data is ${data.length} bytes, most is ${MAX_PICTURE_BYTES}`);
    }
    if (!(pictureHash instanceof Uint8Array) || pictureHash.length !== 32) {
      throw new BadPacket("SourcePicture hash is not 32 bytes");
    }
    const stated = hex(pictureHash);
    if (data.length && sha256(data) !== stated) throw new BadPacket("SourcePicture data does not have the stated hash");
    return new SourcePicture(format, data, stated, numbers === null ? null : keypoints(numbers));
  }
}

/** Where the square that is coded lies in the sender's full frame, from `timeUs` on; pixels. */
export class CropPlace {
  /**
   * @param {number} timeUs
   * @param {number} x0
   * @param {number} y0
   * @param {number} side
   * @param {number} frameWidth
   * @param {number} frameHeight
   */
  constructor(timeUs, x0, y0, side, frameWidth, frameHeight) {
    this.timeUs = timeUs;
    this.x0 = x0;
    this.y0 = y0;
    this.side = side;
    this.frameWidth = frameWidth;
    this.frameHeight = frameHeight;
  }

  /** @param {Value[]} fields */
  static from([timeUs, x0, y0, side, width, height]) {
    return new CropPlace(
      whole("time", timeUs, 0, MAX_TIME_US),
      real("x0", x0, -MAX_SIDE),
      real("y0", y0, -MAX_SIDE),
      real("side", side, 1),
      whole("frame width", width, 1, MAX_SIDE),
      whole("frame height", height, 1, MAX_SIDE),
    );
  }
}

const KINDS = new Map(
  /** @type {[number, { count: number, from: (fields: Value[]) => SourcePicture | CropPlace }][]} */ ([
    [2, { count: 4, from: SourcePicture.from }],
    [3, { count: 6, from: CropPlace.from }],
  ]),
);

/**
 * Reads one of the two messages, which fills `data` exactly. Raises BadPacket with the reason.
 * @param {Uint8Array} data
 */
export function parseControl(data) {
  if (data.length > MAX_MESSAGE_BYTES) {
    throw new BadPacket(`control message is ${data.length} bytes, most is ${MAX_MESSAGE_BYTES}`);
  }
  const value = unpacked(data);
  if (!Array.isArray(value) || typeof value[0] !== "number") {
    throw new BadPacket("control message is not a msgpack array that begins with a type number");
  }
  const [number, ...fields] = value;
  const kind = KINDS.get(number);
  if (kind === undefined) throw new BadPacket(`control message has type ${number}, a stream holds ${[...KINDS.keys()]}`);
  if (fields.length !== kind.count) {
    throw new BadPacket(`control message of type ${number} has ${fields.length} fields, needs ${kind.count}`);
  }
  return kind.from(fields);
}

/** @param {Uint8Array} data */
function unpacked(data) {
  try {
    return unpack(data, { mostArray: 16, mostExtension: 0 });
  } catch (error) {
    if (!(error instanceof KilocallError)) throw error;
    throw new BadPacket(`control message of ${data.length} bytes is not one msgpack value: ${error.message}`);
  }
}

/** @param {Value} packed */
function keypoints(packed) {
  if (!(packed instanceof Uint8Array) || packed.length % 4 || packed.length > 4 * MAX_KEYPOINT_NUMBERS) {
    throw new BadPacket(`SourcePicture keypoints are not float32, at most ${MAX_KEYPOINT_NUMBERS}`);
  }
  const view = new DataView(packed.buffer, packed.byteOffset, packed.length);
  const numbers = Float32Array.from({ length: packed.length / 4 }, (_, n) => view.getFloat32(4 * n));
  if (!numbers.every(Number.isFinite)) throw new BadPacket("SourcePicture keypoints hold a number that is not finite");
  return numbers;
}

/**
 * @param {string} name
 * @param {Value} value
 * @param {number} least
 * @param {number} most
 */
function whole(name, value, least, most) {
  if (typeof value !== "number" && typeof value !== "bigint") throw new BadPacket(`CropPlace ${name} is not a whole number`);
  if (value < least || value > most) {
    throw new BadPacket(`CropPlace ${name} is ${value}, allowed is ${least} to ${most}`);
  }
  return Number(value);
}

/**
 * @param {string} name
 * @param {Value} value
 * @param {number} least
 */
function real(name, value, least) {
  if (!(value instanceof Float)) throw new BadPacket(`CropPlace ${name} is not a float`);
  const rounded = Math.fround(value.value);
  if (!(rounded >= least && rounded <= 2 * MAX_SIDE)) {
    throw new BadPacket(`CropPlace ${name} is ${rounded}, allowed is ${least} to ${2 * MAX_SIDE}`);
  }
  return rounded;
}
