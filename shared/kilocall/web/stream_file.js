// The stream file, `.kcs`, read from its bytes, also where it was cut. As `proto/stream_file.py`.
//
//   magic, 8 bytes | version u16 | header record | picture, reference, place, motion, sound, layer and camera records | index | footer
//
// A record is type u8, length LEB128, body, CRC-32 of all three.

import { crc32, hex, same, unsigned } from "./bytes.js";
import { CropPlace, SourcePicture, parseControl } from "./control.js";
import { BadInput, KilocallError } from "./errors.js";
import { TimedLayerFrame } from "./layer_frame.js";
import { MOST_PICTURES } from "./limits.js";
import { MotionPacket, SPACING_UNIT_US } from "./motion_packet.js";
import { Float, unpack } from "./msgpack.js";
import { SoundPackets } from "./sound.js";

/** @typedef {import("./msgpack.js").Value} Value */
/** @typedef {SourcePicture | CropPlace | TimedPacket | ReferencePicture | SoundPackets | TimedLayerFrame} Record */
/** @typedef {{ timeUs: number, offset: number, frame: number }} IndexEntry where decoding can begin */
/** @typedef {{ numerator: number, denominator: number }} Fraction */

export const MAGIC = Uint8Array.of(0x89, 0x4b, 0x43, 0x53, 0x0d, 0x0a, 0x1a, 0x0a);
export const FILE_VERSION = 1;
export const MAX_FILE_BYTES = 512 * 2 ** 20;

const MAX_RECORD_BYTES = 1 << 20;
const MAX_TIME_US = 2 ** 40 - 1;
export const HEADER = 1;
export const PICTURE = 2;
export const MOTION = 3;
export const PLACE = 4;
export const INDEX = 5;
export const REFERENCE = 6;
const SOUND = 7;
export const LAYER = 8;
export const CAMERA = 9;
export const END = Uint8Array.of(0x53, 0x43, 0x4b, 0x0a);
const FOOTER_BYTES = 16;
const START_BYTES = MAGIC.length + 2;

/** What a reader must know first. */
export class StreamHeader {
  /**
   * Raises BadInput when a field is out of range.
   * @param {object} fields
   * @param {string} fields.family
   * @param {string} fields.weightsHash 64 hexadecimal digits, as is codebookHash
   * @param {string} fields.codebookHash
   * @param {Fraction} fields.fps
   * @param {number} fields.pictureSize side of the square picture that the models work on, pixels
   * @param {number} fields.frameWidth size of the full frames that the square was cut from, pixels
   * @param {number} fields.frameHeight
   * @param {number} fields.quality 0..100
   * @param {string} fields.tool program that wrote the file
   * @param {number | null} fields.frameCount null when it was not known at the start
   * @param {number | null} fields.durationUs
   */
  constructor(fields) {
    this.family = fields.family;
    this.weightsHash = fields.weightsHash;
    this.codebookHash = fields.codebookHash;
    this.fps = fields.fps;
    this.pictureSize = fields.pictureSize;
    this.frameWidth = fields.frameWidth;
    this.frameHeight = fields.frameHeight;
    this.quality = fields.quality;
    this.tool = fields.tool;
    this.frameCount = fields.frameCount;
    this.durationUs = fields.durationUs;
    printable("family", this.family, 64);
    printable("tool", this.tool, 100);
    for (const [name, digest] of Object.entries({ weightsHash: this.weightsHash, codebookHash: this.codebookHash })) {
      if (digest.length !== 64) throw new BadInput(`stream header ${name} is ${digest.length} digits, not 64`);
    }
    const { numerator, denominator } = this.fps;
    if (!(numerator >= denominator && numerator <= 240 * denominator && denominator <= 1_000_000)) {
      throw new BadInput(`stream header fps is ${numerator}/${denominator}, allowed is 1 to 240`);
    }
    within("pictureSize", this.pictureSize, 16, 4096);
    within("frameWidth", this.frameWidth, 1, 16384);
    within("frameHeight", this.frameHeight, 1, 16384);
    within("quality", this.quality, 0, 100);
    within("frameCount", this.frameCount ?? 0, 0, 2 ** 32);
    within("durationUs", this.durationUs ?? 0, 0, MAX_TIME_US);
  }

