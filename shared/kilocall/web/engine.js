// What a worker needs before it can run networks: the engine for browsers, and the files of the family.

import { BadInput } from "./errors.js";

const AT = new URL("./", import.meta.url);
// Not a literal: the library's own types are those of its package.
const ENGINE = new URL("vendor/ort.wasm.bundle.min.mjs", AT).href;
const ENGINE_WASM = new URL("vendor/ort-wasm-simd-threaded.wasm", AT).href;
const GPU_ENGINE = new URL("vendor/ort.jspi.bundle.min.mjs", AT).href;
const GPU_ENGINE_WASM = new URL("vendor/ort-wasm-simd-threaded.jspi.wasm", AT).href;

/** Compiled once, for all workers of a page. */
export function compileEngine() {
  return WebAssembly.compileStreaming(fetch(ENGINE_WASM));
}

/**
 * The engine, on so many threads at most; on one where the server does not isolate the page.
 * @param {number} mostThreads
 * @param {WebAssembly.Module | Promise<WebAssembly.Module> | null} [given] null: the engine is fetched and compiled here
 */
export async function openEngine(mostThreads, given = null) {
  const [library, compiled] = await Promise.all([import(ENGINE), given]);
  const engine = /** @type {typeof import("onnxruntime-web")} */ (library);
  const threads = crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, mostThreads) : 1;
  engine.env.wasm.numThreads = threads;
  engine.env.wasm.wasmPaths = { wasm: ENGINE_WASM };
  engine.env.logLevel = "error";
  if (compiled !== null) give(engine, compiled);
  return { engine, threads };
}

/**
 * What a worker is told to begin with: the engine follows once the page has compiled it, and files are fetched before.
 * @param {Worker} worker
 * @param {object} wish
 * @param {Transferable[]} given
 * @param {Promise<WebAssembly.Module> | null} engine null: the worker compiles it
 */
export async function openWorker(worker, wish, given, engine) {
  worker.postMessage({ ...wish, do: "open", given: engine !== null }, given);
  if (engine !== null) worker.postMessage({ do: "engine", compiled: await engine });
}

/** In such a worker: the engine once it has come. @returns {Promise<WebAssembly.Module>} */
export function givenEngine() {
  return new Promise((done) => {
    addEventListener("message", ({ data: wish }) => { if (wish.do === "engine") done(wish.compiled); });
  });
}

/** The same engine with WebGPU; the little that it computes itself is done on one thread. */
export async function openGpuEngine() {
  const engine = /** @type {typeof import("onnxruntime-web")} */ (await import(GPU_ENGINE));
  engine.env.wasm.numThreads = 1;
  engine.env.wasm.wasmPaths = { wasm: GPU_ENGINE_WASM };
  engine.env.logLevel = "error";
  return engine;
}

/**
 * Has the library, which knows files alone, take a compiled module: it instantiates one in a worker, its own.
 * @param {typeof import("onnxruntime-web")} engine
 * @param {WebAssembly.Module} module
 */
function give(engine, module) {
  const { instantiate } = WebAssembly;
  engine.env.wasm.wasmBinary = new ArrayBuffer(0);
  WebAssembly.instantiate = /** @type {any} */ (async (/** @type {BufferSource} */ _, /** @type {WebAssembly.Imports} */ imports) => {
    WebAssembly.instantiate = instantiate;
    return { module, instance: await instantiate(module, imports) };
  });
}

/** A domain that the engine names in every graph that it has rewritten, behind the graph itself. */
const REWRITTEN = "com.microsoft.nchwc";

/**
 * How a network is to be loaded: one that was rewritten beforehand (`runtime/web_networks.py`) is not again.
 * @param {Uint8Array} file
 * @returns {import("onnxruntime-web").InferenceSession.SessionOptions}
 */
export function loading(file) {
  const end = new TextDecoder("latin1").decode(file.subarray(-512));
  return { executionProviders: ["wasm"], graphOptimizationLevel: end.includes(REWRITTEN) ? "disabled" : "all" };
}

/**
 * @template {string} Name
 * @param {readonly Name[]} names
 * @returns {Promise<Record<Name, Uint8Array>>}
 */
export async function networkFiles(names) {
  const files = await Promise.all(names.map((name) => file(`networks/${name}.onnx`)));
  return /** @type {Record<Name, Uint8Array>} */ (Object.fromEntries(names.map((name, n) => [name, files[n]])));
}

/**
 * A file beside this module. Raises BadInput where it cannot be read.
 * @param {string} name
 */
export async function file(name) {
  const reply = await fetch(new URL(name, AT));
  if (!reply.ok) throw new BadInput(`${name} cannot be read: ${reply.status} ${reply.statusText}`);
  return new Uint8Array(await reply.arrayBuffer());
}
