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
  "gallery-pictures": ["gallery_pictures", 0],
  "gallery-kb": ["gallery_kb", 1],
  "fps-out": ["fps_out", 0],
  "fps-in": ["fps_in", 0],
  "rate-out": ["rate_out", 1],
  "rate-in": ["rate_in", 1],
  "loss": ["loss_pct", 1],
  "rtt": ["rtt_ms", 0],
  "delay": ["delay_ms", 0],
  "per-message": ["frames_per_message", 0],
  "sender-ms": ["sender_ms", 0],
  "render-ms": ["render_ms", 0],
};

export class NumbersPanel {
  constructor(panel) {
    this.panel = panel;
    this.plot = new RatePlot(panel.querySelector("svg"));
    this.comparison = panel.querySelector("#comparison");
    this.rateWhy = panel.querySelector("#rate-why");
    this.dropped = panel.querySelector("#dropped"); // counted by reason
    this.engine = panel.querySelector("#engine"); // where a browser runs the networks
    this.fields = Object.fromEntries(Object.keys(FIELDS).map((id) => [id, panel.querySelector(`#${id}`)]));
  }

  show(numbers) {
    for (const [id, [name, decimals]] of Object.entries(FIELDS)) this.fields[id].textContent = fixed(numbers[name], decimals);
    this.dropped.textContent = fixed(numbers.dropped && Object.values(numbers.dropped).reduce((sum, count) => sum + count, 0), 0);
    this.engine.parentElement.hidden = numbers.engine === undefined;
    this.engine.textContent = numbers.engine ?? DASH;
    this.rateWhy.textContent = whyFewer(numbers);
    const { out_kbps: out, in_kbps: incoming, out_motion_kbps: movement, audio_out_kbps: sound, h264_kbps: h264 } = numbers;
    // The same sound would go with H.264, so that all three lines are whole calls.
    const withH264 = Number.isFinite(h264) ? h264 + (sound ?? 0) : null;
    this.plot.push(performance.now() / 1000, { out, in: incoming, h264: withH264 });
    this.comparison.textContent = withH264 === null || !numbers.fps_out ? "" // nothing is sent to compare
      : `Your picture takes ${fixed(movement, 1)} kbit/s. An equally good one with H.264 would take about ${fixed(h264, 1)}.`;
    this.plot.svg.setAttribute(
      "aria-label",
      `Rates over two minutes: now ${fixed(out, 1)} kbit/s sent, ${fixed(incoming, 1)} received, ${fixed(withH264, 1)} with H.264`,
    );
  }

  clear() {
    this.rateWhy.textContent = "";
    for (const field of [this.dropped, ...Object.values(this.fields)]) field.textContent = DASH;
  }
}

// Why fewer pictures are aimed at than the cameras have.
function whyFewer({ rate_out: out, rate_out_limit: sending, rate_in: incoming, rate_in_limit: showing }) {
  const because = {
    network: "the network carries no more",
    processor: "this computer's processor makes no more",
    "other programs": "other programs keep this computer busy",
    "the other side": "the other computer shows no more",
  };
  return [
    because[sending] && `${out} a second are sent: ${because[sending]}.`,
    because[showing] && `${incoming} a second are shown: ${because[showing]}.`,
  ].filter(Boolean).join(" ");
}

function fixed(value, decimals) {
  return Number.isFinite(value) ? value.toFixed(decimals) : DASH;
}
