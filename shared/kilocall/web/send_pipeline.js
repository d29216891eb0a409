// The sending side as the page has it: a camera in, packets out, events between. The work is done by `send_worker.js` on a
// thread of its own. Methods and events are those of `sender/live.py`.

import { CaptureClock, clockOffsetUs, nowUs } from "./clock.js";
import { openWorker } from "./engine.js";
import { BadInput } from "./errors.js";
import { MotionMessage } from "./motion_message.js";

/** @typedef {import("./control.js").SourcePicture} SourcePicture */
/** @typedef {import("./motion_packet.js").MotionPacket} MotionPacket */

/**
 * A picture of this side's speaker, as it is sent.
 * @typedef {object} OwnSource
 * @property {{ format: "webp", data: Uint8Array, pictureHash: string }} packed
 * @property {string} id
 * @property {string} takenAt hh:mm, local time; empty for a picture from a file
 */

/**
 * What to send; the rate control's plans are such.
 * @typedef {object} Plan
 * @property {number} framesPerMessage
 * @property {number} fps
 * @property {number} level
 * @property {number} redundantFrames
 * @property {number} layerBps
 * @property {number} cameraBps
 */

/** @typedef {import("./calibration.js").Overlay} Overlay */

/**
 * What the thread tells.
 * @typedef {object} SendEvents
 * @property {(packet: MotionPacket, data: Uint8Array) => void} packet `data` is its message, with what of the layer is behind it
 * @property {(seen: boolean, sinceUs: number) => void} face whether a face is seen, and since which capture time
 * @property {(why: import("./own_camera_view.js").Why | null, sinceUs: number) => void} [camera] what the camera sees is shown
 * from this capture time on, and why; null: no more
 * @property {(source: OwnSource) => void} source a new source picture, to be offered to the other side
 * @property {(overlay: Overlay, seen: { timeUs: number, points: Float32Array | null }) => void} [overlay] what the page draws, and
 * the points of that frame's face in the crop, -1..1 [K, 2]
 * @property {(text: string) => void} problem
 */

/**
 * Counters since the start, and what holds now.
 * @typedef {object} SendNumbers
 * @property {number} frames
 * @property {number} sentFrames
 * @property {number} payloadBits
 * @property {number} packetsSent
 * @property {number} keyPackets
 * @property {number} fps that are sent now
 * @property {number} wantedFps that would be sent if this computer were fast enough
 * @property {"none" | "processor" | "the other side" | "network"} limitedBy
 * @property {boolean} faceSeen
 * @property {Record<string, number>} ms mean time of each stage for the last frames
 * @property {string} engine that runs the networks
 * @property {string[]} onGpu those that run on a graphics processor
 * @property {{ frames: number, bytes: number, setting: import("./layer_encoder.js").LayerSetting | null }} layer that is sent
 */

/**
 * @typedef {object} SendSettings
 * @property {number} [fps] that the camera is asked for
 * @property {number} [threads] most threads that networks run on, where the server isolates the page
 * @property {Promise<WebAssembly.Module> | null} [engine] compiled already (`compileEngine`); the worker does it otherwise
 * @property {MessagePort | null} [lends] over which a receiver has faces found in its source pictures (`faces`)
 * @property {boolean} [align] whether implicit keypoints are aligned; quicker and coarser without
 * @property {Plan} plan
 */

