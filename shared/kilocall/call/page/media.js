// Microphone and sound, and the browser's camera where it is wanted: one RTCPeerConnection to the node beside us.

import { at } from "./common/enter.js";
import { CAMERA, MICROPHONE, allowed, firstTrack } from "./devices.js";

const GATHER_MS = 2000; // addresses on this machine are known at once; a network that never answers must not hold us up
const RETRY_MS = 1000;
const MEASURE_MS = 1000;
const PLAYOUT_MS = 20; // where a browser does not state it
// It goes to this machine only: the node should see what the camera sees.
const CAMERA_BPS = 6_000_000;

export class Media {
  // `on`: changed() when `state` changes, problem(text), late(ms) every second: how long a sound of the node takes from
  // its arrival here to the loudspeaker.  state: "off" | "starting" | "on" | "silent" (a click is needed)
  constructor(speaker, on) {
    this.speaker = speaker;
    this.on = on;
    this.state = "off";
    this.wantsCamera = false;
    this.muted = false;
    this.cameraOff = false;
    this.link = null;
    this.microphone = null;
    this.camera = null;
    this.cameraBusy = null;
    this.lateMs = null;
    setInterval(() => { if (this.state === "on") this.measure(); }, MEASURE_MS);
  }

  become(state) {
    this.state = state;
    this.on.changed();
  }

  // Microphone (and camera) may be used without asking again.
  allowed(withCamera) {
    return allowed(withCamera ? ["microphone", "camera"] : ["microphone"]);
  }

  async start(withCamera) {
    if (this.state === "starting") return;
    if (this.state === "silent") return this.play();
    this.wantsCamera = withCamera;
    this.become("starting");
    this.microphone = await this.get({ audio: MICROPHONE }, "The microphone");
    if (this.microphone) this.microphone.enabled = !this.muted;
    if (withCamera && !this.cameraOff) this.camera = await this.get({ video: CAMERA }, "The camera");
    await this.connect();
  }

  get(wanted, name) {
    return firstTrack(wanted, name, this.on.problem);
  }

  async connect() {
    this.link?.close();
    const link = new RTCPeerConnection();
    this.link = link;
    this.cameraSender = null;
    link.ontrack = ({ receiver, track }) => {
      if ("jitterBufferTarget" in receiver) receiver.jitterBufferTarget = 0; // the node has smoothed it already
      this.speaker.srcObject = new MediaStream([track]);
      this.play();
    };
    link.onconnectionstatechange = () => {
      if (link === this.link && link.connectionState === "failed") this.again();
    };
    try {
      if (this.microphone) link.addTransceiver(this.microphone, { direction: "sendrecv" });
      else link.addTransceiver("audio", { direction: "recvonly" });
      if (this.wantsCamera) {
        this.cameraSender = link.addTransceiver(this.camera ?? "video", {
          direction: "sendonly",
          sendEncodings: [{ maxBitrate: CAMERA_BPS }],
        }).sender;
      }
      await link.setLocalDescription(await link.createOffer());
      await gathered(link);
      const { type, sdp } = link.localDescription;
      const reply = await fetch(at("/api/media"), {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ type, sdp }),
      });
      if (!reply.ok) throw new Error(`the answer was ${reply.status}`);
      await link.setRemoteDescription(await reply.json());
      if (link === this.link && this.state === "starting") this.become("on");
    } catch (error) {
      if (link !== this.link) return;
      if (this.state === "on" && error instanceof TypeError) return this.again(); // the node is not back yet
      this.stop();
      this.on.problem(`There is no sound: ${error.message}.`);
    }
  }

  async play() {
    try {
      await this.speaker.play();
      if (this.state !== "off") this.become("on");
    } catch (error) {
      if (error.name === "NotAllowedError") this.become("silent");
    }
  }

  // What the browser holds back to play without gaps, and its way to the loudspeaker, both as it states them.
  async measure() {
    const { link } = this;
    if (!link) return;
    const now = { buffer: [0, 0], playout: [0, 0] };
    for (const stat of (await link.getStats()).values()) {
      if (stat.type === "inbound-rtp" && stat.kind === "audio") now.buffer = [stat.jitterBufferDelay, stat.jitterBufferEmittedCount];
      if (stat.type === "media-playout") now.playout = [stat.totalPlayoutDelay, stat.totalSamplesCount];
    }
    const before = this.measured?.link === link ? this.measured.now : null;
    this.measured = { link, now };
    if (!before) return;
    const [buffer, playout] = ["buffer", "playout"].map((name) => {
      const [seconds, samples] = now[name].map((value, i) => value - before[name][i]);
      return samples > 0 ? (1000 * seconds) / samples : null;
    });
    if (buffer === null) return;
    this.lateMs = { buffer, playout: playout ?? PLAYOUT_MS };
    this.on.late(this.lateMs.buffer + this.lateMs.playout);
  }

  // After the node was started again, or the link broke: the same devices, a new link.
  again() {
    if (this.state === "off") return;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.connect(), RETRY_MS);
  }

  mute(on) {
    this.muted = on;
    if (this.microphone) this.microphone.enabled = !on;
  }

  // Off means off: the camera is let go, so that its light goes out.
  turnCameraOff(off) {
    if (off === this.cameraOff) return;
    this.cameraOff = off;
    if (!this.wantsCamera || this.state === "off") return;
    this.cameraBusy = Promise.resolve(this.cameraBusy).then(() => this.followCamera());
  }

  async followCamera() {
    if (this.cameraOff) {
      this.camera?.stop();
      this.camera = null;
    } else {
      this.camera ??= await this.get({ video: CAMERA }, "The camera");
    }
    await this.cameraSender?.replaceTrack(this.camera);
  }

  stop() {
    clearTimeout(this.timer);
    this.link?.close();
    this.link = null;
    for (const track of [this.microphone, this.camera]) track?.stop();
    this.microphone = this.camera = null;
    this.become("off");
  }
}

function gathered(link) {
  return new Promise((resolve) => {
    const done = () => { if (link.iceGatheringState === "complete") resolve(); };
    link.onicegatheringstatechange = done;
    setTimeout(resolve, GATHER_MS);
    done();
  });
}
