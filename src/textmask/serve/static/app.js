"use strict";
// The web page of the service: its state, and the requests that change it. view.js draws the state.
//
// The page has no image, or it has one: state.opened. An image waits for a prompt, is asking (`pending`) or has an
// answer (`now`). Every upload and every request has an AbortController; what comes back is used only while it is still
// the one that the page waits for. So an answer never meets another image, and the last request wins, not the last reply.

const MOST_SIDE = 1600; // pixels of the longer side that are drawn; downloads have the full size
const EXAMPLES = ["opacity in the lower left lung", "consolidation in the right upper lobe", "no effusion. Opacities in both lower lungs."];
const WHOSE = { image: "image's", patient: "patient's", unknown: "unknown" };
const byId = (id) => document.getElementById(id);
const state = {
  token: "", // kept only in this page
  reading: null, // {name, work} of the upload in progress
  opened: null, // {name, file, info, bitmap, index, turning, asked, pending, now, before, zoom}
  held: null, // what a held key shows
};

// the service

async function call(path, options = {}) {
  const headers = { ...(options.headers || {}) };
  if (state.token) headers.Authorization = `Bearer ${state.token}`;
  let answer;
  try {
    answer = await fetch(path, { ...options, headers, credentials: "omit" });
  } catch (error) {
    if (options.signal && options.signal.aborted) throw error;
    throw new Error("The service cannot be reached. Is it still running?");
  }
  if (answer.ok) return answer;
  if (answer.status === 401) {
    byId("token-form").hidden = false;
    byId("token").focus();
  }
  const problem = await answer.json().catch(() => ({}));
  const error = new Error(problem.detail || `The service answered ${answer.status}.`);
  error.code = problem.code;
  error.wait = Number(answer.headers.get("Retry-After")) || 0;
  throw error;
}

async function connect() {
  try {
    const known = await (await call("/v1/capabilities")).json();
    const convention = known.laterality === "unknown" ? "laterality convention unknown" : `trained with the ${WHOSE[known.laterality]} left`;
    byId("model").textContent = `${known.method}, model ${known.model_sha256.slice(0, 8)}, ${convention}`;
    byId("formats").textContent = `${known.formats.join(", ")}; at most ${Math.floor(known.max_bytes / 1048576)} MiB`;
    byId("threshold").value = Math.min(99, Math.max(1, Math.round(known.threshold * 100)));
    byId("token-form").hidden = true;
    complain("");
    labels();
  } catch (error) {
    byId("model").textContent = "not connected";
    if (error.code === "token") byId("status").textContent = "This service requires a token.";
    else complain(error.message);
  }
}

// images

async function load(file) {
  if (!file) return;
  close(); // nothing of one image stays next to another
  const reading = { name: file.name, work: new AbortController() };
  state.reading = reading;
  say(`Reading ${file.name}.`);
  let info = null;
  try {
    info = await upload(file, reading.work.signal);
    const shown = await (await call(`/v1/images/${info.id}/picture.png`, { signal: reading.work.signal })).blob();
    const bitmap = await createImageBitmap(shown);
    if (state.reading !== reading) return forget(info);
    open(file, info, bitmap);
  } catch (error) {
    forget(info);
    if (state.reading !== reading) return; // another image was chosen since
    state.reading = null;
    say("");
    complain(`${file.name}: ${error.message}`);
  }
}

async function upload(file, signal) {
  const form = new FormData();
  form.append("file", file);
  return (await call("/v1/images", { method: "POST", body: form, signal })).json();
}

function open(file, info, bitmap) {
  state.reading = null;
  state.opened = {
    name: file.name, file, info, bitmap, index: info.index || 0, turning: null,
    asked: false, pending: null, now: null, before: null, zoom: { scale: 1, x: 0, y: 0 },
  };
  Object.assign(byId("slice"), { max: info.count - 1, value: info.index || 0 });
  resetTones();
  choose("laterality", info.format === "picture" ? "image" : "patient");
  choose("shown", "now");
  show();
  say("The image is open. Type a prompt.");
  byId("sentence").focus();
}

