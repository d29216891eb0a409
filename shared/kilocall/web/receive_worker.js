// The receiving thread: motion packets through the jitter buffer to pictures, each at its time, drawn onto the page's canvas.
// As `receiver/live.py`; `receive_pipeline.js` is the page's end.

import { CameraView } from "./camera_view.js";
import { followClock, nowUs } from "./clock.js";
import { PacketDecoder } from "./decode.js";
import { file, givenEngine, networkFiles, openEngine } from "./engine.js";
import { BadInput, BadPacket, KilocallError } from "./errors.js";
import { FACE_NETWORKS, FaceTracker, nobody, sourceOf } from "./face_tracker.js";
import { Fusion } from "./fusion.js";
import { GpuNetworks, engineName } from "./gpu_network.js";
import { ownFamily } from "./hello.js";
import { JitterBuffer } from "./jitter_buffer.js";
import { layerIsSupported } from "./layer_decoder.js";
import { LayerMixer } from "./layer_mixer.js";
import { LayerReceiver } from "./layer_receiver.js";
import { LentTracker } from "./lent_tracker.js";
import { MOST_PICTURES } from "./limits.js";
import { fromVector } from "./motion.js";
import { MotionFit, motionOf } from "./motion_fit.js";
import { MotionMessage } from "./motion_message.js";
import { EvenSteps, Pace } from "./pace.js";
import { decodedSource } from "./picture_decoder.js";
import { NETWORKS, Networks, PictureRenderer, ReferenceRenderer } from "./renderer.js";
import { screenOn } from "./screen.js";
import { ShapeModel, expressionNumbers } from "./shape.js";
import { SwitchTime } from "./switch_time.js";
import { MeanMs } from "./timing.js";
import { WorkerLoop } from "./worker_loop.js";

/** @typedef {import("./motion.js").Motion} Motion */
/** @typedef {import("./pixels.js").Picture} Picture */
/** @typedef {import("./shape.js").Source} Source */
/** @typedef {import("./picture_decoder.js").Seen} Seen */

const MOST_WAITING = 64;
/** Two minutes of packets: while a slow renderer makes one picture none may be lost that later ones are predicted from. */
const MOST_ARRIVED = 1024;
const REST_MS = 100;
/** So long after the start a source picture may still be about to come. */
const WARM_AFTER_MS = 1000;
/** After so long without a due frame a changed view is shown on the last one. */
const STILL_US = 80_000;
const MOST_UNDECODED = 2 + MOST_PICTURES;
const MOST_SOURCES = 3;
const STAGES = /** @type {const} */ (["field", "move", "generator", "layer", "compose"]);

/** What is the same for every picture.
 * @typedef {object} Opened
 * @property {Networks} networks
 * @property {import("./lent_tracker.js").Tracker} faces
 * @property {ShapeModel} shapeModel
 * @property {import("./screen.js").Screen} screen
 * @property {number} size
 * @property {Fusion | null} fusion null: this browser takes no video layer
 * @property {GpuNetworks} gpu
 * @property {number} threads
 */

/**
 * A source picture with the further ones of its speaker.
 * @typedef {object} Own
 * @property {ReferenceRenderer} renderer
 * @property {any[]} held by the screen, for each picture
 * @property {MotionFit} fit
 * @property {Set<string>} known hashes of the further pictures
 */

