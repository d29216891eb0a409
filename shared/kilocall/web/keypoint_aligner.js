// Implicit keypoints placed by the picture that the receiver shows a frame on. As `sender/keypoint_aligner.py` with a source
// picture alone: a browser looks for no further pictures of its speaker.

/** @typedef {import("./align.js").CompactAligner} CompactAligner */
/** @typedef {import("./motion.js").Motion} Motion */

/** Aligns the frames of one speaker, one after the other. */
export class KeypointAligner {
  /** @param {CompactAligner} aligner of the source picture */
  constructor(aligner) {
    this.aligner = aligner;
    this.shown = false;
  }

  /** The next frame starts anew. */
  reset() {
    this.shown = false;
  }

  /**
   * The motion of the next frame, its implicit keypoints where the copy lies on what is seen.
   * @param {Motion} motion
   * @param {{ implicit: Float32Array }} track
   * @param {import("./align.js").Look} look
   */
  async align(motion, track, look) {
    if (!this.shown) {
      this.shown = true;
      this.aligner.reset();
      await this.aligner.align(motion, track, look); // a frame that has none before it takes two steps
    }
    return this.aligner.align(motion, track, look);
  }
}
