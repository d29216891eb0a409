// The one clock of the page and its workers.

/** Microseconds, the same in every thread of a page; it never runs back. */
export function nowUs() {
  return Math.round((performance.timeOrigin + performance.now()) * 1000);
}

/**
 * Capture times on this clock for the frames of a source that counts on one of its own. A frame that is read late, because
 * the thread was busy, keeps its distance from the one before.
 */
export class CaptureClock {
  constructor() {
    /** @type {number | null} */
    this.offsetUs = null;
    this.readUs = 0;
  }

  /**
   * @param {number} timestampUs on the source's clock
   * @param {number} readUs when it was handed over
   */
  captureUs(timestampUs, readUs) {
    const offset = readUs - timestampUs;
    // The fastest frame says it; it is forgotten slowly, as clocks drift, and at once where the source starts anew.
    const held = this.offsetUs === null ? offset : this.offsetUs + (readUs - this.readUs) * DRIFT;
    this.offsetUs = Math.abs(offset - held) > ANEW_US ? offset : Math.min(offset, held);
    this.readUs = readUs;
    return Math.round(timestampUs + this.offsetUs);
  }
}

const DRIFT = 1e-3;
const ANEW_US = 1_000_000;