/** Owns jitter buffer, decoder and renderer of one other side. */
class Receiver {
  /**
   * @param {Opened} opened
   * @param {import("./codebook.js").Codebook} codebook
   */
  constructor(opened, codebook) {
    this.opened = opened;
    this.recording = false;
    /** @type {number | null} of the camera's frame that a recording was told of last */
    this.recordedCameraUs = null;
    /** @type {number | null} */
    this.playedSequence = null;
    this.watched = true;
    this.fps = 25;
    this.pace = new Pace();
    this.steps = new EvenSteps();
    this.ms = Object.fromEntries(STAGES.map((stage) => [stage, new MeanMs()]));
    this.rendered = 0;
    this.wanted = 0;
    this.malformed = 0;
    this.inboxDropped = 0;
    /** @type {string | null} */
    this.shownHash = null;
    /** @type {{ data: Uint8Array, arrivedUs: number, connection: number }[]} */
    this.inbox = [];
    this.followed = 0; // connection that jitter buffer and decoder belong to
    this.jitter = new JitterBuffer();
    this.decoder = new PacketDecoder(codebook);
    this.mixer = opened.fusion === null ? null : new LayerMixer(opened.fusion);
    this.usedBefore = 0; // of the layer, by this connection
    this.camera = new CameraView();
    /** Of the connection that is followed. */
    this.layer = this.#layerReceiver();
    /** @type {Map<number, Float32Array[]>} */
    this.motions = new Map();
    /** @type {Map<string, Own>} */
    this.sources = new Map();
    /** @type {{ pictureHash: string, since: SwitchTime } | null} */
    this.next = null;
    this.speaker = 0; // how often another one has come
    this.undecoded = 0;
    this.decoding = Promise.resolve();
    this.view = { yaw: 0, pitch: 0, roll: 0 };
    this.viewChanged = false;
    /** @type {Motion | null} */
    this.last = null;
    this.lastTimeUs = 0;
    this.renderedUs = 0;
    this.cold = true; // no network has run yet
    this.openedMs = performance.now();
  }

