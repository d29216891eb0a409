// Whether networks run on a graphics processor: what decides it, and what happens when one fails.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Found, NEAR, NETWORKS, Trial, apart, isSoftware, keyOf, nameOf, wantedEngine, worthAsking } from "../../shared/kilocall/web/gpu_choice.js";
import { GpuNetworks, engineName } from "../../shared/kilocall/web/gpu_network.js";
import { loading } from "../../shared/kilocall/web/engine.js";
import { engine, networkFiles, noEngine } from "./helpers.mjs";

const INTEL = { vendor: "intel", architecture: "gen-12lp", device: "", description: "", isFallbackAdapter: false };
const CHROMIUM = { gpu: true, suspends: true };

test("the page's address may ask for an engine", () => {
  assert.deepEqual(["", "?engine=wasm", "?engine=webgpu", "?engine=other", "?x=1"].map(wantedEngine), ["auto", "wasm", "webgpu", "auto", "auto"]);
});

test("a graphics processor is asked for where the engine can run and the network carries it", () => {
  assert.ok(worthAsking("auto", CHROMIUM));
  assert.ok(worthAsking("auto", { ...CHROMIUM, saveData: false, effectiveType: "4g" }));
  assert.ok(!worthAsking("auto", { ...CHROMIUM, effectiveType: "3g" }));
  assert.ok(!worthAsking("auto", { ...CHROMIUM, saveData: true }));
  assert.ok(worthAsking("webgpu", { ...CHROMIUM, saveData: true }));
  assert.ok(!worthAsking("wasm", CHROMIUM));
  assert.ok(!worthAsking("webgpu", { gpu: false, suspends: true }));
  assert.ok(!worthAsking("webgpu", { gpu: true, suspends: false }));
});

test("a driver that computes on the processor is no graphics processor", () => {
  assert.ok(!isSoftware(INTEL));
  assert.ok(isSoftware({ ...INTEL, isFallbackAdapter: true }));
  for (const architecture of ["swiftshader", "llvmpipe"]) assert.ok(isSoftware({ vendor: "google", architecture }));
  assert.ok(isSoftware({ vendor: "mesa", description: "llvmpipe (LLVM 19.1.7, 256 bits)" }));
  assert.ok(isSoftware({ vendor: "microsoft", description: "Microsoft Basic Render Driver" }));
  // A browser's own object has nothing but getters.
  class Info {
    get vendor() { return "mesa"; }
    get architecture() { return "llvmpipe"; }
  }
  assert.ok(isSoftware(new Info()));
  assert.equal(nameOf(new Info()), "mesa llvmpipe");
  assert.equal(nameOf(INTEL), "intel gen-12lp");
  assert.equal(nameOf({}), "unnamed");
});

test("what was found holds for one adapter, one browser and one set of files", () => {
  const key = keyOf(INTEL, "Chromium 156", "https://example.org/web/0123/gpu_worker.js");
  const text = String(new Found(key, { field: "gpu", face: "slower" }));
  assert.deepEqual(Found.read(key, text).outcomes, { field: "gpu", face: "slower" });
  for (const other of [keyOf(INTEL, "Chromium 157", "https://example.org/web/0123/gpu_worker.js"), ""]) {
    assert.deepEqual(Found.read(other, text).outcomes, {});
  }
  for (const damaged of [null, "", "{", "null", "7", `{"key":"${key}"}`, `{"key":"${key}","outcomes":{"field":"best"}}`]) {
    assert.deepEqual(Found.read(key, damaged).outcomes, {});
  }
});

test("where every network is better off in WebAssembly nothing is loaded again", () => {
  const all = (/** @type {import("../../shared/kilocall/web/gpu_choice.js").Outcome} */ outcome) =>
    new Found("", Object.fromEntries(NETWORKS.map((name) => [name, outcome])));
  assert.ok(all("slower").hopeless);
  assert.ok(all("wrong").hopeless);
  assert.ok(!new Found("", { field: "slower" }).hopeless);
  assert.ok(!new Found("", { ...all("slower").outcomes, generator: "gpu" }).hopeless);
});

test("a trial takes the shortest of some runs, the first one apart, and asks for a tenth less", () => {
  const outcomes = (/** @type {number[]} */ gpuMs, cpuMs = 55) => {
    const trial = new Trial(true);
    return gpuMs.map((ms) => trial.add(cpuMs, ms, 0.5));
  };
  assert.deepEqual(outcomes([900, 60, 48, 70, 49, 52]), [null, null, null, null, null, "gpu"]);
  assert.equal(outcomes([10, 60, 51, 70, 54, 52]).at(-1), "slower");
});

test("other numbers end a trial at once, and one that is not timed ends with the first right ones", () => {
  assert.equal(new Trial(true).add(55, 5, 1.5), "wrong");
  assert.equal(new Trial(false).add(55, 5, Infinity), "wrong");
  assert.equal(new Trial(false).add(55, 5000, 0.9), "gpu");
});

