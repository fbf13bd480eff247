"use strict";
// The web page of the service. Prompts and file names are always set as text, never as markup.

const NOW = [0, 158, 115], BEFORE = [86, 180, 233]; // Okabe and Ito
const MOST_SIDE = 1600; // pixels of the longer side that are drawn; downloads have the full size
const WHOSE = { image: "image's", patient: "patient's", unknown: "unknown" };
const byId = (id) => document.getElementById(id);
const state = {
  token: "", // kept only in this page
  formats: [], image: null, bitmap: null, now: null, before: null, held: null, asking: 0,
};

// the service

async function call(path, options = {}) {
  const headers = { ...(options.headers || {}) };
  if (state.token) headers.Authorization = `Bearer ${state.token}`;
  let answer;
  try {
    answer = await fetch(path, { ...options, headers, credentials: "omit" });
  } catch {
    throw new Error("The service cannot be reached. Is it still running?");
  }
  if (answer.ok) return answer;
  if (answer.status === 401) {
    byId("token-form").hidden = false;
    byId("token").focus();
  }
  const problem = await answer.json().catch(() => ({}));
  const error = new Error(problem.message || `The service answered ${answer.status}.`);
  error.code = problem.code;
  error.wait = Number(answer.headers.get("Retry-After")) || 0;
  throw error;
}

async function connect() {
  try {
    const known = await (await call("/v1/capabilities")).json();
    state.formats = known.formats;
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

async function load(file) {
  if (!file) return;
  say("Reading the image.");
  complain("");
  const form = new FormData();
  form.append("file", file);
  try {
    const image = await (await call("/v1/images", { method: "POST", body: form })).json();
    const shown = await (await call(`/v1/images/${image.id}/picture.png`)).blob();
    forget(state.image);
    const bitmap = await createImageBitmap(shown);
    Object.assign(state, { image, bitmap, now: null, before: null, held: null });
    choose("laterality", image.format === "picture" ? "image" : "patient");
    byId("about").textContent = `${file.name}: ${image.rows} x ${image.columns} pixels`;
    byId("empty").hidden = true;
    byId("stage").hidden = byId("viewing").hidden = false;
    byId("drop").classList.add("full");
    byId("stage").style.setProperty("--aspect", image.columns / image.rows);
    byId("answer").hidden = true;
    byId("go").disabled = false;
    choose("shown", "now");
    markers();
    draw();
    say("The image is open. Type a prompt.");
    byId("sentence").focus();
  } catch (error) {
    say("");
    complain(error.message);
  } finally {
    byId("file").value = "";
  }
}

function forget(image) {
  if (image) call(`/v1/images/${image.id}`, { method: "DELETE" }).catch(() => {});
}

function question() {
  const asked = { sentence: byId("sentence").value.trim(), laterality: checked("laterality") };
  if (byId("view").value) asked.view = byId("view").value;
  return asked;
}

async function ask() {
  const asked = question();
  if (!state.image) return complain("Choose an image first.");
  if (!asked.sentence) return complain("Type a prompt first.");
  const turn = ++state.asking;
  byId("busy").textContent = "segmenting";
  complain("");
  try {
    const begin = performance.now();
    const path = `/v1/images/${state.image.id}/masks`;
    const body = JSON.stringify({ ...asked, return: ["probability"] });
    const answer = await (await call(path, { method: "POST", headers: { "Content-Type": "application/json" }, body })).json();
    const values = await probabilities(answer.probability);
    if (turn !== state.asking) return; // there is a newer request
    const same = state.now && JSON.stringify(state.now.asked) === JSON.stringify(asked);
    if (state.now && !same) state.before = state.now;
    state.now = { asked, answer, values };
    choose("shown", "now");
    tell(answer);
    draw();
    say(`Mask of ${answer.foreground_px.toLocaleString("en")} pixels in ${Math.round(performance.now() - begin)} ms.`);
    if (answer.abstained) say("The model gives no result for this prompt; see the warnings.");
  } catch (error) {
    if (turn !== state.asking) return;
    choose("shown", "none"); // never show the mask of another prompt
    draw();
    say("");
    complain(error.code === "busy" ? `The service is busy. Try again in ${error.wait || 1} s.` : error.message);
  } finally {
    if (turn === state.asking) byId("busy").textContent = "";
  }
}

async function probabilities(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/png" }));
  const { width, height } = shownSize();
  const canvas = new OffscreenCanvas(width, height), context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0, width, height);
  const pixels = context.getImageData(0, 0, width, height).data;
  return Uint8Array.from({ length: width * height }, (_, i) => pixels[4 * i]);
}

// drawing

function shownSize() {
  const scale = Math.min(1, MOST_SIDE / Math.max(state.image.rows, state.image.columns));
  return { width: Math.max(1, Math.round(state.image.columns * scale)), height: Math.max(1, Math.round(state.image.rows * scale)) };
}

function visible() {
  const wanted = state.held || checked("shown");
  if (wanted === "none" || !state.now) return [];
  if (wanted === "before" && state.before) return [[state.before, BEFORE]];
  if (wanted === "both" && state.before) return [[state.before, BEFORE], [state.now, NOW]];
  return [[state.now, NOW]];
}

function draw() {
  if (!state.image) return;
  const canvas = byId("canvas"), { width, height } = shownSize();
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(state.bitmap, 0, 0, width, height);
  const layers = visible(), pixels = context.getImageData(0, 0, width, height);
  const alpha = byId("opacity").value / 100, outline = byId("outline").checked;
  for (const [one, color] of layers) {
    if (!one.answer.abstained) tint(pixels, one.values, color, alpha, outline);
  }
  context.putImageData(pixels, 0, 0);
  const names = layers.map(([one]) => (one === state.now ? "this result" : "previous result"));
  byId("tag").hidden = !(state.before && layers.length);
  byId("tag").textContent = names.join(" and ");
  const what = layers.map(([one]) => one.asked.sentence).join(" and ");
  canvas.setAttribute("aria-label", layers.length ? `The image with the mask for: ${what}` : "The image without a mask");
  compare();
}

function tint(pixels, values, color, alpha, outline) {
  const { width, height, data } = pixels, level = byId("threshold").value * 2.55;
  const thick = Math.max(1, Math.round(Math.max(width, height) / 500));
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      if (values[i] <= level) continue;
      const edge = outline && (values[x >= thick ? i - thick : i] <= level || values[x < width - thick ? i + thick : i] <= level ||
        values[y >= thick ? i - thick * width : i] <= level || values[y < height - thick ? i + thick * width : i] <= level);
      const share = edge ? 1 : alpha;
      for (let c = 0; c < 3; c++) data[4 * i + c] += (color[c] - data[4 * i + c]) * share;
    }
  }
}

