// The own source picture: the current one, a file instead, or one used before.

const LARGEST_BYTES = 4 * 2 ** 20;

export class Sources {
  // `parts`: current (img), caption, file, recent (list), problem. `on`: use(id), changed(), told(text).
  constructor(parts, on) {
    this.parts = parts;
    this.on = on;
    this.current = undefined;
    this.takenAt = undefined;
    this.version = 0;
    parts.file.onchange = () => this.upload();
  }

  show({ recent, current }) {
    const changed = this.current !== undefined && current !== this.current;
    const used = this.parts.recent.contains(document.activeElement) ? document.activeElement.dataset.id : null;
    this.current = current;
    this.parts.recent.replaceChildren(...recent.map((source) => this.item(source)));
    this.parts.recent.querySelector(`[data-id="${CSS.escape(used ?? "")}"]`)?.focus();
    this.parts.recent.hidden = recent.length < 2;
    if (changed) this.renew();
  }

  item({ id, taken_at: takenAt, thumb }) {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.id = id;
    button.setAttribute("aria-pressed", String(id === this.current));
    button.setAttribute("aria-label", `Use the picture of ${takenAt}`);
    button.title = takenAt;
    button.onclick = () => this.on.use(id);
    const image = document.createElement("img");
    image.src = thumb;
    image.alt = "";
    button.append(image);
    const item = document.createElement("li");
    item.append(button);
    return item;
  }

  // `takenAt`: "hh:mm", null when there is no picture yet.
  date(takenAt) {
    if (takenAt === this.takenAt) return;
    const first = this.takenAt === undefined;
    this.takenAt = takenAt;
    this.parts.caption.textContent = takenAt
      ? `Taken at ${takenAt}. This is the face the other person sees moving.`
      : "None yet. The other person cannot see you without one.";
    this.parts.current.hidden = !takenAt;
    if (takenAt) this.renew(first);
  }

  renew(quietly = false) {
    this.version += 1;
    this.parts.current.src = `api/source.jpg?n=${this.version}-${Date.now()}`;
    this.parts.problem.textContent = "";
    if (!quietly) this.on.changed();
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
      const reply = await fetch(`api/source?name=${encodeURIComponent(file.name)}`, { method: "POST", body: file });
      if (reply.ok) this.on.told("Your picture was changed");
      else this.parts.problem.textContent = (await reply.json()).error;
    } catch {
      this.parts.problem.textContent = "The picture did not arrive. Is kilocall still running?";
    }
  }
}