  /**
   * Every network runs once while there is nothing else to do: the first picture of the call is then made as quickly as the
   * others.
   */
  async #warm() {
    const { networks, faces, shapeModel, size } = this.opened;
    const { source, picture } = await nobody(faces, shapeModel, size);
    await (await PictureRenderer.open(networks, shapeModel, source, picture.data)).render(source.pose);
  }

  /**
   * @param {Uint8Array} data
   * @param {number} arrivedUs
   * @param {number} connection
   */
  push(data, arrivedUs, connection) {
    this.inbox.push({ data, arrivedUs, connection });
    while (this.inbox.length > MOST_ARRIVED) {
      this.inbox.shift();
      this.inboxDropped++;
    }
  }

  /** Milliseconds until there is something to do again. */
  async step() {
    for (const { data, arrivedUs, connection } of this.inbox.splice(0)) this.#take(data, arrivedUs, connection);
    /** @type {{ timeUs: number, motion: Motion | null }[]} */
    const chosen = [];
    for (const { packet, index, timeUs } of this.jitter.pop(nowUs())) {
      this.#countWanted(timeUs);
      const vectors = this.motions.get(packet.sequence);
      if (vectors !== undefined) { // otherwise it could not be decoded: what was shown stays
        this.last = fromVector(vectors[index]);
        this.lastTimeUs = timeUs;
        if (packet.sequence !== this.playedSequence) {
          // Its first frames may have been shown already, from the packet before.
          this.playedSequence = packet.sequence;
          const { level, spacingUs } = packet;
          if (this.recording) tell({ did: "played", played: { timeUs, level, spacingUs, vectors: vectors.slice(index) } });
        }
      }
      this.#tellCameraEnded(timeUs);
      // Of more than can be shown, because the other side has not heard of it or does not care, even steps.
      if (this.steps.take(timeUs, this.pace.fps) || this.pace.rung === 0) chosen.push({ timeUs, motion: this.last });
    }
    const newest = chosen.at(-1);
    if (newest !== undefined) {
      await this.#render(newest.timeUs, newest.motion, chosen.length - 1);
    } else if (this.viewChanged && this.last !== null && nowUs() - this.renderedUs > STILL_US) {
      await this.#render(this.lastTimeUs, this.last, 0);
    }
    this.cold &&= !this.sources.size && !this.undecoded;
    if (this.cold && performance.now() - this.openedMs > WARM_AFTER_MS) {
      this.cold = false;
      await this.#warm();
    }
    const nextUs = this.jitter.nextDueUs();
    return nextUs === null ? REST_MS : Math.min(REST_MS, Math.max(0, (nextUs - nowUs()) / 1000));
  }

  /**
   * @param {Uint8Array} data
   * @param {number} arrivedUs
   * @param {number} connection
   */
  #take(data, arrivedUs, connection) {
    this.follow(connection);
    if (connection < this.followed) return;
    let message;
    try {
      message = MotionMessage.parse(data);
    } catch (error) {
      if (!(error instanceof BadPacket)) throw error;
      this.malformed++;
      return;
    }
    const { packet } = message;
    const verdict = this.jitter.push(packet, arrivedUs);
    this.#takeLayer(message.fragments);
    if (verdict === "duplicate" || verdict === "old") return;
    const vectors = this.decoder.push(packet);
    if (!vectors.length) return;
    this.motions.delete(packet.sequence);
    this.motions.set(packet.sequence, vectors);
    for (const oldest of this.motions.keys()) {
      if (this.motions.size <= MOST_WAITING) break;
      this.motions.delete(oldest);
    }
  }

  #layerReceiver() {
    return new LayerReceiver(({ timeUs, key, data, picture, whole }) => {
      if (whole) this.camera.push(timeUs, picture);
      else this.mixer?.push(timeUs, picture);
      if (!this.recording) return;
      tell({ did: "layer", frame: { timeUs, key, data, whole } });
      if (whole) this.recordedCameraUs = timeUs;
    });
  }

  /**
   * Whatever ended it: the other side's word, or a new connection.
   * @param {number} timeUs
   */
  #tellCameraEnded(timeUs) {
    if (this.recordedCameraUs === null || this.recordedCameraUs > timeUs || this.camera.picture(timeUs) !== null) return;
    this.recordedCameraUs = null;
    tell({ did: "layer", frame: { timeUs, key: false, data: new Uint8Array(), whole: true } });
  }

  /** @param {readonly import("./layer_frame.js").LayerFragment[]} fragments */
  #takeLayer(fragments) {
    const newestUs = this.jitter.lastTimeUs;
    if (this.mixer === null || newestUs === null) return;
    for (const fragment of fragments) this.layer.push(fragment, newestUs);
    if (this.layer.asksForKey(nowUs())) tell({ did: "layerLost", newest: this.layer.newest });
  }

  /**
   * Begins anew for a newer connection: its packets may be here before the word of it, and none may be lost.
   * @param {number} connection
   */
  follow(connection) {
    if (connection <= this.followed) return;
    this.followed = connection;
    this.jitter = new JitterBuffer();
    this.decoder.reset();
    this.motions.clear();
    this.layer.close();
    this.layer = this.#layerReceiver();
    this.camera = new CameraView();
    this.mixer?.reset();
    this.usedBefore = this.mixer?.used ?? 0;
    this.next = this.playedSequence = null;
  }

  /**
   * A frame of a lower rate than wanted, because this side has asked for it, stands for those not sent.
   * @param {number} timeUs
   */
  #countWanted(timeUs) {
    const since = timeUs - this.lastTimeUs;
    const askedFor = this.pace.fps < this.fps && since > 0 && since <= 1.5e6 / this.pace.fps;
    this.wanted += askedFor ? Math.max(1, (since * this.fps) / 1e6) : 1;
  }

  /**
   * @param {number} timeUs
   * @param {Motion | null} motion
   * @param {number} leftOut
   */
  async #render(timeUs, motion, leftOut) {
    if (this.next?.since.reached(timeUs) && this.sources.has(this.next.pictureHash)) {
      this.#show(this.next.pictureHash);
    }
    const own = this.sources.get(this.shownHash ?? "");
    const camera = this.camera.picture(timeUs);
    if (!this.watched) return;
    const began = performance.now();
    this.viewChanged = false;
    if (camera !== null) this.opened.screen.show(camera); // there may be no source picture yet
    else if (own !== undefined && motion !== null) await this.#move(own, motion, timeUs);
    else return;
    const ended = performance.now();
    const madeUs = nowUs();
    this.renderedUs = madeUs;
    this.rendered++;
    const side = this.opened.screen.side();
    const layered = camera === null && (this.mixer?.used ?? 0) > this.usedBefore;
    tell({ did: "picture", made: { timeUs, madeUs, playoutUs: this.jitter.delayUs, side, camera: camera !== null, layered } });
    // The first picture is no measure: the browser has yet to compile much of what makes it.
    if (this.rendered > 1 && this.pace.done(madeUs, (ended - began) / 1000, leftOut)) tell({ did: "rate", fps: this.pace.fps });
  }

  /**
   * The speaker, made from a picture.
   * @param {Own} own
   * @param {Motion} motion
   * @param {number} timeUs
   */
  async #move(own, motion, timeUs) {
    const { yaw, pitch, roll } = this.view;
    const turn = /** @type {[number, number, number]} */ ([yaw, pitch, roll].map((degrees) => (degrees * Math.PI) / 180));
    // At a lower rate faces move further from frame to frame.
    const { picture, frame } = await own.renderer.render(motion, turn, 25 / this.pace.fps);
    const rendered = performance.now();
    // What the layer saw fits no head that is turned further.
    const change = turn.some(Boolean) ? null : await this.mixer?.mix(frame.made, timeUs);
    const made = performance.now();
    this.opened.screen.draw(own.held[picture], { ...frame, change });
    const ended = performance.now();
    const took = { ...frame.ms, layer: made - rendered, compose: ended - made };
    for (const [stage, ms] of Object.entries(took)) this.ms[stage].add(ms);
  }

  /**
   * @param {boolean} shown
   * @param {number} fromUs on the sender's clock
   */
  showCamera(shown, fromUs) {
    this.camera.switch(shown, this.#switchTime(fromUs));
  }

  /**
   * @param {string} pictureHash
   * @param {number} fromUs on the sender's clock
   */
  use(pictureHash, fromUs) {
    this.next = { pictureHash, since: this.#switchTime(fromUs) };
  }

  /** @param {number} fromUs */
  #switchTime(fromUs) {
    return new SwitchTime(fromUs, this.jitter.lastTimeUs);
  }

  /** @param {string} pictureHash */
  #show(pictureHash) {
    // What was seen over another source picture does not fit this one.
    if (pictureHash !== this.shownHash) this.mixer?.reset();
    this.shownHash = pictureHash;
    for (const other of this.sources.keys()) if (other !== pictureHash) this.#drop(other);
    this.next = this.playedSequence = null;
  }

  /** @param {string} pictureHash */
  #drop(pictureHash) {
    for (const held of this.sources.get(pictureHash)?.held ?? []) this.opened.screen.release(held);
    this.sources.delete(pictureHash);
  }

  /**
   * @param {string} pictureHash
   * @param {Uint8Array} data
   */
  prepare(pictureHash, data) {
    if (this.sources.has(pictureHash)) {
      this.#ready(pictureHash);
      return;
    }
    this.#decode(data, (why) => tell({ did: "refused", pictureHash, why }), async (seen) => {
      if (!this.sources.has(pictureHash)) {
        const { networks, shapeModel, screen } = this.opened;
        const [source, appearance] = await Promise.all([this.#sourceOf(seen), networks.appearanceOf(seen.small.data)]);
        const renderer = new PictureRenderer(networks, shapeModel, source, appearance, seen.small.data);
        const base = { source, motion: source.pose, keypoints: shapeModel.keypoints(source, source.pose) };
        this.sources.set(pictureHash, {
          renderer: new ReferenceRenderer(shapeModel, [base], [renderer]),
          held: [screen.hold(seen.small.data, seen.detail?.data ?? null)],
          fit: new MotionFit(source.shape, shapeModel),
          known: new Set(),
        });
        for (const oldest of this.sources.keys()) {
          if (this.sources.size <= MOST_SOURCES) break;
          if (oldest !== this.shownHash && oldest !== pictureHash) this.#drop(oldest);
        }
      }
      this.#ready(pictureHash);
    });
  }

  /** @param {string} pictureHash */
  #ready(pictureHash) {
    if (this.shownHash === null) this.#show(pictureHash);
    tell({ did: "ready", pictureHash });
  }

  /**
   * @param {string} baseHash
   * @param {string} pictureHash
   * @param {Uint8Array} data
   */
  refer(baseHash, pictureHash, data) {
    const answer = (/** @type {string | null} */ why) => tell({ did: "reference", pictureHash, why });
    if (this.sources.get(baseHash)?.known.has(pictureHash)) {
      answer(null);
      return;
    }
    this.#decode(data, answer, async (seen) => {
      const own = this.sources.get(baseHash);
      if (own === undefined) throw new BadInput("its source picture is not held");
      if (!own.known.has(pictureHash)) await this.#add(own, pictureHash, seen);
      answer(null);
    });
  }

  /**
   * @param {Own} own
   * @param {string} pictureHash
   * @param {Seen} seen
   */
  async #add({ renderer, held, fit, known }, pictureHash, seen) {
    const { networks, faces, shapeModel, screen } = this.opened;
    const base = renderer.references[0].source;
    const track = await faces.track(seen.small);
    const source = sourceOf(track, shapeModel, base.pose.expression.length);
    const motion = motionOf(fit, track, base, null);
    const made = await PictureRenderer.open(networks, shapeModel, source, seen.small.data);
    renderer.add({ source, motion, keypoints: shapeModel.keypoints(base, motion) }, made);
    held.push(screen.hold(seen.small.data, seen.detail?.data ?? null));
    known.add(pictureHash);
  }

  /**
   * @param {Seen} seen
   * @returns {Promise<Source>}
   */
  async #sourceOf({ small }) {
    const { faces, shapeModel } = this.opened;
    const track = await faces.track(small);
    return sourceOf(track, shapeModel, expressionNumbers(shapeModel, track.implicit));
  }

  /**
   * `then` on the loop once the picture is decoded, in the order they came; nothing follows where the speaker is another by
   * then.
   * @param {Uint8Array} data
   * @param {(why: string) => void} refuse
   * @param {(seen: Seen) => Promise<void>} then
   */
  #decode(data, refuse, then) {
    if (this.undecoded >= MOST_UNDECODED) {
      refuse(`${MOST_UNDECODED} pictures wait to be decoded already`);
      return;
    }
    this.undecoded++;
    const { speaker } = this;
    const refused = (/** @type {unknown} */ error) => {
      if (!(error instanceof KilocallError)) throw error;
      refuse(error.message);
    };
    this.decoding = this.decoding.then(async () => {
      /** @type {Seen | null} */
      let seen = null;
      try {
        seen = await decodedSource(data, this.opened.size);
      } catch (error) {
        loop.ask(() => refused(error));
      }
      loop.ask(async () => {
        this.undecoded--;
        if (seen === null || speaker !== this.speaker) return;
        try {
          await then(seen);
        } catch (error) {
          refused(error);
        }
      });
    });
  }

  /** @param {number} fps */
  expect(fps) {
    if (fps === this.fps) return;
    if (this.pace.rung) tell({ did: "rate", fps }); // what was told holds no more
    [this.fps, this.pace, this.steps] = [fps, new Pace(fps), new EvenSteps(fps)];
  }

  forget() {
    this.speaker++;
    this.shownHash = this.next = this.last = null;
  }

  /** @param {{ yaw: number, pitch: number, roll: number }} view */
  setView(view) {
    const { yaw, pitch, roll } = this.view;
    this.viewChanged ||= view.yaw !== yaw || view.pitch !== pitch || view.roll !== roll;
    this.view = view;
  }

  numbers() {
    const { rendered, wanted, malformed, inboxDropped, jitter, decoder, shownHash, opened: { gpu, threads } } = this;
    const { received, late, duplicates, played, skipped, repeated, delayUs } = jitter;
    const ms = Object.fromEntries(STAGES.map((stage) => [stage, this.ms[stage].mean]));
    const layer = {
      decoded: this.layer.frames, missing: this.layer.lostFrames, refused: this.layer.refused, used: this.mixer?.used ?? 0,
      newest: this.layer.newest,
    };
    return {
      rendered, wanted, malformed, undecodable: decoder.dropped, inboxDropped, received, late, duplicates, played, skipped,
      repeated, delayUs, fps: this.pace.fps, shownHash, ms, layer, engine: engineName(gpu, threads), onGpu: gpu.names,
    };
  }
}

