// How long a stage takes. As `Milliseconds` of `runtime/worker.py`.

const LATELY = 25;

/** The mean of the last values. */
export class MeanMs {
  constructor() {
    /** @type {number[]} */
    this.values = [];
  }

  /** @param {number} ms */
  add(ms) {
    this.values.push(ms);
    if (this.values.length > LATELY) this.values.shift();
  }

  get mean() {
    return this.values.length ? this.values.reduce((sum, ms) => sum + ms, 0) / this.values.length : 0;
  }
}
