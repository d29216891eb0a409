// Rotations. Right-handed picture coordinates: x right, y down, z away from the camera. As `model/geometry.py`.

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
