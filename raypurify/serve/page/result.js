// What came back: three pictures, how far the image is from clean ones, its cluster and the atoms of that.

import { askAtoms } from "./calls.js";
import { forgetPictures, show, showDifference, tell, urlOf } from "./pictures.js";
import { farther } from "./curve.js";
import { drawScale, number, percent } from "./scale.js";

const at = (id) => document.getElementById(id);

// Resolves to a line that says it all, for those who hear the page.
export async function showResult(file, { blob, facts }, bundle, token, signal) {
  forgetPictures();
  const title = file.name || "pasted image";
  at("result-title").textContent = title;
  at("save").href = urlOf(blob);
  at("save").download = `${title.replace(/\.[^.]*$/, "")}.purified.png`;
  const same = facts.bundle === bundle?.digest;
  const known = facts.cluster >= 0 && same;
  at("why").hidden = !known;
  at("why-not").hidden = known;
  at("why-not").textContent = whyNot(bundle, same);
  await Promise.all([
    show(at("before"), file, `Original: ${title}`),
    show(at("after"), blob, `Purified: ${title}`),
    showDifference(at("change"), file, blob),
    known && showCluster(facts, bundle, token, signal),
  ]);
  if (known) showDistance(facts, bundle);
  if (!known) return "Purified.";
  const where = [`distance ${number(facts.distance)}`, ...onCurve(facts, bundle.distances)].join(", ");
  return `Purified. ${at("cluster-title").textContent}, ${where}. ${at("flag").textContent}`;
}

function showDistance({ distance, flagged }, { distances: clean, method }) {
  const part = percent(clean.quantile);
  at("flag").textContent = flagged ? "Flagged." : "Not flagged.";
  at("flag").className = flagged ? "flagged" : "";
  at("verdict").textContent = flagged
    ? `Its distance is beyond that of ${part} of clean images. Look at it before you trust it.`
    : `Its distance is within that of ${part} of clean images. That does not mean that it is clean: most attacked ` +
      "images are not flagged.";
  drawScale(at("scale"), distance, clean);
  const [place] = onCurve({ distance }, clean);
  at("place").textContent = place ? `This image is ${place}.` : "This bundle keeps no curve of clean images.";
  const count = clean.images.toLocaleString("en");
  const attacked = clean.attacked_mean === null ? "" : ` The mean of attacked ones was ${number(clean.attacked_mean)}.`;
  at("basis").textContent =
    `The distance is the ${method.distance}; it was measured on ${count} clean validation images.` +
    `${place ? " The curve says how many of them lie within each distance." : ""}${attacked}`;
}

// Where an image lies on the curve of clean ones; nothing where the bundle keeps none.
function onCurve({ distance }, { quantiles }) {
  return quantiles.length ? [farther(quantiles, distance)] : [];
}

function whyNot(bundle, same) {
  if (!bundle) return "The endpoint did not tell of its bundle, so cluster and distance are not shown.";
  if (!same) return "The endpoint is just changing its bundle. Send the image again to see its cluster and distance.";
  return "This purifier has no clusters, so there is no distance either.";
}

async function showCluster({ cluster, name, change, iterations }, bundle, token, signal) {
  const { count, height, width } = bundle.atoms;
  at("cluster-title").textContent = name ? `Cluster ${cluster}: ${name}` : `Cluster ${cluster}`;
  at("atoms-note").textContent =
    `One of ${bundle.clusters.length} clusters, ${bundle.method.cluster}. Fine detail was rewritten with these ` +
    `${count} atoms of ${width}\u00a0×\u00a0${height} pixels, learned from ${origin(bundle.clusters[cluster].dictionary, cluster)}.`;
  const facts = { "Changed by": percent(change), "Solver iterations": iterations.toLocaleString("en") };
  at("facts").replaceChildren(
    ...Object.entries(facts).flatMap(([term, value]) =>
      [["dt", term], ["dd", value]].map(([tag, text]) => Object.assign(document.createElement(tag), { textContent: text })),
    ),
  );
  try {
    await show(at("atoms"), await askAtoms(cluster, token, signal), `The ${count} atoms of cluster ${cluster}`, true);
  } catch (error) {
    tell(at("atoms"), `The atoms could not be fetched. ${error.message}`);
  }
}

function origin(dictionary, cluster) {
  if (dictionary === "global") return "clean images of all clusters, as this one had too few";
  const from = Number(dictionary);
  return Number.isInteger(from) && from !== cluster ? `clean images of cluster ${from}` : "clean images of this cluster";
}
