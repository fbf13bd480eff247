"use strict";
// What the page shows of its state. Prompts and file names are always set as text, never as markup.

const NOW = [0, 158, 115], BEFORE = [86, 180, 233]; // Okabe and Ito
const COLORS = [NOW, [230, 159, 0], [204, 121, 167], [240, 228, 66], [213, 94, 0], [0, 114, 178]]; // of the findings of a report
const TONES = { level: 128, window: 256 }; // as the image is stored

// the whole page, from its state

function show() {
  const image = state.opened;
  byId("empty").hidden = Boolean(image);
  byId("stage").hidden = byId("viewing").hidden = !image;
  byId("drop").classList.toggle("full", Boolean(image));
  byId("go").disabled = !image;
  byId("busy").textContent = image && image.pending ? "segmenting" : "";
  byId("about").textContent = image ? `${image.name}: ${image.info.rows} x ${image.info.columns} pixels` : "";
  byId("answer").hidden = !(image && image.now);
  byId("tools").hidden = !image;
  for (const one of document.querySelectorAll(".of-volume")) one.hidden = !(image && image.info.count > 1);
  byId("slice-value").textContent = image ? `${image.index + 1} of ${image.info.count}` : "";
  if (image) byId("stage").style.setProperty("--aspect", image.info.columns / image.info.rows);
  if (image && image.now) tell(image);
  markers();
  draw();
}

// drawing

function shownSize(info) {
  const scale = Math.min(1, MOST_SIDE / Math.max(info.rows, info.columns));
  return { width: Math.max(1, Math.round(info.columns * scale)), height: Math.max(1, Math.round(info.rows * scale)) };
}

function visible({ now, before }) {
  const wanted = state.held || checked("shown");
  if (wanted === "none" || !now) return [];
  if (wanted === "before" && before) return [[before, BEFORE]];
  if (wanted === "both" && before) return [[before, BEFORE], [now, NOW]];
  return [[now, NOW]];
}

function draw() {
  const image = state.opened;
  if (!image) return;
  const canvas = byId("canvas"), { width, height } = shownSize(image.info);
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image.bitmap, 0, 0, width, height);
  const layers = visible(image), pixels = context.getImageData(0, 0, width, height);
  const alpha = byId("opacity").value / 100, outline = byId("outline").checked;
  toned(pixels);
  for (const [one, color] of layers) {
    if (one.answer.withheld) continue;
    if (layers.length > 1 || one.parts.length < 2) tint(pixels, one.values, color, alpha, outline);
    else one.parts.forEach((values, i) => {
      if (!one.answer.results[i].abstained) tint(pixels, values, COLORS[i % COLORS.length], alpha, outline);
    });
  }
  place(image);
  context.putImageData(pixels, 0, 0);
  const names = layers.map(([one]) => (one === image.now ? "this result" : "previous result"));
  byId("tag").hidden = !(image.before && layers.length);
  byId("tag").textContent = names.join(" and ");
  const what = layers.map(([one]) => one.asked.sentence).join(" and ");
  canvas.setAttribute("aria-label", layers.length ? `The image with the mask for: ${what}` : "The image without a mask");
  compare(image);
}

function toned({ data }) {
  const level = Number(byId("level").value), width = Number(byId("window").value);
  if (level === TONES.level && width === TONES.window) return;
  const table = Uint8ClampedArray.from({ length: 256 }, (_, v) => ((v - level + width / 2) * 256) / width);
  for (let i = 0; i < data.length; i++) if (i % 4 !== 3) data[i] = table[data[i]];
}

function resetTones() {
  for (const [id, value] of Object.entries(TONES)) byId(id).value = value;
  labels();
}

function resetView() {
  if (state.opened) state.opened.zoom = { scale: 1, x: 0, y: 0 };
  resetTones();
  draw();
}

// zoom: x and y are the share of the image at the left and the top edge

function zoom(factor, x = 0.5, y = 0.5) {
  if (!state.opened) return;
  const old = state.opened.zoom, scale = Math.min(16, Math.max(1, old.scale * factor));
  const kept = (start, at) => start + at / old.scale - at / scale; // what is under the pointer stays there
  state.opened.zoom = { scale, x: kept(old.x, x), y: kept(old.y, y) };
  place(state.opened);
}

function pan(dx, dy) {
  if (!state.opened) return;
  const box = byId("stage").getBoundingClientRect(), { scale, x, y } = state.opened.zoom;
  state.opened.zoom = { scale, x: x - dx / box.width / scale, y: y - dy / box.height / scale };
  place(state.opened);
}

function place(image) {
  const { zoom } = image, most = 1 - 1 / zoom.scale;
  zoom.x = Math.min(most, Math.max(0, zoom.x));
  zoom.y = Math.min(most, Math.max(0, zoom.y));
  byId("canvas").style.transform = `scale(${zoom.scale}) translate(${-100 * zoom.x}%, ${-100 * zoom.y}%)`;
  byId("stage").classList.toggle("moves", zoom.scale > 1);
  byId("zoom-value").textContent = `${Math.round(100 * zoom.scale)} %`;
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

function compare({ now, before }) {
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

function tell({ info, now }) {
  const answer = now.answer;
  const list = byId("warnings");
  list.replaceChildren(...answer.warnings.map((one) => element("li", one.message)));
  list.hidden = !answer.warnings.length;
  zones(answer.statement);
  facts(now);
  findings(answer.statement.findings);
  masks(answer.results);
  const dicom = info.format === "dicom";
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

function facts({ asked: question, answer }) {
  const said = answer.statement, asked = answer.asked, pairs = [];
  if (!said.zones.length && !said.absent) pairs.push(["location", "not understood"]);
  if (said.absent) pairs.push(["finding", "absent"]);
  if (said.count !== null) pairs.push(["number", String(said.count)]);
  if (said.lateral) pairs.push(["sides", said.lateral]);
  if (said.size) pairs.push(["size", said.size]);
  pairs.push(["read as", said.grammar || "unknown style"]);
  if (asked.said) pairs.push(["left means", `the ${WHOSE[asked.said] || asked.said} left${asked.assumed ? " (assumed)" : ""}`]);
  if (asked.sentence && asked.sentence !== question.sentence) pairs.push(["model input", asked.sentence]);
  const { likeness, existence, agreement } = answer.scores, percent = (share) => `${Math.round(100 * share)} %`;
  if (likeness !== null) pairs.push(["image", `${percent(likeness)} of the images that the model knows are as unusual`]);
  if (existence !== null) pairs.push(["finding", `the model is as sure as in ${percent(existence)} of true findings, or surer`]);
  if (agreement !== null) pairs.push(["place", `${percent(agreement)} of the mask lies where the prompt says`]);
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

function masks(results) {
  const list = byId("masks");
  list.hidden = results.length < 2;
  list.replaceChildren(...results.map((one, i) => {
    const area = one.abstained ? "no result" : `${one.foreground_px.toLocaleString("en")} pixels`;
    const item = element("li", `${one.sentence}: ${area}`), key = element("span");
    key.className = "key";
    key.style.backgroundColor = `rgb(${COLORS[i % COLORS.length].join(" ")})`;
    item.prepend(key);
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
    mark.hidden = !state.opened;
    mark.textContent = marks[i];
    mark.title = words;
  });
  byId("sides").textContent = state.opened ? words : "";
}

function patientLeft() {
  const view = byId("view").value;
  if (view) return { pa: "right", ap: "right", axial: "right", mirrored: "left" }[view] || null;
  return state.opened && state.opened.info.orientation ? state.opened.info.orientation.patient_left : null;
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

