// The calls of this page to its endpoint. What is refused is thrown as a Problem.

const TITLES = {
  "too-large": "The image is too large.",
  "too-small": "The image is too small.",
  "too-complex": "The image takes too long to decode.",
  "not-an-image": "This is not an image.",
  "unsupported-mode": "This kind of image is not supported.",
  animated: "Animated images are not supported.",
  truncated: "The image is cut short.",
  unreadable: "The image cannot be read.",
  empty: "The file is empty.",
  "no-file": "This was no file.",
  "no-token": "This endpoint asks for a token.",
  unauthorized: "The endpoint does not accept this token.",
  busy: "The endpoint is busy.",
  ending: "The endpoint is shutting down.",
  timeout: "There was no answer in time.",
};

// What the endpoint says to programs, said to people.
const SAID = { unauthorized: "Give the one that the endpoint was started with." };

export class Problem extends Error {
  constructor(slug, message, { status = 0, wait = null } = {}) {
    super((SAID[slug] ?? message).replace(/^./, (first) => first.toUpperCase()));
    this.slug = slug;
    this.status = status;
    this.wait = wait;
    this.title = TITLES[slug] ?? (status ? "The endpoint could not do this." : "The endpoint did not answer.");
    // Trying again helps where the image is not to blame.
    this.again = status === 0 || status === 429 || status >= 500;
  }
}

async function call(path, token, options = {}) {
  const headers = new Headers(options.headers);
  if (token) headers.set("Authorization", `Bearer ${token}`);
  let answer;
  try {
    answer = await fetch(path, { ...options, headers, credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("unreachable", "Look whether it still runs, and whether this machine reaches it.");
  }
  if (answer.ok) return answer;
  const wait = parseInt(answer.headers.get("Retry-After"), 10);
  const about = { status: answer.status, wait: Number.isFinite(wait) ? wait : null };
  let told = null;
  try {
    told = await answer.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
  }
  throw new Problem(told?.error ?? "unknown", told?.message ?? `It answered ${answer.status} and gave no reason.`, about);
}

export async function askBundle(token) {
  return (await call("v1/bundle", token)).json();
}

export async function askAtoms(cluster, token, signal) {
  return (await call(`v1/bundle/clusters/${cluster}/atoms.png`, token, { signal })).blob();
}

export async function purify(file, token, signal) {
  const answer = await call("v1/purify", token, {
    method: "POST",
    body: file,
    headers: { Accept: "image/png", "Content-Type": "application/octet-stream" },
    signal,
  });
  const header = (name) => answer.headers.get(`X-Raypurify-${name}`) ?? "";
  const facts = {
    cluster: parseInt(header("Cluster"), 10),
    name: plain(header("Class")),
    distance: parseFloat(header("Distance")),
    flagged: header("Flagged") === "true",
    change: parseFloat(header("Relative-Change")),
    iterations: parseInt(header("Iterations"), 10),
    bundle: header("Bundle"),
  };
  return { blob: await answer.blob(), facts };
}

function plain(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
