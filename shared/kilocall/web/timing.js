// How long a stage takes, as `Milliseconds` of `runtime/worker.py`; and pauses that something may end.

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

/**
 * Until it is woken, or for so long.
 * @param {number} ms
 * @param {(wake: () => void) => void} give told what wakes it
 */
export function paused(ms, give) {
  return new Promise((done) => {
    const timer = setTimeout(done, ms);
    give(() => {
      clearTimeout(timer);
      done(null);
    });
  });
}
