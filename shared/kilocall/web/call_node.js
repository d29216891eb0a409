// One party of a call in the browser: camera and model workers, the link to the other side, and what the page may ask for.
//
//     camera -> SendPipeline (worker) -> Session -> Peer  ~~~  Peer -> Session -> ReceivePipeline (worker) -> canvas
//
// As `call/node.py` and `call/controls.py`; the page's thread only moves bytes. Messages to the page and its commands are
// those of `call/page_server.py`.

import { BlobStore } from "./blob_store.js";
import { CallStatistics } from "./call_statistics.js";
import { nowUs } from "./clock.js";
import { ReceiverReport, SourcePicture } from "./control.js";
import { Codebook } from "./codebook.js";
import { compileEngine, file } from "./engine.js";
import { BadInput, KilocallError } from "./errors.js";
import { offerGpu } from "./gpu.js";
import { helloOf, ownFamily } from "./hello.js";
import { Link } from "./link.js";
import { TIMES_MS } from "./motion_packet.js";
import { RateControl } from "./rate_control.js";
import { Recorder } from "./recorder.js";
import { ReceivePipeline } from "./receive_pipeline.js";
import { SendPipeline } from "./send_pipeline.js";
import { Session } from "./session.js";

/** @typedef {import("./link.js").RoomAddress} RoomAddress */
/** @typedef {import("./motion_packet.js").MotionPacket} MotionPacket */
/** @typedef {import("./peer.js").Message} Message */
/** @typedef {import("./peer.js").Peer} Peer */
/** @typedef {import("./receive_pipeline.js").Rendered} Rendered */
/** @typedef {import("./send_pipeline.js").OwnSource} OwnSource */
/** @typedef {import("./trust.js").Handshake} Handshake */

/**
 * What the page is told.
 * @typedef {object} NodeEvents
 * @property {(message: any) => void} message
 * @property {() => void} picture of the other side, on the canvas now
 * @property {(track: MediaStreamTrack) => void} heard the other side's speech
 */

const FPS = 25;
/** What the other side may spend on a video layer: all that there is. */
const LAYER_TAKEN_BPS = 24_000;
/** What this side spends on it where it can. */
const LAYER_SENT_BPS = 3000;
/** So long the first picture may take before the second engine is loaded beside it. */
const FIRST_PICTURE_MS = 10_000;
const TICK_MS = 1000;
const REPORT_EVERY_MS = 2000;
/** While nothing comes there is nothing to report; a sign of life now and then is enough. */
const IDLE_REPORT_EVERY_MS = 10_000;
const RECENT_SOURCES = 6;
/** How late this machine itself is: the last values above the least of many. */
const [RECENT_DELAYS, LEAST_OF] = [15, 300];

export class CallNode {
  #events;
  #view = { yaw: 0, pitch: 0, roll: 0 };
  #inRoom = false;
  #muted = false;
  #cameraOff = false;
  #cameraProblem = "";
  #faceSeen = true;
  /** @type {MediaStreamTrack | null} */
  #microphone = null;
  /** @type {OwnSource[]} the newest first */
  #recent = [];
  /** @type {string | null} */
  #remoteHash = null;
  /** @type {string | null} */
  #remoteTakenAt = null;
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #timer;
  #ticking = false;
  /** @type {Recorder | null} */
  #recorder = null;
  #reported = { atMs: 0, packets: 0, bytes: 0 };
  /** @type {number[]} milliseconds from a packet's last frame to its sending */
  #sendDelaysMs = [];
  #loopLagMs = 0;
  #wanted;
  /** @type {() => void} */
  /** Whether the other side's picture that is shown was made from another: its camera may be shown as it is. */
  #reconstructed = true;
  #layered = false;
  /** @type {import("./own_camera_view.js").Why | null} */
  #cameraShown = null;
  #pictureSeen = () => {};
  #firstPicture = new Promise((done) => { this.#pictureSeen = () => done(null); });
  /** @type {() => void} */
  #endGpu = () => {};
  #stopped = false;

