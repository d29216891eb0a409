// The stream's speech, decoded by the browser (WebCodecs) a little ahead of the picture and heard at its time. The
// pictures have the clock, the sound follows; at another speed than the speaker's own nothing is heard.

import { SAMPLE_RATE } from "./sound.js";

/** @typedef {import("./sound.js").SoundPackets} SoundPackets */

/** So much is decoded before it is heard. */
const AHEAD_US = 1_500_000;
/** Further from the picture than this the sound is put right. */
const APART_S = 0.12;
/** Frame sizes of Opus in microseconds by the configuration in a packet's first byte (RFC 6716, 3.1). */
const SILK_US = [10_000, 20_000, 40_000, 60_000];
const HYBRID_US = [10_000, 20_000];
const CELT_US = [2_500, 5_000, 10_000, 20_000];

/**
 * How long an Opus packet lasts, microseconds.
 * @param {Uint8Array} packet
 */
export function durationUs(packet) {
  const config = packet[0] >> 3;
  const each = config < 12 ? SILK_US[config & 3] : config < 16 ? HYBRID_US[config & 1] : CELT_US[config & 3];
  const code = packet[0] & 3;
  return each * (code === 0 ? 1 : code < 3 ? 2 : (packet[1] ?? 0) & 63);
}

/** Decodes records in their order; what comes of them is given to `heard` with its stream time. */
export class SpeechDecoder {
  /** @param {(samples: Float32Array, timeUs: number) => void} heard mono, SAMPLE_RATE */
  constructor(heard) {
    this.decoder = new AudioDecoder({
      output: (data) => {
        const samples = new Float32Array(data.numberOfFrames);
        data.copyTo(samples, { planeIndex: 0, format: "f32-planar" });
        heard(samples, data.timestamp);
        data.close();
      },
      // A damaged packet ends the speech and not the pictures.
      error: () => {},
    });
    this.decoder.configure({ codec: "opus", sampleRate: SAMPLE_RATE, numberOfChannels: 1 });
  }

  /** @param {SoundPackets} record */
  push({ timeUs, skip, packets }) {
    // What is to be skipped lies before the record's time, and is not heard.
    let timestamp = timeUs - Math.round((skip * 1e6) / SAMPLE_RATE);
    for (const data of packets) {
      if (this.decoder.state !== "configured") return;
      const duration = durationUs(data);
      this.decoder.decode(new EncodedAudioChunk({ type: "key", timestamp, duration, data }));
      timestamp += duration;
    }
  }

  async finish() {
    await this.decoder.flush();
    this.close();
  }

  close() {
    if (this.decoder.state !== "closed") this.decoder.close();
  }
}

export class Speech {
  /** @param {SoundPackets[]} records */
  constructor(records) {
    this.records = records;
    this.muted = false;
    /** Whether this browser can play it. */
    this.playable = "AudioDecoder" in globalThis && "AudioContext" in globalThis;
    /** @type {AudioContext | null} */
    this.context = null;
    /** @type {{ decoder: SpeechDecoder, next: number, zero: number, playing: Set<AudioBufferSourceNode> } | null} */
    this.running = null;
  }

  /**
   * The picture of `timeUs` is shown, at this speed, or stands.
   * @param {number} timeUs
   * @param {boolean} playing
   * @param {number} speed
   */
  follow(timeUs, playing, speed) {
    if (!this.records.length || !this.playable) return;
    if (!playing || speed !== 1 || this.muted) {
      this.stop();
      return;
    }
    // Made on the first play: a browser lets a page be heard only once somebody has pressed something in it.
    this.context ??= new AudioContext({ sampleRate: SAMPLE_RATE });
    const { currentTime } = this.context;
    if (this.running && Math.abs(currentTime - this.running.zero - timeUs / 1e6) > APART_S) this.stop();
    this.running ??= this.#start(this.context, timeUs);
    const { running, records } = this;
    while (running.next < records.length && records[running.next].timeUs < timeUs + AHEAD_US) {
      running.decoder.push(records[running.next++]);
    }
  }

  stop() {
    if (!this.running) return;
    this.running.decoder.close();
    for (const node of this.running.playing) node.stop();
    this.running = null;
  }

  /**
   * @param {AudioContext} context
   * @param {number} timeUs
   */
  #start(context, timeUs) {
    const zero = context.currentTime - timeUs / 1e6; // when the stream began
    /** @type {Set<AudioBufferSourceNode>} */
    const playing = new Set();
    const decoder = new SpeechDecoder((samples, fromUs) => {
      const late = context.currentTime - (zero + fromUs / 1e6);
      if (late * SAMPLE_RATE >= samples.length || !samples.length) return;
      const buffer = context.createBuffer(1, samples.length, SAMPLE_RATE);
      buffer.getChannelData(0).set(samples);
      const node = new AudioBufferSourceNode(context, { buffer });
      node.connect(context.destination);
      node.onended = () => playing.delete(node);
      node.start(Math.max(0, zero + fromUs / 1e6), Math.max(0, late));
      playing.add(node);
    });
    const later = this.records.findIndex((record) => record.timeUs > timeUs);
    const next = Math.max(0, (later < 0 ? this.records.length : later) - 1);
    return { decoder, next, zero, playing };
  }
}