/** What a call's session asks of the sending side: `Outgoing` of `control/session.py`, and `SendPipeline`'s other methods. */
export class SendPipeline {
  /**
   * @param {SendEvents} events
   * @param {SendSettings} settings
   */
  constructor(events, { fps = 25, threads = 1, engine = null, lends = null, align = true, plan }) {
    this.events = events;
    this.worker = new Worker(new URL("send_worker.js", import.meta.url), { type: "module" });
    this.connection = 0;
    this.asked = 0;
    /** @type {Map<number, { done: (value: any) => void, fail: (why: Error) => void }>} */
    this.waiting = new Map();
    /** The source picture that motion refers to or that is offered. @type {OwnSource | null} */
    this.source = null;
    /** @type {(() => void) | null} */
    this.stopCamera = null;
    this.isReady = false;
    /** Whether a video layer can be sent, and what the camera sees; known some time after it was asked for. */
    this.canSendLayer = false;
    /** Settled once the networks are there; fails with the reason. */
    this.ready = /** @type {Promise<void>} */ (new Promise((done, fail) => {
      this.worker.onmessage = ({ data }) => this.#take(data, done, fail);
      this.worker.onerror = ({ message }) => fail(new Error(message || "the sender's worker could not be started"));
      const given = lends === null ? [] : [lends];
      openWorker(this.worker, { fps, threads, lends, align, plan, clockOffsetUs: clockOffsetUs() }, given, engine).catch(fail);
    }));
  }

  /**
   * Another camera from now on, which is running; who made the track stops it.
   * @param {MediaStreamTrack} track
   */
  async useCamera(track) {
    this.stopCamera?.();
    this.worker.postMessage({ do: "anew" });
    const { MediaStreamTrackProcessor: Processor } = /** @type {any} */ (globalThis);
    this.stopCamera = Processor === undefined ? await this.#film(track)
      : this.#read(new Processor({ track, maxBufferSize: 1 }).readable.getReader());
  }

