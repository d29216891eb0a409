// What brings frames onto a canvas: the graphics processor, or plain JavaScript where the browser does not let a worker use it.

import { copyAt, densely, paintedAt, paintedOf, paintedOver } from "./compose.js";
import { BadInput, KilocallError } from "./errors.js";
import { changed } from "./fusion.js";
import { GlComposer } from "./gl_compose.js";

/** @typedef {import("./renderer.js").Pixels} Pixels */
/** @typedef {import("./gl_compose.js").Frame} Frame */
/** @typedef {import("./pixels.js").Picture} Picture */

/** What brings frames onto the canvas, or gives them back for the page to do so.
 * @typedef {object} Screen
 * @property {(small: Pixels, detail: Pixels | null) => any} hold a picture, for `draw`
 * @property {(held: any, frame: Frame) => Frame | null} draw
 * @property {(held: any) => void} release
 * @property {(picture: Picture) => Picture | null} show one as it is, of any shape
 * @property {() => number} side of the picture that is shown, pixels
 */

/**
 * @param {OffscreenCanvas | null} canvas
 * @param {number} size
 * @returns {Screen}
 */
export function screenOn(canvas, size) {
  if (canvas === null) return { hold: () => null, draw: (_, frame) => asMessage(frame), release() {}, show: (one) => one, side: () => size };
  try {
    const composer = new GlComposer(canvas, size);
    return {
      hold: (small, detail) => composer.hold(small, detail),
      draw(held, frame) {
        composer.draw(held, frame);
        return null;
      },
      release: (held) => composer.release(held),
      show(picture) {
        composer.show(picture);
        return null;
      },
      side: () => canvas.width,
    };
  } catch (error) {
    if (!(error instanceof KilocallError)) throw error;
    return plainScreen(canvas, size);
  }
}

/**
 * What a page needs of a frame, and nothing of how it was made.
 * @param {Frame} frame
 * @returns {Frame}
 */
function asMessage({ displacement, gate, painted, trace, change = null }) {
  return { displacement, gate, painted, trace, change };
}

/**
 * The same without a graphics processor, and without detail.
 * @param {OffscreenCanvas} canvas
 * @param {number} size
 * @returns {Screen}
 */
function plainScreen(canvas, size) {
  const context = canvas.getContext("2d");
  if (context === null) throw new BadInput("this browser lets a page draw neither with WebGL 2 nor plainly");
  canvas.width = canvas.height = size;
  /** @type {import("./compose.js").Painted | null} */
  let kept = null;
  return {
    hold: densely,
    draw(dense, { displacement, gate, painted, trace, change = null }) {
      resize(canvas, size, size);
      if (painted !== null) kept = paintedOf(painted, gate);
      if (kept === null) throw new BadInput("nothing was painted yet");
      const here = trace === null ? kept : paintedAt(kept, trace);
      const pixels = paintedOver(here, copyAt(dense, displacement));
      const shown = change === null ? pixels : changed(pixels, change);
      context.putImageData(new ImageData(shown, size, size), 0, 0);
      return null;
    },
    release() {},
    show({ width, height, data }) {
      resize(canvas, width, height);
      context.putImageData(new ImageData(new Uint8ClampedArray(data), width, height), 0, 0);
      return null;
    },
    side: () => canvas.width,
  };
}

/**
 * A canvas that is set to the size that it has is cleared all the same.
 * @param {OffscreenCanvas} canvas
 * @param {number} width
 * @param {number} height
 */
function resize(canvas, width, height) {
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
}