function compare() {
  const { now, before } = state;
  for (const value of ["before", "both"]) radio("shown", value).disabled = !before;
  if (!now || !before) return void (byId("change").textContent = "");
  const level = byId("threshold").value * 2.55;
  let both = 0, more = 0, less = 0;
  for (let i = 0; i < now.values.length; i++) {
    const a = now.values[i] > level, b = before.values[i] > level;
    both += a && b; more += a && !b; less += b && !a;
  }
  const all = both + more + less, share = (n) => `${Math.round((100 * n) / now.values.length * 10) / 10} %`;
  const overlap = all ? `the masks overlap by ${Math.round((100 * both) / all)} % (IoU)` : "both masks are empty";
  const left = before.asked.laterality === now.asked.laterality ? "" : ` (${WHOSE[before.asked.laterality]} left)`;
  byId("change").textContent = `Previous prompt: "${before.asked.sentence}"${left}. Since then ${share(more)} of the image were added and ${share(less)} removed; ${overlap}.`;
}

// what was understood

function tell(answer) {
  byId("answer").hidden = false;
  const list = byId("warnings");
  list.replaceChildren(...answer.warnings.map((one) => element("li", one.message)));
  list.hidden = !answer.warnings.length;
  zones(answer.statement);
  facts(answer);
  findings(answer.statement.findings);
  const dicom = state.image.format === "dicom";
  byId("save-seg").disabled = !dicom;
  byId("seg-why").textContent = dicom ? "" : "DICOM SEG needs a DICOM image.";
}

function zones(said) {
  const known = said.cells !== null, cells = known ? said.cells : said.zones, free = known ? said.free_cells : said.free;
  const columns = said.grid === "2x3" ? ["left", "right"] : ["left", "center", "right"];
  const has = (list, side, level) => list.some(([a, b]) => a === side && b === level);
  const rows = ["upper", "middle", "lower"].map((level) => {
    const row = element("tr");
    for (const side of columns) {
      const named = has(cells, side, level), clear = has(free, side, level);
      const cell = element("td", named && clear ? "both" : named ? "named" : clear ? "free" : "");
      cell.className = named ? "named" : clear ? "free" : "";
      cell.setAttribute("aria-label", `${level} ${side}: ${named ? "named" : clear ? "free" : "not named"}`);
      row.append(cell);
    }
    const head = element("th", level);
    head.scope = "row";
    row.prepend(head);
    return row;
  });
  const top = element("tr");
  top.append(element("td"), ...columns.map((side) => Object.assign(element("th", side), { scope: "col" })));
  top.firstChild.className = "corner";
  byId("zones").tBodies[0].replaceChildren(top, ...rows);
  byId("zones-side").textContent = known ? "Sides are those of the image as shown." :
    `Sides as in the prompt (${said.laterality === "patient" ? "the patient's" : "convention unknown"}).`;
}

