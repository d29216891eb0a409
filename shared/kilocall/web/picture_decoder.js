// Pictures of others as pixels. As `FROM_OTHERS` of `runtime/picture_decoder.py`; the browser decodes them.

import { MAX_PICTURE_BYTES } from "./control.js";
import { BadInput, BadPacket } from "./errors.js";
import { readHeader } from "./picture_header.js";
import { reduced } from "./pixels.js";

/** @typedef {import("./pixels.js").Picture} Picture */

const MOST_SIDE = 1024;

/** A picture as the networks see it, and at twice that size where it has so many pixels. */
/** @typedef {{ small: Picture, detail: Picture | null }} Seen */

/**
 * A source picture of a call, a square of `size` or twice that. Raises BadInput or BadPacket for anything else.
 * @param {Uint8Array} data
 * @param {number} size that the networks work at
 * @returns {Promise<Seen>}
 */
export async function decodedSource(data, size) {
  const picture = await decoded(data);
  if (picture.width !== picture.height || (picture.width !== size && picture.width !== 2 * size)) {
    throw new BadPacket(`picture is ${picture.width}x${picture.height}, wanted is a side of ${size} or ${2 * size}`);
  }
  if (picture.width === size) return { small: picture, detail: null };
  return { small: reduced(picture, size, size), detail: picture };
}

/**
 * @param {Uint8Array} data
 * @returns {Promise<Picture>}
 */
export async function decoded(data) {
  if (data.length > MAX_PICTURE_BYTES) {
    throw new BadInput(`picture has ${data.length} bytes, at most ${MAX_PICTURE_BYTES}`);
  }
  const { format, width, height } = readHeader(data);
  if (Math.max(width, height) > MOST_SIDE) {
    throw new BadInput(`picture is ${width}x${height}, at most ${MOST_SIDE}x${MOST_SIDE}`);
  }
  let bitmap;
  try {
    const blob = new Blob([new Uint8Array(data)], { type: `image/${format}` });
    bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch {
    throw new BadInput(`this browser does not show the picture, which is damaged or of a kind that it lacks: ${format}`);
  }
  if (bitmap.width !== width || bitmap.height !== height) {
    throw new BadInput(`picture is ${bitmap.width}x${bitmap.height}, and its header says ${width}x${height}`);
  }
  return pixelsOf(bitmap);
}

/**
 * The pixels of a bitmap, which is closed.
 * @param {ImageBitmap} bitmap
 * @returns {Picture}
 */
export function pixelsOf(bitmap) {
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  if (context === null) throw new BadInput("this browser lets a page read no pictures");
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return { width, height, data: context.getImageData(0, 0, width, height).data };
}
