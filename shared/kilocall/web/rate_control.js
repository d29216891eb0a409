// How much is sent: the best plan that the link carries without delay, by the receiver's reports.
//
// As `control/rate_control.py`, which says why each number is what it is; a test holds the two together on traces.

import { BadInput } from "./errors.js";
import { LEVELS, MAX_FRAMES } from "./limits.js";
import { forwardBps } from "./wire_cost.js";

/** IP, UDP, RTP and SRTP of a speech packet. */
const AUDIO_OVERHEAD_BYTES = 50;
/** Acknowledgements of motion. */
const SACK_BPS = 1600;

const QUEUE_MS = 120;
const STEADY_MS = 60;
const SEVERE_MS = 250;
const SETTLE_US = 1_200_000;
const SHARE = 0.85;
const QUIET_US = 10_000_000;
const BLOCK_US = 20_000_000;
const BLOCK_MOST_US = 160_000_000;
const GUARD_LOSS = 0.04;
const MUCH_LOSS = 0.06;
const CALM_LOSS = 0.015;
const CALM_US = 20_000_000;
const LOSS_WEIGHT = 0.35;
const LOSS = 0.15;
const LOSS_REPORTS = 3;
const LOSS_TRIAL_US = 6_000_000;
const RANDOM_LOSS_US = 120_000_000;
const SILENT_US = 3_500_000;
const RTTS = 3;

/**
 * What a call may use at most.
 * @typedef {object} Profile
 * @property {number} videoBps on the wire, acknowledgements included
 * @property {number} waitMs longest that a frame may wait for others of its message
 * @property {number} fps
 * @property {number} level quality level of the best rung without a video layer, 0..8
 * @property {number} audioBps
 * @property {number} cameraBps for what the camera sees, while it is shown instead of the speaker made from a picture
 * @property {readonly [number, number, number]} guard on a link that loses: frames a message, and frames repeated from
 *   those before at little loss and at much
 */

/** @typedef {"default" | "saver"} ProfileName */

/** @type {Readonly<Record<ProfileName, Profile>>} */
export const PROFILES = {
  default: { videoBps: 10_000, waitMs: 200, fps: 25, level: 4, audioBps: 12_000, cameraBps: 24_000, guard: [2, 2, 4] },
  saver: { videoBps: 6_000, waitMs: 200, fps: 25, level: 2, audioBps: 8_000, cameraBps: 6_000, guard: [4, 0, 0] },
};
/** Beside a video layer of so much or more, motion is coded so many levels finer. */
const FINE_FROM_BPS = 3000;
const FINER = 2;
/** Of the video layer's rate on the best rungs. */
const LAYER_SHARES = [1, 0.5];
const LEAST_CAMERA_BPS = 1500;
const GUARDED_AUDIO = [[8000, 60], [6000, 60], [6000, 120]];

/**
 * What to send.
 * @typedef {object} Plan
 * @property {number} framesPerMessage
 * @property {number} fps
 * @property {number} level
 * @property {number} audioBps Opus' own, 6000 to 16000
 * @property {number} audioPacketMs
 * @property {number} redundantFrames frames of the messages before that are carried again at most
 * @property {number} layerBps most that the video layer may take, in the same messages
 * @property {number} cameraBps the same while it is what the camera sees
 */

/**
 * One report of the receiver, as it arrived.
 * @typedef {object} Feedback
 * @property {number} nowUs
 * @property {number} loss share of the motion packets, 0..1
 * @property {number} delayMs queueing: how much longer than the fastest the packets now take
 * @property {number} receivedBps all that arrived, on the wire; 0: not known
 * @property {number | null} rttMs
 */

/**
 * Everything on the wire for a plan, while someone speaks.
 * @param {Plan} plan
 * @param {number} bitsPerFrame
 */
export function wireBps(plan, bitsPerFrame) {
  return videoWireBps(plan, bitsPerFrame) + audioWireBps(plan.audioBps, plan.audioPacketMs);
}

/**
 * Motion and video layer with their headers and the acknowledgements that come back.
 * @param {Plan} plan
 * @param {number} bitsPerFrame
 */
export function videoWireBps(plan, bitsPerFrame) {
  const repeatedBps = bitsPerFrame * plan.redundantFrames * plan.fps / plan.framesPerMessage;
  return forwardBps(bitsPerFrame, plan.fps, plan.framesPerMessage) + repeatedBps + plan.layerBps + SACK_BPS;
}

/**
 * Speech with its headers.
 * @param {number} bitrateBps
 * @param {number} packetMs
 */
export function audioWireBps(bitrateBps, packetMs) {
  return bitrateBps + AUDIO_OVERHEAD_BYTES * 8 * 1000 / packetMs;
}

