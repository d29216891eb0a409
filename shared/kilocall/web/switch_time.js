// From which frame on another picture is moved, or the camera's shown: the other side says it as a capture time. As
// `receiver/switch_time.py`.

import { timeInFullUs, wireTimeMs } from "./motion_packet.js";

/** Frames of several to a packet may be off by so much: packets say times to the ms. */
const ROUNDED_US = 2000;

/**
 * A moment on the sender's clock, to be compared with every frame that is shown after it was said.
 *
 * Times of frames are known but for multiples of 65.5 s. This one is taken as the moment nearest to the newest frame heard of
 * when it was said, however long no other follows; where none had come, to the first that does.
 */
export class SwitchTime {
  #timeMs;
  #nearUs;

  /**
   * @param {number} fromUs on the sender's clock
   * @param {number | null} newestUs as frames have it
   */
  constructor(fromUs, newestUs) {
    this.#timeMs = wireTimeMs(fromUs);
    this.#nearUs = newestUs;
  }

  /**
   * Whether the frame of this time is captured then or later.
   * @param {number} timeUs
   */
  reached(timeUs) {
    this.#nearUs ??= timeUs;
    return timeUs >= timeInFullUs(this.#timeMs, this.#nearUs) - ROUNDED_US;
  }
}
