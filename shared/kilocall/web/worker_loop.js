// A worker's one loop: wishes of the page in the order in which they came, and a step in between. As `runtime/worker.py`.

import { paused } from "./timing.js";

/** What goes wrong with every picture is told no more often. */
const TOLD_AGAIN_MS = 5000;

/** Runs what it is asked for and, in between, `step`, one at a time. */
export class WorkerLoop {
  /**
   * @param {() => Promise<number>} step returns the milliseconds until it wants to be called again, if nothing wakes it
   * @param {(text: string) => void} problem told what went wrong in a step or in what was asked for
   */
  constructor(step, problem) {
    this.step = step;
    this.problem = problem;
    /** @type {(() => void | Promise<void>)[]} */
    this.asked = [];
    this.woken = false;
    /** @type {(() => void) | null} */
    this.goOn = null;
    this.ticks = new MessageChannel();
    this.told = { text: "", at: 0 };
  }

  /** @param {() => void | Promise<void>} job */
  ask(job) {
    this.asked.push(job);
    this.wake();
  }

  /** The next step comes at once. */
  wake() {
    this.woken = true;
    this.goOn?.();
  }

  /** @returns {Promise<never>} */
  async run() {
    for (;;) {
      this.woken = false;
      let rest = 0;
      try {
        while (this.asked.length) await this.asked.shift()?.();
        rest = await this.step();
      } catch (error) {
        // Whatever it is, the page is told, and the next picture may be made all the same.
        this.#tell(error instanceof Error ? error.message : String(error));
      }
      // Messages are only taken between two tasks, so that there is always one, however short.
      if (rest <= 0 || this.woken) await this.#tick();
      else await this.#pause(rest);
    }
  }

  /** @param {string} text */
  #tell(text) {
    const now = performance.now();
    if (text === this.told.text && now - this.told.at < TOLD_AGAIN_MS) return;
    this.told = { text, at: now };
    this.problem(text);
  }

  #tick() {
    return new Promise((done) => {
      this.ticks.port1.onmessage = done;
      this.ticks.port2.postMessage(null);
    });
  }

  /** @param {number} ms */
  async #pause(ms) {
    await paused(ms, (wake) => { this.goOn = wake; });
    this.goOn = null;
  }
}
