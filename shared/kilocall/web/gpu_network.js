// Networks of a worker of a call, lent a graphics processor that another worker has (`gpu_worker.js`): WebAssembly's engine
// makes every answer until the other one has made the same in less time, and again once that fails.

import { Trial, apart } from "./gpu_choice.js";

/** @typedef {import("./gpu_choice.js").Name} Name */
/** @typedef {import("./gpu_choice.js").Outcome} Outcome */
/** @typedef {import("./renderer.js").Session} Session */
/** @typedef {import("onnxruntime-web").Tensor} Tensor */
/** @typedef {Record<string, Tensor>} Tensors */
/** @typedef {{ type: string, data: any, dims: readonly number[] }} Plain what a tensor is on its way between workers */
/** @typedef {{ number: number, made: Record<string, Plain>, ms: number }} Reply */

/** A driver that has not answered by then hangs; a trial may have to wait until networks of other workers are loaded. */
const LIMIT_MS = { trial: 60_000, later: 2000 };
/** Where it is wanted however slow it is. */
const PATIENT_MS = 300_000;

/** Networks of one worker. */
export class GpuNetworks {
  /** @type {MessagePort | null} */
  #port = null;
  #engine;
  #asked = 0;
  /** @type {Map<number, { done: (reply: { made: Tensors, ms: number }) => void, fail: (why: Error) => void }>} */
  #waiting = new Map();
  /** What the other worker has told first. @type {{ adapter: string, patient: boolean, outcomes: Partial<Record<Name, Outcome>> } | null} */
  #offer = null;
  #lost = false;
  /** @type {Set<Name>} */
  #names = new Set();
  /** @type {Set<Name>} of these, those that run there now */
  #taken = new Set();

  /** @param {Pick<import("./renderer.js").Engine, "Tensor">} engine WebAssembly's, whose tensors go in and come out */
  constructor(engine) {
    this.#engine = engine;
  }

  /**
   * From now on there may be a graphics processor.
   * @param {MessagePort} port of `gpu_worker.js`
   */
  use(port) {
    this.#port = port;
    port.onmessage = ({ data }) => {
      if (data.did === "offer") this.#offer = data.offer;
      else if (data.did === "lost") this.#lose(new Error(data.why));
      else this.#answer(data);
    };
    port.postMessage({ do: "load", names: [...this.#names] });
  }

  /** The graphics processor that networks run on now, if any does. */
  get adapter() {
    return this.#taken.size ? this.#offer?.adapter ?? null : null;
  }

  /** Those that do. */
  get names() {
    return [...this.#taken];
  }

  /**
   * What stands for the network from now on.
   * @param {Name} name
   * @param {Session} session
   * @returns {Session}
   */
  lent(name, session) {
    this.#names.add(name);
    /** @type {Trial | null} */
    let trial = null;
    let trying = false;
    let settled = false;

    /** @param {Tensors} inputs @param {readonly string[] | undefined} outputs @param {Tensors} wanted @param {number} cpuMs */
    const attempt = async (inputs, outputs, wanted, cpuMs) => {
      const offer = this.#offer;
      if (trying || settled || this.#lost || offer === null) return;
      const known = offer.outcomes[name];
      if (known !== undefined && known !== "gpu") {
        settled = true;
        return;
      }
      trial ??= new Trial(!offer.patient && known === undefined);
      trying = true;
      try {
        const { made, ms } = await this.#run(name, inputs, outputs, offer.patient ? PATIENT_MS : LIMIT_MS.trial);
        const outcome = trial.add(cpuMs, ms, apart(name, made, wanted));
        if (outcome === null) return;
        settled = true;
        if (outcome === "gpu" && !this.#lost) this.#taken.add(name);
        this.#port?.postMessage({ do: "found", name, outcome });
      } catch (error) {
        this.#giveUp(error);
      } finally {
        trying = false;
      }
    };

    /** @param {Tensors} inputs @param {readonly string[]} [outputs] */
    const run = async (inputs, outputs) => {
      if (this.#taken.has(name)) {
        try {
          const limit = this.#offer?.patient ? PATIENT_MS : LIMIT_MS.later;
          return (await this.#run(name, inputs, outputs, limit)).made;
        } catch (error) {
          this.#giveUp(error);
        }
      }
      const began = performance.now();
      const made = outputs === undefined ? await session.run(inputs) : await session.run(inputs, outputs);
      void attempt(inputs, outputs, made, performance.now() - began);
      return made;
    };
    return /** @type {Session} */ ({ inputNames: session.inputNames, run });
  }

  /**
   * @param {Name} name
   * @param {Tensors} inputs
   * @param {readonly string[] | undefined} outputs undefined: all
   * @param {number} limitMs
   * @returns {Promise<{ made: Tensors, ms: number }>}
   */
  #run(name, inputs, outputs, limitMs) {
    const number = this.#asked++;
    return new Promise((done, fail) => {
      const timer = setTimeout(() => {
        this.#waiting.delete(number);
        fail(new Error(`the graphics processor has not answered for ${limitMs / 1000} s`));
      }, limitMs);
      const ended = (/** @type {() => void} */ then) => {
        clearTimeout(timer);
        then();
      };
      this.#waiting.set(number, { done: (reply) => ended(() => done(reply)), fail: (why) => ended(() => fail(why)) });
      const sent = Object.entries(inputs).map(([input, { type, data, dims }]) => [input, { type, data, dims }]);
      // Copied rather than given away: should this fail, WebAssembly's engine gets the same.
      this.#port?.postMessage({ do: "run", number, name, inputs: Object.fromEntries(sent), outputs, askedMs: sharedMs() });
    });
  }

  /** @param {Reply} reply */
  #answer(reply) {
    const waiting = this.#waiting.get(reply.number);
    this.#waiting.delete(reply.number);
    const { Tensor } = this.#engine;
    const made = Object.entries(reply.made).map(([output, { type, data, dims }]) =>
      [output, new Tensor(/** @type {"float32"} */ (type), data, dims)]);
    waiting?.done({ made: Object.fromEntries(made), ms: reply.ms });
  }

  /**
   * For good: a driver that fails once does so again.
   * @param {unknown} error
   */
  #giveUp(error) {
    if (this.#lost) return;
    const why = error instanceof Error ? error : new Error(String(error));
    this.#port?.postMessage({ do: "give up", why: why.message });
    this.#lose(why);
  }

  /** @param {Error} why */
  #lose(why) {
    this.#lost = true;
    this.#taken.clear();
    const waiting = [...this.#waiting.values()];
    this.#waiting.clear();
    for (const { fail } of waiting) fail(why);
  }
}

/**
 * For the page's numbers.
 * @param {GpuNetworks} gpu
 * @param {number} threads
 */
export function engineName({ adapter }, threads) {
  if (adapter !== null) return `WebGPU, ${adapter}`;
  return `WebAssembly, ${threads} ${threads === 1 ? "thread" : "threads"}`;
}

/** One clock for all workers of a page. */
export function sharedMs() {
  return performance.timeOrigin + performance.now();
}
