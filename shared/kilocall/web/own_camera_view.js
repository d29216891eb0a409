// When the other side is shown what the camera sees, instead of the speaker made from a picture. As `sender/camera_view.py`;
// what the other side's sees is in `camera_view.js`.

/** Somebody has said so, or no face is seen. @typedef {"asked" | "away"} Why */

/** Without a face for so long: shorter is a hand, or a head that turns round. */
const AWAY_US = 2_000_000;
/** A face that stays for so long is moved again. */
const BACK_US = 400_000;

/** Told of every frame whether a face is seen; says whether the camera's picture is to be shown as it is. */
export class OwnCameraView {
  /** @type {number | null} */
  #sinceUs = null;
  /** @type {boolean | null} */
  #seen = null;
  #away = false;

  /** @param {boolean} whenAway also while nobody is seen, without being asked */
  constructor(whenAway) {
    this.asked = false;
    this.whenAway = whenAway;
    /** Whether the other side of this connection can show it. */
    this.taken = false;
    /** @type {Why | null} why the other side is shown what the camera sees; null: it is not */
    this.shown = null;
  }

  /** What was seen before says nothing about now. */
  restart() {
    this.#sinceUs = this.#seen = null;
    this.#away = false;
  }

  /**
   * After a frame.
   * @param {boolean} seen
   * @param {number} captureUs
   * @returns {Why | null}
   */
  look(seen, captureUs) {
    if (seen !== this.#seen || this.#sinceUs === null) [this.#seen, this.#sinceUs] = [seen, captureUs];
    const longEnough = captureUs - this.#sinceUs >= (seen ? BACK_US : AWAY_US);
    if (this.whenAway && longEnough) this.#away = !seen;
    if (this.asked) return "asked";
    return this.#away && this.whenAway ? "away" : null;
  }
}