/** @type {Receiver | null} */
let receiver = null;
const loop = new WorkerLoop(async () => receiver?.step() ?? REST_MS, (text) => tell({ did: "problem", text }));

addEventListener("message", ({ data: wish }) => {
  if (wish.do === "open") {
    open(wish).then(() => loop.run(), (error) => tell({ did: "fail", text: String(error?.message ?? error) }));
    return;
  }
  if (wish.do === "engine") return; // `givenEngine` takes it
  // Packets wait for no picture that is being prepared; all else is done in turn.
  if (wish.do === "push" && receiver !== null) {
    receiver.push(wish.data, wish.arrivedUs, wish.connection);
    loop.wake();
    return;
  }
  loop.ask(() => {
    if (receiver !== null) take(receiver, wish);
  });
});

/**
 * @param {Receiver} to
 * @param {any} wish
 */
function take(to, wish) {
  switch (wish.do) {
    case "push": return to.push(wish.data, wish.arrivedUs, wish.connection);
    case "restart": return to.follow(wish.connection);
    case "prepare": return to.prepare(wish.pictureHash, wish.data);
    case "use": return to.use(wish.pictureHash, wish.fromUs);
    case "refer": return to.refer(wish.baseHash, wish.pictureHash, wish.data);
    case "expect": return to.expect(wish.fps);
    case "camera": return to.showCamera(wish.shown, wish.fromUs);
    case "forget": return to.forget();
    case "view": return to.setView(wish.view);
    case "watched": to.watched = wish.watched; return;
    case "gpu": return to.opened.gpu.use(wish.port);
    case "record": to.recording = wish.on; return;
    case "report": return tell({ did: "answer", number: wish.number, value: to.jitter.report(nowUs(), wish.receivedBytes) });
    case "numbers": return tell({ did: "answer", number: wish.number, value: to.numbers() });
    default: throw new BadInput(`the receiver is asked to ${wish.do}, which it cannot`);
  }
}

