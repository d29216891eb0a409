// One WebRTC connection to the other party: motion, control messages and speech.
//
// As `runtime/peer.py`, with the browser's own RTCPeerConnection. A Peer lives for one connection. After a change of
// network, or when the other side vanished, make a new one through the same room; what a session must keep (source
// pictures, encoder state) belongs above it.

import { nowUs } from "./clock.js";
import { MAX_MESSAGE_BYTES, MAX_PART_BYTES } from "./control.js";
import { BadInput, BadPacket } from "./errors.js";
import { MAX_PAYLOAD_BYTES } from "./limits.js";
import { Assembly, PartsQueue, isPart } from "./long_messages.js";
import { HEADER_BYTES } from "./motion_packet.js";
import { plain, withSpeech } from "./sdp.js";

/**
 * What a connection is made with; times in milliseconds.
 * @typedef {object} PeerSettings
 * @property {RTCIceServer[]} iceServers none: then nobody but the other party is ever contacted
 * @property {boolean} relayOnly only through the TURN server, so that the other party does not learn this computer's address
 * @property {boolean} audio whether there is a speech track each way; both sides must agree
 * @property {number} audioBitrateBps
 * @property {number} audioPacketMs
 * @property {number} connectTimeoutMs
 * @property {number} vanishedAfterMs a connection on which nothing at all arrives for so long is given up
 * @property {number} motionBacklogBytes motion is dropped while more than this waits to be sent
 * @property {number} bulkBps most that messages of several parts (pictures) take, after a first burst of 8 KiB
 */

/** @type {Readonly<PeerSettings>} */
export const PEER_SETTINGS = {
  iceServers: [],
  relayOnly: false,
  audio: true,
  audioBitrateBps: 12_000,
  audioPacketMs: 60,
  connectTimeoutMs: 15_000,
  vanishedAfterMs: 9000,
  motionBacklogBytes: 400,
  bulkBps: 48_000,
};

/** @typedef {"new" | "connecting" | "open" | "closed"} PeerState */
/** @typedef {{ data: Uint8Array, arrivedUs: number }} Message what one message held, and when it came */
/** @typedef {{ bytes: number, packets: number, audioBytes: number }} Traffic on the wire, IP and UDP headers included */

/**
 * What a Peer tells.
 * @typedef {object} PeerEvents
 * @property {(message: Message) => void} motion
 * @property {(message: Message) => void} control
 * @property {(state: PeerState) => void} [state]
 * @property {(track: MediaStreamTrack) => void} [audio] the other side's speech
 */

export const MAX_SDP_BYTES = 16 << 10;
const MAX_MOTION_BYTES = MAX_PAYLOAD_BYTES + HEADER_BYTES + 2;
/** Data channel ids, agreed beforehand: that saves their announcement and the wait for it. */
const CHANNELS = {
  motion: { id: 0, ordered: false, maxRetransmits: 0 },
  control: { id: 1, ordered: true },
};
const WATCH_MS = 500;
/** A STUN or TURN server that does not answer keeps nobody waiting longer: what was found until then is sent. */
const GATHER_WITHIN_MS = 3000;
const PACKET_MS = [20, 40, 60, 120];
const UDP_IPV4_BYTES = 28;
const UDP_IPV6_BYTES = 48;

/**
 * A connection to one other party.
 *
 *     offering side:  const text = await peer.offer();  ...;  await peer.accept(answer)
 *     other side:     const text = await peer.answer(offer)
 *
 * Offers and answers hold all candidates (no trickling). Messages that are too long or of text are counted in `malformed`
 * and dropped. Throws BadInput for settings that cannot be used.
 */
