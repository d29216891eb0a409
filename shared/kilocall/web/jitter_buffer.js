// Motion packets as they arrive to frames in play order, each at its time. As `receiver/jitter_buffer.py`, which says how the
// offset between capture and showing is chosen. All times are whole microseconds of the caller's clock.

import { HISTORY, SEQUENCES } from "./limits.js";
import { modulo } from "./motion_packet.js";

/** @typedef {import("./motion_packet.js").MotionPacket} MotionPacket */

const LEAST_DELAY_US = 60_000;
const MOST_DELAY_US = 250_000;
const MARGIN_US = 10_000;
const SINK_US_PER_S = 40_000;
const WINDOW_US = 4_000_000;
const QUEUE_BASE_S = 30;
const QUEUE_WITHIN_US = 700_000;
const RESYNC_AFTER_US = 250_000;
const RESYNC_PACKETS = 2;
const STALE_US = 100_000;
const IN_TIME = 0.9;
const SECOND_CHANCES = 2;
const FORGET_CLOCK_US = 20_000_000;
const MOST_PACKETS = 64;
const HALF = SEQUENCES / 2;

/**
 * What became of a packet: "late", none of its frames will be played, but it is worth decoding; "old", behind by more than
 * either side remembers, and not to be decoded.
 * @typedef {"queued" | "late" | "duplicate" | "old"} Verdict
 */

/**
 * One frame whose time has come.
 * @typedef {object} DueFrame
 * @property {MotionPacket} packet
 * @property {number} index which of the packet's frames
 * @property {number} timeUs capture time on the sender's clock, not cut to 65 s
 * @property {number} dueUs when it was to be shown, on the caller's clock
 * @property {number} lostBefore packets missing between the frame played last and this one; 0 for the first frame ever
 */

/**
 * What the sender is told, as `ReceiverReport` of `proto/control.py`.
 * @typedef {object} Report
 * @property {number} highest
 * @property {number} heldMs
 * @property {number} intervalMs
 * @property {number} expected
 * @property {number} lost
 * @property {number} late
 * @property {number} delayMs
 * @property {number} receivedBytes
 */

/** @typedef {{ packet: MotionPacket, number: number, firstUs: number, nextIndex: number }} Held */
/** @typedef {{ atUs: number, first: number, last: number, unheard: number }} Arrival when, and the offsets that it asks for */

/** Orders and times one sender's motion packets. Make a new one for a new sender or connection. */
export class JitterBuffer {
  constructor() {
    this.received = 0;
    this.late = 0;
    this.duplicates = 0;
    this.old = 0;
    /** Frames. */
    this.played = 0;
    /** Frames that were due before one that had been played already, or too old when their packet came. */
    this.skipped = 0;
    /** Frames that had been played from another packet. */
    this.repeated = 0;
    /** @type {Held[]} */
    this.held = [];
    /** @type {number | null} counted on across the wrap */
    this.highestNumber = null;
    /** @type {Set<number>} */
    this.seen = new Set();
    /** @type {Arrival[]} */
    this.arrivals = [];
    /** @type {{ second: number, fastest: number }[]} */
    this.seconds = [];
    /** @type {number | null} */
    this.offsetUs = null;
    this.offsetAtUs = 0;
    /** @type {number | null} newest capture time heard of; null before the first packet */
    this.lastTimeUs = null;
    this.lastArrivalUs = 0;
    /** @type {number | null} */
    this.playedNumber = null;
    /** @type {number | null} */
    this.playedTimeUs = null;
    /** @type {number | null} */
    this.playedAtUs = null;
    this.lateInARow = 0;
    /** Arrival and capture of the first of them. */
    this.lateFrom = { arrivedUs: 0, capturedUs: 0 };
    /** @type {{ nowUs: number, highest: number, received: number, late: number } | null} */
    this.reportFrom = null;
  }

  /** How long a packet on the fastest way waits from its last frame's capture until that frame is shown. */
  get delayUs() {
    if (this.offsetUs === null || !this.arrivals.length) return LEAST_DELAY_US;
    return this.offsetUs - this.#fastestUs();
  }