/**
 * @param {Plan} a
 * @param {Plan} b
 */
export function samePlan(a, b) {
  return a.framesPerMessage === b.framesPerMessage && a.fps === b.fps && a.level === b.level && a.audioBps === b.audioBps
    && a.audioPacketMs === b.audioPacketMs && a.redundantFrames === b.redundantFrames && a.layerBps === b.layerBps
    && a.cameraBps === b.cameraBps;
}

/**
 * The plans of a profile, the best first, each cheaper than the one before. The video layer goes first: half of it with the
 * first step, all of it with the second; and what it has made worth coding more finely of the motion.
 * @param {Profile} profile
 * @param {number} bitsPerFrame
 * @param {number} layerBps
 */
export function ladder(profile, bitsPerFrame = 40, layerBps = 0) {
  const most = Math.min(MAX_FRAMES, 1 + Math.trunc(profile.waitMs * profile.fps / 1000));
  /** @type {(framesPerMessage: number, fps: number, level: number, audioBps: number, audioPacketMs: number) => Plan} */
  const plan = (framesPerMessage, fps, level, audioBps, audioPacketMs) =>
    ({ framesPerMessage, fps, level, audioBps, audioPacketMs, redundantFrames: 0, layerBps: 0, cameraBps: 0 });
  let fewest = most;
  for (let frames = most; frames > 0; frames--) {
    const one = plan(frames, profile.fps, profile.level, profile.audioBps, 60);
    if (videoWireBps(one, bitsPerFrame) <= profile.videoBps) fewest = frames;
  }
  const wanted = [plan(fewest, profile.fps, profile.level, profile.audioBps, 60)];
  for (const audioBps of [8000, 6000]) {
    const last = wanted[wanted.length - 1];
    const framesPerMessage = Math.min(most, last.framesPerMessage + 1);
    wanted.push({ ...last, framesPerMessage, audioBps: Math.min(audioBps, profile.audioBps) });
  }
  const thrifty = Math.max(0, profile.level - 1);
  wanted.push({ ...wanted[wanted.length - 1], framesPerMessage: most, level: thrifty, audioPacketMs: 120 });
  const thriftiest = Math.max(0, profile.level - 2);
  wanted.push(plan(4, profile.fps / 2, thriftiest, 6000, 120));
  // The last is no way to talk, but empties a queue: it is left as soon as the queue is gone.
  wanted.push(plan(3, profile.fps / 5, thriftiest, 6000, 120));
  wanted.forEach((one, rung) => {
    one.layerBps = Math.round((LAYER_SHARES[rung] ?? 0) * layerBps);
    if (one.layerBps >= FINE_FROM_BPS) one.level += FINER;
    one.cameraBps = Math.max(LEAST_CAMERA_BPS, profile.cameraBps >> rung);
  });
  /** @type {Plan[]} */
  const plans = [];
  for (const one of wanted) {
    if (!plans.length || wireBps(one, bitsPerFrame) < wireBps(plans[plans.length - 1], bitsPerFrame)) plans.push(one);
  }
  return plans;
}

/**
 * The plans of a ladder on a link that loses much: the best rungs guarded, the last ones as they were.
 * @param {Profile} profile
 * @param {readonly Plan[]} plans
 */
function guarded(profile, plans) {
  const [framesPerMessage, , redundantFrames] = profile.guard;
  const best = plans.slice(0, GUARDED_AUDIO.length).map((plan, n) => {
    const [audioBps, audioPacketMs] = GUARDED_AUDIO[n];
    return { ...plan, framesPerMessage, redundantFrames, audioBps: Math.min(audioBps, profile.audioBps), audioPacketMs };
  });
  return [...best.slice(0, plans.length - 2), ...plans.slice(Math.min(best.length, plans.length - 2))];
}

/** Chooses a plan. `update` with every report, `tick` once a second or so; both return the plan to follow. */
export class RateControl {
  #changedUs = 0;
  /** @type {number | null} */
  #quietFromUs = null;
  /** @type {number | null} */
  #heardUs = null;
  #delayMs = 0;
  /** @type {number[]} */
  #rttsMs = [];
  /** @type {number | null} */
  #rttLeastMs = null;
  #blockedUntilUs;
  #blocks;
  /** @type {number | null} */
  #climbedUs = null;
  #backTo;
  /** @type {number | null} */
  #beforeSilence = null;
  #loss = 0;
  /** @type {number | null} */
  #calmFromUs = null;
  /** @type {number[]} */
  #losses = [];
  /** @type {number | null} */
  #lossBefore = null;
  #lossIsRandomUntilUs = 0;

