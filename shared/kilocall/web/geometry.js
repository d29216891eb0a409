// Rotations and shape fits. Right-handed picture coordinates: x right, y down, z away from the camera. As `model/geometry.py`.

/** @typedef {number[]} Matrix [3, 3] row by row */
/** @typedef {[number, number, number]} Angles yaw, pitch, roll in radians */

/**
 * R = R_z(roll) R_x(pitch) R_y(yaw); positive yaw turns the face to the right of the picture, positive pitch looks down,
 * positive roll tilts clockwise.
 * @param {Angles} angles
 * @returns {Matrix}
 */
export function rotationMatrix([yaw, pitch, roll]) {
  const [cy, sy, cp, sp] = [Math.cos(yaw), Math.sin(yaw), Math.cos(pitch), Math.sin(pitch)];
  const [cr, sr] = [Math.cos(roll), Math.sin(roll)];
  const aboutY = [cy, 0, -sy, 0, 1, 0, sy, 0, cy];
  const aboutX = [1, 0, 0, 0, cp, -sp, 0, sp, cp];
  const aboutZ = [cr, -sr, 0, sr, cr, 0, 0, 0, 1];
  return product(product(aboutZ, aboutX), aboutY);
}

/**
 * (yaw, pitch, roll) of `rotationMatrix`; the pitch is taken in -90..90 degrees.
 * @param {Matrix} matrix
 * @returns {Angles}
 */
export function rotationAngles(matrix) {
  const pitch = Math.asin(Math.max(-1, Math.min(1, matrix[7])));
  return [Math.atan2(matrix[6], matrix[8]), pitch, Math.atan2(-matrix[1], matrix[4])];
}

/**
 * @param {Matrix} a
 * @param {Matrix} b
 * @returns {Matrix}
 */
export function product(a, b) {
  return a.map((_, n) => {
    const row = n - (n % 3);
    return a[row] * b[n % 3] + a[row + 1] * b[3 + (n % 3)] + a[row + 2] * b[6 + (n % 3)];
  });
}

/**
 * @param {Matrix} matrix
 * @returns {Matrix}
 */
export function transposed(matrix) {
  return matrix.map((_, n) => matrix[3 * (n % 3) + Math.floor(n / 3)]);
}

/**
 * Weighted Procrustes: rotation, translation [3] and scale with points = scale R shape + translation in the least-squares
 * sense, for points and shape [K, 3]. By the unit quaternion (Horn 1987), which finds what Umeyama's does.
 * @param {ArrayLike<number>} points
 * @param {ArrayLike<number>} shape
 * @param {ArrayLike<number>} weight [K]
 */
export function similarity(points, shape, weight) {
  const total = Array.from(weight).reduce((sum, w) => sum + w, 0);
  const middle = (/** @type {ArrayLike<number>} */ of) => [0, 1, 2].map((axis) =>
    Array.from(weight).reduce((sum, w, k) => sum + (w * of[3 * k + axis]) / total, 0));
  const [to, from] = [middle(points), middle(shape)];
  const s = new Array(9).fill(0); // of shape's axis by points' axis
  let spread = 0;
  for (let k = 0; k < weight.length; k++) {
    const w = weight[k] / total;
    for (let a = 0; a < 3; a++) {
      const mine = shape[3 * k + a] - from[a];
      spread += w * mine * mine;
      for (let b = 0; b < 3; b++) s[3 * a + b] += w * mine * (points[3 * k + b] - to[b]);
    }
  }
  const { value, vector: [w, x, y, z] } = largestEigen([
    [s[0] + s[4] + s[8], s[5] - s[7], s[6] - s[2], s[1] - s[3]],
    [s[5] - s[7], s[0] - s[4] - s[8], s[1] + s[3], s[6] + s[2]],
    [s[6] - s[2], s[1] + s[3], s[4] - s[0] - s[8], s[5] + s[7]],
    [s[1] - s[3], s[6] + s[2], s[5] + s[7], s[8] - s[0] - s[4]],
  ]);
  const rotation = [
    1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
    2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
    2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
  ];
  const scale = value / spread;
  const translation = to.map((at, row) =>
    at - scale * [0, 1, 2].reduce((sum, n) => sum + rotation[3 * row + n] * from[n], 0));
  return { rotation, translation, scale };
}

/**
 * Head-fixed coordinates [K, 3]: the inverse of scale R x + translation.
 * @param {ArrayLike<number>} points
 * @param {{ rotation: Matrix, translation: number[], scale: number }} pose
 */
export function unpose(points, { rotation, translation, scale }) {
  return Float32Array.from(points, (_, n) => {
    const [first, axis] = [n - (n % 3), n % 3];
    return [0, 1, 2].reduce((sum, row) =>
      sum + (points[first + row] - translation[row]) * rotation[3 * row + axis], 0) / scale;
  });
}

/**
 * x of A x = b for a symmetric positive definite A [N, N], row by row; Cholesky. Both are overwritten, b by x.
 * @param {Float64Array} a
 * @param {Float64Array} b
 */
export function solve(a, b) {
  const size = b.length;
  for (let row = 0; row < size; row++) {
    for (let column = 0; column <= row; column++) {
      let sum = a[row * size + column];
      for (let n = 0; n < column; n++) sum -= a[row * size + n] * a[column * size + n];
      a[row * size + column] = row === column ? Math.sqrt(sum) : sum / a[column * size + column];
    }
    for (let n = 0; n < row; n++) b[row] -= a[row * size + n] * b[n];
    b[row] /= a[row * size + row];
  }
  for (let row = size - 1; row >= 0; row--) {
    for (let n = row + 1; n < size; n++) b[row] -= a[n * size + row] * b[n];
    b[row] /= a[row * size + row];
  }
  return b;
}

/**
 * The largest eigenvalue of a symmetric matrix, and its vector of length one: Jacobi's rotations.
 * @param {number[][]} matrix changed
 */
function largestEigen(matrix) {
  const size = matrix.length;
  const vectors = matrix.map((_, row) => matrix.map((_, column) => Number(row === column)));
  // Each sweep squares what is left beside the diagonal; of four by four, six leave nothing a double could hold.
  for (let sweep = 0; sweep < 12; sweep++) {
    for (let p = 0; p < size; p++) {
      for (let q = p + 1; q < size; q++) {
        if (Math.abs(matrix[p][q]) < 1e-300) continue;
        const ratio = (matrix[q][q] - matrix[p][p]) / (2 * matrix[p][q]);
        const tangent = (ratio < 0 ? -1 : 1) / (Math.abs(ratio) + Math.hypot(ratio, 1));
        const cosine = 1 / Math.hypot(tangent, 1);
        const sine = tangent * cosine;
        for (const rows of [matrix, vectors]) {
          for (const row of rows) [row[p], row[q]] = [cosine * row[p] - sine * row[q], sine * row[p] + cosine * row[q]];
        }
        const [up, uq] = [matrix[p].slice(), matrix[q].slice()];
        for (let n = 0; n < size; n++) {
          matrix[p][n] = cosine * up[n] - sine * uq[n];
          matrix[q][n] = sine * up[n] + cosine * uq[n];
        }
      }
    }
  }
  const best = matrix.reduce((found, row, n) => (row[n] > matrix[found][found] ? n : found), 0);
  return { value: matrix[best][best], vector: vectors.map((row) => row[best]) };
}