  /**
   * Reads a header record's body. Raises BadInput with the reason.
   * @param {Uint8Array} body
   */
  static parse(body) {
    const values = unpackArray(body, "stream header");
    if (values.length !== 12) throw new BadInput(`stream header has ${values.length} fields, needs 12`);
    const [family, weights, codebook, above, below, size, width, height, quality, tool, count, duration] = values;
    if (!(quality instanceof Float)) throw new BadInput("stream header quality is not a float");
    return new StreamHeader({
      family: text("family", family),
      weightsHash: hex(binary("weightsHash", weights)),
      codebookHash: hex(binary("codebookHash", codebook)),
      fps: fraction(whole("fps", above), whole("fps", below)),
      pictureSize: Number(whole("pictureSize", size)),
      frameWidth: Number(whole("frameWidth", width)),
      frameHeight: Number(whole("frameHeight", height)),
      quality: quality.value,
      tool: text("tool", tool),
      frameCount: count === null ? null : Number(whole("frameCount", count)),
      durationUs: duration === null ? null : Number(whole("durationUs", duration)),
    });
  }
}

/** A motion packet with the time of its first frame, counted from the stream's start. */
export class TimedPacket {
  /**
   * @param {number} timeUs
   * @param {MotionPacket} packet
   */
  constructor(timeUs, packet) {
    this.timeUs = timeUs;
    this.packet = packet;
  }

  /**
   * Times of all frames. A packet holds its spacing to 0.1 ms; where that fits `fps`, `fps` counts.
   * @param {Fraction} fps
   */
  frameTimesUs(fps) {
    const { spacingUs, frameCount } = this.packet;
    const { numerator, denominator } = fps;
    const unit = rounded(1_000_000 * denominator, numerator * SPACING_UNIT_US) * SPACING_UNIT_US;
    const exact = unit === spacingUs;
    return Array.from({ length: frameCount }, (_, index) =>
      this.timeUs + (exact ? rounded(index * 1_000_000 * denominator, numerator) : index * spacingUs));
  }
}

/** A further picture of the speaker of the source picture before it; motion does not refer to it. */
export class ReferencePicture {
  /** @param {SourcePicture} picture */
  constructor(picture) {
    this.picture = picture;
  }
}

/**
 * Raises BadInput for bytes that are no stream, of an unknown version, or cut before their header is complete. One cut or
 * damaged later yields every complete record before that place; `truncated` is then true and `damage` says what was
 * found.
 */
export class StreamReader {
  /**
   * @param {Uint8Array} data
   * @param {string} [name]
   */
  constructor(data, name = "stream") {
    this.name = name;
    this.data = data;
    this.truncated = false;
    /** @type {string | null} */
    this.damage = null;
    if (data.length > MAX_FILE_BYTES) throw new BadInput(`${name} is ${data.length} bytes, most is ${MAX_FILE_BYTES}`);
    if (!same(data.subarray(0, MAGIC.length), MAGIC)) {
      const found = data.length ? `begins with ${hex(data.subarray(0, 8))}` : "is empty";
      throw new BadInput(`${name} ${found}, a kilocall stream begins with ${hex(MAGIC)} and goes on`);
    }
    if (data.length < START_BYTES) {
      throw new BadInput(`${name} ends after ${data.length} bytes, inside its version number`);
    }
    const version = unsigned(data.subarray(MAGIC.length, START_BYTES));
    if (version !== FILE_VERSION) {
      const reads = `this program reads ${FILE_VERSION}`;
      throw new BadInput(`${name} is a kilocall stream of version ${version}, ${reads}`);
    }
    const { header, first } = startOf(data, name);
    this.header = header;
    this.first = first;
    /** Frames in the file, or before the damage. */
    this.frameCount = 0;
    /** End of the last frame. */
    this.durationUs = 0;
    /** @type {readonly IndexEntry[]} where the key packets are, by time */
    this.index = [];
    if (!this.#readIndex()) this.#scan();
  }

  /**
   * Every complete record in file order, from the start or from an `IndexEntry`'s offset.
   * @param {number} [offset]
   * @returns {Generator<Record>}
   */
  *records(offset = this.first) {
    for (const [, record] of this.#walk(offset)) yield record;
  }

  /** The motion packets alone. */
  *packets() {
    for (const record of this.records()) if (record instanceof TimedPacket) yield record;
  }

  /** The speech alone. */
  *sounds() {
    for (const record of this.records()) if (record instanceof SoundPackets) yield record;
  }

  /** The frames of the video layer alone. */
  *layerFrames() {
    for (const record of this.records()) if (record instanceof TimedLayerFrame && !record.whole) yield record;
  }

  /** The frames of the layer and the camera's, in the order of their times. */
  video() {
    const found = [...this.records()].filter((record) => record instanceof TimedLayerFrame);
    return found.sort((one, other) => one.timeUs - other.timeUs);
  }

  /** The first source picture, null when the file holds none. */
  sourcePicture() {
    for (const record of this.records()) if (record instanceof SourcePicture) return record;
    return null;
  }

  /**
   * The further pictures of the first source picture's speaker, wherever they lie in the file; at most
   * MOST_PICTURES - 1, more are left out.
   */
  references() {
    /** @type {SourcePicture[]} */
    const found = [];
    let sources = 0;
    for (const record of this.records()) {
      if (record instanceof SourcePicture) sources++;
      if (sources === 1 && record instanceof ReferencePicture && found.length < MOST_PICTURES - 1) {
        found.push(record.picture);
      }
    }
    return found;
  }

  /**
   * The last key packet at or before a time, else the first; null when there is no key packet.
   * @param {number} timeUs
   */
  seek(timeUs) {
    const later = this.index.findIndex((entry) => entry.timeUs > timeUs);
    return this.index[Math.max(0, (later < 0 ? this.index.length : later) - 1)] ?? null;
  }

  /**
   * @param {number} offset
   * @returns {Generator<[number, Record]>}
   */
  *#walk(offset) {
    const { data } = this;
    for (;;) {
      if (offset === data.length) return this.#damaged("ends without an index");
      let taken;
      let record;
      try {
        taken = take(data, offset);
        record = parseRecord(taken.kind, taken.body);
      } catch (error) {
        if (!(error instanceof KilocallError)) throw error;
        return this.#damaged(`at byte ${offset}: ${error.message}`);
      }
      if (taken.kind === INDEX) return;
      if (record !== null) yield [offset, record];
      offset = taken.after;
    }
  }

  /** @param {string} what */
  #damaged(what) {
    this.truncated = true;
    this.damage = what;
  }

