// Draws the calibration overlay: where the face is, and where it should be. Coordinates are 0..1 of the preview.

const IDEAL = "#ff5f52";
const CURRENT = "#58b0ff";
const GOOD = "#3fe08a";
const HALO = "#000a"; // keeps thin lines visible on a bright picture
const POINT_SHARE = 1 / 170; // of the preview's width

export class Overlay {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
  }

  clear() {
    this.context.clearRect(0, 0, this.canvas.width, this.canvas.height);
  }

  draw({ face, good, box, points, ideal_box: idealBox, ideal_points: idealPoints }) {
    const width = Math.round(this.canvas.clientWidth * devicePixelRatio);
    const height = Math.round(this.canvas.clientHeight * devicePixelRatio);
    if (this.canvas.width !== width || this.canvas.height !== height) {
      this.canvas.width = width;
      this.canvas.height = height;
    }
    this.clear();
    // Ideal and current differ in form as well, for those who do not tell red from blue: dashed and hollow, solid and full.
    this.box(idealBox, good ? GOOD : IDEAL, true);
    this.points(idealPoints, good ? GOOD : IDEAL, true);
    if (!face) return;
    this.box(box, good ? GOOD : CURRENT, false);
    this.points(points, good ? GOOD : CURRENT, false);
  }

  box(box, colour, ideal) {
    if (!box) return;
    const { width, height } = this.canvas;
    const [x0, y0, x1, y1] = box;
    this.context.setLineDash(ideal ? [6 * devicePixelRatio, 5 * devicePixelRatio] : []);
    for (const [stroke, thickness] of [[HALO, 4], [colour, 2]]) {
      this.context.strokeStyle = stroke;
      this.context.lineWidth = thickness * devicePixelRatio;
      this.context.strokeRect(x0 * width, y0 * height, (x1 - x0) * width, (y1 - y0) * height);
    }
    this.context.setLineDash([]);
  }

  points(points, colour, hollow) {
    const { width, height } = this.canvas;
    const radius = Math.max(1.5 * devicePixelRatio, width * POINT_SHARE);
    const path = new Path2D();
    for (const [x, y] of points ?? []) {
      path.moveTo(x * width + radius, y * height);
      path.arc(x * width, y * height, radius, 0, 2 * Math.PI);
    }
    this.context.strokeStyle = hollow ? colour : HALO;
    this.context.lineWidth = devicePixelRatio;
    this.context.fillStyle = colour;
    if (!hollow) this.context.fill(path);
    this.context.stroke(path);
  }
}
