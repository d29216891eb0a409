// A still picture as WebP in browsers that write none: its lossy kind is a VP8 key frame (RFC 9649, 2.5), and that is what a
// browser's encoder for calls makes.

import { BadInput } from "./errors.js";

/** @typedef {import("./pixels.js").Picture} Picture */

/** Bits of a picture between which the encoder is asked; what it makes of them is another number. */
const [LEAST_BITS, MOST_BITS] = [4_000, 1_000_000];
const TRIES = 9;
const HEAD_BYTES = 20;

/**
 * The best one of so many bytes. Raises BadInput where this browser has no such encoder, or nothing fits.
 * @param {Picture} picture even sides
 * @param {number} most
 */
export async function vp8Picture(picture, most) {
  if (typeof VideoEncoder === "undefined") {
    throw new BadInput("this browser can write neither WebP nor VP8, which your source picture is sent as: please update it");
  }
  const planes = yuvOf(picture);
  let [low, high] = [LEAST_BITS, MOST_BITS];
  /** @type {Uint8Array | null} */
  let best = null;
  let smallest = Infinity;
  for (let n = 0; n < TRIES; n++) {
    const bits = Math.sqrt(low * high);
    const frame = await keyFrame(picture.width, picture.height, planes, bits);
    const bytes = HEAD_BYTES + frame.length + frame.length % 2;
    smallest = Math.min(smallest, bytes);
    if (bytes > most) {
      high = bits;
    } else {
      low = bits;
      if (best === null || bytes >= best.length) best = asWebp(frame);
    }
  }
  if (best === null) throw new BadInput(`source picture does not fit into ${most} bytes: the lowest quality takes ${smallest}`);
  return best;
}

/**
 * @param {number} width
 * @param {number} height
 * @param {Uint8Array<ArrayBuffer>} planes
 * @param {number} bits
 */
async function keyFrame(width, height, planes, bits) {
  /** @type {Uint8Array | null} */
  let made = null;
  let problem = "";
  const encoder = new VideoEncoder({
    output(chunk) {
      made = new Uint8Array(chunk.byteLength);
      chunk.copyTo(made);
    },
    error: (error) => { problem = error.message; },
  });
  try {
    encoder.configure({ codec: "vp8", width, height, bitrate: Math.round(bits), framerate: 1, latencyMode: "quality" });
    const frame = new VideoFrame(planes, { format: "I420", codedWidth: width, codedHeight: height, timestamp: 0 });
    encoder.encode(frame, { keyFrame: true });
    frame.close();
    await encoder.flush();
  } catch (error) {
    problem ||= error instanceof Error ? error.message : String(error);
  }
  if (encoder.state !== "closed") encoder.close();
  const frame = /** @type {Uint8Array | null} */ (made);
  if (frame === null) throw new BadInput(`your source picture cannot be written: ${problem || "the encoder gave nothing"}`);
  return frame;
}

/** @param {Uint8Array} frame */
function asWebp(frame) {
  const made = new Uint8Array(HEAD_BYTES + frame.length + frame.length % 2);
  const view = new DataView(made.buffer);
  made.set(new TextEncoder().encode("RIFF\0\0\0\0WEBPVP8 "));
  view.setUint32(4, made.length - 8, true);
  view.setUint32(16, frame.length, true);
  made.set(frame, HEAD_BYTES);
  return made;
}

/**
 * Planes in 4:2:0, as WebP has them: ITU-R BT.601, 16 to 235.
 * @param {Picture} picture
 */
function yuvOf({ width, height, data }) {
  const pixels = width * height;
  const planes = new Uint8Array(pixels * 3 / 2);
  for (let n = 0, at = 0; n < pixels; n++, at += 4) {
    planes[n] = 16.5 + (65.481 * data[at] + 128.553 * data[at + 1] + 24.966 * data[at + 2]) / 255;
  }
  const [wide, high] = [width / 2, height / 2];
  for (let y = 0; y < high; y++) {
    for (let x = 0; x < wide; x++) {
      const first = 4 * (2 * y * width + 2 * x);
      const four = [first, first + 4, first + 4 * width, first + 4 * width + 4];
      const [red, green, blue] = [0, 1, 2].map((c) => four.reduce((sum, at) => sum + data[at + c], 0) / 4);
      const to = pixels + y * wide + x;
      planes[to] = 128.5 + (-37.797 * red - 74.203 * green + 112 * blue) / 255;
      planes[to + wide * high] = 128.5 + (112 * red - 93.786 * green - 18.214 * blue) / 255;
    }
  }
  return planes;
}