  /** Sequence number of the newest packet. */
  get highest() {
    return this.highestNumber === null ? null : modulo(this.highestNumber, SEQUENCES);
  }

  /**
   * Takes one packet that arrived at `nowUs`.
   * @param {MotionPacket} packet
   * @param {number} nowUs
   * @returns {Verdict}
   */
  push(packet, nowUs) {
    let number = packet.sequence;
    const before = this.highestNumber;
    if (before !== null) {
      number = before + modulo(packet.sequence - before + HALF, SEQUENCES) - HALF;
      if (number <= before - HISTORY) {
        this.old++;
        return "old";
      }
      if (this.seen.has(number)) {
        this.duplicates++;
        return "duplicate";
      }
    }
    this.received++;
    const newest = before === null || number > before;
    const missing = before !== null && newest ? number - before - 1 : 0;
    const highest = this.highestNumber = before === null ? number : Math.max(number, before);
    this.seen = new Set([...this.seen].filter((seen) => seen > highest - HISTORY)).add(number);

    const firstUs = this.#timeInFull(packet, nowUs);
    const lastUs = firstUs + (packet.frameCount - 1) * packet.spacingUs;
    const { ownUs, unheardUs } = newest ? this.#firstNeeded(packet, firstUs, missing) : { ownUs: firstUs, unheardUs: firstUs };
    if (newest) [this.lastTimeUs, this.lastArrivalUs] = [lastUs, nowUs];
    this.#learn({ atUs: nowUs, first: nowUs - ownUs, last: nowUs - lastUs, unheard: nowUs - unheardUs });
    if (!this.#isOnTime(lastUs, nowUs)) {
      if (!this.lateInARow) this.lateFrom = { arrivedUs: nowUs, capturedUs: lastUs };
      this.lateInARow++;
      if (!this.#wayHasGrown(nowUs, lastUs)) {
        this.late++;
        return "late";
      }
      this.#resync(nowUs);
    }
    this.lateInARow = 0;
    let place = this.held.length;
    while (place && this.held[place - 1].number > number) place--;
    this.held.splice(place, 0, { packet, number, firstUs, nextIndex: 0 });
    if (this.held.length > MOST_PACKETS) {
      const [oldest] = this.held.splice(0, 1);
      this.skipped += oldest.packet.frameCount - oldest.nextIndex;
    }
    return "queued";
  }

  /**
   * The frames that are due at `nowUs`, in play order; who shows only one takes the last.
   * @param {number} nowUs
   * @returns {DueFrame[]}
   */
  pop(nowUs) {
    /** @type {DueFrame[]} */
    const frames = [];
    this.#sink(nowUs);
    const { offsetUs } = this;
    if (offsetUs === null) return frames;
    while (this.held.length) {
      const held = this.held[0];
      const { packet } = held;
      while (held.nextIndex < packet.frameCount) {
        const timeUs = held.firstUs + held.nextIndex * packet.spacingUs;
        const dueUs = timeUs + offsetUs;
        if (dueUs > nowUs) return frames;
        if (this.#isRepeated(held, timeUs)) {
          this.repeated++;
        } else if ((this.playedTimeUs !== null && timeUs <= this.playedTimeUs) || dueUs < nowUs - this.#staleUs(held, timeUs)) {
          this.skipped++;
        } else {
          const lostBefore = this.playedNumber === null ? 0 : Math.max(0, held.number - this.playedNumber - 1);
          frames.push({ packet, index: held.nextIndex, timeUs, dueUs, lostBefore });
          [this.playedNumber, this.playedTimeUs, this.playedAtUs] = [held.number, timeUs, nowUs];
          this.played++;
        }
        held.nextIndex++;
      }
      this.held.shift();
    }
    return frames;
  }

  /** When `pop` will have something; null while nothing is held. */
  nextDueUs() {
    if (!this.held.length || this.offsetUs === null) return null;
    const [{ packet, firstUs, nextIndex }] = this.held;
    return firstUs + nextIndex * packet.spacingUs + this.offsetUs;
  }