test("answers are as far apart as their worst output", () => {
  const answer = (/** @type {number} */ painted) => ({ painted: { data: new Uint8Array(4).fill(painted), dims: [4] } });
  const within = NEAR.generator.painted;
  assert.equal(apart("generator", answer(10), answer(10)), 0);
  assert.equal(apart("generator", answer(10 + within), answer(10)), 1);
  assert.equal(apart("generator", {}, answer(10)), Infinity);
  const points = (/** @type {number[]} */ ...data) => ({ points: { data: Float32Array.from(data), dims: [data.length] } });
  assert.equal(apart("eye", points(0, NaN), points(0, 0)), Infinity);
  assert.equal(apart("eye", points(0), points(0, 0)), Infinity);
  // One output that is as it should be hides no other.
  const [good, bad] = [0, 1].map((value) => ({ data: Float32Array.of(value), dims: [1] }));
  for (const name of ["points", "depth"]) {
    assert.ok(apart("face", { points: good, depth: good, [name]: bad }, { points: good, depth: good }) > 1);
  }
});

test("how far apart they may be is said for every output", { skip: noEngine }, async () => {
  const { InferenceSession } = await engine();
  for (const name of NETWORKS) {
    const file = networkFiles([name])[name];
    const { outputNames } = await InferenceSession.create(file, loading(file));
    assert.deepEqual(Object.keys(NEAR[name]).sort(), [...outputNames].sort());
  }
});

class Tensor {
  constructor(/** @type {string} */ type, /** @type {Float32Array} */ data, /** @type {number[]} */ dims) {
    Object.assign(this, { type, data, dims });
  }
}

/** A network of two numbers, and a worker's end that answers with what the test says. */
class Lent {
  /** @param {(inputs: Record<string, any>) => object} answer  @param {object} [offer] */
  constructor(answer, offer = {}) {
    const { port1, port2 } = new MessageChannel();
    this.far = port2;
    /** @type {any[]} */
    this.told = [];
    this.runs = 0;
    this.input = /** @type {any} */ ({ region: new Tensor("float32", Float32Array.of(1, 2), [2]) });
    const run = async () => {
      this.runs++;
      return { points: new Tensor("float32", Float32Array.of(3, 4), [2]) };
    };
    this.networks = new GpuNetworks(/** @type {any} */ ({ Tensor }));
    this.session = this.networks.lent("eye", /** @type {any} */ ({ inputNames: ["region"], run }));
    port2.onmessage = ({ data }) => {
      this.told.push(data);
      if (data.do === "load") port2.postMessage({ did: "offer", offer: { adapter: "a chip", patient: true, outcomes: {}, ...offer } });
      if (data.do === "run") port2.postMessage({ number: data.number, ms: 1, ...answer(data.inputs) });
    };
    this.networks.use(port1);
    this.end = () => { port1.close(); port2.close(); };
  }

  async points() {
    const { points } = await this.session.run(this.input);
    await new Promise((done) => setTimeout(done, 20));
    return [.../** @type {Float32Array} */ (points.data)];
  }
}

const RIGHT = () => ({ made: { points: { type: "float32", data: Float32Array.of(3, 4.001), dims: [2] } } });

test("a network goes over once its answer is right there, and comes back when the graphics processor is lost", async () => {
  const lent = new Lent(RIGHT);
  try {
    assert.equal(engineName(lent.networks, 2), "WebAssembly, 2 threads");
    while (!lent.told.some((one) => one.do === "found")) assert.deepEqual(await lent.points(), [3, 4]);
    const { runs } = lent;
    assert.deepEqual(await lent.points(), [3, Math.fround(4.001)]);
    assert.equal(lent.runs, runs);
    assert.equal(engineName(lent.networks, 2), "WebGPU, a chip");
    assert.deepEqual(lent.networks.names, ["eye"]);
    lent.far.postMessage({ did: "lost", why: "gone" });
    await new Promise((done) => setTimeout(done, 20));
    assert.deepEqual(await lent.points(), [3, 4]);
    assert.equal(engineName(lent.networks, 1), "WebAssembly, 1 thread");
  } finally {
    lent.end();
  }
});

test("what was asked when it is lost is answered all the same", async () => {
  let lost = false;
  const lent = new Lent(() => {
    if (lost) lent.far.postMessage({ did: "lost", why: "gone" });
    return lost ? { number: -1, made: {} } : RIGHT();
  });
  try {
    while (!lent.told.some((one) => one.do === "found")) await lent.points();
    lost = true;
    assert.deepEqual(await lent.points(), [3, 4]);
  } finally {
    lent.end();
  }
});

test("a network stays where it is for other numbers, and where it was slower before", async () => {
  const wrong = new Lent(() => ({ made: { points: { type: "float32", data: Float32Array.of(3, 9), dims: [2] } } }));
  const slower = new Lent(RIGHT, { patient: false, outcomes: { eye: "slower" } });
  try {
    for (let n = 0; n < 4; n++) {
      assert.deepEqual(await wrong.points(), [3, 4]);
      assert.deepEqual(await slower.points(), [3, 4]);
    }
    assert.deepEqual(wrong.told.filter((one) => one.do === "found").map(({ outcome }) => outcome), ["wrong"]);
    assert.deepEqual(slower.told.map((one) => one.do), ["load"]);
    assert.equal(wrong.networks.adapter ?? slower.networks.adapter, null);
  } finally {
    wrong.end();
    slower.end();
  }
});
