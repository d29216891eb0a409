// What the video layer changes of the pictures that motion makes: each layer frame at its moment, then moved along. As
// `receiver/layer_mixer.py`.

/** @typedef {import("./fusion.js").Correction} Correction */
/** @typedef {import("./gl_compose.js").Change} Change */
/** @typedef {import("./made.js").Made} Made */
/** @typedef {import("./pixels.js").Picture} Picture */

/**
 * A layer frame is compared with the picture of its own moment, or one so near to it; the first after a jump with one up to a
 * frame of the slowest layer later, for what was before the jump was not made.
 */
const NEAR_US = 60_000;
const FIRST_NEAR_US = 170_000;
/**
 * Comparing takes a third of what a picture does: where pictures are further apart than this, because this computer is slow, every
 * second of them is compared at most. At 25 a second layers of any rate are compared in full.
 */
const SPARING_US = 50_000;
const SPARING = 1.9;
/** A layer is as fast as motion where its frames follow each other so soon, so often. */
const IN_STEP_US = 50_000;
const IN_STEP = 2;
/** A correction of this age counts in full, and one of that age not at all. */
const FRESH_US = 700_000;
const OLD_US = 1_400_000;
/** Pictures that are kept for a layer frame which comes after them. */
const MOST_MADE = 12;
/** Layer frames that are kept for a picture which is made after they came. */
const MOST_WAITING = 16;

/** @typedef {import("./fusion.js").Pace} Pace */
/** What compares them. @typedef {{ correction: (made: Made, layer: Picture, pace: Pace) => Promise<Correction> }} Comparing */

/** Holds the newest layer frames and the pictures they belong to. Times are those of the motion's frames. */
export class LayerMixer {
  /** @type {{ timeUs: number, layer: Picture }[]} */
  #waiting = [];
  /** @type {{ timeUs: number, made: Made }[]} */
  #made = [];
  /** @type {Correction | null} */
  #correction = null;
  /** What the next picture shows of it, where that is less. @type {Correction | null} */
  #atFirst = null;
  #correctedUs = 0;
  /** Of the layer. @type {number | null} */
  #newestUs = null;
  /** How many of its frames came soon after the one before. */
  #soon = 0;
  #fusion;

  /** @param {Comparing} fusion */
  constructor(fusion) {
    this.#fusion = fusion;
    /** Layer frames that a picture was compared with. */
    this.used = 0;
  }

  /** What follows has nothing to do with what was before. */
  reset() {
    this.#waiting = [];
    this.#made = [];
    this.#correction = null;
    this.#atFirst = null;
    this.#newestUs = null;
    this.#soon = 0;
  }

  /**
   * A layer frame of this capture time.
   * @param {number} timeUs
   * @param {Picture} layer
   */
  push(timeUs, layer) {
    this.#waiting.push({ timeUs, layer });
    if (this.#waiting.length > MOST_WAITING) this.#waiting.shift();
  }

  /**
   * What the layer changes of the picture of this capture time; null: nothing. One call at a time.
   * @param {Made} made
   * @param {number} timeUs
   * @returns {Promise<Change | null>}
   */
  async mix(made, timeUs) {
    const beforeUs = this.#made.at(-1)?.timeUs ?? timeUs;
    this.#made.push({ timeUs, made });
    if (this.#made.length > MOST_MADE) this.#made.shift();
    const gapUs = timeUs - beforeUs;
    await this.#compare(timeUs, gapUs > SPARING_US ? SPARING * gapUs : 0);
    const ageUs = timeUs - this.#correctedUs;
    const correction = this.#atFirst ?? this.#correction;
    this.#atFirst = null;
    if (correction === null || !(ageUs >= 0 && ageUs < OLD_US)) return null;
    return correction.for(made, Math.min(1, (OLD_US - ageUs) / (OLD_US - FRESH_US)));
  }

  /**
   * With the newest layer frame that is not ahead of what is shown, `apartUs` or more after the last.
   * @param {number} nowUs
   * @param {number} apartUs
   */
  async #compare(nowUs, apartUs) {
    /** @type {{ timeUs: number, layer: Picture } | undefined} */
    let newest;
    while (this.#waiting.length && this.#waiting[0].timeUs <= nowUs) {
      newest = this.#waiting.shift();
      const newestUs = newest?.timeUs ?? 0;
      const soon = this.#newestUs !== null && newestUs - this.#newestUs <= IN_STEP_US;
      this.#soon = soon ? this.#soon + 1 : 0;
      this.#newestUs = newestUs;
    }
    if (newest === undefined) return;
    const { timeUs, layer } = newest;
    const ageUs = nowUs - this.#correctedUs;
    // After a step forward in a stream the one before no longer counts, and no picture since was made.
    const stale = this.#correction === null || !(ageUs >= 0 && ageUs < FRESH_US);
    if (!stale && timeUs - this.#correctedUs < apartUs) return;
    const far = (/** @type {{ timeUs: number }} */ one) => Math.abs(one.timeUs - timeUs);
    const nearest = this.#made.reduce((best, one) => (far(one) < far(best) ? one : best));
    if (far(nearest) > (stale ? FIRST_NEAR_US : NEAR_US)) return;
    const inStep = this.#soon >= IN_STEP;
    const found = await this.#fusion.correction(nearest.made, layer, { inStep, slow: apartUs > 0 });
    // In step it is never late, and has little noise.
    if (this.#correction === null || stale || inStep) this.#correction = found;
    else [this.#atFirst, this.#correction] = found.after(this.#correction, nearest.made);
    this.#correctedUs = nearest.timeUs;
    this.used++;
  }
}
