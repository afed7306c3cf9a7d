// The scale of distances: where an image lies beside what the bundle holds of clean images, and on their curve.

import { drawCurve, farther, partWithin } from "./curve.js";

export function number(value) {
  return value.toLocaleString("en", { maximumSignificantDigits: 3 });
}

export function percent(part) {
  return part.toLocaleString("en", { style: "percent", maximumSignificantDigits: 3 });
}

export function drawScale(place, distance, clean) {
  const end = 1.25 * Math.max(clean.threshold, distance);
  const marks = [["image", distance, `this image: ${number(distance)}`]];
  if (clean.mean !== null) marks.push(["mean", clean.mean, `mean of clean images: ${number(clean.mean)}`]);
  marks.push(["threshold", clean.threshold, `threshold: ${number(clean.threshold)}`]);
  const track = element("div", "track");
  const zones = element("div", "zones small");
  for (const [row, texts] of [[track, ["", ""]], [zones, [`${percent(clean.quantile)} of clean images`, "flagged"]]]) {
    for (const [kind, text] of [["usual", texts[0]], ["far", texts[1]]]) {
      const zone = row.appendChild(element("div", kind, text));
      if (kind === "usual") zone.style.width = `${(100 * clean.threshold) / end}%`;
    }
  }
  const legend = element("ul", "legend");
  for (const [kind, value, text] of marks) {
    const mark = element("i", `mark ${kind}`);
    mark.style.left = `${(100 * value) / end}%`;
    track.append(mark);
    const item = element("li");
    item.append(element("i", `mark ${kind}`), text);
    legend.append(item);
  }
  zones.setAttribute("aria-hidden", "true");
  if (clean.quantiles.length) addCurve(track, distance, clean.quantiles, end);
  else track.setAttribute("aria-hidden", "true");
  place.replaceChildren(track, zones, legend);
}

function addCurve(track, distance, quantiles, end) {
  const dot = element("i", "dot");
  dot.style.left = `${(100 * distance) / end}%`;
  dot.style.bottom = `${100 * partWithin(quantiles, distance)}%`;
  track.classList.add("tall");
  track.append(drawCurve(quantiles, end), dot);
  track.setAttribute("role", "img");
  track.setAttribute("aria-label", `The curve of clean images by their distance. This image is ${farther(quantiles, distance)}.`);
}

function element(tag, className = "", textContent = "") {
  return Object.assign(document.createElement(tag), { className, textContent });
}
