// Single keys for the controls. They stay out of the way of typing, of dialogs and of the browser's own keys.

const MEMORY = "kilocall-keys";

export class Keyboard {
  // `keys`: what every key does; `enabled`: the checkbox that switches them off for those whom single keys disturb.
  constructor(keys, enabled) {
    this.keys = keys;
    enabled.checked = remembered() !== "off";
    enabled.onchange = () => remember(enabled.checked ? "on" : "off");
    addEventListener("keydown", (event) => { if (enabled.checked) this.press(event); });
  }

  press(event) {
    if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || event.defaultPrevented) return;
    if (typing(event.target) || document.querySelector("dialog[open]")) return;
    const name = event.key.toLowerCase();
    if (!Object.hasOwn(this.keys, name)) return;
    event.preventDefault();
    this.keys[name]();
  }
}

function typing(target) {
  if (target.isContentEditable || target.matches("textarea, select")) return true;
  return target.matches("input") && !["range", "checkbox", "radio", "button", "file"].includes(target.type);
}

// A browser that keeps nothing for pages is no reason to have no page.
function remembered() {
  try {
    return localStorage.getItem(MEMORY);
  } catch {
    return null;
  }
}

function remember(value) {
  try {
    localStorage.setItem(MEMORY, value);
  } catch {
    // then it holds until the page is closed
  }
}