  /**
   * The newest frame whenever the worker has taken one. Read here and not there: Chromium puts a thread that reads a camera
   * before others, and on a slow computer hardly a picture of the other side was made beside it.
   * @param {ReadableStreamDefaultReader<VideoFrame>} reader
   */
  #read(reader) {
    const clock = new CaptureClock();
    /** @type {{ image: VideoFrame, captureUs: number } | null} */
    let newest = null;
    let going = true;
    let taken = true;
    const give = () => {
      taken = newest === null;
      if (newest === null) return;
      this.worker.postMessage({ do: "frame", ...newest }, [newest.image]);
      newest = null;
    };
    this.onTaken = give;
    const read = async () => {
      for (;;) {
        const { done, value: image } = await reader.read();
        if (done || image === undefined) break;
        newest?.image.close();
        newest = { image, captureUs: clock.captureUs(image.timestamp, nowUs()) };
        if (taken) give();
      }
      if (going) this.events.problem("the camera has ended");
    };
    void read();
    return () => {
      going = false;
      this.onTaken = null;
      newest?.image.close();
      newest = null;
      void reader.cancel();
    };
  }

  /**
   * Frames one by one where the browser hands over none by itself: the next only once the worker has taken the last.
   * @param {MediaStreamTrack} track
   */
  async #film(track) {
    const video = Object.assign(document.createElement("video"), { muted: true, playsInline: true });
    video.srcObject = new MediaStream([track]);
    let going = true;
    const next = async () => {
      if (!going) return;
      let bitmap;
      try {
        bitmap = await createImageBitmap(video);
      } catch {
        // A browser may call before the first frame can be read.
        video.requestVideoFrameCallback(next);
        return;
      }
      this.onTaken = () => video.requestVideoFrameCallback(next);
      this.worker.postMessage({ do: "frame", image: bitmap, captureUs: nowUs() }, [bitmap]);
    };
    video.requestVideoFrameCallback(next);
    await video.play();
    return () => {
      going = false;
      this.onTaken = null;
      video.srcObject = null;
    };
  }

  /** @type {(() => void) | null} */
  onTaken = null;

  /** A new connection: the encoder starts anew, motion is sent from now on, with the newest source picture. */
  begin() {
    this.connection++;
    this.worker.postMessage({ do: "begin", connection: this.connection });
  }

  /** Nothing is sent any more. */
  pause() {
    this.worker.postMessage({ do: "pause" });
  }

  /** @param {number} sequence */
  acknowledge(sequence) {
    this.worker.postMessage({ do: "acknowledge", sequence });
  }

  /**
   * The other side is ready to move this picture.
   * @param {string} pictureHash
   */
  confirm(pictureHash) {
    this.worker.postMessage({ do: "confirm", pictureHash });
  }

  /** @param {Plan} plan */
  follow(plan) {
    this.worker.postMessage({ do: "follow", plan });
  }

  /**
   * The other side shows no more pictures a second; forgotten with the next connection.
   * @param {number} fps
   */
  limit(fps) {
    this.worker.postMessage({ do: "limit", fps });
  }

  /**
   * The other side takes a video layer, or misses a frame of it.
   * @param {import("./control.js").LayerReport} report
   */
  askLayer({ wantedBps, keyNeeded }) {
    this.worker.postMessage({ do: "ask layer", report: { wantedBps, keyNeeded } });
  }

  /** The other side can show what the camera sees; forgotten with the next connection. */
  takeCamera() {
    this.worker.postMessage({ do: "take camera" });
  }

  /**
   * Shows what the camera sees, where the other side can, until it is switched off again.
   * @param {boolean} on
   */
  showCamera(on) {
    this.worker.postMessage({ do: "show camera", on });
  }

  /**
   * The camera's pictures are not looked at while it is off.
   * @param {boolean} off
   */
  setCameraOff(off) {
    this.worker.postMessage({ do: "camera off", off });
  }

  /** @param {boolean} wanted */
  setOverlayWanted(wanted) {
    this.worker.postMessage({ do: "overlay", wanted });
  }

  /**
   * The best of the last frames becomes the source picture; fails with the reason when there is none.
   * @returns {Promise<void>}
   */
  takeSource() {
    return this.#ask({ do: "take source" });
  }

  /**
   * The face of a picture file becomes the source picture; fails with the reason where it has none.
   * @param {Uint8Array} data
   * @returns {Promise<void>}
   */
  usePicture(data) {
    return this.#ask({ do: "use picture", data });
  }

  /**
   * A source picture that was used before, again.
   * @param {OwnSource} source
   * @returns {Promise<void>}
   */
  useSource(source) {
    return this.#ask({ do: "use source", source });
  }

  /**
   * Networks may run on a graphics processor from now on.
   * @param {MessagePort} port of `gpu_worker.js`
   */
  useGpu(port) {
    this.worker.postMessage({ do: "gpu", port }, [port]);
  }

  /** @returns {Promise<SendNumbers>} */
  numbers() {
    return this.#ask({ do: "numbers" });
  }

  /** Ends the worker; what was asked for is never answered. */
  close() {
    this.stopCamera?.();
    this.worker.terminate();
  }

  /**
   * @param {object} wish
   * @param {Transferable[]} [given]
   * @returns {Promise<any>}
   */
  #ask(wish, given = []) {
    const number = this.asked++;
    return new Promise((done, fail) => {
      this.waiting.set(number, { done, fail });
      this.worker.postMessage({ ...wish, number }, given);
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
      case "packet":
        // One of the connection before would come to the next with a sequence number from far ahead.
        if (told.connection === this.connection) events.packet(MotionMessage.parse(told.data).packet, told.data);
        return;
      case "face": return events.face(told.seen, told.sinceUs);
      case "layer":
        this.canSendLayer = told.canSend;
        return;
      case "camera": return events.camera?.(told.why, told.sinceUs);
      case "source":
        this.source = told.source;
        return events.source(told.source);
      case "overlay": return events.overlay?.(told.overlay, { timeUs: told.timeUs, points: told.points });
      case "problem": return events.problem(told.text);
      case "taken": return this.onTaken?.();
      case "open":
        this.isReady = true;
        return done();
      case "fail": return fail(new BadInput(told.text));
      case "answer": {
        const waiting = this.waiting.get(told.number);
        this.waiting.delete(told.number);
        if (told.why === null) waiting?.done(told.value);
        else waiting?.fail(new BadInput(told.why));
      }
    }
  }
}
