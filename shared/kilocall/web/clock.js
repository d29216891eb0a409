// This side's clock of a call, which capture times and arrivals are read on: whole microseconds that only go on.

/**
 * Random in a page, or two computers on which pages were opened would seem to have one clock. A worker's is its page's, see
 * `followClock`.
 */
let offsetUs = globalThis.document === undefined ? 0 : crypto.getRandomValues(new Uint32Array(1))[0] * 1000;

/** As `runtime/clock.py`; the same in every thread of a page. */
export function nowUs() {
  return Math.round(1000 * (performance.timeOrigin + performance.now())) + offsetUs;
}

/** What a worker needs to read the same clock. */
export function clockOffsetUs() {
  return offsetUs;
}

/** @param {number} pageOffsetUs `clockOffsetUs` of the page */
export function followClock(pageOffsetUs) {
  offsetUs = pageOffsetUs;
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
