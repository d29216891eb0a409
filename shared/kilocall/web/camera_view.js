// What the other side's camera sees, where that is to be shown instead of the speaker made from a picture. As
// `receiver/camera_view.py`.

/** @typedef {import("./pixels.js").Picture} Picture */
/** @typedef {import("./switch_time.js").SwitchTime} SwitchTime */

/** Pictures that wait for their time: more than a second of them. */
const MOST_WAITING = 16;

/** Told of pictures as they come and of when they hold; gives the one for a frame. Times are those of frames. */
export class CameraView {
  /** @type {{ timeUs: number, picture: Picture }[]} */
  #waiting = [];
  /** @type {Picture | null} */
  #newest = null;
  /** @type {{ on: boolean, since: SwitchTime } | null} */
  #next = null;
  #shown = false;

  /**
   * From the frame of that time on what the camera sees is shown, or no more.
   * @param {boolean} on
   * @param {SwitchTime} since
   */
  switch(on, since) {
    this.#next = { on, since };
  }

  /**
   * What the camera saw at this time.
   * @param {number} timeUs
   * @param {Picture} picture
   */
  push(timeUs, picture) {
    this.#waiting.push({ timeUs, picture });
    if (this.#waiting.length > MOST_WAITING) this.#waiting.shift();
  }

  /**
   * For the frame of this time; null where the speaker is to be shown, and at rest until the first has come.
   * @param {number} timeUs
   */
  picture(timeUs) {
    while (this.#waiting.length && this.#waiting[0].timeUs <= timeUs) {
      this.#newest = this.#waiting[0].picture;
      this.#waiting.shift();
    }
    if (this.#next?.since.reached(timeUs)) {
      this.#shown = this.#next.on;
      this.#next = null;
      if (!this.#shown) this.#newest = null;
    }
    return this.#shown ? this.#newest : null;
  }
}
