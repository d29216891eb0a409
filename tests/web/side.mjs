// One end of a call without camera and networks: what `test_call_protocol.py` brings to life in a browser.

import { Hello, ReceiverReport, SourcePicture } from "../../shared/kilocall/web/control.js";
import { BlobStore } from "../../shared/kilocall/web/blob_store.js";
import { nowUs } from "../../shared/kilocall/web/clock.js";
import { Link, findRoom } from "../../shared/kilocall/web/link.js";
import { MotionPacket } from "../../shared/kilocall/web/motion_packet.js";
import { RateControl } from "../../shared/kilocall/web/rate_control.js";
import { Session } from "../../shared/kilocall/web/session.js";

/** @typedef {[string, string, string, number, number, number]} HelloFields */

export class Side {
  words = /** @type {readonly string[]} */ ([]);
  /** @type {[string, ...any[]][]} what the session asked for */
  asked = [];
  /** @type {MotionPacket[]} */
  packets = [];
  trouble = "";
  lost = 0;
  speech = 0;
  #sequence = 0;
  #reported = -1;

  /**
   * @param {string} link
   * @param {HelloFields} hello
   * @param {{ audio: MediaStreamTrack | null, stores: { pictures: BlobStore, references: BlobStore }, picture: number[],
   *   relayOnly: boolean }} parts
   */
  constructor(link, hello, { audio, stores, picture, relayOnly }) {
    const note = (/** @type {string} */ what) => (/** @type {any[]} */ ...values) => { this.asked.push([what, ...values]); };
    const outgoing = {
      acknowledge: note("acknowledge"), confirm: note("confirm"), follow: note("follow"), limit: note("limit"),
      askLayer: note("askLayer"), takeCamera: note("takeCamera"),
    };
    const incoming = {
      prepare: (/** @type {string} */ pictureHash, /** @type {Uint8Array} */ data) => {
        note("prepare")(pictureHash, data.length);
        this.session.pictureReady(pictureHash);
      },
      use: note("use"), refer: note("refer"), expect: note("expect"), forget: note("forget"),
      showCamera: note("showCamera"),
    };
    const address = findRoom(link);
    this.session = new Session(outgoing, incoming, {
      rate: new RateControl(), clockUs: nowUs, linkName: address.secret.name, stores, storage: localStorage,
    });
    this.session.introduce(new Hello(...hello));
    this.session.ownSource(new SourcePicture("webp", Uint8Array.from(picture)));
    const { session } = this;
    this.link = new Link(address, { audio: audio !== null, relayOnly }, {
      joined() {},
      paired: () => session.connecting(),
      opened: (peer, handshake) => session.opened((data) => peer.sendControl(data), handshake),
      motion: ({ data }) => { this.packets.push(MotionPacket.parse(data)); },
      control: ({ data, arrivedUs }) => {
        session.control(data, arrivedUs);
        if (session.phase === "refused") void this.link.close(() => {});
      },
      closed: (reason) => {
        this.lost++;
        session.closed(session.saidBye === null ? "lost" : "ended", session.saidBye ?? reason);
      },
      wantsAnother: () => session.phase === "lost" || (session.phase === "open" && session.remote.face),
      expectsMotion: () => session.phase === "open" && session.remote.face,
      left() {},
      audio: () => audio,
      leaving: () => session.bye("hung up"),
    });
    this.link.run().catch((error) => { this.trouble = error.message; });
    setInterval(() => this.#tick(), 500);
  }

  /** What a test asks. */
  get state() {
    const { phase, reason, remote, malformed, acquaintance, saidBye } = this.session;
    const { words, verified } = acquaintance;
    const peer = this.link.peer;
    return {
      phase, reason, remote, malformed, words, verified, saidBye, trouble: this.trouble || this.link.trouble, asked: this.asked,
      packets: this.packets.length, connections: this.link.connections, notProven: this.link.notProven, lost: this.lost,
      rttMs: peer?.rttMs ?? null, traffic: peer?.traffic ?? null, hears: peer !== null && peer.remoteAudio !== null,
    };
  }

  /** Motion of nothing in particular. */
  sendMotion() {
    const packet = new MotionPacket({
      sequence: this.#sequence++, timeMs: Math.floor(nowUs() / 1000) % 65536, spacingUs: 40_000, frameCount: 3, reference: null,
      level: 4, payload: Uint8Array.of(1, 2, 3),
    });
    if (this.link.peer?.sendMotion(packet.bytes())) this.session.motionSent(packet);
  }

  /**
   * The motion of a stream, one packet after the other, at its pace: what a camera would give.
   * @param {number[][]} packets
   */
  async play(packets) {
    this.session.ownFace(true, nowUs());
    for (const bytes of packets) {
      const packet = MotionPacket.parse(Uint8Array.from(bytes));
      const { frameCount, spacingUs } = packet;
      const timed = new MotionPacket({ ...packet, timeMs: Math.floor(nowUs() / 1000) % 65536 });
      if (this.link.peer?.sendMotion(timed.bytes())) this.session.motionSent(timed);
      await new Promise((resolve) => setTimeout(resolve, frameCount * spacingUs / 1000));
    }
  }

  #tick() {
    this.session.tick();
    const last = this.packets.at(-1);
    if (last === undefined || last.sequence === this.#reported) return;
    this.#reported = last.sequence;
    this.session.report(new ReceiverReport(last.sequence, 0, 500, 4, 0, 0, 0, 1000));
  }
}

/**
 * @param {string} link
 * @param {HelloFields} hello
 * @param {{ speaks: boolean, picture: number[], relayOnly: boolean }} options
 */
export async function begin(link, hello, { speaks, picture, relayOnly }) {
  const stores = await BlobStore.openAll();
  const stream = speaks ? await navigator.mediaDevices.getUserMedia({ audio: true }) : null;
  return new Side(link, hello, { audio: stream?.getAudioTracks()[0] ?? null, stores, picture, relayOnly });
}