  /**
   * @param {RoomAddress} address
   * @param {OffscreenCanvas} canvas for the other side's picture
   * @param {NodeEvents} events
   * @param {{ threads?: number, stores?: { pictures: BlobStore, references: BlobStore } | null,
   *   engine?: Promise<WebAssembly.Module>, wanted?: import("./gpu_choice.js").Wanted }} [settings]
   */
  constructor(address, canvas, events, { threads = 1, stores = null, engine = compileEngine(), wanted = "auto" } = {}) {
    this.#events = events;
    this.#wanted = wanted;
    const rate = new RateControl("default", { layerBps: LAYER_SENT_BPS });
    const faces = new MessageChannel();
    this.sending = new SendPipeline({
      packet: (packet, data) => this.#sendPacket(packet, data),
      face: (seen, sinceUs) => this.#ownFace(seen, sinceUs),
      camera: (why, sinceUs) => this.#ownCamera(why, sinceUs),
      source: (source) => this.#ownSource(source),
      overlay: (overlay) => this.#message(overlay),
      problem: (text) => this.#problem(text),
    }, { fps: FPS, threads, engine, lends: faces.port1, plan: rate.plan });
    this.receiving = new ReceivePipeline(canvas, {
      picture: (made) => this.#picture(made),
      ready: (pictureHash) => this.session.pictureReady(pictureHash),
      refused: (pictureHash, why) => this.session.pictureRefused(pictureHash, why),
      adapter: () => {},
      reference: (pictureHash, why) => this.#reference(pictureHash, why),
      rate: (fps) => this.session.ownRate(fps),
      layer: (frame) => this.#recorder?.addLayer(frame),
      layerLost: (newest) => this.session.layerLost(newest),
      played: (played) => this.#recorder?.addMotion(played),
      problem: (text) => this.#problem(text),
    }, { threads, engine, faces: faces.port2 });
    this.link = new Link(address, {}, this);
    this.session = new Session(this.sending, this.receiving, {
      rate,
      clockUs: nowUs,
      linkName: address.secret.name,
      stores,
      storage: keepsThings(),
      onChange: () => this.#tellState(),
      onPlan: (plan) => { void this.link.peer?.setSpeech({ bitrateBps: plan.audioBps, packetMs: plan.audioPacketMs }); },
    });
    this.statistics = new CallStatistics(this.session, this.link, this.sending, this.receiving);
  }

  /**
   * As the constructor, with the pictures that this browser has kept.
   * @param {RoomAddress} address
   * @param {OffscreenCanvas} canvas
   * @param {NodeEvents} events
   * @param {number} threads
   * @param {import("./gpu_choice.js").Wanted} wanted
   */
  static async open(address, canvas, events, threads, wanted) {
    const engine = compileEngine();
    engine.catch(() => {}); // told by the workers
    return new CallNode(address, canvas, events, { threads, stores: await BlobStore.openAll(), engine, wanted });
  }

