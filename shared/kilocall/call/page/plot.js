// A small plot of rates over the last two minutes, on a logarithmic scale: both a few and some hundred kbit/s are seen.

const SPAN_S = 120;
const GAP_S = 3; // a longer silence breaks the line
const WIDTH = 300;
const HEIGHT = 130;
const LEFT = 34;
const BOTTOM = 18;
const TOP = 8;
const LOWEST = 1;
const SVG = "http://www.w3.org/2000/svg";

export class RatePlot {
  // `svg` has one <polyline class="NAME"> for every name of a series; its values are pushed by that name.
  constructor(svg) {
    this.svg = svg;
    this.points = [];
    svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    this.grid = svg.querySelector(".grid");
    this.lines = [...svg.querySelectorAll("path[data-series]")];
    this.highest = 0;
  }

  push(timeS, values) {
    this.points.push({ timeS, values });
    while (this.points[0].timeS < timeS - SPAN_S) this.points.shift();
    this.draw(timeS);
  }

  draw(nowS) {
    const most = Math.max(...this.points.flatMap(({ values }) => Object.values(values).map((v) => v ?? 0)));
    const highest = 10 ** Math.max(2, Math.ceil(Math.log10(Math.max(most, LOWEST))));
    if (highest !== this.highest) this.drawGrid(highest);
    const x = (timeS) => WIDTH - (nowS - timeS) * ((WIDTH - LEFT) / SPAN_S);
    for (const line of this.lines) {
      let path = "";
      let last = -Infinity;
      for (const { timeS, values } of this.points) {
        const value = values[line.dataset.series];
        if (value === null || value === undefined) continue;
        path += `${timeS - last > GAP_S ? "M" : "L"}${x(timeS).toFixed(1)} ${this.y(value).toFixed(1)}`;
        last = timeS;
      }
      line.setAttribute("d", path);
    }
  }

  y(value) {
    const share = Math.log10(Math.max(value, LOWEST) / LOWEST) / Math.log10(this.highest / LOWEST);
    return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP);
  }

  drawGrid(highest) {
    this.highest = highest;
    const parts = [];
    for (let value = LOWEST; value <= highest; value *= 10) {
      const y = this.y(value);
      parts.push(element("line", { x1: LEFT, x2: WIDTH, y1: y, y2: y }), label(String(value), LEFT - 5, y + 4, "end"));
    }
    parts.push(label("2 min ago", LEFT, HEIGHT - 3, "start"), label("now", WIDTH, HEIGHT - 3, "end"));
    this.grid.replaceChildren(...parts);
  }
}

function element(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function label(text, x, y, anchor) {
  const made = element("text", { x, y, "text-anchor": anchor });
  made.textContent = text;
  return made;
}
