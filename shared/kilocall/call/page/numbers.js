// The panel of live numbers.

import { RatePlot } from "./plot.js";

const DASH = "–";

// element id: the number it shows, and its decimals
const FIELDS = {
  "out-kbps": ["out_kbps", 1],
  "in-kbps": ["in_kbps", 1],
  "out-motion": ["out_motion_kbps", 1],
  "in-motion": ["in_motion_kbps", 1],
  "audio-out": ["audio_out_kbps", 1],
  "audio-in": ["audio_in_kbps", 1],
  "payload": ["payload_bits_per_frame", 0],
  "fps-out": ["fps_out", 0],
  "fps-in": ["fps_in", 0],
  "loss": ["loss_pct", 1],
  "rtt": ["rtt_ms", 0],
  "delay": ["delay_ms", 0],
  "per-message": ["frames_per_message", 0],
  "sender-ms": ["sender_ms", 0],
  "render-ms": ["render_ms", 0],
  "dropped": ["dropped", 0],
};

export class NumbersPanel {
  constructor(panel) {
    this.panel = panel;
    this.plot = new RatePlot(panel.querySelector("svg"));
    this.comparison = panel.querySelector("#comparison");
    this.outputs = Object.fromEntries(Object.keys(FIELDS).map((id) => [id, panel.querySelector(`#${id}`)]));
  }

  show(numbers) {
    for (const [id, [name, decimals]] of Object.entries(FIELDS)) this.outputs[id].textContent = fixed(numbers[name], decimals);
    const { out_kbps: out, in_kbps: incoming, h264_kbps: h264 } = numbers;
    this.plot.push(performance.now() / 1000, { out, in: incoming, h264 });
    this.comparison.textContent = h264
      ? `H.264 would need about ${fixed(h264, 0)} kbit/s for this picture${out > 0 ? `, ${fixed(h264 / out, 0)} times as much as is sent` : ""}.`
      : "";
    this.plot.svg.setAttribute(
      "aria-label",
      `Rates over two minutes: now ${fixed(out, 1)} kbit/s sent, ${fixed(incoming, 1)} received; H.264 would need ${fixed(h264, 0)}`,
    );
  }

  clear() {
    for (const output of Object.values(this.outputs)) output.textContent = DASH;
  }
}

function fixed(value, decimals) {
  return Number.isFinite(value) ? value.toFixed(decimals) : DASH;
}
