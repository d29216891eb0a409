// Says things to screen readers, each change once and never two at a time.

const PAUSE_MS = 150; // one region set twice within a moment is read once only

export class Announcer {
  constructor(region) {
    this.region = region;
    this.last = "";
    this.timer = 0;
  }

  say(text) {
    if (!text || text === this.last) return;
    this.last = text;
    this.region.textContent = "";
    clearTimeout(this.timer);
    this.timer = setTimeout(() => { this.region.textContent = text; }, PAUSE_MS);
  }
}
