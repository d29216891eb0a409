// A picture that a person gives to the page: which is taken. As `UPLOAD` of `runtime/picture_decoder.py`.

import { BadInput } from "./errors.js";

const MAX_BYTES = 4 << 20;
const MAX_PIXELS = 25_000_000;
/** The side it is reduced to: the face fills 256 or 512 pixels of it at the end. */
const FIT = 1024;

/** The formats, by the characters that a file has at a place. */
const FORMATS = /** @type {const} */ ([
  ["jpeg", { 0: "\xff\xd8\xff" }],
  ["png", { 0: "\x89PNG\r\n\x1a\n" }],
  ["webp", { 0: "RIFF", 8: "WEBP" }],
  ["avif", { 4: "ftypavif" }],
  ["avif", { 4: "ftypmif1" }],
]);

/**
 * The format of a file's bytes. Raises BadInput for one that is not taken.
 * @param {Uint8Array} data
 */
export function formatOf(data) {
  if (data.length > MAX_BYTES) {
    throw new BadInput(`it has ${(data.length / 2 ** 20).toFixed(1)} MiB, at most ${MAX_BYTES >> 20} are taken`);
  }
  const text = String.fromCharCode(...data.subarray(0, 16));
  const found = FORMATS.find(([, marks]) => Object.entries(marks).every(([at, mark]) => text.startsWith(mark, Number(at))));
  if (found === undefined) throw new BadInput("it is none of AVIF, WebP, JPEG and PNG");
  return found[0];
}

/**
 * The size that a picture is reduced to. Raises BadInput for one with too many pixels.
 * @param {number} width
 * @param {number} height
 */
export function fittedSize(width, height) {
  if (width * height > MAX_PIXELS) {
    throw new BadInput(`it has ${width}x${height} pixels, at most ${MAX_PIXELS / 1e6} million are taken`);
  }
  const scale = Math.min(1, FIT / Math.max(width, height));
  return { width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale)) };
}

/**
 * The pixels of a file that a person has given, upright and no larger than they need be. Raises BadInput.
 * @param {Uint8Array} data
 */
export async function readPicture(data) {
  const bitmap = await decoded(data, formatOf(data));
  const { width, height } = fittedSize(bitmap.width, bitmap.height);
  return { width, height, data: pixelsOf(bitmap, width, height) };
}

/**
 * @param {Uint8Array} data
 * @param {string} format
 */
export async function decoded(data, format) {
  try {
    const blob = new Blob([new Uint8Array(data)], { type: `image/${format}` });
    return await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch {
    throw new BadInput(`this browser does not show the picture, which is ${format.toUpperCase()}`);
  }
}

/**
 * RGBA, so many pixels wide and high; on white where the picture is transparent.
 * @param {ImageBitmap} bitmap
 * @param {number} width
 * @param {number} height
 */
export function pixelsOf(bitmap, width, height) {
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  if (context === null) throw new BadInput("this browser lets a page read no pictures");
  context.imageSmoothingQuality = "high";
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0, width, height);
  return context.getImageData(0, 0, width, height).data;
}
