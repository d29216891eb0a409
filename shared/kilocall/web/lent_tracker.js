// The landmark networks of one worker, lent to another: they are loaded once.

import { BadInput } from "./errors.js";

/** @typedef {import("./pixels.js").Picture} Picture */
/** @typedef {import("./face_tracker.js").Track} Track */

/** What finds a face's points in a source picture: a `FaceTracker`, or one that is lent.
 * @typedef {object} Tracker
 * @property {(crop: Picture) => Promise<Track>} track
 */

/**
 * The borrower's end.
 * @implements {Tracker}
 */
export class LentTracker {
  #port;
  #asked = 0;
  /** @type {Map<number, { done: (track: Track) => void, fail: (why: Error) => void }>} */
  #waiting = new Map();

  /** @param {MessagePort} port whose other end `lend` has */
  constructor(port) {
    this.#port = port;
    port.onmessage = ({ data: { number, track, why } }) => {
      const waiting = this.#waiting.get(number);
      this.#waiting.delete(number);
      if (track === null) waiting?.fail(new BadInput(why));
      else waiting?.done(track);
    };
  }

  /** @param {Picture} crop */
  track(crop) {
    const number = this.#asked++;
    return /** @type {Promise<Track>} */ (new Promise((done, fail) => {
      this.#waiting.set(number, { done, fail });
      this.#port.postMessage({ number, crop });
    }));
  }
}

/**
 * Answers a LentTracker. What is asked before this is waits.
 * @param {MessagePort} port
 * @param {(crop: Picture) => Promise<Track>} track
 */
export function lend(port, track) {
  port.onmessage = async ({ data: { number, crop } }) => {
    try {
      port.postMessage({ number, track: await track(crop), why: "" });
    } catch (error) {
      port.postMessage({ number, track: null, why: error instanceof Error ? error.message : String(error) });
    }
  };
}
