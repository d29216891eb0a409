// Whether a network runs on the browser's graphics processor: where its numbers are right and it is faster there. As
// `model/gpu_trial.py` and `runtime/engines/fallback.py`; nothing here touches either engine.

/** What a page may be asked for (`?engine=`): by trial, on it however slow it is, or never. */
/** @typedef {"auto" | "webgpu" | "wasm"} Wanted */
/** @typedef {"gpu" | "slower" | "wrong"} Outcome */

/** Those that are tried, as GPU_NETWORKS in `web_files.py`. */
export const NETWORKS = /** @type {const} */ (["field", "generator", "face", "eye", "mouth"]);
/** @typedef {typeof NETWORKS[number]} Name */

/**
 * How far numbers may lie from those of the 8-bit networks, in the mean: points and displacements by about a quarter of a
 * pixel of what the network sees, features by two levels, shares by two hundredths. What is painted may lie further, half of
 * it is not shown.
 * @type {Record<Name, Record<string, number>>}
 */
export const NEAR = {
  field: { displacement: 0.002, visible: 0.02, gate: 0.02, fine: 2, coarse: 2, masks: 0.002 },
  generator: { painted: 6 },
  face: { points: 0.004, depth: 0.004, face_logit: 0.1, certainty: 0.02 },
  eye: { points: 0.008 },
  mouth: { points: 0.008 },
};
/** From the same network in float sums on the processor it may be only so much of that: another order of the sums. */
export const SAME = 0.1;
/** On the graphics processor it must be a tenth faster, the way there and back included. */
const FASTER = 1.1;
/** The shortest of so many runs counts, after one in which shaders are compiled. */
const RUNS = 5;
/** Through such a network the megabytes of the second engine would hold up a call. */
const NARROW = ["slow-2g", "2g", "3g"];
/** Drivers that compute on the processor itself. */
const SOFTWARE = /swiftshader|llvmpipe|lavapipe|basic render|\bwarp\b|software/i;

/** @typedef {{ vendor?: string, architecture?: string, device?: string, description?: string, isFallbackAdapter?: boolean }} AdapterInfo */

/**
 * @param {string} search of the page's address
 * @returns {Wanted}
 */
export function wantedEngine(search) {
  const engine = new URLSearchParams(search).get("engine");
  return engine === "webgpu" || engine === "wasm" ? engine : "auto";
}

/**
 * Whether it is worth while to ask for a graphics processor at all.
 * @param {Wanted} wanted
 * @param {{ gpu: boolean, suspends: boolean, saveData?: boolean, effectiveType?: string }} browser suspends: WebAssembly can
 * wait for a promise (JSPI), which the engine needs; the rest is what `navigator.connection` says of the network, where it does
 */
export function worthAsking(wanted, { gpu, suspends, saveData = false, effectiveType = "" }) {
  if (wanted === "wasm" || !gpu || !suspends) return false;
  return wanted === "webgpu" || !(saveData || NARROW.includes(effectiveType));
}

/** @param {AdapterInfo} info */
export function isSoftware({ isFallbackAdapter = false, vendor, architecture, device, description }) {
  return isFallbackAdapter || SOFTWARE.test([vendor, architecture, device, description].join(" "));
}

/**
 * For the page's numbers: browsers tell no more than a vendor and a family of chips.
 * @param {AdapterInfo} info
 */
export function nameOf({ vendor = "", architecture = "", description = "" }) {
  return description || [vendor, architecture].filter(Boolean).join(" ") || "unnamed";
}

/**
 * Under this what a trial found is kept: another adapter, browser, engine or network makes another one.
 * @param {AdapterInfo} info
 * @param {string} browser
 * @param {string} place of the files, which has the hash of them all in it
 */
export function keyOf({ vendor = "", architecture = "", device = "", description = "" }, browser, place) {
  return [vendor, architecture, device, description, browser, place].join("|");
}

/** What trials found, as it is kept: a damaged or foreign record is an empty one. */
export class Found {
  /**
   * @param {string} key
   * @param {Partial<Record<Name, Outcome>>} outcomes
   */
  constructor(key, outcomes = {}) {
    this.key = key;
    this.outcomes = outcomes;
  }

  /**
   * @param {string} key
   * @param {string | null} text
   */
  static read(key, text) {
    try {
      const { key: of, outcomes } = JSON.parse(text ?? "null");
      if (of !== key) return new Found(key);
      const known = NETWORKS.filter((name) => ["gpu", "slower", "wrong"].includes(outcomes[name]));
      return new Found(key, Object.fromEntries(known.map((name) => [name, outcomes[name]])));
    } catch {
      return new Found(key);
    }
  }

  toString() {
    return JSON.stringify({ key: this.key, outcomes: this.outcomes });
  }

  /** Every network is known to stay where it is. */
  get hopeless() {
    return NETWORKS.every((name) => (this.outcomes[name] ?? "gpu") !== "gpu");
  }
}

/** One network's trial, on what a call has it compute anyway. */
export class Trial {
  #runs = 0;
  #cpuMs = Infinity;
  #gpuMs = Infinity;

  /** @param {boolean} timed false: right numbers are enough, because it was faster before or is wanted however slow */
  constructor(timed) {
    this.timed = timed;
  }

  /**
   * The outcome, or null while there is none yet.
   * @param {number} cpuMs that the same inputs took in WebAssembly
   * @param {number} gpuMs from asking to the answer
   * @param {number} apart from `apart`
   * @returns {Outcome | null}
   */
  add(cpuMs, gpuMs, apart) {
    if (!(apart <= 1)) return "wrong";
    this.#cpuMs = Math.min(this.#cpuMs, cpuMs);
    if (this.#runs++ > 0) this.#gpuMs = Math.min(this.#gpuMs, gpuMs);
    if (!this.timed) return "gpu";
    if (this.#runs <= RUNS) return null;
    return this.#gpuMs * FASTER <= this.#cpuMs ? "gpu" : "slower";
  }
}

/** @typedef {{ readonly data: any, readonly dims: readonly number[] }} Numbers */

/**
 * How far two answers of a network lie apart: up to 1 they are the same.
 * @param {Name} name
 * @param {Record<string, Numbers>} gpu
 * @param {Record<string, Numbers>} cpu
 */
export function apart(name, gpu, cpu) {
  let most = 0;
  for (const [output, { data: wanted }] of Object.entries(cpu)) {
    const found = gpu[output]?.data;
    if (found?.length !== wanted.length) return Infinity;
    let sum = 0;
    for (let n = 0; n < wanted.length; n++) sum += Math.abs(found[n] - wanted[n]);
    if (Number.isNaN(sum)) return Infinity;
    most = Math.max(most, sum / wanted.length / NEAR[name][output]);
  }
  return most;
}
