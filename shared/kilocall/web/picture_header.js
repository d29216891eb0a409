// Format and size of a compressed picture as its decoder will find them, read before anything is decoded. As
// `runtime/picture_header.py`, which names the sources: AVIF of one still and WebP of one frame, nothing else.

import { unsigned } from "./bytes.js";
import { BadInput } from "./errors.js";

const SEQUENCE_HEADER = 1;
const MOST_OBUS = 16;
const MOST_BOXES = 64;

/** @typedef {{ format: "avif" | "webp", width: number, height: number }} PictureHeader */
/** @typedef {{ kind: string, start: number, end: number }} Box of its content */

class CutShort extends Error {}

/**
 * Raises BadInput for anything but an AVIF or a WebP of one still picture, and for one that is cut short.
 * @param {Uint8Array} data
 * @returns {PictureHeader}
 */
export function readHeader(data) {
  try {
    if (text(data, 4, 4) === "ftyp") return { format: "avif", ...avifSize(data) };
    if (text(data, 0, 4) === "RIFF" && text(data, 8, 4) === "WEBP") return { format: "webp", ...webpSize(data) };
  } catch (error) {
    if (!(error instanceof CutShort)) throw error;
    throw new BadInput(`picture of ${data.length} bytes is cut inside its header`);
  }
  throw new BadInput(`picture: these ${data.length} bytes are no AVIF or WebP`);
}

/** @param {Uint8Array} data */
function webpSize(data) {
  const body = data.subarray(20, 30);
  if (body.length < 10) throw new CutShort();
  const kind = text(data, 12, 4);
  if (kind === "VP8 ") {
    if (text(body, 3, 3) !== "\x9d\x01*") throw new BadInput("WebP picture does not begin with a key frame");
    return { width: (body[6] | body[7] << 8) & 0x3fff, height: (body[8] | body[9] << 8) & 0x3fff };
  }
  if (kind === "VP8L") {
    const bits = (body[1] | body[2] << 8 | body[3] << 16 | body[4] << 24) >>> 0;
    return { width: 1 + (bits & 0x3fff), height: 1 + (bits >>> 14 & 0x3fff) };
  }
  throw new BadInput(`WebP picture has a chunk ${kind} first, allowed is one still picture: VP8 or VP8L`);
}

/** @param {Uint8Array} data */
function avifSize(data) {
  const all = boxes(data, 0, data.length);
  const brands = all.find(({ kind }) => kind === "ftyp");
  const brand = brands === undefined ? "" : text(data.subarray(brands.start, brands.end), 0, 4);
  if (brand !== "avif") throw new BadInput(`picture is of brand ${brand}, allowed is avif: one still picture`);
  const metas = all.filter(({ kind }) => kind === "meta");
  if (metas.length !== 1 || all.some(({ kind }) => kind === "moov")) {
    throw new BadInput("AVIF picture needs one meta box and no film");
  }
  const inner = boxes(data, metas[0].start + 4, metas[0].end); // after version and flags
  const found = new Map(inner.map((box) => [box.kind, box]));
  const [iinf, iloc] = [found.get("iinf"), found.get("iloc")];
  if (found.size !== inner.length || found.has("iref") || !found.has("iprp") || iinf === undefined || iloc === undefined) {
    throw new BadInput("AVIF picture is put together from several; allowed is one still picture");
  }
  checkItems(data, iinf);
  const { offset, length } = itemPlace(data, iloc);
  if (length < 1 || offset + length > data.length) {
    throw new BadInput(`AVIF picture lies at bytes ${offset} to ${offset + length}, the file has ${data.length}`);
  }
  return av1Size(data.subarray(offset, offset + length));
}

/**
 * @param {Uint8Array} data
 * @param {number} start
 * @param {number} end
 */
function boxes(data, start, end) {
  /** @type {Box[]} */
  const found = [];
  for (let at = start; at !== end;) {
    if (found.length === MOST_BOXES) throw new BadInput(`AVIF picture has more than ${MOST_BOXES} boxes`);
    if (at + 8 > end) throw new CutShort();
    const size = unsigned(data.subarray(at, at + 4));
    const kind = text(data, at + 4, 4);
    if (size < 8 || at + size > end) throw new BadInput(`AVIF box ${kind} has ${size} bytes, here are ${end - at}`);
    found.push({ kind, start: at + 8, end: at + size });
    at += size;
  }
  return found;
}

