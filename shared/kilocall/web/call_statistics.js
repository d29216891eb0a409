// Counts and measures a call while it runs, for the page's numbers once a second. As `call/statistics.py`.

/** @typedef {import("./link.js").Link} Link */
/** @typedef {import("./peer.js").Traffic} Traffic */
/** @typedef {import("./receive_pipeline.js").Rendered} Rendered */
/** @typedef {import("./receive_pipeline.js").ReceivePipeline} ReceivePipeline */
/** @typedef {import("./send_pipeline.js").SendPipeline} SendPipeline */
/** @typedef {import("./session.js").Session} Session */

/** What 256x256 pixels of as good a face take with H.264 at so many pictures a second, kbit/s; as `call/report.py`. */
const H264_KBPS = /** @type {const} */ ([[5, 10.1], [12.5, 15.1], [25, 22.6]]);
const WRAP_US = 65_536_000;
const DELAYS = 200;

/** Is told what happens to the call, and looks at it once a second. */
export class CallStatistics {
  #session;
  #link;
  #sending;
  #receiving;
  /** @type {number[]} milliseconds from camera to canvas, of the newest pictures */
  #delays = [];
  #pictures = 0;
  #before = { pictures: 0, sent: 0, atMs: performance.now(), answeredMs: performance.now() };
  /** @type {{ sent: Traffic, received: Traffic } | null} */
  #traffic = null;
  /** @type {import("./peer.js").Peer | null} */
  #peer = null;

  /**
   * @param {Session} session
   * @param {Link} link
   * @param {SendPipeline} sending
   * @param {ReceivePipeline} receiving
   */
  constructor(session, link, sending, receiving) {
    this.#session = session;
    this.#link = link;
    this.#sending = sending;
    this.#receiving = receiving;
    /** @type {number} shown of the other side */
    this.shown = 0;
  }

  /** @param {Rendered} made */
  picture({ timeUs, madeUs }) {
    this.shown++;
    this.#pictures++;
    if (!this.#session.sameClock) return;
    this.#delays.push((((madeUs - timeUs) % WRAP_US) + WRAP_US) % WRAP_US / 1000);
    if (this.#delays.length > DELAYS) this.#delays.shift();
  }

  /** What the page shows, as of now. */
  async look() {
    let answeredMs = 0;
    const [sending, receiving] = await Promise.all([
      this.#sending.numbers().finally(() => { answeredMs = performance.now(); }), this.#receiving.numbers(),
    ]);
    const { peer } = this.#link;
    const now = performance.now();
    const seconds = Math.max(1e-3, (now - this.#before.atMs) / 1000);
    // The workers answer between two frames: counts are of the moment of the answer.
    const sendingSeconds = Math.max(1e-3, (answeredMs - this.#before.answeredMs) / 1000);
    const traffic = peer?.traffic ?? null;
    const before = peer === this.#peer ? this.#traffic : null;
    const [out, into] = /** @type {const} */ (["sent", "received"]).map((way) => rates(before?.[way], traffic?.[way], seconds));
    const pictures = this.#pictures - this.#before.pictures;
    const sent = sending.sentFrames - this.#before.sent;
    this.#before = { pictures: this.#pictures, sent: sending.sentFrames, atMs: now, answeredMs };
    this.#traffic = traffic;
    this.#peer = peer;
    return {
      type: "numbers",
      counted_at: Date.now() / 1000,
      out_kbps: out.total,
      in_kbps: into.total,
      out_motion_kbps: out.data,
      in_motion_kbps: into.data,
      audio_out_kbps: out.audio,
      audio_in_kbps: into.audio,
      payload_bits_per_frame: sending.payloadBits / Math.max(1, sending.sentFrames),
      fps_out: sent / sendingSeconds,
      fps_in: pictures / seconds,
      loss_pct: this.#session.loss === null ? null : 100 * this.#session.loss,
      rtt_ms: this.#session.rttMs,
      delay_ms: this.#delay(receiving.delayUs, pictures),
      rate_out: sending.fps,
      rate_out_limit: sending.limitedBy,
      rate_in: receiving.fps,
      rate_in_limit: receiving.fps < 25 ? "processor" : "none",
      frames_per_message: this.#session.rate.plan.framesPerMessage,
      h264_kbps: h264Kbps(sending.fps),
      sender_ms: sending.ms.all,
      render_ms: receiving.rendered ? Object.values(receiving.ms).reduce((sum, ms) => sum + ms, 0) : null,
      layer: receiving.layer,
      engine: [...new Set([receiving.engine, sending.engine])].join("; "),
      gallery_pictures: this.#session.confirmed === null ? 0 : 1,
      gallery_kb: (this.#sending.source?.packed.data.length ?? 0) / 1000,
      dropped: {
        late_packets: receiving.late,
        skipped_frames: receiving.skipped,
        inbox: receiving.inboxDropped,
        malformed: receiving.malformed + (peer?.malformed ?? 0) + this.#session.malformed,
        not_sent: peer?.motionDropped ?? 0,
      },
    };
  }

  /**
   * Milliseconds, median: measured where both sides read one clock, else what the way and the wait take.
   * @param {number} playoutUs
   * @param {number} pictures
   */
  #delay(playoutUs, pictures) {
    const { rttMs } = this.#session;
    if (this.#delays.length) return this.#delays.toSorted((a, b) => a - b)[this.#delays.length >> 1];
    return rttMs !== null && pictures ? playoutUs / 1000 + rttMs / 2 : null;
  }
}

/**
 * kbit/s since the last look.
 * @param {Traffic | undefined} before
 * @param {Traffic | undefined} now
 * @param {number} seconds
 */
function rates(before, now, seconds) {
  if (before === undefined || now === undefined) return { total: 0, data: 0, audio: 0 };
  const kbps = (/** @type {number} */ bytes) => Math.max(0, (8 * bytes) / 1000 / seconds);
  const [total, audio] = [now.bytes - before.bytes, now.audioBytes - before.audioBytes];
  return { total: kbps(total), data: kbps(total - audio), audio: kbps(audio) };
}

/**
 * Interpolated between the measured rates.
 * @param {number} fps
 */
function h264Kbps(fps) {
  const above = H264_KBPS.findIndex(([rate]) => rate > fps);
  const place = above < 0 ? H264_KBPS.length - 1 : Math.max(1, above);
  const [[low, a], [high, b]] = [H264_KBPS[place - 1], H264_KBPS[place]];
  return Math.max(0, a + ((b - a) * (Math.min(fps, high) - low)) / (high - low));
}