  /**
   * What to tell the sender of the time since the report before; null before the first packet.
   * @param {number} nowUs
   * @param {number} receivedBytes what arrived from this sender meanwhile, on the wire
   * @returns {Report | null}
   */
  report(nowUs, receivedBytes) {
    if (this.highestNumber === null) return null;
    const now = { nowUs, highest: this.highestNumber, received: this.received, late: this.late };
    const before = this.reportFrom ?? now;
    this.reportFrom = now;
    const expected = Math.min(now.highest - before.highest, SEQUENCES - 1);
    // A packet of the interval before that came in this one makes up for one lost.
    const lost = Math.min(Math.max(0, expected - (now.received - before.received)), expected);
    return {
      highest: modulo(now.highest, SEQUENCES),
      heldMs: milliseconds(nowUs - this.lastArrivalUs),
      intervalMs: milliseconds(nowUs - before.nowUs),
      expected,
      lost,
      late: Math.min(now.late - before.late, SEQUENCES - 1),
      delayMs: milliseconds(this.queueingUs(nowUs)),
      receivedBytes: Math.min(receivedBytes, 2 ** 32 - 1),
    };
  }

  /**
   * How much longer than the fastest packet of half a minute the fastest of the last 0.7 s took.
   * @param {number} nowUs
   */
  queueingUs(nowUs) {
    const recent = this.arrivals.filter(({ atUs }) => atUs > nowUs - QUEUE_WITHIN_US).map(({ last }) => last);
    return recent.length ? Math.min(...recent) - Math.min(...this.seconds.map(({ fastest }) => fastest)) : 0;
  }

