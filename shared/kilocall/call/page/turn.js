// The sliders that turn the other person's head (free view).

const ANGLES = ["yaw", "pitch", "roll"];
const OWN_MS = 1000; // the node's word does not move a slider that was just used

export class HeadTurn {
  constructor(sliders, reset, onTurn) {
    this.sliders = sliders;
    this.onTurn = onTurn;
    this.used = -Infinity;
    this.pending = false;
    for (const angle of ANGLES) sliders[angle].oninput = () => this.turned();
    reset.onclick = () => this.reset();
  }

  follow(view) {
    if (performance.now() - this.used < OWN_MS) return;
    this.set(view);
  }

  reset() {
    this.set({ yaw: 0, pitch: 0, roll: 0 });
    this.turned();
  }

  set(view) {
    for (const angle of ANGLES) this.sliders[angle].value = view[angle];
    this.label();
  }

  label() {
    for (const angle of ANGLES) {
      const text = `${this.sliders[angle].value}°`;
      this.sliders[angle].nextElementSibling.textContent = text;
      this.sliders[angle].setAttribute("aria-valuetext", text.replace("°", " degrees"));
    }
  }

  turned() {
    this.used = performance.now();
    this.label();
    if (this.pending) return;
    this.pending = true; // a drag is sixty events a second and more: one command a drawn frame is enough
    requestAnimationFrame(() => {
      this.pending = false;
      this.onTurn(Object.fromEntries(ANGLES.map((angle) => [angle, Number(this.sliders[angle].value)])));
    });
  }
}