  /** Fills frameCount, durationUs and index from the end of the file; false when that cannot be done. */
  #readIndex() {
    const { data, first } = this;
    const footer = data.length - FOOTER_BYTES;
    if (footer < first) return false;
    const view = new DataView(data.buffer, data.byteOffset + footer, FOOTER_BYTES);
    const stated = view.getBigUint64(0);
    const sound = same(data.subarray(-4), END) && view.getUint32(8) === crc32(data.subarray(footer, footer + 8));
    if (!sound || stated < BigInt(first) || stated >= BigInt(data.length)) return false;
    const offset = Number(stated);
    try {
      const { kind, body, after } = take(data, offset);
      if (kind !== INDEX || after !== footer) return false;
      const [frames, duration, entries, ...more] = unpackArray(body, "index");
      if (more.length || !Array.isArray(entries)) return false;
      const index = entries.map(indexEntry);
      this.frameCount = natural(frames);
      this.durationUs = natural(duration);
      if (index.some((entry) => entry.offset < first || entry.offset >= offset)) return false;
      if (index.some((entry, n) => n > 0 && inOrder(index[n - 1], entry) > 0)) return false;
      this.index = index;
      return true;
    } catch (error) {
      if (!(error instanceof KilocallError)) throw error;
      return false;
    }
  }

  #scan() {
    /** @type {IndexEntry[]} */
    const index = [];
    this.frameCount = 0;
    this.durationUs = 0;
    const { fps } = this.header;
    const spacing = rounded(1_000_000 * fps.denominator, fps.numerator);
    for (const [offset, record] of this.#walk(this.first)) {
      if (!(record instanceof TimedPacket)) continue;
      if (record.packet.isKey) index.push({ timeUs: record.timeUs, offset, frame: this.frameCount });
      this.frameCount += record.packet.frameCount;
      const last = record.frameTimesUs(fps)[record.packet.frameCount - 1];
      this.durationUs = Math.max(this.durationUs, last + spacing);
    }
    this.index = index.sort(inOrder);
    if (!this.truncated) this.#damaged("its index or footer is unusable");
  }
}

/**
 * @param {IndexEntry} a
 * @param {IndexEntry} b
 */
function inOrder(a, b) {
  return a.timeUs - b.timeUs || a.offset - b.offset;
}

/**
 * The header and where it ends.
 * @param {Uint8Array} data
 * @param {string} name
 */
function startOf(data, name) {
  try {
    const { kind, body, after } = take(data, START_BYTES);
    if (kind !== HEADER) throw new BadInput(`first record has type ${kind}, not ${HEADER}`);
    return { header: StreamHeader.parse(body), first: after };
  } catch (error) {
    if (!(error instanceof KilocallError)) throw error;
    throw new BadInput(`${name}: header is unusable: ${error.message}`);
  }
}

/**
 * Type, body and end of the record at `offset`. Raises BadInput when it is cut short or damaged.
 * @param {Uint8Array} data
 * @param {number} offset
 */
