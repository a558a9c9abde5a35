"use strict";

const MOST_SHOWN = 100000; // characters of an answer
const NAMES = {
  "application/json": "JSON",
  "application/gzip": "mask, NIfTI",
  "application/dicom": "mask, DICOM-SEG",
  "application/x-npz": "arrays, .npz",
  "image/jpeg": "drawn picture",
  "image/png": "masks, PNG",
};
const ENDINGS = {
  "application/json": "json",
  "application/gzip": "nii.gz",
  "application/dicom": "dcm",
  "application/x-npz": "npz",
  "image/jpeg": "jpg",
  "image/png": "png",
};
const LIKED = ["image/jpeg", "application/json"]; // what can be shown, best first

const $ = (id) => document.getElementById(id);
const models = new Map();
let kept = null; // the URL of the last answer

function made(tag, text, more) {
  return Object.assign(document.createElement(tag), { textContent: text, ...more });
}

function chosen() {
  return models.get($("model").value);
}

async function start() {
  try {
    const told = await (await fetch("openapi.json")).json();
    for (const [path, { post }] of Object.entries(told.paths)) {
      models.set(path.slice("/predictions/".length), post);
    }
    $("token-field").hidden = !told.security;
  } catch (error) {
    $("about").textContent = `The server does not say what it serves (${error.message}).`;
    return;
  }
  $("about").textContent = models.size === 1 ? "One model." : `${models.size} models.`;
  for (const [name, post] of models) {
    const item = made("li");
    const state = made("span", "…", { className: "state" });
    item.append(made("b", name), state, made("span", post.summary));
    $("models").append(item);
    $("model").append(made("option", name));
    showState(name, state);
  }
  $("ask").hidden = models.size === 0;
  choose();
}

async function showState(name, state) {
  const answer = await fetch(`v2/models/${encodeURIComponent(name)}/ready`).catch(() => null);
  state.textContent = answer && answer.ok ? "ready" : "not ready";
  state.classList.toggle("good", Boolean(answer && answer.ok));
}

function choose() {
  const { requestBody, responses } = chosen();
  const taken = requestBody.content;
  const pictures = Object.keys(taken).filter((kind) => kind.startsWith("image/"));
  $("file").accept = pictures.join(",");
  $("file").value = "";
  $("json").disabled = false;
  const arrays = "application/x-npz" in taken;
  $("hint").textContent = pictures.length
    ? "A JPEG, PNG, WebP or BMP."
    : arrays ? "Arrays as .npy or .npz." : "For example a scan as .nii.gz.";
  $("json-field").hidden = !arrays;
  const example = arrays ? taken["application/json"].schema.examples : null;
  $("json").value = example ? JSON.stringify(example[0]) : "";
  const kinds = Object.keys(responses["200"].content);
  const best = LIKED.find((kind) => kinds.includes(kind)) || kinds[0];
  $("accept").replaceChildren(
    ...kinds.map((kind) => made("option", NAMES[kind] || kind, { value: kind, selected: kind === best })),
  );
}

async function ask(event) {
  event.preventDefault();
  const file = $("file").files[0];
  const text = $("json-field").hidden || file ? "" : $("json").value.trim();
  if (!file && !text) {
    show("Nothing was sent", "Choose a file first.");
    return;
  }
  const headers = {
    accept: $("accept").value,
    "content-type": file ? "application/octet-stream" : "application/json",
  };
  const token = $("token").value.trim();
  if (token) headers.authorization = `Bearer ${token}`;
  const name = $("model").value;
  $("send").disabled = true;
  show("Asked…", "");
  const begun = performance.now();
  try {
    const url = `predictions/${encodeURIComponent(name)}`;
    const answer = await fetch(url, { method: "POST", headers, body: file || text });
    const blob = await answer.blob();
    const took = Math.round(performance.now() - begun);
    show(answer.ok ? "Answered" : `Refused: ${answer.status}`, `${name}, ${took} ms on the way and back`);
    await fill(name, answer, blob);
  } catch (error) {
    show("No answer", error.message);
  }
  $("send").disabled = false;
}

function show(status, took) {
  if (kept) URL.revokeObjectURL(kept);
  kept = null;
  $("answer").hidden = false;
  $("status").textContent = status;
  $("took").textContent = took;
  $("shown").replaceChildren();
}

async function fill(name, answer, blob) {
  const kind = (answer.headers.get("content-type") || "").split(";")[0].trim();
  const parts = [];
  kept = URL.createObjectURL(blob);
  if (!answer.ok) {
    const told = await blob.text();
    let message = told;
    try {
      const refused = JSON.parse(told);
      message = refused.message || refused.error || told;
    } catch { /* no JSON: as it is */ }
    $("shown").append(made("p", message, { className: "bad" }));
    return;
  }
  if (kind.startsWith("image/")) {
    parts.push(made("img", "", { src: kept, alt: `What ${name} answered, as a picture` }));
  } else if (kind === "application/json") {
    const text = pretty(await blob.text());
    const shown = made("pre", text.slice(0, MOST_SHOWN), { tabIndex: 0 });
    shown.setAttribute("aria-label", "The answer");
    parts.push(shown);
    if (text.length > MOST_SHOWN) parts.push(made("p", `The first ${MOST_SHOWN} of ${text.length} characters.`));
  }
  const link = made("a", `Save (${blob.size.toLocaleString("en")} bytes)`, { href: kept });
  link.download = `${name}.${ENDINGS[kind] || "bin"}`;
  parts.push(link);
  $("shown").replaceChildren(...parts);
}

function pretty(text) {
  const whole = JSON.stringify(JSON.parse(text), null, 2);
  // Lists of plain values stand in one line.
  return whole.replace(/\[\n[^[\]{}]*\]/g, (list) => list.replace(/\n\s*/g, " "));
}

$("model").addEventListener("change", choose);
$("file").addEventListener("change", () => {
  $("json").disabled = $("file").files.length > 0; // one of them is sent
});
$("ask").addEventListener("submit", ask);
start();
