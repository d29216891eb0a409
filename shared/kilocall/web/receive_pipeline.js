// The receiving side as the page has it: packets in, pictures on a canvas out, events between. The work is done by
// `receive_worker.js` on a thread of its own. Methods and events are those of `receiver/live.py`.

import { clockOffsetUs } from "./clock.js";
import { openWorker } from "./engine.js";

/** @typedef {import("./jitter_buffer.js").Report} Report */

/**
 * A picture that is on the canvas now.
 * @typedef {object} Rendered
 * @property {number} timeUs capture time on the sender's clock
 * @property {number} madeUs when it was ready, on this side's clock
 * @property {number} playoutUs how long the fastest packets wait here before their last frame is shown: what speech has to
 * wait too
 * @property {number} side of the canvas, pixels
 * @property {boolean} camera whether it is what the other side's camera saw, as it was, and not its speaker made from a picture
 * @property {boolean} layered whether a video layer is under the speaker
 */

/**
 * What the thread tells.
 * @typedef {object} ReceiveEvents
 * @property {(made: Rendered) => void} picture
 * @property {(pictureHash: string) => void} ready the picture with this hash can be moved
 * @property {(pictureHash: string, why: string) => void} refused it cannot
 * @property {(fileHash: string, size: number, why: string | null) => void} adapter the speaker adapter with this hash is in
 * use, or why it cannot be: always the latter
 * @property {(pictureHash: string, why: string | null) => void} reference frames can be shown on this further picture, or
 * why not
 * @property {(fps: number) => void} rate so many pictures a second can be shown from now on
 * @property {(played: import("./recorder.js").Played) => void} [played] while something records
 * @property {(frame: import("./layer_track.js").TimedLayer) => void} [layer] the same for frames of the video layer and of the
 * camera, as they are decoded; one of the camera without data: from the frame of this time on the speaker is shown
 * @property {(newest: number | null) => void} [layerLost] the video layer cannot be shown until a key frame comes; number of the
 * frame that was decoded last
 * @property {(text: string) => void} problem
 */

/**
 * Counters since the start.
 * @typedef {object} ReceiveNumbers
 * @property {number} rendered
 * @property {number} wanted pictures that would be shown if this computer were fast enough
 * @property {number} malformed
 * @property {number} undecodable
 * @property {number} inboxDropped
 * @property {number} received packets of this connection, and what became of them and their frames
 * @property {number} late
 * @property {number} duplicates
 * @property {number} played
 * @property {number} skipped
 * @property {number} repeated
 * @property {number} delayUs
 * @property {number} fps that this computer can show
 * @property {string | null} shownHash
 * @property {Record<string, number>} ms mean time of each stage for the last pictures
 * @property {LayerNumbers} layer
 * @property {string} engine that runs the networks
 * @property {string[]} onGpu those that run on a graphics processor
 */

/**
 * Of the video layer.
 * @typedef {object} LayerNumbers
 * @property {number} decoded frames of this connection
 * @property {number} missing times that a frame was missing, so that nothing was decoded until a key frame
 * @property {number} refused frames and fragments that made no sense
 * @property {number} used frames that a picture was compared with
 * @property {number | null} newest number of the frame decoded last
 */

/**
 * @typedef {object} ReceiveSettings
 * @property {number} [threads] most threads that networks run on, where the server isolates the page
 * @property {Promise<WebAssembly.Module> | null} [engine] compiled already (`compileEngine`); the worker does it otherwise
 * @property {MessagePort | null} [faces] of a sender that is given the other end (`lends`): it finds the face in each source
 * picture, and its networks are not loaded here as well
 */

/** What a call's session asks of the receiving side: `Incoming` of `control/session.py`, and `ReceivePipeline`'s other methods. */
export class ReceivePipeline {
  /**
   * @param {OffscreenCanvas} canvas given away by the page's element (`transferControlToOffscreen`)
   * @param {ReceiveEvents} events
   * @param {ReceiveSettings} [settings]
   */
  constructor(canvas, events, { threads = 1, engine = null, faces = null } = {}) {
    this.events = events;
    this.worker = new Worker(new URL("receive_worker.js", import.meta.url), { type: "module" });
    this.connection = 0;
    this.asked = 0;
    /** @type {Map<number, (value: any) => void>} */
    this.waiting = new Map();
    this.isReady = false;
    /** Once ready: whether this side makes use of a video layer. */
    this.takesLayer = false;
    /** Settled once the networks are there; fails with the reason. */
    this.ready = /** @type {Promise<void>} */ (new Promise((done, fail) => {
      this.worker.onmessage = ({ data }) => this.#take(data, done, fail);
      this.worker.onerror = ({ message }) => fail(new Error(message || "the receiver's worker could not be started"));
      const given = faces === null ? [canvas] : [canvas, faces];
      openWorker(this.worker, { canvas, threads, faces, clockOffsetUs: clockOffsetUs() }, given, engine).catch(fail);
    }));
  }