function take(data, offset) {
  let length = 0;
  let position = offset + 1;
  for (let shift = 0; ; shift += 7) {
    if (shift > 14) throw new BadInput("record length has more than 3 digits");
    if (position >= data.length) throw new BadInput("record is cut inside its length");
    const digit = data[position++];
    length |= (digit & 127) << shift;
    if (digit < 128) break;
  }
  if (length > MAX_RECORD_BYTES) throw new BadInput(`record is ${length} bytes, most is ${MAX_RECORD_BYTES}`);
  const after = position + length + 4;
  if (after > data.length) {
    throw new BadInput(`record of ${length} bytes is cut after ${Math.max(0, data.length - position)}`);
  }
  if (crc32(data.subarray(offset, after - 4)) !== unsigned(data.subarray(after - 4, after))) {
    throw new BadInput("record does not match its checksum");
  }
  return { kind: data[offset], body: data.subarray(position, after - 4), after };
}

/**
 * A record's content; null for the index and for types of later writers. Raises BadPacket or BadInput.
 * @param {number} kind
 * @param {Uint8Array} body
 * @returns {Record | null}
 */
function parseRecord(kind, body) {
  if (kind === MOTION) {
    if (body.length < 5) throw new BadInput(`motion record is ${body.length} bytes, its time needs 5`);
    return new TimedPacket(unsigned(body.subarray(0, 5)), MotionPacket.parse(body.subarray(5)));
  }
  if (kind === LAYER || kind === CAMERA) return TimedLayerFrame.parse(body, kind === CAMERA);
  if (kind === SOUND) return SoundPackets.parse(body);
  if (kind !== PICTURE && kind !== PLACE && kind !== REFERENCE) return null;
  const message = parseControl(body);
  if (kind === PLACE && message instanceof CropPlace) return message;
  if (kind !== PLACE && message instanceof SourcePicture) return kind === REFERENCE ? new ReferencePicture(message) : message;
  throw new BadInput(`record of type ${kind} holds a ${message.constructor.name}`);
}

/**
 * @param {Uint8Array} body
 * @param {string} what
 */
function unpackArray(body, what) {
  const value = unpack(body, { mostExtension: 0 });
  if (!Array.isArray(value)) throw new BadInput(`${what} is not a msgpack array`);
  return value;
}

/** @param {Value} entry */
function indexEntry(entry) {
  if (!Array.isArray(entry) || entry.length !== 3) throw new BadInput("index entry is not three numbers");
  const [timeUs, offset, frame] = entry.map(natural);
  return { timeUs, offset, frame };
}

/** @param {Value} value */
function natural(value) {
  if ((typeof value !== "number" && typeof value !== "bigint") || value < 0 || value >= 2n ** 62n) {
    throw new BadInput("index holds something else than a whole number");
  }
  return Number(value);
}

/**
 * @param {string} name
 * @param {Value} value
 */
function whole(name, value) {
  if (typeof value !== "number" && typeof value !== "bigint") {
    throw new BadInput(`stream header ${name} is not a whole number`);
  }
  return BigInt(value);
}

/**
 * @param {string} name
 * @param {Value} value
 */
function text(name, value) {
  if (typeof value !== "string") throw new BadInput(`stream header ${name} is not text`);
  return value;
}

/**
 * @param {string} name
 * @param {Value} value
 */
function binary(name, value) {
  if (!(value instanceof Uint8Array)) throw new BadInput(`stream header ${name} is not bytes`);
  return value;
}

/**
 * @param {string} name
 * @param {string} value
 * @param {number} most bytes
 */
function printable(name, value, most) {
  // As Python's isprintable: no controls, formats, surrogates, private or unassigned characters, no space but " ".
  if (/[\p{C}\p{Zl}\p{Zp}]|(?! )\p{Zs}/u.test(value) || new TextEncoder().encode(value).length > most) {
    throw new BadInput(`stream header ${name} is ${JSON.stringify(value.slice(0, 120))}, allowed is ${most} bytes of text`);
  }
}

/**
 * @param {string} name
 * @param {number} value
 * @param {number} least
 * @param {number} most
 */
function within(name, value, least, most) {
  if (value >= least && value <= most) return;
  throw new BadInput(`stream header ${name} is ${value}, allowed is ${least} to ${most}`);
}

/**
 * In its lowest terms. Raises BadInput below one.
 * @param {bigint} numerator
 * @param {bigint} denominator
 * @returns {Fraction}
 */
function fraction(numerator, denominator) {
  if (denominator < 1n || numerator < 1n) {
    throw new BadInput(`stream header fps is ${numerator}/${denominator}, allowed is 1 to 240`);
  }
  let [a, b] = [numerator, denominator];
  while (b) [a, b] = [b, a % b];
  return { numerator: Number(numerator / a), denominator: Number(denominator / a) };
}

/**
 * The whole number nearest to a quotient of whole numbers, the even one of two.
 * @param {number} above
 * @param {number} below
 */
export function rounded(above, below) {
  const down = Math.floor(above / below);
  const rest = above - down * below;
  const up = 2 * rest > below || (2 * rest === below && down % 2 === 1);
  return down + Number(up);
}
