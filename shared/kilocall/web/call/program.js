// What the page of a call talks to where no program runs beside it: the call itself, in this page and its workers. The
// page is the one of `kilocall call`; this file takes the place of its `program.js`.

import { CallNode } from "../call_node.js";
import { KilocallError } from "../errors.js";
import { wantedEngine } from "../gpu_choice.js";
import { findRoom } from "../link.js";
import { CAMERA, MICROPHONE, allowed, firstTrack } from "./devices.js";

export const REMOTE_PICTURE = 1;
export const OWN_PICTURE = 2;
export const NO_KEY = "";

/** So many threads run networks in each of the two workers, where the server isolates the page. */
const THREADS = globalThis.crossOriginIsolated ? Math.max(1, Math.min(4, navigator.hardwareConcurrency >> 1)) : 1;
/** Whether a track can have fewer pictures than another of the same camera: in Firefox both would have as few. */
const PER_TRACK = "MediaStreamTrackProcessor" in globalThis;
/** A module with one instruction of WebAssembly's fixed-width SIMD. */
const SIMD = Uint8Array.of(0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11);

export const TEXTS = {
  over: "Reload the page to call again, or close it.",
  stopped: { title: "The call is over", text: "Reload the page to call again." },
  recorded: ({ data, frames }) => {
    const name = `call-${new Date().toISOString().slice(0, 19).replace("T", "-").replaceAll(":", "")}.kcs`;
    const address = URL.createObjectURL(new Blob([data], { type: "application/octet-stream" }));
    Object.assign(document.createElement("a"), { href: address, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60_000);
    return `The recording, ${frames} frames, was saved as ${name}`;
  },
};

/** @type {CallNode | null} */
let node = null;
/** @type {OffscreenCanvas | null} */
let remoteCanvas = null;
/** @type {Connection | null} */
let connection = null;
/** @type {Media | null} */
let media = null;
/** What was counted last of the other side's video layer. */
let layer = null;

/** Why this browser cannot take part; nothing where it can. */
function missing() {
  if (!globalThis.isSecureContext) return "Browsers give a page camera and microphone over https alone, or on this computer.";
  if (!globalThis.RTCPeerConnection) return "This browser has no WebRTC.";
  if (!navigator.mediaDevices?.getUserMedia) return "This browser gives a page no camera.";
  if (!globalThis.WebAssembly || !WebAssembly.validate(SIMD)) return "This browser has no WebAssembly with SIMD.";
  if (!globalThis.OffscreenCanvas) return "This browser lets a worker draw no pictures.";
  return "";
}

// Messages of the call in, commands out: as the socket to a program has them.
export class Connection {
  constructor(on) {
    this.on = on;
    connection = this;
    queueMicrotask(() => this.open()); // once whoever made it has it
  }

  async open() {
    const why = missing();
    if (why) return this.refuse(why);
    let address;
    try {
      address = findRoom(location.href);
    } catch (error) {
      return this.refuse(error.message);
    }
    const wanted = wantedEngine(location.search);
    // A link without a secret is one of a new call: reloaded, it is to be the same.
    if (location.href !== address.link) history.replaceState(null, "", address.link);
    addEventListener("hashchange", () => location.reload());
    node = await CallNode.open(address, remoteCanvas, {
      message: (message) => {
        if (message.type === "numbers") {
          ({ layer } = message);
          void media?.pace(message.rate_out);
        }
        this.on[message.type]?.(message);
      },
      picture: () => this.on.picture({ kind: REMOTE_PICTURE }),
      heard: (track) => media?.hear(track),
    }, THREADS, wanted);
    this.on.opened();
    await node.run();
  }

  refuse(reason) {
    this.on.opened();
    this.on.state({
      type: "state", phase: "refused", reason, trouble: "", in_room: false, muted: false, camera_off: false,
      camera: { number: null, problem: "" }, recording: false, own_face: true, slow: {}, remote: {}, trust: { words: [] },
      own_source_at: null, remote_view: { yaw: 0, pitch: 0, roll: 0 }, virtual_camera: {},
    });
  }

  ask(type, command = {}) {
    void node?.obey({ type, ...command });
  }
}

// The picture of the other side is drawn by a worker; the own one is the camera's film itself. Neither costs this thread
// anything.
export class PictureCanvas {
  // onFirst(): the first picture after the start or after clear() is to be seen.
  constructor(canvas, onFirst) {
    this.onFirst = onFirst;
    this.empty = true;
    this.drawn = 0;
    if (canvas.id === "remote-picture") {
      remoteCanvas = canvas.transferControlToOffscreen();
      return;
    }
    const film = Object.assign(document.createElement("video"), { muted: true, playsInline: true });
    for (const { name, value } of canvas.attributes) film.setAttribute(name, value);
    canvas.replaceWith(film);
  }

  put() {
    this.drawn += 1;
    this.last = { drawnAtMs: performance.timeOrigin + performance.now() };
    if (!this.empty) return;
    this.empty = false;
    this.onFirst();
  }

  clear() {
    this.empty = true;
  }

  drawDelayMs() {
    return 0;
  }

  stats() {
    return { drawn: this.drawn, replaced: 0, broken: 0, layer, ...this.last };
  }
}

// Camera and microphone, and what is heard.
export class Media {
  // `on`: changed() when `state` changes, problem(text).  state: "off" | "starting" | "on" | "silent" (a click is needed)
  constructor(speaker, on) {
    this.speaker = speaker;
    this.on = on;
    this.state = "off";
    this.muted = false;
    this.cameraOff = false;
    this.microphone = null;
    this.camera = null;
    this.own = null; // what is shown of it
    this.ownFps = 0;
    this.lateMs = null;
    this.preview = document.getElementById("own-picture");
    media = this;
    navigator.mediaDevices?.addEventListener?.("devicechange", () => { if (this.state !== "off") this.lookAgain(); });
  }

  become(state) {
    this.state = state;
    this.on.changed();
  }

  // Camera and microphone may be used without asking again.
  allowed() {
    return allowed(["microphone", "camera"]);
  }

  async start() {
    if (this.state === "starting") return;
    if (this.state === "silent") return this.play();
    this.become("starting");
    this.microphone = await this.get({ audio: MICROPHONE }, "The microphone");
    if (this.microphone) this.microphone.enabled = !this.muted;
    node?.useMicrophone(this.microphone);
    if (!this.cameraOff) await this.film();
    this.become("on");
    if (this.speaker.srcObject) await this.play();
  }

  get(wanted, name) {
    return firstTrack(wanted, name, this.on.problem);
  }

  async film() {
    const track = await this.get({ video: CAMERA }, "The camera");
    this.camera = track;
    if (track === null) return node?.useCamera(null, "the camera is not in use");
    track.onended = () => {
      this.camera = null;
      node?.useCamera(null, "the camera gives no pictures any more");
    };
    node?.useCamera(track);
    this.own = PER_TRACK ? track.clone() : track;
    this.ownFps = 0;
    this.preview.srcObject = new MediaStream([this.own]);
    await this.preview.play();
    connection?.on.picture({ kind: OWN_PICTURE });
  }

  // The own film has as many pictures a second as are sent: where there is no graphics processor, each is drawn by the processor
  // that is to make the other side's.
  async pace(fps) {
    if (!PER_TRACK || this.own === null || this.ownFps === fps) return;
    this.ownFps = fps;
    await this.own.applyConstraints({ frameRate: { max: fps } }).catch(() => {}); // more pictures cost time and nothing else
  }

  letGo() {
    for (const track of [this.camera, this.own]) track?.stop();
    this.camera = this.own = null;
  }

  // A camera that was unplugged may be there again.
  async lookAgain() {
    if (this.camera === null && !this.cameraOff && this.state === "on") await this.film();
  }

  hear(track) {
    this.speaker.srcObject = new MediaStream([track]);
    void this.play();
  }

  async play() {
    try {
      await this.speaker.play();
      if (this.state !== "off") this.become("on");
    } catch (error) {
      if (error.name === "NotAllowedError") this.become("silent");
    }
  }

  again() {}

  mute(on) {
    this.muted = on;
    if (this.microphone) this.microphone.enabled = !on;
  }

  // Off means off: the camera is let go, so that its light goes out.
  async turnCameraOff(off) {
    if (off === this.cameraOff) return;
    this.cameraOff = off;
    if (this.state === "off") return;
    if (!off) return this.film();
    this.letGo();
    this.preview.srcObject = null;
  }

  stop() {
    this.microphone?.stop();
    this.microphone = null;
    this.letGo();
    this.become("off");
  }
}

/** @type {Map<string, string>} addresses of pictures by their path */
const addresses = new Map();

// Where a picture of the call is for this page.
export function at(path) {
  const name = path.split("?")[0];
  const own = /^\/api\/sources\/([0-9a-f]+)\.jpg$/.exec(name)?.[1];
  const picture = (name === "/api/remote-source.jpg" ? node?.remotePicture : node?.ownPicture(own)) ?? null;
  const before = addresses.get(name);
  if (before !== undefined) URL.revokeObjectURL(before);
  const address = picture === null ? "" : URL.createObjectURL(picture);
  addresses.set(name, address);
  return address;
}

// Makes the face of a picture file the own source picture; throws an Error for people.
export async function usePicture(file) {
  if (node === null) throw new KilocallError("There is no call.");
  await node.usePicture(file);
}
