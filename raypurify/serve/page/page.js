// The page: an image comes in by drop, paste or choice; out come pictures and facts, or what went wrong.

import { Problem, askBundle, purify } from "./calls.js";
import { showResult } from "./result.js";
import { askForToken, token, tokenLacks, watchToken } from "./token.js";

const at = (id) => document.getElementById(id);
const maxBytes = Number(document.body.dataset.maxBytes);

let bundle = null;
let file = null; // what was given last, for another try
let running = null; // the AbortController of the call under way
let drawing = Promise.resolve(); // results are drawn one after the other
let clock = 0; // the timer of the call under way, or of the wait after a refusal

function start() {
  at("noscript").hidden = true;
  at("drop").hidden = false;
  at("address").textContent = quoted(new URL("v1/purify", document.baseURI).href); // behind a proxy only this page knows it
  at("file").addEventListener("change", (event) => take(event.target.files));
  at("cancel").addEventListener("click", () => running?.abort());
  at("again").addEventListener("click", run);
  document.addEventListener("paste", (event) => take(event.clipboardData.files));
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) document.addEventListener(kind, drag);
  watchToken(() => (file ? run() : learn().catch(fail)));
  if (!tokenLacks()) learn().catch(fail);
}

// A word of a shell.
function quoted(text) {
  return /[^\w@%+=:,./-]/.test(text) ? `'${text.replaceAll("'", `'"'"'`)}'` : text;
}

function drag(event) {
  event.preventDefault();
  at("drop").classList.toggle("over", event.type === "dragenter" || event.type === "dragover");
  if (event.type !== "drop") return;
  take(event.dataTransfer.files);
  if (!event.dataTransfer.files.length) fail(new Problem("no-file", "Save the image first, then drop its file.", { status: 400 }));
}

function take(files) {
  if (!files.length) return;
  file = files[0];
  run();
  at("file").value = ""; // so that choosing the same file again is a change
}

async function run() {
  running?.abort();
  const call = (running = new AbortController());
  const sent = file;
  tidy();
  try {
    check(sent);
    work(sent);
    const answer = await purify(sent, token(), call.signal);
    const told = await learn(answer.facts.bundle).then(() => bundle, () => null);
    const begin = () => (running === call ? showResult(sent, answer, told, token(), call.signal) : "");
    const shown = drawing.then(begin);
    drawing = shown.catch(() => {});
    const summary = await shown;
    if (running !== call) return;
    document.body.classList.add("seen");
    reveal(at("result"));
    say(summary);
  } catch (error) {
    if (running !== call) return;
    if (error.name === "AbortError") say("Cancelled.");
    else fail(error);
  } finally {
    if (running === call) {
      running = null;
      if (!at("work").hidden) stop();
    }
  }
}

function check(file) {
  if (tokenLacks()) throw new Problem("no-token", "The image is sent when it is given.", { status: 401 });
  if (file.size > maxBytes) {
    const [size, most] = [file.size, maxBytes].map((count) => count.toLocaleString("en"));
    throw new Problem("too-large", `It has ${size} bytes; this endpoint takes ${most} at most.`, { status: 413 });
  }
}

// What the endpoint serves: asked once, and anew when an answer came from another bundle.
async function learn(digest = bundle?.digest) {
  if (bundle && bundle.digest === digest) return;
  bundle = await askBundle(token());
  at("bundle").textContent = `, bundle ${bundle.name} (${bundle.digest.slice(0, 12)}…)`;
}

function tidy() {
  stop();
  at("problem").hidden = true;
  at("result").hidden = true;
}

function work({ name }) {
  const begun = performance.now();
  say(`Purifying ${name}.`);
  reveal(at("work"));
  every(() => {
    const seconds = Math.floor((performance.now() - begun) / 1000);
    at("doing").textContent = seconds ? `Purifying ${name}: ${seconds} s` : `Purifying ${name}`;
  });
}

function fail(error) {
  stop();
  if (!(error instanceof Problem)) {
    console.error(error);
    error = new Problem("page", `Something went wrong in this page: ${error.message}`, { status: 500 });
  }
  at("problem-title").textContent = error.title;
  at("problem-text").textContent = error.message;
  reveal(at("problem"));
  const again = at("again");
  again.hidden = !(error.again && file);
  if (!again.hidden) countDown(again, error.wait ?? 0);
  if (error.status === 401) askForToken();
}

function countDown(button, seconds) {
  const until = performance.now() + 1000 * seconds;
  every(() => {
    const left = Math.ceil((until - performance.now()) / 1000);
    button.disabled = left > 0;
    button.textContent = left > 0 ? `Try again in ${left} s` : "Try again";
    if (left <= 0) clearInterval(clock);
  });
}

function every(act) {
  clearInterval(clock);
  clock = setInterval(act, 250);
  act();
}

function stop() {
  clearInterval(clock);
  at("work").hidden = true;
}

function reveal(panel) {
  panel.hidden = false;
  panel.scrollIntoView({ block: "nearest" });
}

function say(text) {
  at("status").textContent = text;
}

start();
