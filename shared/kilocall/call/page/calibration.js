// Helps to sit well for the source picture: advice, a countdown when everything is right, then the picture.

const STEADY_MS = 350; // advice that changes faster than this is neither shown nor read out
const LAPSE_MS = 400; // a shorter moment of bad pose does not restart the countdown
const COUNTDOWN_S = 3;
const ANSWER_MS = 6000;
const REASON_MS = 4000; // so long a reason why there is no picture can be read, before it is tried again

const SENTENCES = {
  "move closer": "Move closer to the camera.",
  "move back": "Move back a little.",
  "turn left": "Turn your head to the left.",
  "turn right": "Turn your head to the right.",
  "look up": "Look up a little.",
  "look down": "Look down a little.",
  "move left": "Move to the left.",
  "move right": "Move to the right.",
  "move up": "Move up a little.",
  "move down": "Move down a little.",
  "open your eyes": "Open your eyes.",
  "hold still": "Hold still.",
};
const NO_FACE = "No face in view. Sit in front of the camera.";
const GOOD = `Good. Hold still: the picture is taken in ${COUNTDOWN_S} seconds.`;

export class Calibration {
  // `parts`: panel, advice, count, checks {one, eyes, sharp}, take, cancel. `on`: opened(), closed(), take().
  constructor(overlay, parts, on) {
    this.overlay = overlay;
    this.parts = parts;
    this.on = on;
    this.active = false;
    parts.take.onclick = () => this.take();
    parts.cancel.onclick = () => this.close();
    parts.panel.addEventListener("keydown", (event) => { if (event.key === "Escape") this.close(); });
  }

  // `byHand`: somebody asked for it, so the keyboard goes there; it never moves by itself.
  open(byHand) {
    if (!this.active) {
      this.active = true;
      this.asked = 0;
      this.quietUntil = 0;
      this.goodFrom = this.goodLast = null;
      this.candidate = { text: "", since: 0 };
      this.show("Looking for your face.");
      this.parts.take.disabled = true;
      this.opener = byHand ? document.activeElement : null;
      this.on.opened();
    }
    if (byHand) this.parts.panel.focus();
  }

  close() {
    if (!this.active) return;
    const inside = this.parts.panel.contains(document.activeElement);
    this.active = false;
    clearTimeout(this.asked);
    this.overlay.clear();
    this.parts.panel.dataset.good = "false";
    this.parts.count.textContent = "";
    this.on.closed();
    if (inside) this.opener?.focus();
  }

  see(seen) {
    if (!this.active) return;
    this.overlay.draw(seen);
    this.parts.checks.one.dataset.ok = String(seen.face && (seen.faces ?? 1) === 1);
    this.parts.checks.eyes.dataset.ok = String(seen.face && seen.eyes_open);
    this.parts.checks.sharp.dataset.ok = String(seen.face && seen.sharp);
    this.parts.take.disabled = !seen.face || this.asked > 0;
    const now = performance.now();
    if (this.asked || now < this.quietUntil) return;
    this.count(seen.good, now);
    this.advise(sentence(seen), now);
    // Green goes with the words: what is read, seen and heard changes in one moment.
    this.parts.panel.dataset.good = String(seen.good && this.parts.advice.textContent === GOOD);
  }

  advise(text, now) {
    if (text !== this.candidate.text) this.candidate = { text, since: now };
    else if (now - this.candidate.since >= STEADY_MS) this.show(text);
  }

  count(good, now) {
    if (good) {
      this.goodFrom ??= now;
      this.goodLast = now;
    } else if (this.goodLast === null || now - this.goodLast > LAPSE_MS) {
      this.goodFrom = this.goodLast = null;
    }
    const left = this.goodFrom === null ? COUNTDOWN_S : COUNTDOWN_S - (now - this.goodFrom) / 1000;
    this.parts.count.textContent = this.goodFrom === null ? "" : String(Math.max(1, Math.ceil(left)));
    if (good && left <= 0) this.take();
  }

  take() {
    if (this.asked) return;
    this.parts.count.textContent = "";
    this.parts.take.disabled = true;
    this.show("Taking the picture.");
    this.asked = setTimeout(() => this.refuse("The picture did not come. Try once more."), ANSWER_MS);
    this.on.take();
  }

  // The node has a new source picture: this is done.
  taken() {
    if (this.active && this.asked) this.close();
  }

  // The node said why there is no picture; true if it was asked for one.
  refuse(text) {
    if (!this.active || !this.asked) return false;
    clearTimeout(this.asked);
    this.asked = 0;
    this.goodFrom = this.goodLast = null;
    this.quietUntil = performance.now() + REASON_MS;
    this.show(text);
    return true;
  }

  show(text) {
    if (this.parts.advice.textContent !== text) this.parts.advice.textContent = text;
  }
}

function sentence({ face, advice, good }) {
  if (!face) return NO_FACE;
  if (good) return GOOD;
  return SENTENCES[advice] ?? (advice ? `${advice[0].toUpperCase()}${advice.slice(1)}.` : "Hold still.");
}
