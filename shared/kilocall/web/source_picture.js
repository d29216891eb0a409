// Chooses the one picture from which the receiver will generate all others, and packs it. As `sender/source_picture.py`; what a
// browser writes is WebP, at a lower quality for the same bytes than Python's AVIF.

import { sha256 } from "./bytes.js";
import { SourcePicture } from "./control.js";
import { BadInput, NoFace } from "./errors.js";
import { FACE_CERTAINTY } from "./face_tracker.js";
import { INNER_LIPS, LEFT_EYE, RIGHT_EYE, meanPoint } from "./landmarks.js";
import { decoded } from "./picture_decoder.js";
import { vp8Picture } from "./vp8_picture.js";

/** @typedef {import("./pixels.js").Picture} Picture */
/** @typedef {import("./face_tracker.js").Track} Track */

/** At 30 kbit/s a first picture then takes 1.6 s. */
const MOST_BYTES = 6144;
/** For 512x512: where four times the pixels look as good. */
const LARGE_MOST_BYTES = 14 * 1024;
const SIDE = 256;
/** The highest quality that is no lossless picture. */
const MOST_QUALITY = 99;
const WEBP = "image/webp";

/** An open eye is 0.25 to 0.40 as high as wide; above this more is no merit. */
const OPEN_EYE = 0.3;
/** What each defect costs, relative to one another: blinks and turns spoil every frame, blur only some. */
const [EYES, TURN, MOUTH, EXTREME, BLUR] = [3, 2.5, 1, 2, 1];

/**
 * A picture as it is sent, and as the receiver will see it. Raises BadInput where this browser cannot write one.
 * @param {Picture} crop
 * @returns {Promise<{ packed: SourcePicture, picture: Picture }>}
 */
export async function packSource(crop) {
  const most = crop.width <= SIDE ? MOST_BYTES : LARGE_MOST_BYTES;
  const best = await webpPicture(crop, most) ?? await vp8Picture(crop, most);
  return { packed: new SourcePicture("webp", best, sha256(best), null), picture: await decoded(best) };
}

/**
 * The best WebP of so many bytes; null where the browser writes none, as Safari.
 * @param {Picture} crop
 * @param {number} most
 */
async function webpPicture(crop, most) {
  const canvas = new OffscreenCanvas(crop.width, crop.height);
  const context = canvas.getContext("2d", { alpha: false });
  if (context === null) throw new BadInput("this browser lets a worker draw no pictures");
  context.putImageData(new ImageData(new Uint8ClampedArray(crop.data), crop.width, crop.height), 0, 0);
  let [low, high] = [0, MOST_QUALITY];
  /** @type {Uint8Array | null} */
  let best = null;
  let smallest = 0;
  while (low <= high) {
    const quality = (low + high) >> 1;
    const blob = await canvas.convertToBlob({ type: WEBP, quality: quality / 100 });
    if (blob.type !== WEBP) return null;
    smallest = blob.size;
    if (blob.size <= most) {
      best = plain(new Uint8Array(await blob.arrayBuffer()));
      low = quality + 1;
    } else {
      high = quality - 1;
    }
  }
  if (best === null) throw new BadInput(`source picture does not fit into ${most} bytes: the lowest quality takes ${smallest}`);
  return best;
}

/**
 * A WebP of its frame alone: browsers add what they know of colours, and the other side takes stills without any.
 * @param {Uint8Array} data
 */
function plain(data) {
  const view = new DataView(data.buffer, data.byteOffset, data.length);
  for (let at = 12; at + 8 <= data.length;) {
    const size = view.getUint32(at + 4, true);
    const end = at + 8 + size + (size % 2);
    if (String.fromCharCode(...data.subarray(at, at + 3)) === "VP8" && data[at + 3] !== 0x58) {
      const made = new Uint8Array(12 + end - at);
      made.set(data.subarray(0, 12));
      made.set(data.subarray(at, end), 12);
      new DataView(made.buffer).setUint32(4, made.length - 8, true);
      return made;
    }
    at = end;
  }
  throw new BadInput("this browser writes a WebP without a frame");
}

/**
 * Height over width of an eye or mouth, however the head is tilted: width is the largest distance between two of its points.
 * @param {ArrayLike<number>} points [K, 2]
 * @param {readonly number[]} outline
 */
export function openness(points, outline) {
  let [width, a, b] = [0, outline[0], outline[0]];
  for (const one of outline) {
    for (const other of outline) {
      const apart = Math.hypot(points[2 * one] - points[2 * other], points[2 * one + 1] - points[2 * other + 1]);
      if (apart > width) [width, a, b] = [apart, one, other];
    }
  }
  if (width <= 0) return 0;
  const [x, y] = [0, 1].map((axis) => (points[2 * b + axis] - points[2 * a + axis]) / width);
  const across = outline.map((n) => points[2 * n + 1] * x - points[2 * n] * y);
  return (Math.max(...across) - Math.min(...across)) / width;
}