/**
 * @param {{ canvas: OffscreenCanvas, threads: number, given: boolean, faces: MessagePort | null,
 *   clockOffsetUs: number }} wish
 */
async function open({ canvas, threads, given, faces: lent, clockOffsetUs }) {
  followClock(clockOffsetUs);
  const [{ engine, threads: used }, { size, codebook, screen }, shape, files, layered] = await Promise.all([
    openEngine(threads, given ? givenEngine() : null), prepared(canvas), file("networks/shape.safetensors"), networkFiles(NETWORKS),
    layerIsSupported().then((supported) => (supported ? networkFiles(["fusion"]) : null)),
  ]);
  const shapeModel = ShapeModel.fromBytes(shape);
  const networks = await Networks.open(engine, files);
  const fusion = layered === null ? null : await Fusion.open(engine, layered.fusion);
  const gpu = new GpuNetworks(engine);
  for (const name of /** @type {const} */ (["field", "generator"])) networks[name] = gpu.lent(name, networks[name]);
  const faces = lent === null ? await FaceTracker.open(engine, await networkFiles(FACE_NETWORKS)) : new LentTracker(lent);
  receiver = new Receiver({ networks, faces, shapeModel, screen, size, fusion, gpu, threads: used }, codebook);
  tell({ did: "open", takesLayer: fusion !== null });
}

/**
 * The canvas early: the graphics processor compiles what draws on it while networks are loaded.
 * @param {OffscreenCanvas} canvas
 */
async function prepared(canvas) {
  const { family: { pictureSize: size }, codebook } = await ownFamily();
  return { size, codebook, screen: screenOn(canvas, size) };
}

/** @param {object} message */
function tell(message) {
  postMessage(message);
}
