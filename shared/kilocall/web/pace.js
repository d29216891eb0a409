// How many pictures a second this computer can hold. As `runtime/pace.py`, which says how it is chosen; what a thread gets of
// the processor a browser does not tell, so that only the time that passes counts here.

const LADDER = [25, 20, 15, 12.5, 10, 8, 6, 5];
const FULL = 0.88;
const FITS = 0.72;
const BUSY = 0.6;
const LEFT_OUT = 0.2;
const WINDOW_US = 1_200_000;
const SETTLE_US = 1_000_000;
const ENOUGH_PICTURES = 4;
const ENOUGH_S = 1;
const MOST_DOWN = 2;
const UP_AFTER_US = 4_000_000;
const DOUBLINGS = 5;
const HELD_US = 60_000_000;
const IN_USE = 0.8;
const PAUSE_US = 1_000_000;

/**
 * The rates to choose from where `fps` are wanted, the highest first.
 * @param {number} fps
 */
export function rungs(fps) {
  return [fps, ...LADDER.filter((rate) => rate <= 0.9 * fps)];
}

/**
 * How many frames a message carries at `fps` where `planned` were chosen for `plannedFps`.
 * @param {number} planned
 * @param {number} plannedFps
 * @param {number} fps
 */
export function framesInMessage(planned, plannedFps, fps) {
  return Math.max(1, Math.floor(planned * Math.min(1, fps / plannedFps) + 0.5));
}

/** @typedef {{ atUs: number, wallS: number, leftOut: number }} Done */

/** Chooses a rate for one thread's work. */
export class Pace {
  constructor(fps = 25) {
    this.rates = rungs(fps);
    /** Which of the rates holds; 0 is the highest. */
    this.rung = 0;
    this.changes = 0;
    this.leastFps = fps;
    /** @type {Done[]} */
    this.recent = [];
    /** @type {number | null} */
    this.changedUs = null;
    /** @type {number | null} */
    this.climbedUs = null;
    this.failed = this.rates.map(() => 0);
  }

  /** Pictures a second that this thread holds, as far as it has been tried. */
  get fps() {
    return this.rates[this.rung];
  }

  /**
   * Takes one picture's work, which ended at `nowUs`; whether the rate is another now.
   * @param {number} nowUs
   * @param {number} wallS seconds that it took
   * @param {number} [leftOut] pictures that were to be made since the one before and were not
   */
  done(nowUs, wallS, leftOut = 0) {
    this.changedUs ??= nowUs - Math.round(1e6 * wallS);
    this.recent.push({ atUs: nowUs, wallS, leftOut });
    while (this.recent[0].atUs < nowUs - UP_AFTER_US) this.recent.shift();
    const rung = this.#lower(nowUs) ?? this.#higher(nowUs);
    if (rung === null) return false;
    this.#goTo(nowUs, rung);
    return true;
  }

  /** @param {number} nowUs */
  #lower(nowUs) {
    const recent = this.recent.filter(({ atUs }) => atUs > nowUs - WINDOW_US);
    const enough = recent.length >= ENOUGH_PICTURES;
    if (!enough && sum(recent.map(({ wallS }) => wallS)) < ENOUGH_S) return null;
    if (this.rung === this.rates.length - 1 || nowUs - /** @type {number} */ (this.changedUs) < SETTLE_US) return null;
    const each = recent.map(({ wallS }) => wallS).sort((a, b) => a - b);
    if (enough) each.pop(); // one picture that takes long is no reason
    const mean = sum(each) / each.length;
    const leftOut = sum(recent.map((one) => one.leftOut));
    const gaps = leftOut > LEFT_OUT * (leftOut + recent.length) && mean * this.fps > BUSY;
    if (mean * this.fps <= FULL && !gaps) return null;
    const last = Math.min(this.rung + MOST_DOWN, this.rates.length - 1);
    for (let rung = this.rung + 1; rung < last; rung++) if (mean * this.rates[rung] <= FULL) return rung;
    return last;
  }

  /** @param {number} nowUs */
  #higher(nowUs) {
    if (this.rung === 0) return null;
    const wait = UP_AFTER_US * 2 ** Math.min(this.failed[this.rung - 1], DOUBLINGS);
    const span = nowUs - this.recent[0].atUs;
    if (nowUs - /** @type {number} */ (this.changedUs) < wait || span < 0.9 * UP_AFTER_US) return null;
    const count = this.recent.length;
    const mean = sum(this.recent.map(({ wallS }) => wallS)) / count;
    const leftOut = sum(this.recent.map((one) => one.leftOut));
    const inUse = (1e6 * (count - 1 + leftOut)) / span >= IN_USE * this.fps;
    const fits = mean * this.rates[this.rung - 1] <= FITS && leftOut <= LEFT_OUT * (leftOut + count);
    return inUse && fits ? this.rung - 1 : null;
  }

  /**
   * @param {number} nowUs
   * @param {number} rung
   */
  #goTo(nowUs, rung) {
    if (rung < this.rung) {
      this.climbedUs = nowUs;
    } else {
      if (this.climbedUs !== null) {
        this.failed[this.rung] = nowUs - this.climbedUs >= HELD_US ? 0 : this.failed[this.rung] + 1;
      }
      this.climbedUs = null;
    }
    this.rung = rung;
    this.changes++;
    this.leastFps = Math.min(this.leastFps, this.fps);
    this.changedUs = nowUs;
    this.recent = [];
  }
}

/** Which of a source's frames to take for a lower rate: those nearest to even steps in time. */
export class EvenSteps {
  /** @param {number} [sourceFps] of the frames that it is asked about, about */
  constructor(sourceFps = 25) {
    this.nearUs = 0.6e6 / sourceFps;
    /** @type {number | null} */
    this.stepUs = null;
    this.takenUs = 0;
    /** Steps without a frame before the one taken last. */
    this.leftOut = 0;
  }

  /**
   * Whether the frame of this time is one of `fps` a second.
   * @param {number} timeUs
   * @param {number} fps
   */
  take(timeUs, fps) {
    const period = 1e6 / fps;
    const since = timeUs - this.takenUs;
    if (this.stepUs === null || !(since > -PAUSE_US && since < PAUSE_US)) {
      [this.stepUs, this.leftOut] = [timeUs, 0];
    } else {
      const next = this.stepUs + period;
      if (timeUs < next - Math.min(this.nearUs, period / 3)) return false;
      this.stepUs = Math.max(next, timeUs - period / 2);
      this.leftOut = Math.max(0, Math.trunc(since / period - 0.7));
    }
    this.takenUs = timeUs;
    return true;
  }
}

/** @param {number[]} values */
function sum(values) {
  return values.reduce((total, value) => total + value, 0);
}
