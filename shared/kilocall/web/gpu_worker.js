// The worker that has the graphics processor: runs networks there for the workers of a call, each asking over a port of its
// own (`gpu_network.js`). A thread apart, so that loading networks, compiling shaders and a driver that crashes hold up no
// picture. Ends itself where there is nothing to gain.

import { file, openGpuEngine } from "./engine.js";
import { Found, SAME, apart, isSoftware, keyOf, nameOf } from "./gpu_choice.js";
import { sharedMs } from "./gpu_network.js";

/** @typedef {import("./gpu_choice.js").Name} Name */
/** @typedef {import("./gpu_choice.js").Wanted} Wanted */
/** @typedef {import("./gpu_network.js").Plain} Plain */
/** @typedef {{ number: number, name: Name, inputs: Record<string, Plain>, outputs?: string[], askedMs: number }} Asked */

/** Weights are widened when the network is loaded, and not at each run. */
const LOADING = { extra: { session: { disable_quant_qdq: "1" } } };

/** What is the same for all networks.
 * @typedef {object} Opened
 * @property {typeof import("onnxruntime-web")} engine
 * @property {string} adapter its name
 * @property {boolean} patient it is wanted however slow it is
 * @property {Found} found by trials so far
 */

/** @type {Map<Name, import("onnxruntime-web").InferenceSession>} */
const sessions = new Map();
/** @type {MessagePort[]} */
let ports = [];
/** Names of those that somebody runs here now. @type {Set<Name>} */
const taken = new Set();
let ended = false;
// One thing after the other: the engine waits for one run at a time.
let done = Promise.resolve();

addEventListener("message", ({ data }) => {
  open(data).catch((error) => fail(textOf(error)));
});

/** @param {{ wanted: Wanted, kept: string | null, ports: MessagePort[] }} wish */
async function open({ wanted, kept, ports: given }) {
  ports = given;
  const patient = wanted === "webgpu";
  const adapter = await /** @type {any} */ (navigator).gpu.requestAdapter();
  if (adapter === null) return patient ? fail("this browser gives no graphics processor") : tell({ did: "none" });
  const { info } = adapter;
  const found = Found.read(keyOf(info, navigator.userAgent, import.meta.url), patient ? null : kept);
  if (!patient && (isSoftware(info) || found.hopeless)) return tell({ did: "none" });
  const opened = { engine: await openGpuEngine(), adapter: nameOf(info), patient, found };
  for (const port of ports) {
    port.onmessage = ({ data: asked }) => {
      if (asked.do === "give up") return fail(asked.why); // whatever the driver is at
      if (asked.do === "found") return note(opened, asked.name, asked.outcome);
      const work = () => (asked.do === "load" ? load(opened, port, asked.names) : run(opened, port, asked));
      done = done.then(() => (ended ? undefined : work())).catch((error) => fail(textOf(error)));
    };
  }
}

/**
 * Once these networks are known to compute what they should, and can answer at once, shaders compiled, the port's other end
 * may try them.
 * @param {Opened} opened
 * @param {MessagePort} port
 * @param {Name[]} names
 */
async function load(opened, port, names) {
  const { engine: { env }, adapter, patient, found: { outcomes } } = opened;
  for (const name of names) {
    if (sessions.has(name) || (outcomes[name] ?? "gpu") !== "gpu") continue;
    const session = await sessionOf(opened, name);
    if (!sessions.size) watch(await /** @type {Promise<any>} */ (env.webgpu.device));
    if (session === null) note(opened, name, "wrong");
    else sessions.set(name, session);
  }
  port.postMessage({ did: "offer", offer: { adapter, patient, outcomes } });
}

/**
 * Null where the graphics processor gives other numbers than the processor, of one graph with one input.
 * @param {Opened} opened
 * @param {Name} name
 */
async function sessionOf({ engine: { InferenceSession, Tensor } }, name) {
  const graph = await file(`networks/${name}.gpu.onnx`);
  const gpu = await InferenceSession.create(graph, { ...LOADING, executionProviders: ["webgpu"] });
  const cpu = await InferenceSession.create(graph, { ...LOADING, executionProviders: ["wasm"] });
  const inputs = Object.fromEntries(gpu.inputMetadata.map((input) => [input.name, someTensor(Tensor, input)]));
  const distance = apart(name, await gpu.run(inputs), await cpu.run(inputs));
  await cpu.release();
  return distance <= SAME ? gpu : null;
}

/**
 * Any numbers, the same each time.
 * @param {typeof import("onnxruntime-web").Tensor} Tensor
 * @param {import("onnxruntime-web").InferenceSession.ValueMetadata} input
 */
function someTensor(Tensor, input) {
  if (!input.isTensor) throw new Error(`${input.name} is no tensor`);
  const shape = input.shape.map(Number);
  let state = 1;
  const shares = Float32Array.from({ length: shape.reduce((product, side) => product * side, 1) }, () => {
    state = (16807 * state) % 2147483647;
    return state / 2147483647;
  });
  return input.type === "uint8" ? new Tensor("uint8", Uint8Array.from(shares, (share) => 255 * share), shape)
    : new Tensor("float32", shares, shape);
}

/** @param {{ lost: Promise<{ message: string }> }} device */
function watch(device) {
  void device.lost.then(({ message }) => fail(`the graphics processor is lost: ${message}`));
}

/**
 * @param {Opened} opened
 * @param {MessagePort} port
 * @param {Asked} asked
 */
async function run({ engine: { Tensor } }, port, { number, name, inputs, outputs, askedMs }) {
  const session = sessions.get(name);
  if (session === undefined) throw new Error(`${name} was not asked for beforehand`);
  const given = Object.fromEntries(Object.entries(inputs).map(([input, { type, data, dims }]) =>
    [input, new Tensor(/** @type {"float32"} */ (type), data, dims)]));
  const answer = outputs === undefined ? await session.run(given) : await session.run(given, outputs);
  /** @type {Record<string, Plain>} */
  const made = {};
  for (const [output, { type, data, dims }] of Object.entries(answer)) made[output] = { type, data, dims };
  const buffers = new Set(Object.values(made).map(({ data }) => data.buffer));
  port.postMessage({ number, made, ms: sharedMs() - askedMs }, [...buffers]);
}

/**
 * Two workers may try one network: where one of them takes it, it is no loss.
 * @param {Opened} opened
 * @param {Name} name
 * @param {import("./gpu_choice.js").Outcome} outcome
 */
function note({ patient, found }, name, outcome) {
  if (outcome === "slower" && taken.has(name)) return;
  if (outcome === "gpu") taken.add(name);
  found.outcomes[name] = outcome;
  // Where it was not timed, that says nothing about the next time.
  if (!patient) tell({ did: "found", text: String(found) });
  if (outcome === "wrong") tell({ did: "wrong", text: `${name} gives other numbers there` });
  if (found.hopeless) tell({ did: "none" });
}

/**
 * Everything goes back to WebAssembly, once and for all.
 * @param {string} why
 */
function fail(why) {
  if (ended) return;
  ended = true;
  for (const port of ports) port.postMessage({ did: "lost", why });
  tell({ did: "fail", text: why });
}

/** @param {unknown} error */
function textOf(error) {
  return error instanceof Error ? error.message : String(error);
}

/** @param {object} message */
function tell(message) {
  postMessage(message);
}