  /**
   * A motion packet as it arrived. Its bytes are given away where nothing else is in their buffer.
   * @param {Uint8Array} data
   * @param {number} arrivedUs
   */
  push(data, arrivedUs) {
    this.worker.postMessage({ do: "push", data, arrivedUs, connection: this.connection });
  }

  /** A new connection; the picture and its renderer stay. */
  restart() {
    this.connection++;
    this.worker.postMessage({ do: "restart", connection: this.connection });
  }

  /**
   * Makes a source picture ready to be moved; `ready` or `refused` follows.
   * @param {string} pictureHash
   * @param {Uint8Array} data
   */
  prepare(pictureHash, data) {
    this.worker.postMessage({ do: "prepare", pictureHash, data });
  }

  /**
   * Moves this prepared picture from the frame captured at `fromUs` (sender's clock) on.
   * @param {string} pictureHash
   * @param {number} fromUs
   */
  use(pictureHash, fromUs) {
    this.worker.postMessage({ do: "use", pictureHash, fromUs });
  }

  /**
   * A speaker adapter: a browser has only everybody's networks, and says so.
   * @param {string} fileHash
   * @param {Uint8Array} data
   */
  adapt(fileHash, data) {
    queueMicrotask(() => this.events.adapter(fileHash, data.length, "a browser renders with everybody's networks alone"));
  }

  /**
   * Adds a further picture of the speaker of a prepared source picture; `reference` follows.
   * @param {string} baseHash
   * @param {string} pictureHash
   * @param {Uint8Array} data
   */
  refer(baseHash, pictureHash, data) {
    this.worker.postMessage({ do: "refer", baseHash, pictureHash, data });
  }

  /**
   * What the other side's camera sees is shown from the frame captured at `fromUs` (its clock) on, or no more.
   * @param {boolean} shown
   * @param {number} fromUs
   */
  showCamera(shown, fromUs) {
    this.worker.postMessage({ do: "camera", shown, fromUs });
  }

  /**
   * The other side has a camera of `fps`; 25 unless told.
   * @param {number} fps
   */
  expect(fps) {
    this.worker.postMessage({ do: "expect", fps });
  }

  /** Another speaker: nothing is shown until the next picture is ready. */
  forget() {
    this.worker.postMessage({ do: "forget" });
  }

  /**
   * Turns the head from the next picture on; degrees.
   * @param {{ yaw: number, pitch: number, roll: number }} view
   */
  setView(view) {
    this.worker.postMessage({ do: "view", view });
  }

  /**
   * Whether anybody looks; otherwise nothing is rendered.
   * @param {boolean} watched
   */
  setWatched(watched) {
    this.worker.postMessage({ do: "watched", watched });
  }

  /**
   * Whether `played` is told.
   * @param {boolean} on
   */
  setRecording(on) {
    this.worker.postMessage({ do: "record", on });
  }

  /**
   * @param {number} receivedBytes what arrived from the sender since the report before, on the wire
   * @returns {Promise<Report | null>}
   */
  report(receivedBytes) {
    return this.#ask({ do: "report", receivedBytes });
  }

  /**
   * Networks may run on a graphics processor from now on.
   * @param {MessagePort} port of `gpu_worker.js`
   */
  useGpu(port) {
    this.worker.postMessage({ do: "gpu", port }, [port]);
  }

  /** @returns {Promise<ReceiveNumbers>} */
  numbers() {
    return this.#ask({ do: "numbers" });
  }

  /** Ends the worker; what was asked for is never answered. */
  close() {
    this.worker.terminate();
  }

  /**
   * @param {object} wish
   * @returns {Promise<any>}
   */
  #ask(wish) {
    const number = this.asked++;
    return new Promise((done) => {
      this.waiting.set(number, done);
      this.worker.postMessage({ ...wish, number });
    });
  }

  /**
   * @param {any} told
   * @param {() => void} done
   * @param {(why: Error) => void} fail
   */
  #take(told, done, fail) {
    const { events } = this;
    switch (told.did) {
      case "picture": return events.picture(told.made);
      case "ready": return events.ready(told.pictureHash);
      case "refused": return events.refused(told.pictureHash, told.why);
      case "reference": return events.reference(told.pictureHash, told.why);
      case "rate": return events.rate(told.fps);
      case "played": return events.played?.(told.played);
      case "layer": return events.layer?.(told.frame);
      case "layerLost": return events.layerLost?.(told.newest);
      case "problem": return events.problem(told.text);
      case "open":
        this.isReady = true;
        this.takesLayer = told.takesLayer;
        return done();
      case "fail": return fail(new Error(told.text));
      case "answer": {
        this.waiting.get(told.number)?.(told.value);
        this.waiting.delete(told.number);
      }
    }
  }
}