  /** The whole call: until somebody hangs up, or the room refuses. */
  async run() {
    this.#tellHello();
    this.#tellState();
    this.#message(this.#sources());
    try {
      const { family } = await ownFamily();
      this.session.introduce(helloOf(family, FPS));
      this.#timer = setInterval(() => void this.#tick(), TICK_MS);
      this.#offerGpu().catch(() => {}); // what failed is told by `#failed`
      // The two sides meet and exchange pictures while the workers compile their networks.
      await Promise.race([this.link.run(), this.#failed()]);
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      if (!(error instanceof KilocallError)) console.error(error);
      this.session.closed("refused", reason);
      await this.link.close(() => {});
    } finally {
      clearInterval(this.#timer);
      this.#tellState();
    }
  }

  /**
   * Rejected where a worker cannot be made ready; otherwise never settled.
   * @returns {Promise<never>}
   */
  async #failed() {
    await Promise.all([this.sending.ready, this.receiving.ready.then(() => {
      if (this.receiving.takesLayer) this.session.takeLayer(LAYER_TAKEN_BPS);
    })]);
    return new Promise(() => {});
  }

  /** Not before there is a picture, or while nobody waits for one: loading a second engine takes a network and a processor. */
  async #offerGpu() {
    await Promise.all([this.sending.ready, this.receiving.ready]);
    await Promise.race([this.#firstPicture, new Promise((done) => setTimeout(done, FIRST_PICTURE_MS))]);
    if (!this.#stopped) this.#endGpu = offerGpu(this.#wanted, [this.sending, this.receiving]);
  }

  /** Says goodbye and ends the call. */
  async stop() {
    this.#stopped = true;
    clearInterval(this.#timer);
    if (this.#recorder !== null) this.#stopRecording();
    await this.link.close(() => this.session.bye("hung up"));
    if (this.session.phase !== "refused") this.session.closed("ended", "");
    this.sending.close();
    this.receiving.close();
    this.#endGpu();
  }

  // Camera and microphone

  /**
   * The camera from now on; null: there is none, and why.
   * @param {MediaStreamTrack | null} track
   * @param {string} [problem]
   */
  useCamera(track, problem = "") {
    this.#cameraProblem = problem;
    if (track !== null) void this.sending.useCamera(track);
    this.#tellState();
  }

  /** @param {MediaStreamTrack | null} track */
  useMicrophone(track) {
    this.#microphone = track;
    void this.link.peer?.setAudio(track);
  }

  /**
   * The face of a picture becomes the own source picture. Throws BadInput or NoFace where it cannot.
   * @param {Blob} file
   */
  async usePicture(file) {
    await this.sending.usePicture(new Uint8Array(await file.arrayBuffer()));
  }

  // What the page may ask for

  /**
   * What cannot be done is told as a message of type error.
   * @param {{ type: string, [name: string]: any }} command
   */
  async obey(command) {
    try {
      await this.#obey(command);
    } catch (error) {
      if (!(error instanceof KilocallError)) console.error(error);
      this.#message({ type: "error", text: error instanceof Error ? error.message : String(error) });
    }
  }

  /** @param {{ type: string, [name: string]: any }} command */
  async #obey(command) {
    switch (command.type) {
      case "mute":
        this.#muted = command.on;
        return this.#sayMedia();
      case "camera":
        this.#cameraOff = !command.on;
        this.sending.setCameraOff(this.#cameraOff);
        return this.#sayMedia();
      case "show_camera": return this.#showCamera(command.on);
      case "calibrate": return this.sending.setOverlayWanted(command.on);
      case "compared": return this.session.acquaintance.compared(command.words);
      case "take_source": return this.sending.takeSource();
      case "use_source": {
        const source = this.#recent.find(({ id }) => id === command.id);
        if (source === undefined) throw new BadInput("this picture is none of the recent ones");
        return this.sending.useSource(source);
      }
      case "view": {
        const { yaw, pitch, roll } = command;
        this.#view = { yaw, pitch, roll };
        this.receiving.setView(this.#view);
        return this.#tellState();
      }
      case "record": return command.on ? this.#record() : this.#stopRecording();
      case "visible": return this.receiving.setWatched(command.on);
      case "hang_up": return this.stop();
    }
  }

  /**
   * What the camera sees is shown as it is, or no more. Raises BadInput where that cannot be done.
   * @param {boolean} on
   */
  #showCamera(on) {
    if (on && !this.sending.canSendLayer) throw new BadInput("this browser cannot encode what your camera sees");
    if (on && !this.session.remote.takesCamera) throw new BadInput("the other side cannot show what your camera sees");
    this.sending.showCamera(on);
  }

  /** Records what is received from now on. Raises BadInput when there is no picture yet. */
  async #record() {
    const { session } = this;
    const picture = session.remotePicture;
    if (!picture) throw new BadInput("there is nothing to record yet: the other side's picture has not come");
    const codebook = Codebook.fromBytes(await file("networks/codebook.safetensors"));
    this.#recorder = new Recorder(codebook, session.hello, picture, session.references.held.values());
    this.receiving.setRecording(true);
    // The file's layer begins with a key frame.
    if (this.receiving.takesLayer) session.layerLost((await this.receiving.numbers()).layer.newest);
    this.#tellState();
  }

  #stopRecording() {
    const recorder = this.#recorder;
    this.#recorder = null;
    this.receiving.setRecording(false);
    if (recorder?.frames) this.#message({ type: "recorded", frames: recorder.frames, data: recorder.end() });
    this.#tellState();
  }

  #sayMedia() {
    this.session.ownMedia({ muted: this.#muted, cameraOff: this.#cameraOff });
    this.#tellState();
  }

  // The link's events

  /**
   * @param {RoomAddress} _
   * @param {number} others
   */
  joined(_, others) {
    this.#inRoom = true;
    const { session } = this;
    if (["alone", "lost", "ended"].includes(session.phase) && !others) session.closed("alone", session.reason);
    this.#tellState();
  }

  paired() {
    this.session.connecting();
  }

  /**
   * @param {Peer} peer
   * @param {Handshake} handshake
   */
  opened(peer, handshake) {
    this.#reported = { ...this.#reported, packets: 0, bytes: 0 };
    this.receiving.restart();
    this.session.opened((data) => peer.sendControl(data), handshake);
    this.sending.begin();
    const { audioBps, audioPacketMs } = this.session.rate.plan;
    void peer.setSpeech({ bitrateBps: audioBps, packetMs: audioPacketMs });
  }

  /** @param {Message} message */
  motion({ data, arrivedUs }) {
    this.receiving.push(data, arrivedUs);
  }

  /** @param {Message} message */
  control({ data, arrivedUs }) {
    this.session.control(data, arrivedUs);
    // Nothing more is to be shown of whoever that is.
    if (this.session.phase === "refused") void this.link.close(() => {});
  }

  /** @param {string} reason */
  closed(reason) {
    this.sending.pause();
    const { session } = this;
    if (session.saidBye === null) session.closed("lost", reason);
    else if (session.greeted) session.closed("ended", `the other side has left: ${session.saidBye}`);
    else session.closed("refused", session.saidBye);
  }

  wantsAnother() {
    return this.session.phase === "lost" || this.expectsMotion();
  }

  expectsMotion() {
    return this.session.phase === "open" && this.session.remote.face;
  }

  left() {
    const { session } = this;
    if (["open", "refused"].includes(session.phase)) return;
    session.closed(session.phase === "ended" ? "ended" : "alone", session.reason);
  }

  audio() {
    return this.#microphone;
  }

  /** @param {MediaStreamTrack} track */
  heard(track) {
    this.#events.heard(track);
  }

  leaving() {
    this.session.bye("closed the page");
  }

  // The workers' events

  /**
   * @param {MotionPacket} packet
   * @param {Uint8Array} data
   */
  #sendPacket(packet, data) {
    if (!this.link.peer?.sendMotion(data)) return;
    this.session.motionSent(packet);
    const lastMs = packet.timeMs + Math.floor(((packet.frameCount - 1) * packet.spacingUs) / 1000);
    this.#sendDelaysMs.push((((Math.floor(nowUs() / 1000) - lastMs) % TIMES_MS) + TIMES_MS) % TIMES_MS);
    if (this.#sendDelaysMs.length > LEAST_OF) this.#sendDelaysMs.shift();
  }

  /**
   * @param {boolean} seen
   * @param {number} sinceUs
   */
  #ownFace(seen, sinceUs) {
    this.#faceSeen = seen;
    this.session.ownFace(seen, sinceUs);
    this.#tellState();
  }

  /**
   * @param {import("./own_camera_view.js").Why | null} why
   * @param {number} sinceUs
   */
  #ownCamera(why, sinceUs) {
    this.#cameraShown = why;
    this.session.ownCamera(why !== null, sinceUs);
    this.#tellState();
  }

  /** @param {OwnSource} source */
  #ownSource(source) {
    this.#recent = [source, ...this.#recent.filter(({ id }) => id !== source.id)].slice(0, RECENT_SOURCES);
    const { format, data, pictureHash } = source.packed;
    this.session.ownSource(new SourcePicture(format, data, pictureHash, null));
    this.#message(this.#sources());
    this.#tellState();
  }

  /**
   * @param {string} pictureHash
   * @param {string | null} why
   */
  #reference(pictureHash, why) {
    const { references } = this.session;
    if (why === null) {
      references.ready(pictureHash);
      const picture = references.held.get(pictureHash);
      if (picture) this.#recorder?.addPicture(picture);
    } else this.session.references.refused(pictureHash, why);
    this.#tellState();
  }

  /** @param {Rendered} made */
  #picture(made) {
    this.statistics.picture(made);
    if (this.#reconstructed === made.camera || this.#layered !== made.layered) {
      this.#reconstructed = !made.camera;
      this.#layered = made.layered;
      this.#tellState();
    }
    this.#events.picture();
    this.#pictureSeen();
  }

