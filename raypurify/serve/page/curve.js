// The curve of clean distances: for every distance the part of clean images within it, and where an image lies on it.

const SVG = "http://www.w3.org/2000/svg";
// Coordinates of the picture, which is stretched to its place.
const [WIDTH, HEIGHT] = [1000, 100];

// The part of clean images that are nearer than a distance, between two quantiles by a straight line.
export function partWithin(quantiles, distance) {
  const above = quantiles.findIndex((value) => value > distance);
  if (above <= 0) return above === 0 ? 0 : 1;
  const [low, high] = [quantiles[above - 1], quantiles[above]];
  return (above - 1 + (distance - low) / (high - low)) / (quantiles.length - 1);
}

// "farther than 93% of clean images", never more than is true.
export function farther(quantiles, distance) {
  const part = partWithin(quantiles, distance);
  if (part === 0) return "nearer than all clean images";
  if (part === 1) return "as far as the farthest of all clean images, or farther";
  const percent = Math.floor(100 * part);
  return percent ? `farther than ${percent}% of clean images` : "nearer than 99% of clean images";
}

// The curve over distances from 0 to ``end``; what lies beyond is cut off.
export function drawCurve(quantiles, end) {
  const last = quantiles.length - 1;
  const points = quantiles.map((value, k) => [(WIDTH * value) / end, HEIGHT * (1 - k / last)]);
  const steps = points.map(([x, y]) => `L${x.toFixed(1)} ${y.toFixed(1)}`).join("");
  const svg = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none" });
  const line = `M0 ${HEIGHT}${steps}H${2 * WIDTH}`;
  svg.append(shape("path", { class: "below", d: `${line}V${HEIGHT}Z` }), shape("path", { class: "line", d: line }));
  return svg;
}

function shape(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}
