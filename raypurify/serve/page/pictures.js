// Pictures of a result: an image in its frame, and what changed between two.

const AMPLIFIED = 10;
// Up to this width an image is shown pixel by pixel.
const SMALL = 160;

let urls = [];

export function forgetPictures() {
  urls.forEach((url) => URL.revokeObjectURL(url));
  urls = [];
}

export function urlOf(blob) {
  urls.push(URL.createObjectURL(blob));
  return urls.at(-1);
}

export async function show(frame, blob, alt, pixelwise = false) {
  const image = new Image();
  image.alt = alt;
  image.src = urlOf(blob);
  try {
    await image.decode();
  } catch {
    return tell(frame, "This browser cannot show images of this kind.");
  }
  put(frame, image, pixelwise || image.naturalWidth <= SMALL);
}

export async function showDifference(frame, before, after) {
  let pixels;
  try {
    pixels = await Promise.all([before, after].map(read));
  } catch {
    return tell(frame, "This browser cannot read the original, so there is nothing to compare.");
  }
  const [old, now] = pixels;
  if (old.width !== now.width || old.height !== now.height) {
    return tell(frame, "This browser reads the two images in different sizes, so they cannot be compared.");
  }
  for (let i = 0; i < now.data.length; i++) {
    // Stored bytes are clamped; every fourth is opacity.
    now.data[i] = i % 4 === 3 ? 255 : 127.5 + AMPLIFIED * (now.data[i] - old.data[i]);
  }
  const canvas = document.createElement("canvas");
  canvas.width = now.width;
  canvas.height = now.height;
  canvas.getContext("2d").putImageData(now, 0, 0);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", "What changed, 10 times amplified");
  put(frame, canvas, now.width <= SMALL);
}

async function read(blob) {
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  const canvas = document.createElement("canvas");
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

function put(frame, picture, pixelwise) {
  picture.classList.toggle("pixels", pixelwise);
  frame.replaceChildren(picture);
}

export function tell(frame, text) {
  const note = document.createElement("p");
  note.textContent = text;
  frame.replaceChildren(note);
}