/**
 * How far the head looks aside or tilts: 0 is straight ahead, about 0.3 a half profile.
 * @param {Float32Array} points [K, 2]
 */
export function turnOf(points) {
  const [left, right] = [meanPoint(points, LEFT_EYE), meanPoint(points, RIGHT_EYE)];
  const across = [left[0] - right[0], left[1] - right[1]];
  const distance = Math.hypot(...across);
  if (distance <= 0) return 1;
  const along = across.map((value) => value / distance);
  let [low, high] = [Infinity, -Infinity];
  for (let n = 0; n < points.length; n += 2) {
    const place = points[n] * along[0] + points[n + 1] * along[1];
    [low, high] = [Math.min(low, place), Math.max(high, place)];
  }
  const eyes = ((left[0] + right[0]) / 2) * along[0] + ((left[1] + right[1]) / 2) * along[1];
  const aside = (eyes - (low + high) / 2) / Math.max(high - low, 1e-9);
  return 2 * Math.abs(aside) + 0.5 * Math.abs(Math.atan2(along[1], Math.abs(along[0])));
}

/**
 * Variance of the Laplacian over the middle of a crop, where the face is.
 * @param {Picture} picture
 */
export function sharpness({ width, height, data }) {
  const [left, top] = [Math.floor(width / 5), Math.floor(height / 5)];
  const [wide, high] = [width - 2 * left, height - 2 * top];
  const grey = (/** @type {number} */ x, /** @type {number} */ y) => {
    // Beyond the borders it goes back, the outermost not twice.
    const back = (/** @type {number} */ place, /** @type {number} */ length) =>
      place < 0 ? -place : place >= length ? 2 * length - 2 - place : place;
    const at = 4 * ((top + back(y, high)) * width + left + back(x, wide));
    return (9798 * data[at] + 19235 * data[at + 1] + 3735 * data[at + 2] + 0x4000) >> 15;
  };
  let [sum, squares] = [0, 0];
  for (let y = 0; y < high; y++) {
    for (let x = 0; x < wide; x++) {
      const value = grey(x - 1, y) + grey(x + 1, y) + grey(x, y - 1) + grey(x, y + 1) - 4 * grey(x, y);
      sum += value;
      squares += value * value;
    }
  }
  const mean = sum / (wide * high);
  return squares / (wide * high) - mean * mean;
}

/**
 * Index of the frame that serves best as source: eyes open, frontal, sharp, mouth closed. Raises NoFace when there is none.
 * @param {{ crop: Picture, track: Pick<Track, "points" | "certainty"> }[]} frames
 */
export function chooseSource(frames) {
  const usable = frames.map((_, n) => n).filter((n) => {
    const { points, certainty } = frames[n].track;
    return certainty >= FACE_CERTAINTY && points.every(Number.isFinite);
  });
  if (!usable.length) throw new NoFace(`none of ${frames.length} frames shows a face surely enough (${FACE_CERTAINTY})`);
  const points = usable.map((n) => frames[n].track.points);
  const usual = points[0].map((_, k) => median(points.map((one) => one[k])));
  const axes = [0, 1].map((axis) => usual.filter((_, k) => k % 2 === axis));
  const size = Math.max(...axes.map((axis) => Math.max(...axis) - Math.min(...axis)), 1e-9);
  const sharp = usable.map((n) => sharpness(frames[n].crop));
  const sharpest = Math.max(percentile(sharp, 0.9), 1e-9);
  const costs = points.map((one, n) => {
    const eyes = Math.min(openness(one, LEFT_EYE), openness(one, RIGHT_EYE));
    let extreme = 0;
    for (let k = 0; k < one.length; k += 2) extreme += Math.hypot(one[k] - usual[k], one[k + 1] - usual[k + 1]);
    return EYES * Math.max(0, 1 - eyes / OPEN_EYE) + TURN * turnOf(one) + MOUTH * openness(one, INNER_LIPS)
      + (EXTREME * extreme * 2) / one.length / size + BLUR * Math.max(0, 1 - sharp[n] / sharpest);
  });
  return usable[costs.indexOf(Math.min(...costs))];
}

/** @param {number[]} values */
function median(values) {
  return percentile(values, 0.5);
}

/**
 * Between two values where it lies there.
 * @param {number[]} values
 * @param {number} share
 */
function percentile(values, share) {
  const sorted = values.toSorted((a, b) => a - b);
  const place = share * (sorted.length - 1);
  const low = Math.floor(place);
  return sorted[low] + (place - low) * (sorted[Math.min(low + 1, sorted.length - 1)] - sorted[low]);
}
