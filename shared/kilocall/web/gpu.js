// The page's end of the graphics processor: starts the worker that has it, brings it together with the workers of a call,
// and keeps what trials found.

import { worthAsking } from "./gpu_choice.js";

/** @typedef {import("./gpu_choice.js").Wanted} Wanted */

const KEPT_AS = "kilocall.gpu";

/**
 * Gives networks the chance to run on a graphics processor, where the browser has one that is worth while; the call goes on
 * meanwhile. Returns how to end it.
 * @param {Wanted} wanted
 * @param {{ useGpu: (port: MessagePort) => void }[]} pipelines
 * @returns {() => void}
 */
export function offerGpu(wanted, pipelines) {
  if (!worthAsking(wanted, thisBrowser())) return () => {};
  const worker = new Worker(new URL("gpu_worker.js", import.meta.url), { type: "module" });
  const end = () => worker.terminate();
  const say = (/** @type {string} */ why) => console.warn(`kilocall: not on the graphics processor: ${why}`);
  worker.onmessage = ({ data: { did, text } }) => {
    if (did === "found") return keep(text);
    if (did !== "none") say(text);
    if (did !== "wrong") end();
  };
  worker.onerror = ({ message }) => {
    say(message || "its worker could not be started");
    end();
  };
  const ports = pipelines.map((pipeline) => {
    const { port1, port2 } = new MessageChannel();
    pipeline.useGpu(port1);
    return port2;
  });
  worker.postMessage({ do: "open", wanted, kept: kept(), ports }, ports);
  return end;
}

function thisBrowser() {
  const { connection } = /** @type {{ connection?: { saveData?: boolean, effectiveType?: string } }} */ (navigator);
  const { saveData, effectiveType } = connection ?? {};
  return { gpu: "gpu" in navigator, suspends: "Suspending" in WebAssembly, saveData, effectiveType };
}

/** Storage may be forbidden: then there is a trial each time. */
function kept() {
  try {
    return localStorage.getItem(KEPT_AS);
  } catch {
    return null;
  }
}

/** @param {string} text */
function keep(text) {
  try {
    localStorage.setItem(KEPT_AS, text);
  } catch {
    // As above.
  }
}
