// The own source picture: the current one, a file instead, or one used before.

import { at, usePicture } from "./program.js";

const LARGEST_BYTES = 4 * 2 ** 20;

export class Sources {
  // `parts`: current (img), caption, file, recent (list), problem. `on`: use(id), changed(), told(text).
  constructor(parts, on) {
    this.parts = parts;
    this.on = on;
    this.current = undefined; // null: there is none
    this.takenAt = null;
    this.camera = false;
    parts.file.onchange = () => this.upload();
  }

  show({ recent, current }) {
    const first = this.current === undefined;
    const changed = current !== this.current;
    const used = this.parts.recent.contains(document.activeElement) ? document.activeElement.dataset.id : null;
    this.current = current;
    this.parts.recent.replaceChildren(...recent.map((source, i) => this.item(source, i + 1)));
    if (used) this.parts.recent.querySelector(`[data-id="${CSS.escape(used)}"]`)?.focus();
    this.parts.recent.hidden = recent.length < 2;
    this.parts.current.hidden = current === null;
    this.describe();
    if (!changed || current === null) return;
    this.parts.current.src = at(`/api/source.jpg?n=${Date.now()}`);
    this.parts.problem.textContent = "";
    if (!first) this.on.changed();
  }

  item({ id, taken_at: takenAt, thumb }, number) {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.id = id;
    button.title = takenAt ? `Taken at ${takenAt}` : `Picture ${number}`;
    button.setAttribute("aria-pressed", String(id === this.current));
    button.setAttribute("aria-label", `Use picture ${number}${takenAt ? `, taken at ${takenAt}` : ""}`);
    button.onclick = () => this.on.use(id);
    const image = document.createElement("img");
    image.src = at(thumb);
    image.alt = "";
    button.append(image);
    const item = document.createElement("li");
    item.append(button);
    return item;
  }

  // `takenAt`: "hh:mm", null when nobody knows. `camera`: whether the other person can be shown the camera as it is.
  tell({ takenAt, camera }) {
    this.takenAt = takenAt;
    this.camera = camera;
    this.describe();
  }

  describe() {
    const without = this.camera
      ? "Without one the other person sees you only while your camera is shown."
      : "The other person cannot see you without one.";
    const text = this.current
      ? `${this.takenAt ? `Taken at ${this.takenAt}. ` : ""}This is the face the other person sees moving.`
      : `None yet. ${without}`;
    if (this.parts.caption.textContent !== text) this.parts.caption.textContent = text;
  }

  async upload() {
    const [file] = this.parts.file.files;
    if (!file) return;
    this.parts.problem.textContent = "";
    if (file.size > LARGEST_BYTES) {
      this.parts.problem.textContent = `${file.name} is larger than 4 MiB, which is the most allowed.`;
    } else {
      await this.send(file);
    }
    this.parts.file.value = ""; // the same file can be chosen again
  }

  async send(file) {
    try {
      await usePicture(file);
      this.on.told("Your picture was changed");
    } catch (error) {
      this.parts.problem.textContent = error.message;
    }
  }
}