function facts(answer) {
  const said = answer.statement, asked = answer.asked, pairs = [];
  if (!said.zones.length && !said.absent) pairs.push(["location", "not understood"]);
  if (said.absent) pairs.push(["finding", "absent"]);
  if (said.count !== null) pairs.push(["number", String(said.count)]);
  if (said.lateral) pairs.push(["sides", said.lateral]);
  if (said.size) pairs.push(["size", said.size]);
  pairs.push(["read as", said.grammar || "unknown style"]);
  if (asked.said) pairs.push(["left means", `the ${WHOSE[asked.said] || asked.said} left${asked.assumed ? " (assumed)" : ""}`]);
  if (asked.sentence && asked.sentence !== state.now.asked.sentence) pairs.push(["model input", asked.sentence]);
  if (typeof answer.compatibility === "number") pairs.push(["fits the image", answer.compatibility.toFixed(2)]);
  byId("facts").replaceChildren(...pairs.flatMap(([name, value]) => [element("dt", name), element("dd", value)]));
}

function findings(found) {
  const list = byId("findings");
  list.hidden = !found.length;
  list.replaceChildren(...found.map((one) => {
    const name = one.polarity === "absent" ? `no ${one.kind}` : one.kind;
    const parts = [one.certainty === "possible" ? `possible ${name}` : name];
    if (one.zones.length) parts.push(one.zones.join(" and "));
    if (one.size_mm !== null) parts.push(`${one.size_mm} mm`);
    if (one.change) parts.push(one.change);
    const item = element("li", [...parts, ...one.attributes].join(", "));
    item.className = one.polarity === "absent" ? "free" : "named";
    return item;
  }));
}

// laterality convention: a letter on each edge of the image

function markers() {
  const whose = checked("laterality"), left = patientLeft();
  let marks = ["?", "?"], words = "The laterality convention is unknown; a prompt that names a side is refused.";
  if (whose === "image") {
    marks = ["left", "right"];
    words = "Left in the prompt is the left edge of the image.";
  } else if (whose === "patient" && left) {
    marks = left === "left" ? ["L", "R"] : left === "right" ? ["R", "L"] : ["?", "?"];
    words = `Left in the prompt is the patient's left, at the ${left} of the image.`;
  } else if (whose === "patient") {
    words = "The file does not say where the patient's left is. Choose the view.";
  }
  ["left", "right"].forEach((side, i) => {
    const mark = byId(`mark-${side}`);
    mark.hidden = !state.image;
    mark.textContent = marks[i];
    mark.title = words;
  });
  byId("sides").textContent = state.image ? words : "";
}

function patientLeft() {
  const view = byId("view").value;
  if (view) return { pa: "right", ap: "right", axial: "right", mirrored: "left" }[view] || null;
  return state.image && state.image.orientation ? state.image.orientation.patient_left : null;
}

// downloads

async function save(kind, name) {
  if (!state.now) return;
  try {
    const query = new URLSearchParams({ ...state.now.asked, threshold: byId("threshold").value / 100 });
    const blob = await (await call(`/v1/images/${state.image.id}/${kind}?${query}`)).blob();
    const link = element("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    say(`Downloaded ${name}.`);
  } catch (error) {
    complain(error.message);
  }
}

// utilities

function element(name, text = "") {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}

function radio(name, value) {
  return document.querySelector(`input[name=${name}][value=${value}]`);
}

function checked(name) {
  const found = document.querySelector(`input[name=${name}]:checked`);
  return found ? found.value : "";
}

function choose(name, value) {
  radio(name, value).checked = true;
}

function say(text) {
  byId("status").textContent = text;
}

function complain(text) {
  byId("error").textContent = text;
  byId("error").hidden = !text;
}

function labels() {
  byId("opacity-value").textContent = `${byId("opacity").value} %`;
  byId("threshold-value").textContent = (byId("threshold").value / 100).toFixed(2);
}

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
  l: nextLaterality,
  s: () => save("mask.png", "mask.png"),
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
  ask();
});
byId("file").addEventListener("change", (event) => load(event.target.files[0]));
for (const id of ["opacity", "threshold"]) byId(id).addEventListener("input", () => { labels(); draw(); });
byId("outline").addEventListener("change", draw);
byId("shown").addEventListener("change", draw);
byId("laterality").addEventListener("change", () => { markers(); if (state.now) ask(); });
byId("view").addEventListener("change", () => { markers(); if (state.now) ask(); });
byId("save-png").addEventListener("click", () => save("mask.png", "mask.png"));
byId("save-seg").addEventListener("click", () => save("mask.dcm", "mask.dcm"));
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
labels();
connect();