  /**
   * @param {ProfileName} profile
   * @param {{ bitsPerFrame?: number, layerBps?: number }} options what a frame takes, and the video layer at most
   */
  constructor(profile = "default", { bitsPerFrame = 40, layerBps = 0 } = {}) {
    if (!Object.hasOwn(PROFILES, profile)) {
      throw new BadInput(`rate profile is ${profile}, allowed are ${Object.keys(PROFILES).join(", ")}`);
    }
    if (!(bitsPerFrame >= 1 && bitsPerFrame <= 2000)) {
      throw new BadInput(`bitsPerFrame is ${bitsPerFrame}, allowed are 1 to 2000`);
    }
    this.profile = PROFILES[profile];
    /** What a frame takes; may be corrected by what the encoder measures. */
    this.bitsPerFrame = bitsPerFrame;
    this.plans = ladder(this.profile, bitsPerFrame, layerBps);
    this.guardedPlans = guarded(this.profile, this.plans);
    /** Which of the plans is followed; 0 is the best. */
    this.rung = 0;
    /** Whether it is one of `guardedPlans`, where little is lost with fewer repeats. */
    this.guarded = false;
    /** Whether what the camera sees is shown. */
    this.camera = false;
    /** How often the rung has changed. */
    this.steps = 0;
    this.#blockedUntilUs = this.plans.map(() => 0);
    this.#blocks = this.plans.map(() => 0);
    this.#backTo = this.plans.length - 2;
  }

  /** @returns {Plan} */
  get plan() {
    const plan = (this.guarded ? this.guardedPlans : this.plans)[this.rung];
    const redundantFrames =
      this.#loss < MUCH_LOSS ? Math.min(plan.redundantFrames, this.profile.guard[1]) : plan.redundantFrames;
    return { ...plan, redundantFrames, level: Math.min(plan.level, LEVELS - 1) };
  }

  /**
   * Takes one report.
   * @param {Feedback} feedback
   */
  update(feedback) {
    const { nowUs } = feedback;
    this.#heardUs = nowUs;
    const delayMs = this.#queueingMs(feedback);
    const growing = delayMs > this.#delayMs + 15;
    this.#delayMs = delayMs;
    const settled = nowUs - this.#changedUs >= SETTLE_US;
    if (delayMs > STEADY_MS) this.#quietFromUs = null;
    else this.#quietFromUs ??= nowUs;

    this.#guard(feedback, delayMs > QUEUE_MS);
    if (this.#beforeSilence !== null && delayMs <= STEADY_MS) {
      // What was silent was the link, not too narrow: nothing is learned from going down.
      this.#goTo(nowUs, Math.min(this.rung, this.#beforeSilence));
      this.#beforeSilence = null;
    } else if (delayMs > SEVERE_MS && (settled || growing)) {
      this.#stepDown(nowUs, this.#rungFor(feedback.receivedBps, true));
    } else if (delayMs > QUEUE_MS && growing && settled) {
      this.#stepDown(nowUs, this.#rungFor(feedback.receivedBps, false));
    } else if (this.rung === this.plans.length - 1 && delayMs < QUEUE_MS && settled) {
      this.#goTo(nowUs, this.#backTo); // off the rung that only empties queues
      this.#backTo = this.rung;
    } else if (!this.#lossAsksForLess(feedback, settled)) {
      this.#maybeClimb(nowUs);
    }
    return this.plan;
  }