export class Peer {
  #connection;
  #channels;
  #events;
  #parts;
  #assembly = new Assembly();
  #beganMs = performance.now();
  #heardMs = performance.now();
  #counted = 0;
  /** @type {ReturnType<typeof setInterval> | null} */
  #watch = null;
  /** @type {(() => void)[]} */
  #waiting = [];
  /** @type {RTCRtpSender | null} */
  #sender = null;
  #audio;
  #speech;
  #changing = Promise.resolve();
  /** @type {{ sdp: string, type: "offer" | "answer" } | null} the other side's, as it came */
  #remote = null;
  /** @type {{ sent: Traffic, received: Traffic }} */
  #traffic = { sent: { bytes: 0, packets: 0, audioBytes: 0 }, received: { bytes: 0, packets: 0, audioBytes: 0 } };

  /**
   * @param {PeerEvents} events
   * @param {Partial<PeerSettings>} settings
   * @param {MediaStreamTrack | null} audio what is sent as speech
   */
  constructor(events, settings = {}, audio = null) {
    this.settings = { ...PEER_SETTINGS, ...settings };
    /** @type {PeerState} */
    this.state = "new";
    /** Why it is closed: for people. */
    this.closedBecause = "";
    /** @type {MediaStreamTrack | null} the other side's speech, once its description is known */
    this.remoteAudio = null;
    this.malformed = 0;
    /** Motion messages that were not sent because earlier ones still waited. */
    this.motionDropped = 0;
    /** @type {number | null} round trip of the last ICE check */
    this.rttMs = null;
    this.#events = events;
    this.#speech = { bitrateBps: this.settings.audioBitrateBps, packetMs: this.settings.audioPacketMs };
    this.#connection = this.#makeConnection();
    this.#audio = audio;
    this.#channels = { motion: this.#makeChannel("motion"), control: this.#makeChannel("control") };
    this.#parts = new PartsQueue(this.settings.bulkBps, {
      send: (part) => this.#send("control", part),
      maySend: () => this.state === "open" && !this.backlogBytes,
    });
    for (const channel of Object.values(this.#channels)) channel.onbufferedamountlow = () => this.#parts.look();
  }

  // Describing the connection

  /** This side's SDP, to be answered. */
  async offer() {
    this.#begin();
    if (this.settings.audio) {
      this.#speakOn(this.#connection.addTransceiver(this.#audio ?? "audio", { direction: "sendrecv" }));
    }
    return this.#setLocal(await this.#connection.createOffer());
  }

  /**
   * This side's SDP for the other side's. Throws BadPacket for one that cannot be used.
   * @param {string} offer
   */
  async answer(offer) {
    this.#begin();
    await this.#setRemote(offer, "offer");
    try {
      // One made before would not be the one that the offer speaks of.
      const [offered] = this.#connection.getTransceivers().filter(({ receiver }) => receiver.track.kind === "audio");
      if (this.settings.audio && offered !== undefined) {
        offered.direction = "sendrecv";
        this.#speakOn(offered);
        await offered.sender.replaceTrack(this.#audio);
      }
      return await this.#setLocal(await this.#connection.createAnswer());
    } catch (error) {
      if (error instanceof BadInput) throw error;
      throw new BadPacket(`peer's offer cannot be answered: ${error}`.slice(0, 300));
    }
  }

  /**
   * Takes the answer to this side's offer. Throws BadPacket for one that cannot be used.
   * @param {string} answer
   */
  async accept(answer) {
    await this.#setRemote(answer, "answer");
  }

  /** Waits until messages can be sent; false when it came to nothing, see `closedBecause`. */
  async waitOpen() {
    while (this.state === "new" || this.state === "connecting") await this.#change();
    return this.state === "open";
  }

  /** Waits for the end; `closedBecause`. */
  async waitClosed() {
    while (this.state !== "closed") await this.#change();
    return this.closedBecause;
  }

  /** Ends the connection. May be called again. */
  close(because = "closed on this side") {
    this.#finish(because);
  }

  // Sending

  /**
   * Sends one motion packet, unless earlier ones still wait: then it is dropped, and false returned.
   * @param {Uint8Array} data
   */
  sendMotion(data) {
    if (this.state !== "open" || this.#channels.motion.bufferedAmount > this.settings.motionBacklogBytes) {
      this.motionDropped++;
      return false;
    }
    return this.#send("motion", data);
  }

  /**
   * Sends one control message; false when not open or too much is waiting.
   *
   * One longer than MAX_PART_BYTES goes in parts, at most `bulkBps`, with motion and shorter messages in between: those
   * overtake it.
   * @param {Uint8Array} data
   */
  sendControl(data) {
    if (this.state !== "open") return false;
    return data.length <= MAX_PART_BYTES ? this.#send("control", data) : this.#parts.add(data);
  }

  /**
   * Sends `track` as speech from now on; null: nothing.
   * @param {MediaStreamTrack | null} track
   */
  async setAudio(track) {
    if (!this.settings.audio) throw new BadInput("this connection was made without audio");
    this.#audio = track;
    await this.#sender?.replaceTrack(track);
  }

  /**
   * Changes the speech encoder; 6000 to 64000 bit/s, 20, 40, 60 or 120 ms. Waits until the browser has taken it.
   * @param {{ bitrateBps: number, packetMs?: number }} speech
   */
  async setSpeech({ bitrateBps, packetMs = this.#speech.packetMs }) {
    if (!(bitrateBps >= 6000 && bitrateBps <= 64_000)) {
      throw new BadInput(`speech bit rate is ${bitrateBps}, allowed are 6000 to 64000`);
    }
    if (!PACKET_MS.includes(packetMs)) throw new BadInput(`speech packetMs is ${packetMs}, allowed are ${PACKET_MS.join(", ")}`);
    const before = this.#speech;
    if (bitrateBps === before.bitrateBps && packetMs === before.packetMs) return;
    this.#speech = { bitrateBps, packetMs };
    // One change after the other: a description is taken in several steps.
    this.#changing = this.#changing.then(() => this.#describeAgain()).catch((error) => {
      // Speech goes on as it was; the next change tries again.
      console.warn(`the browser does not change its speech encoder: ${error}`);
    });
    await this.#changing;
  }

  /** Bytes of messages that wait on this computer to be sent; parts not yet handed on are not counted. */
  get backlogBytes() {
    return this.#channels.motion.bufferedAmount + this.#channels.control.bufferedAmount;
  }

  // Watching

  /** What was sent and received so far, as of the last half second. */
  get traffic() {
    return this.#traffic;
  }

  /** How long nothing at all has arrived. */
  get silentMs() {
    return performance.now() - this.#heardMs;
  }

  // Below: the browser's side of it

  #makeConnection() {
    const { iceServers, relayOnly } = this.settings;
    let connection;
    try {
      connection = new RTCPeerConnection({
        iceServers,
        iceTransportPolicy: relayOnly ? "relay" : "all",
        bundlePolicy: "max-bundle",
        rtcpMuxPolicy: "require",
      });
    } catch (error) {
      throw new BadInput(`this browser makes no connection: ${error}`);
    }
    connection.onconnectionstatechange = () => this.#connectionChanged();
    connection.ontrack = ({ track }) => this.#track(track);
    connection.ondatachannel = ({ channel }) => {
      this.malformed++;
      channel.close();
    };
    return connection;
  }

  /** @param {RTCRtpTransceiver} transceiver */
  #speakOn(transceiver) {
    const codecs = RTCRtpReceiver.getCapabilities("audio")?.codecs ?? [];
    // Not every browser has it; others offer more codecs, of which Python takes Opus.
    transceiver.setCodecPreferences?.(codecs.filter(({ mimeType }) => mimeType.toLowerCase() === "audio/opus"));
    this.#sender = transceiver.sender;
  }

  /** @param {keyof typeof CHANNELS} label */
  #makeChannel(label) {
    const channel = this.#connection.createDataChannel(label, { ...CHANNELS[label], negotiated: true });
    channel.binaryType = "arraybuffer";
    channel.onmessage = ({ data }) => this.#message(label, data);
    channel.onopen = () => this.#channelOpened();
    channel.onclose = () => this.#finish("the other side has closed the connection");
    return channel;
  }

  #begin() {
    if (this.state !== "new") throw new BadInput(`connection is ${this.state}; an offer or answer is made once`);
    this.#beganMs = this.#heardMs = performance.now();
    this.#setState("connecting");
    this.#watch = setInterval(() => void this.#look(), WATCH_MS);
  }

  /** @param {RTCSessionDescriptionInit} description */
  async #setLocal(description) {
    await this.#connection.setLocalDescription(description);
    await this.#gathered();
    const made = plain(this.#connection.localDescription?.sdp ?? "");
    if (made.length > MAX_SDP_BYTES) throw new BadInput(`this browser's description is ${made.length} characters, most is ${MAX_SDP_BYTES}`);
    return made;
  }

  async #gathered() {
    const connection = this.#connection;
    if (connection.iceGatheringState === "complete") return;
    await new Promise((resolve) => {
      const late = setTimeout(resolve, GATHER_WITHIN_MS);
      connection.onicegatheringstatechange = () => {
        if (connection.iceGatheringState !== "complete") return;
        clearTimeout(late);
        resolve(null);
      };
    });
  }

  /**
   * @param {string} sdp
   * @param {"offer" | "answer"} type
   */
  async #setRemote(sdp, type) {
    if (sdp.length > MAX_SDP_BYTES) throw new BadPacket(`peer's ${type} is ${sdp.length} characters, most is ${MAX_SDP_BYTES}`);
    if (!sdp.includes("m=application")) throw new BadPacket(`peer's ${type} has no section for data channels`);
    try {
      await this.#connection.setRemoteDescription({ sdp: withSpeech(sdp, this.#speech), type });
    } catch (error) {
      throw new BadPacket(`peer's ${type} cannot be used: ${error}`.slice(0, 300));
    }
    this.#remote = { sdp, type };
  }

  /** The other side's description once more, with other wishes about speech: nothing of it goes over the network. */
  async #describeAgain() {
    const connection = this.#connection;
    if (this.#remote === null || this.#sender === null || this.state === "closed") return;
    const { sdp, type } = this.#remote;
    const remote = { sdp: withSpeech(sdp, this.#speech), type };
    if (type === "offer") {
      await connection.setRemoteDescription(remote);
      await connection.setLocalDescription(await connection.createAnswer());
    } else {
      await connection.setLocalDescription(await connection.createOffer());
      await connection.setRemoteDescription(remote);
    }
  }

  #change() {
    return new Promise((resolve) => this.#waiting.push(() => resolve(null)));
  }

  /** @param {PeerState} state */
  #setState(state) {
    this.state = state;
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const tell of waiting) tell();
    this.#events.state?.(state);
  }

  /** @param {string} because */
  #finish(because) {
    if (this.state === "closed") return;
    this.closedBecause = because;
    if (this.#watch !== null) clearInterval(this.#watch);
    this.#parts.clear();
    this.#setState("closed");
    this.#connection.close();
  }

  #connectionChanged() {
    const { connectionState } = this.#connection;
    if (connectionState === "failed") this.#finish("the two sides cannot reach each other");
    else if (connectionState === "closed") this.#finish("the other side has closed the connection");
  }

  #channelOpened() {
    const open = Object.values(this.#channels).every(({ readyState }) => readyState === "open");
    if (this.state === "connecting" && open) this.#setState("open");
  }

  /** @param {MediaStreamTrack} track */
  #track(track) {
    if (track.kind !== "audio" || this.remoteAudio !== null) return;
    this.remoteAudio = track;
    this.#events.audio?.(track);
  }

  /**
   * @param {keyof typeof CHANNELS} label
   * @param {Uint8Array} data
   */
  #send(label, data) {
    try {
      this.#channels[label].send(/** @type {Uint8Array<ArrayBuffer>} */ (data));
    } catch {
      return false; // closing, or longer than the other side takes
    }
    return true;
  }

  /**
   * @param {keyof typeof CHANNELS} label
   * @param {unknown} received
   */
  #message(label, received) {
    if (this.state === "closed") return;
    this.#heardMs = performance.now();
    const most = label === "motion" ? MAX_MOTION_BYTES : MAX_MESSAGE_BYTES;
    if (!(received instanceof ArrayBuffer) || received.byteLength > most) {
      this.malformed++;
      return;
    }
    const message = { data: new Uint8Array(received), arrivedUs: nowUs() };
    if (label === "motion") this.#events.motion(message);
    else if (isPart(message.data)) this.#part(message);
    else this.#events.control(message);
  }

  /** @param {Message} message */
  #part({ data, arrivedUs }) {
    let whole;
    try {
      whole = this.#assembly.add(data);
    } catch (error) {
      if (!(error instanceof BadPacket)) throw error;
      this.malformed++;
      return;
    }
    if (whole !== null) this.#events.control({ data: whole, arrivedUs });
  }

  /** Notices a connection that never opens and another side that has vanished, and counts. */
  async #look() {
    const { connectTimeoutMs, vanishedAfterMs } = this.settings;
    if (this.state === "connecting" && performance.now() - this.#beganMs > connectTimeoutMs) {
      this.#finish(`no connection within ${connectTimeoutMs / 1000} s`);
    }
    if (this.state !== "open") return;
    this.#count(await this.#connection.getStats());
    if (this.silentMs > vanishedAfterMs) this.#finish(`nothing has arrived for ${vanishedAfterMs / 1000} s`);
  }

  /** @param {RTCStatsReport} report */
  #count(report) {
    /** @type {Map<string, any>} */
    const found = new Map();
    report.forEach((one) => found.set(one.id, one));
    const all = [...found.values()];
    const transport = all.find(({ type }) => type === "transport");
    const pair = found.get(transport?.selectedCandidatePairId)
      ?? all.find(({ type, nominated, state }) => type === "candidate-pair" && nominated && state === "succeeded");
    if (pair === undefined) return;
    if (pair.currentRoundTripTime !== undefined) this.rttMs = 1000 * pair.currentRoundTripTime;
    // The other side may send over another pair than the one that is selected here: the transport counts both.
    const { bytesSent, bytesReceived, packetsSent, packetsReceived } = transport?.packetsReceived === undefined ? pair : transport;
    // ICE's own checks are signs of life, too.
    const counted = bytesReceived + (pair.requestsReceived ?? 0) + (pair.responsesReceived ?? 0);
    if (counted !== this.#counted) this.#heardMs = performance.now();
    this.#counted = counted;
    const address = found.get(pair.localCandidateId)?.address ?? "";
    const header = address.includes(":") ? UDP_IPV6_BYTES : UDP_IPV4_BYTES;
    const audio = (/** @type {string} */ kind) => all.filter(({ type, kind: of }) => type === kind && of === "audio");
    const [outbound] = audio("outbound-rtp");
    const [inbound] = audio("inbound-rtp");
    this.#traffic = {
      sent: traffic(bytesSent, packetsSent, outbound?.bytesSent + outbound?.headerBytesSent, outbound?.packetsSent, header),
      received: traffic(
        bytesReceived, packetsReceived, inbound?.bytesReceived + inbound?.headerBytesReceived, inbound?.packetsReceived, header),
    };
  }
}

/**
 * @param {number} bytes
 * @param {number | undefined} packets
 * @param {number} audioBytes NaN where there is no audio
 * @param {number | undefined} audioPackets
 * @param {number} header of IP and UDP
 * @returns {Traffic}
 */
function traffic(bytes, packets = 0, audioBytes, audioPackets = 0, header) {
  const audio = Number.isFinite(audioBytes) ? audioBytes + audioPackets * header : 0;
  return { bytes: bytes + packets * header, packets, audioBytes: audio };
}
