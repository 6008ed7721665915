"use strict";
// The loss around an image in three dimensions: quadrilaterals, the farthest first. Dragging or the arrow keys turn it.
const VIRIDIS = [[68, 1, 84], [65, 68, 135], [42, 120, 142], [34, 168, 132], [122, 209, 81], [253, 231, 37]];

const viridis = (share) => {
  const at = Math.min(Math.max(share, 0), 1) * (VIRIDIS.length - 1);
  const below = Math.min(Math.floor(at), VIRIDIS.length - 2);
  const mixed = VIRIDIS[below].map((from, i) => Math.round(from + (VIRIDIS[below + 1][i] - from) * (at - below)));
  return `rgb(${mixed.join(" ")})`;
};

const drawRelief = (canvas, { width: points, values }) => {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const height = (row, column) => (values[row * points + column] - low) / (high - low || 1);
  let [turn, tilt] = [-0.6, 0.55];

  const draw = () => {
    const context = canvas.getContext("2d");
    const size = canvas.width;
    const project = (row, column) => {
      const [x, y, z] = [column / (points - 1) - 0.5, 0.5 - row / (points - 1), height(row, column) - 0.5];
      const [across, deep] = [x * Math.cos(turn) - y * Math.sin(turn), x * Math.sin(turn) + y * Math.cos(turn)];
      const up = 0.7 * z * Math.cos(tilt) + deep * Math.sin(tilt);
      return [size * (0.5 + 0.62 * across), size * (0.5 - 0.62 * up), deep * Math.cos(tilt) - 0.7 * z * Math.sin(tilt)];
    };
    const at = Array.from({ length: points }, (_, row) => Array.from({ length: points }, (_, column) => project(row, column)));
    const faces = [];
    for (let row = 0; row + 1 < points; row++) {
      for (let column = 0; column + 1 < points; column++) {
        const corners = [at[row][column], at[row][column + 1], at[row + 1][column + 1], at[row + 1][column]];
        const level = (height(row, column) + height(row, column + 1) + height(row + 1, column + 1) + height(row + 1, column)) / 4;
        faces.push([Math.max(...corners.map((corner) => corner[2])), corners, level]);
      }
    }
    context.clearRect(0, 0, size, size);
    for (const [, corners, level] of faces.sort((a, b) => b[0] - a[0])) {
      context.beginPath();
      for (const [x, y] of corners) context.lineTo(x, y);
      context.closePath();
      context.fillStyle = context.strokeStyle = viridis(level);
      context.fill();
      context.stroke();
    }
    canvas.dataset.turn = turn.toFixed(2);
  };

  const by = (sideways, upwards) => {
    turn += sideways;
    tilt = Math.min(Math.max(tilt + upwards, 0), Math.PI / 2);
    requestAnimationFrame(draw);
  };
  canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
  canvas.addEventListener("pointermove", (event) => {
    if (event.buttons) by(event.movementX / 120, event.movementY / 120);
  });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] }[event.key];
    if (!step) return;
    event.preventDefault();
    by(...step);
  });
  draw();
};
