// Whether the frames still show the speaker of the source picture, or somebody else has come into the picture. As
// `sender/speaker_check.py`.

import { ANOTHER } from "./likeness.js";

/** "doubtful": for less than ANOTHER_AFTER_US; a hand before the face looks like it too. @typedef {"same" | "doubtful" | "another"} Speaker */

/** The likeness falls by no less when somebody else is seen. */
const DROP = 0.22;
/** Where nobody was seen before: below this it is somebody else from the start. */
const STRANGER = 0.5;
const ANOTHER_AFTER_US = 1_000_000;
/** So many frames in turn bring the speaker back. */
const BACK_FRAMES = 3;

/** Judges frame after frame by the likeness of both faces. */
export class SpeakerCheck {
  constructor() {
    /** @type {Speaker} */
    this.speaker = "same";
    /** @type {number | null} */
    this.before = null;
    this.sinceUs = 0;
    this.alike = 0;
  }

  /**
   * The next frame; null says nothing, and what was believed stays.
   * @param {number | null} likeness
   * @param {number} timeUs
   */
  look(likeness, timeUs) {
    if (likeness === null) return this.speaker;
    if (this.speaker === "same") {
      const fell = this.before === null ? likeness < STRANGER : this.before - likeness >= DROP;
      if (likeness < ANOTHER && fell) [this.speaker, this.sinceUs, this.alike] = ["doubtful", timeUs, 0];
      else this.before = likeness;
      return this.speaker;
    }
    this.alike = likeness >= ANOTHER ? this.alike + 1 : 0;
    if (this.alike >= (this.speaker === "another" ? BACK_FRAMES : 1)) [this.speaker, this.before] = ["same", likeness];
    else if (timeUs - this.sinceUs >= ANOTHER_AFTER_US) this.speaker = "another";
    return this.speaker;
  }
}