  /**
   * Notices that no report has come for a while.
   * @param {number} nowUs
   */
  tick(nowUs) {
    this.#heardUs ??= nowUs;
    if (nowUs - Math.max(this.#heardUs, this.#changedUs) > SILENT_US && this.rung < this.plans.length - 2) {
      this.#beforeSilence ??= this.rung;
      this.#quietFromUs = null;
      this.#goTo(nowUs, this.rung + 1);
    }
    return this.plan;
  }

  /**
   * What the camera sees is shown, which takes more; or no more.
   * @param {boolean} on
   */
  showCamera(on) {
    this.camera = on;
  }

  /**
   * What the reported delay and the round trip's growth agree on.
   *
   * The report measures from the camera on, so that a busy machine's delays are in it, and a round trip may be that of
   * a report which was lost and repeated. A full queue is in both.
   * @param {Feedback} feedback
   */
  #queueingMs({ rttMs, delayMs }) {
    if (rttMs === null) return delayMs;
    this.#rttsMs.push(rttMs);
    if (this.#rttsMs.length > RTTS) this.#rttsMs.shift();
    const shortestMs = Math.min(...this.#rttsMs);
    // Forgets a shorter way within some minutes: 0.1 ms a report.
    const leastMs = this.#rttLeastMs === null ? shortestMs : Math.min(shortestMs, this.#rttLeastMs + 0.1);
    this.#rttLeastMs = leastMs;
    if (delayMs <= STEADY_MS / 2) return Math.min(shortestMs - leastMs, QUEUE_MS);
    return Math.min(delayMs, rttMs - leastMs + STEADY_MS / 2);
  }

  /**
   * The best rung below this one that fits into what gets through.
   * @param {number} receivedBps
   * @param {boolean} drain
   */
  #rungFor(receivedBps, drain) {
    const last = this.plans.length - 1;
    if (drain) return last;
    for (let rung = this.rung + 1; rung < last; rung++) {
      if (receivedBps && this.#wireBps(rung) <= SHARE * receivedBps) return rung;
    }
    return receivedBps ? Math.max(this.rung, last - 1) : Math.min(this.rung + 1, last);
  }

  /** @param {number} rung */
  #wireBps(rung) {
    const plan = this.plans[rung];
    return wireBps(plan, this.bitsPerFrame) + (this.camera ? plan.cameraBps - plan.layerBps : 0);
  }

  /**
   * @param {number} nowUs
   * @param {number} rung
   */
  #stepDown(nowUs, rung) {
    if (this.#climbedUs !== null && nowUs - this.#climbedUs < QUIET_US) {
      // The step up was one too many: leave that rung, and those above, alone for longer each time.
      this.#blocks[this.rung]++;
      const waitUs = Math.min(BLOCK_US * 2 ** (this.#blocks[this.rung] - 1), BLOCK_MOST_US);
      this.#blockAbove(this.rung + 1, nowUs + waitUs);
      this.#backTo = Math.min(this.rung + 1, this.plans.length - 2);
    } else if (rung === this.plans.length - 1) {
      this.#backTo = rung - 1;
    }
    this.#climbedUs = null;
    this.#goTo(nowUs, rung);
  }

  /**
   * @param {number} rung those better than it
   * @param {number} untilUs
   */
  #blockAbove(rung, untilUs) {
    for (let above = 0; above < rung; above++) {
      this.#blockedUntilUs[above] = Math.max(this.#blockedUntilUs[above], untilUs);
    }
  }

  /** @param {number} nowUs */
  #maybeClimb(nowUs) {
    if (this.rung === 0 || this.#quietFromUs === null) return;
    const quietUs = nowUs - Math.max(this.#quietFromUs, this.#changedUs);
    if (quietUs >= QUIET_US && nowUs >= this.#blockedUntilUs[this.rung - 1]) {
      this.#goTo(nowUs, this.rung - 1);
      this.#climbedUs = nowUs;
    }
  }

  /**
   * Keeps the mean loss, and decides whether plans are guarded.
   * @param {Feedback} feedback
   * @param {boolean} queue
   */
  #guard({ nowUs, loss }, queue) {
    if (queue) return; // a full queue loses too, and more headers would not help it
    this.#loss += LOSS_WEIGHT * (loss - this.#loss);
    this.#losses.push(loss);
    if (this.#losses.length > LOSS_REPORTS) this.#losses.shift();
    if (this.#loss >= CALM_LOSS) this.#calmFromUs = null;
    else this.#calmFromUs ??= nowUs;
    if (this.#loss >= GUARD_LOSS) this.guarded = true;
    else if (this.#calmFromUs !== null && nowUs - this.#calmFromUs >= CALM_US) this.guarded = false;
  }

  /**
   * Tries one rung less against loss, once; true while that is being tried.
   * @param {Feedback} feedback
   * @param {boolean} settled
   */
  #lossAsksForLess({ nowUs }, settled) {
    if (this.#lossBefore !== null) {
      if (nowUs - this.#changedUs < LOSS_TRIAL_US) return true;
      if (mean(this.#losses) > 0.6 * this.#lossBefore) {
        this.#lossIsRandomUntilUs = nowUs + RANDOM_LOSS_US;
        this.#lossBefore = null;
        this.#goTo(nowUs, this.rung - 1);
        return true;
      }
      this.#lossBefore = null;
      this.#blockAbove(this.rung, nowUs + BLOCK_US); // it was a limit that lost
    }
    const { length } = this.#losses;
    if (length < LOSS_REPORTS || Math.min(...this.#losses) < LOSS || nowUs < this.#lossIsRandomUntilUs) return false;
    if (settled && this.rung < this.plans.length - 2) {
      this.#lossBefore = mean(this.#losses);
      this.#losses = [];
      this.#goTo(nowUs, this.rung + 1);
    }
    return true;
  }

  /**
   * @param {number} nowUs
   * @param {number} rung
   */
  #goTo(nowUs, rung) {
    if (rung === this.rung) return;
    this.rung = rung;
    this.steps++;
    this.#changedUs = nowUs;
  }
}

/** @param {readonly number[]} values */
function mean(values) {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