  /**
   * Whether this frame of a later packet is one that has been played, or one before it.
   * @param {Held} held
   * @param {number} timeUs
   */
  #isRepeated(held, timeUs) {
    if (this.playedTimeUs === null || this.playedNumber === null || held.number <= this.playedNumber) return false;
    return timeUs <= this.playedTimeUs + Math.floor(held.packet.spacingUs / 2);
  }

  /**
   * How late this frame may be: at few frames a second the next is far off, and one is made while it waits.
   * @param {Held} held
   * @param {number} timeUs
   */
  #staleUs(held, timeUs) {
    let apart = held.packet.spacingUs;
    if (!apart && this.playedTimeUs !== null) apart = timeUs - this.playedTimeUs;
    return Math.min(Math.max(STALE_US, apart), MOST_DELAY_US);
  }

  /**
   * @param {MotionPacket} packet
   * @param {number} nowUs
   */
  #timeInFull(packet, nowUs) {
    if (this.lastTimeUs === null) return packet.timeUs(0);
    const silence = nowUs - this.lastArrivalUs;
    const near = this.lastTimeUs + silence;
    const firstUs = packet.timeUs(near);
    // The extrapolated clock may be off by any multiple of 65.5 s: begin again.
    if (silence > FORGET_CLOCK_US && Math.abs(firstUs - near) > MOST_DELAY_US) this.#forget();
    return firstUs;
  }

  /**
   * Whether at least the packet's last frame can still be shown.
   * @param {number} lastUs
   * @param {number} nowUs
   */
  #isOnTime(lastUs, nowUs) {
    if (this.offsetUs === null) return true;
    if (this.playedTimeUs !== null && lastUs <= this.playedTimeUs) return false;
    return lastUs + this.offsetUs >= nowUs;
  }

  #fastestUs() {
    return Math.min(...this.arrivals.map(({ last }) => last));
  }

  /**
   * Times of the packet's first own frame, as far as can be told, and of its first that has not come before.
   * @param {MotionPacket} packet
   * @param {number} firstUs
   * @param {number} missing
   */
  #firstNeeded({ frameCount, spacingUs }, firstUs, missing) {
    const heard = this.lastTimeUs;
    if (heard === null || frameCount < 2) return { ownUs: firstUs, unheardUs: firstUs };
    const half = Math.floor(spacingUs / 2);
    const times = Array.from({ length: frameCount }, (_, index) => firstUs + index * spacingUs);
    const last = times[frameCount - 1];
    let unheard = times.filter((timeUs) => timeUs > heard + half);
    if (!unheard.length) unheard = [last];
    // What came since is taken to be spread evenly over the missing packets and this one.
    const ownFrom = last - Math.floor((last - heard) / (missing + 1)) + half;
    const own = unheard.find((timeUs) => timeUs > ownFrom) ?? unheard[unheard.length - 1];
    return { ownUs: own, unheardUs: unheard[0] };
  }

  /** The offset that the arrivals of the window ask for, without the margin. */
  #neededUs() {
    const firsts = this.arrivals.map(({ first }) => first).sort((a, b) => a - b);
    const inTime = firsts[Math.floor(IN_TIME * (firsts.length - 1) + 0.5)];
    const needed = Math.max(inTime, ...this.arrivals.map(({ last }) => last));
    const madeUp = this.arrivals.filter(({ first, unheard }) => unheard > first).map(({ unheard }) => unheard);
    return madeUp.length >= SECOND_CHANCES ? Math.max(needed, ...madeUp) : needed;
  }

  /** @param {Arrival} arrival */
  #learn(arrival) {
    const { atUs, last } = arrival;
    this.arrivals.push(arrival);
    while (this.arrivals[0].atUs < atUs - WINDOW_US || this.arrivals.length > 4 * MOST_PACKETS) this.arrivals.shift();
    const second = Math.floor(atUs / 1_000_000);
    const newest = this.seconds.at(-1);
    if (newest?.second === second) newest.fastest = Math.min(newest.fastest, last);
    else this.seconds.push({ second, fastest: last });
    if (this.seconds.length > QUEUE_BASE_S) this.seconds.shift();
    this.#sink(atUs);
    const wanted = this.#bounded(this.#neededUs() + MARGIN_US);
    if (this.offsetUs === null || wanted > this.offsetUs) this.offsetUs = wanted;
  }

  /** @param {number} offsetUs */
  #bounded(offsetUs) {
    const fastest = this.#fastestUs();
    return Math.min(Math.max(offsetUs, fastest + LEAST_DELAY_US), fastest + MOST_DELAY_US);
  }

  /**
   * Lets the offset come down towards what the arrivals of the window need.
   * @param {number} nowUs
   */
  #sink(nowUs) {
    const elapsed = nowUs - this.offsetAtUs;
    this.offsetAtUs = nowUs;
    if (this.offsetUs === null || !this.arrivals.length) return;
    const needed = this.#bounded(this.#neededUs() + MARGIN_US);
    if (this.offsetUs > needed) {
      this.offsetUs = Math.max(needed, this.offsetUs - Math.floor((elapsed * SINK_US_PER_S) / 1_000_000));
    }
    // The upper bound holds at once: after a stall what was held up is not worth waiting for.
    this.offsetUs = Math.min(this.offsetUs, this.#fastestUs() + MOST_DELAY_US);
  }

  /**
   * @param {number} nowUs
   * @param {number} lastUs
   */
  #wayHasGrown(nowUs, lastUs) {
    if (this.lateInARow < RESYNC_PACKETS) return false;
    const { arrivedUs, capturedUs } = this.lateFrom;
    if (nowUs - arrivedUs < Math.floor((lastUs - capturedUs) / 2)) return false; // a stall that is being made up for
    return this.playedAtUs === null || nowUs - this.playedAtUs > RESYNC_AFTER_US;
  }

  /**
   * Takes the last arrivals alone as the measure.
   * @param {number} nowUs
   */
  #resync(nowUs) {
    this.arrivals = this.arrivals.slice(-this.lateInARow);
    this.offsetUs = this.#bounded(Math.max(...this.arrivals.map(({ first }) => first)) + MARGIN_US);
    this.offsetAtUs = nowUs;
  }

  #forget() {
    [this.arrivals, this.seconds, this.held] = [[], [], []];
    this.offsetUs = this.playedTimeUs = null;
  }
}

/** @param {number} microseconds */
function milliseconds(microseconds) {
  return Math.min(Math.max(0, Math.floor(microseconds / 1000)), 60_000);
}