/**
 * @param {Uint8Array} data
 * @param {Box} box
 */
function checkItems(data, { start, end }) {
  const begin = start + (byte(data, start) === 0 ? 6 : 8);
  const kinds = boxes(data, begin, end).filter((box) => box.kind === "infe" && box.end - box.start >= 12)
    .map((box) => text(data, box.start + 8, 4));
  const count = unsigned(data.subarray(start + 4, begin));
  if (count !== 1 || kinds.join() !== "av01") {
    throw new BadInput(`AVIF picture has ${count} items of types ${kinds.slice(0, 4)}, allowed is one of av01`);
  }
}

/**
 * Where the only item's bytes lie in the file.
 * @param {Uint8Array} data
 * @param {Box} box
 */
function itemPlace(data, { start, end }) {
  const version = byte(data, start);
  if (version > 2) throw new BadInput(`AVIF picture's iloc has version ${version}, allowed are 0 to 2`);
  const [sizes, more] = [byte(data, start + 4), byte(data, start + 5)];
  let at = start + 6;
  const take = (/** @type {number} */ size) => {
    if (at + size > end) throw new CutShort();
    at += size;
    return unsigned(data.subarray(at - size, at));
  };
  const wide = version === 2 ? 4 : 2;
  const items = take(wide);
  take(wide); // the item's number
  const method = version ? take(2) & 15 : 0;
  const reference = take(2);
  const base = take(more >> 4);
  const extents = take(2);
  if (version) take(more & 15);
  const [offset, length] = [take(sizes >> 4), take(sizes & 15)];
  if (items !== 1 || extents !== 1 || method !== 0 || reference !== 0) {
    throw new BadInput("AVIF picture lies in several places or in another file; allowed is one place in this file");
  }
  return { offset: base + offset, length };
}

/**
 * The largest frame that the OBUs of an item can hold.
 * @param {Uint8Array} item
 */
function av1Size(item) {
  /** @type {{ width: number, height: number }[]} */
  const sizes = [];
  let at = 0;
  for (let count = 0; at !== item.length; count++) {
    if (count === MOST_OBUS) throw new BadInput(`AVIF picture has more than ${MOST_OBUS} OBUs, allowed is one still picture`);
    const head = byte(item, at);
    at += head & 4 ? 2 : 1;
    let size = item.length - at;
    if (head & 2) ({ value: size, at } = leb128(item, at));
    if (size > item.length - at || size < 0) throw new CutShort();
    if ((head >> 3 & 15) === SEQUENCE_HEADER) sizes.push(sequenceSize(item.subarray(at, at + size)));
    at += size;
  }
  if (!sizes.length) throw new BadInput("AVIF picture has no AV1 sequence header");
  if (sizes.some(({ width, height }) => width !== sizes[0].width || height !== sizes[0].height)) {
    throw new BadInput("AVIF picture has AV1 sequence headers of different sizes");
  }
  return sizes[0];
}

/**
 * @param {Uint8Array} data
 * @param {number} at
 */
function leb128(data, at) {
  let value = 0;
  for (let place = 1; place <= 2 ** 28; place *= 128) {
    const digit = byte(data, at++);
    value += (digit & 127) * place;
    if (digit < 128) return { value, at };
  }
  throw new BadInput("AVIF picture has an OBU of more than 32 GiB");
}

/** @param {Uint8Array} header */
function sequenceSize(header) {
  let at = 0;
  const take = (/** @type {number} */ count) => {
    let value = 0;
    for (let n = 0; n < count; n++, at++) value = value << 1 | byte(header, at >> 3) >> 7 - (at & 7) & 1;
    return value;
  };
  take(3); // seq_profile
  const [still, reduced] = [take(1), take(1)];
  if (!still || !reduced) {
    throw new BadInput("AVIF picture is no still picture with the reduced AV1 header, which is what is sent");
  }
  take(5); // seq_level_idx
  const [wide, high] = [1 + take(4), 1 + take(4)];
  return { width: 1 + take(wide), height: 1 + take(high) };
}

/**
 * @param {Uint8Array} data
 * @param {number} at
 */
function byte(data, at) {
  if (!(at >= 0 && at < data.length)) throw new CutShort();
  return data[at];
}

/**
 * @param {Uint8Array} data
 * @param {number} at
 * @param {number} count
 */
function text(data, at, count) {
  return String.fromCharCode(...data.subarray(at, at + count));
}