async function turn(index) {
  const image = state.opened;
  if (!image || index === image.index || index < 0 || index >= image.info.count) return;
  cancel(image);
  if (image.turning) image.turning.abort();
  const turning = image.turning = new AbortController();
  image.index = index;
  image.now = image.before = null; // an answer belongs to one slice
  byId("slice").value = index;
  complain("");
  show();
  const current = () => state.opened === image && image.turning === turning;
  try {
    const picture = await call(`/v1/images/${image.info.id}/picture.png?index=${index}`, { signal: turning.signal });
    const bitmap = await createImageBitmap(await picture.blob());
    if (!current()) return;
    image.bitmap = bitmap;
    image.turning = null;
    show();
    if (image.asked) ask();
  } catch (error) {
    if (!current()) return;
    close(); // the slice that is shown would not be the one that is asked
    complain(`${image.name}: ${error.message}`);
  }
}

async function example() {
  try {
    const bytes = await (await call("/example.png")).blob();
    load(new File([bytes], "synthetic.png", { type: "image/png" }));
  } catch (error) {
    complain(error.message);
  }
}

function close() {
  if (state.reading) state.reading.work.abort();
  const image = state.opened;
  state.reading = state.opened = state.held = null;
  if (image) {
    cancel(image);
    if (image.turning) image.turning.abort();
    forget(image.info);
  }
  say("");
  complain("");
  show();
}

function forget(info) {
  if (info) call(`/v1/images/${info.id}`, { method: "DELETE" }).catch(() => {});
}

// prompts

function question() {
  const asked = { sentence: byId("sentence").value.trim(), laterality: checked("laterality") };
  if (byId("view").value) asked.view = byId("view").value;
  if (state.opened && state.opened.info.count > 1) asked.index = state.opened.index;
  return asked;
}

async function ask() {
  const image = state.opened, asked = question(), key = JSON.stringify(asked);
  if (!image) return complain("Choose an image first.");
  if (!asked.sentence) return complain("Type a prompt first.");
  if (image.pending && image.pending.key === key) return; // it is on its way
  cancel(image);
  complain("");
  image.asked = true;
  if (image.turning) return; // asked when the slice has arrived
  if (image.now && image.now.key === key) return answered(image);

  const pending = { key, work: new AbortController() };
  image.pending = pending;
  show();
  const current = () => state.opened === image && image.pending === pending;
  try {
    const begin = performance.now();
    const answer = await segment(image, asked, pending.work.signal);
    const values = await probabilities(answer.probability, image.info);
    const parts = [];
    for (const one of answer.results) parts.push(await probabilities(one.probability, image.info));
    if (!current()) return;
    if (image.now) image.before = image.now;
    image.now = { key, asked, answer, values, parts, ms: Math.round(performance.now() - begin) };
    image.pending = null;
    choose("shown", "now");
    answered(image);
  } catch (error) {
    if (!current()) return;
    // a refusal has no mask: what was shown belongs to another prompt
    image.before = image.now || image.before;
    image.now = image.pending = null;
    show();
    say("");
    complain(error.code === "busy" ? `The service is busy. Try again in ${error.wait || 1} s.` : error.message);
  }
}

async function segment(image, asked, signal) {
  const body = JSON.stringify({ ...asked, return: ["probability"] });
  const headers = { "Content-Type": "application/json" };
  const wanted = () => call(`/v1/images/${image.info.id}/masks`, { method: "POST", headers, body, signal });
  try {
    return await (await wanted()).json();
  } catch (error) {
    if (error.code !== "no_such_image") throw error;
    image.info = await upload(image.file, signal); // the service was restarted, or the image expired
    return (await wanted()).json();
  }
}

function cancel(image) {
  if (image.pending) image.pending.work.abort();
  image.pending = null;
}

function answered(image) {
  show();
  const { answer, ms } = image.now;
  if (answer.abstained) say("The model gives no result for this prompt; see the warnings.");
  else say(`Mask of ${answer.foreground_px.toLocaleString("en")} pixels in ${ms} ms.`);
}

async function probabilities(text, info) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/png" }));
  const { width, height } = shownSize(info);
  const canvas = new OffscreenCanvas(width, height), context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0, width, height);
  const pixels = context.getImageData(0, 0, width, height).data;
  return Uint8Array.from({ length: width * height }, (_, i) => pixels[4 * i]);
}

// downloads: of the result that is shown, whatever is opened while they arrive

