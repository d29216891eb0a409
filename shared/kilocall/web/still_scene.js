// Whether what a camera sees is what it saw before: a room that nobody is in is not worth ten pictures a second. As
// `sender/still_scene.py`.

import { reduced } from "./pixels.js";

/** @typedef {import("./pixels.js").Picture} Picture */

/** So often a picture is shown although nothing has changed: what was lost is missing no longer. */
const AGAIN_US = 1_000_000;
const [COLUMNS, ROWS] = [24, 18];
const CHANGED = 2.5;

/** Told of pictures as they come; times are their capture times, microseconds. */
export class StillScene {
  /** @type {Picture["data"] | null} */
  #shown = null;
  #shownUs = 0;

  /** The next picture is shown whatever it is. */
  restart() {
    this.#shown = null;
  }

  /**
   * Whether this one should be: it differs from the last one that was, or that is a second ago.
   * @param {Picture} picture
   * @param {number} timeUs
   */
  shows(picture, timeUs) {
    const { data } = reduced(picture, COLUMNS, ROWS);
    const since = timeUs - this.#shownUs;
    if (since >= 0 && since < AGAIN_US && this.#shown !== null && !differs(this.#shown, data)) return false;
    [this.#shown, this.#shownUs] = [data, timeUs];
    return true;
  }
}

/**
 * Whether the colours of any place are so far apart.
 * @param {Picture["data"]} one [H, W, 4]
 * @param {Picture["data"]} other
 */
function differs(one, other) {
  for (let at = 0; at < one.length; at += 4) {
    let apart = 0;
    for (let n = at; n < at + 3; n++) apart += Math.abs(one[n] - other[n]);
    if (apart / 3 >= CHANGED) return true;
  }
  return false;
}