  /** @param {string} text */
  #problem(text) {
    console.warn(text);
    this.#message({ type: "error", text });
  }

  // Once a second

  async #tick() {
    if (this.#ticking) return; // a worker that is inside a network has not answered yet
    this.#ticking = true;
    try {
      await this.#look();
    } finally {
      this.#ticking = false;
    }
  }

  async #look() {
    const due = performance.now();
    await new Promise((resolve) => setTimeout(resolve));
    this.#loopLagMs = performance.now() - due;
    await this.#report();
    const { session } = this;
    const delays = this.#sendDelaysMs;
    session.ownLagMs = delays.length
      ? delays.slice(-RECENT_DELAYS).toSorted((a, b) => a - b)[Math.min(delays.length, RECENT_DELAYS) >> 1] - Math.min(...delays) : 0;
    session.loopLagMs = this.#loopLagMs;
    session.tick();
    // Before, the workers answer nothing.
    if (this.sending.isReady && this.receiving.isReady) this.#message(await this.statistics.look());
    this.#tellState();
  }

  async #report() {
    const { peer } = this.link;
    const now = performance.now();
    if (peer === null || !this.session.greeted || !this.receiving.isReady || now - this.#reported.atMs < REPORT_EVERY_MS - 100) return;
    const { received: packets } = await this.receiving.numbers();
    if (packets === this.#reported.packets && now - this.#reported.atMs < IDLE_REPORT_EVERY_MS) return;
    const { bytes } = peer.traffic.received;
    const received = Math.max(0, bytes - this.#reported.bytes);
    this.#reported = { atMs: now, packets, bytes };
    const report = await this.receiving.report(received);
    // What this machine itself was late by would look like a queue on the way.
    if (report === null) return;
    const { highest, heldMs, intervalMs, expected, lost, late, delayMs, receivedBytes } = report;
    const ownMs = Math.round(this.#loopLagMs);
    this.session.report(new ReceiverReport(
      highest, heldMs, intervalMs, expected, lost, late, Math.max(0, delayMs - ownMs), receivedBytes));
  }

  // What the page is told

  /** @param {any} message */
  #message(message) {
    this.#events.message(message);
  }

  #tellHello() {
    const { room, link } = this.link.address;
    this.#message({ type: "hello", room, link, camera: "browser", family: "compact-256", version: "in this browser", size: 256 });
  }

  #tellState() {
    const { session, sending } = this;
    const { remote, acquaintance } = session;
    if (remote.pictureHash !== this.#remoteHash) {
      this.#remoteHash = remote.pictureHash;
      this.#remoteTakenAt = new Date().toTimeString().slice(0, 5);
    }
    const { words } = acquaintance;
    this.#message({
      type: "state",
      phase: session.phase,
      reason: session.reason,
      trouble: this.link.trouble,
      in_room: this.#inRoom,
      muted: this.#muted,
      camera_off: this.#cameraOff,
      camera: { number: null, problem: this.#cameraProblem },
      recording: this.#recorder !== null,
      own_face: this.#faceSeen,
      camera_view: { available: sending.canSendLayer && remote.takesCamera, shown: this.#cameraShown },
      slow: { shows: "", sends: "" },
      remote: {
        present: remote.present,
        face: remote.face,
        since_ms: remote.faceSinceUs ? (nowUs() - remote.faceSinceUs) / 1000 : 0,
        source_taken_at: remote.pictureHash ? this.#remoteTakenAt : null,
        reconstructed: this.#reconstructed,
        layered: this.#layered,
        pictures: 1 + session.references.held.size,
        camera_off: remote.cameraOff,
        muted: remote.muted,
      },
      trust: { words: [...words], verified: words.length > 0 && acquaintance.verified, expected: acquaintance.expected },
      own_source_at: sending.source?.takenAt || null,
      remote_view: this.#view,
      virtual_camera: { available: false, on: false, reason: "A browser's page cannot be a camera for other programs." },
    });
  }

  #sources() {
    return {
      type: "sources",
      recent: this.#recent.map(({ id, takenAt }) => ({ id, taken_at: takenAt || null, thumb: `/api/sources/${id}.jpg` })),
      current: this.#recent[0]?.id ?? null,
    };
  }

  /**
   * A source picture of this side, the newest unless another is named.
   * @param {string} [id]
   * @returns {Blob | null}
   */
  ownPicture(id = this.#recent[0]?.id) {
    return asBlob(this.#recent.find((source) => source.id === id)?.packed);
  }

  /** The other side's picture that is moved. */
  get remotePicture() {
    return asBlob(this.session.remotePicture);
  }
}

/** @param {{ format: string, data: Uint8Array } | null | undefined} picture */
function asBlob(picture) {
  if (!picture) return null;
  return new Blob([/** @type {Uint8Array<ArrayBuffer>} */ (picture.data)], { type: `image/${picture.format}` });
}

/** Where a browser lets a page keep something; null where it does not. */
function keepsThings() {
  try {
    return localStorage;
  } catch {
    return null;
  }
}