async function save(kind) {
  const image = state.opened;
  if (!image || !image.now) return;
  const slice = image.info.count > 1 ? `.slice-${image.now.asked.index}` : "";
  const name = `${image.name.replace(/\.(nii\.gz|[^.]*)$/i, "")}${slice}.${kind}`;
  try {
    const query = new URLSearchParams({ ...image.now.asked, threshold: byId("threshold").value / 100 });
    const blob = await (await call(`/v1/images/${image.info.id}/${kind}?${query}`)).blob();
    const link = element("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    say(`Downloaded ${name}.`);
  } catch (error) {
    complain(`${name}: ${error.message}`);
  }
}

// controls

function move(id, by) {
  const slider = byId(id);
  slider.value = Number(slider.value) + by;
  slider.dispatchEvent(new Event("input"));
}

function hold(value) {
  if (state.held === value) return;
  state.held = value;
  draw();
}

function nextLaterality() {
  const all = [...document.querySelectorAll("input[name=laterality]")];
  const next = all[(all.findIndex((one) => one.checked) + 1) % all.length];
  next.checked = true;
  next.dispatchEvent(new Event("change", { bubbles: true }));
}

const KEYS = {
  o: () => byId("file").click(),
  "/": () => byId("sentence").focus(),
  b: () => hold("before"),
  h: () => hold("none"),
  "[": () => move("threshold", -1),
  "]": () => move("threshold", 1),
  "-": () => move("opacity", -5),
  "+": () => move("opacity", 5),
  ",": () => turn(state.opened ? state.opened.index - 1 : 0),
  ".": () => turn(state.opened ? state.opened.index + 1 : 0),
  z: () => zoom(1.25),
  x: () => zoom(0.8),
  0: resetView,
  l: nextLaterality,
  s: () => save("mask.png"),
};

document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("textarea, select, input[type=password]");
  if (event.key === "Escape" && typing) return event.target.blur();
  if (typing || event.ctrlKey || event.metaKey || event.altKey || !KEYS[event.key]) return;
  event.preventDefault();
  KEYS[event.key]();
});
document.addEventListener("keyup", (event) => { if (event.key === "b" || event.key === "h") hold(null); });
window.addEventListener("blur", () => hold(null));

byId("ask").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
byId("sentence").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (!event.repeat) ask();
});
byId("file").addEventListener("change", (event) => {
  const file = event.target.files[0];
  event.target.value = ""; // the same file can be chosen again
  load(file);
});
for (const id of ["opacity", "threshold"]) byId(id).addEventListener("input", () => { labels(); draw(); });
byId("outline").addEventListener("change", draw);
for (const id of ["level", "window"]) byId(id).addEventListener("input", () => { labels(); draw(); });
byId("slice").addEventListener("input", () => turn(Number(byId("slice").value)));
byId("zoom-in").addEventListener("click", () => zoom(1.25));
byId("zoom-out").addEventListener("click", () => zoom(0.8));
byId("fit").addEventListener("click", resetView);
byId("example").addEventListener("click", example);
byId("examples").replaceChildren(...EXAMPLES.map((sentence) => {
  const button = element("button", sentence);
  button.type = "button";
  button.className = "button small";
  button.addEventListener("click", () => {
    byId("sentence").value = sentence;
    if (state.opened) ask();
  });
  return button;
}));
byId("stage").addEventListener("wheel", (event) => {
  if (!event.ctrlKey) return; // the page scrolls
  event.preventDefault();
  const box = byId("stage").getBoundingClientRect();
  zoom(event.deltaY < 0 ? 1.1 : 1 / 1.1, (event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
}, { passive: false });
byId("stage").addEventListener("pointermove", (event) => {
  if (event.buttons & 1) pan(event.movementX, event.movementY);
});
byId("shown").addEventListener("change", draw);
for (const id of ["laterality", "view"]) {
  byId(id).addEventListener("change", () => {
    markers();
    if (state.opened && state.opened.asked) ask();
  });
}
byId("save-png").addEventListener("click", () => save("mask.png"));
byId("save-seg").addEventListener("click", () => save("mask.dcm"));
byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  state.token = byId("token").value.trim();
  byId("token").value = "";
  connect();
});

for (const name of ["dragover", "drop", "dragleave"]) {
  document.addEventListener(name, (event) => {
    if (name !== "dragleave") event.preventDefault(); // otherwise the browser opens the file
    byId("drop").classList.toggle("over", name === "dragover");
    if (name === "drop") load(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) load(event.clipboardData.files[0]);
});

choose("laterality", "image");
resetTones();
labels();
show();
connect();
