"""The page's own script: dropping and pasting, previews, a queue of studies, and their history."""

# It asks the server for the same pages that a form would get, and takes the answer out of them.
SCRIPT = r"""
(() => {
"use strict";
const $ = id => document.getElementById(id);
const make = (tag, props = {}, ...children) => {
  const e = Object.assign(document.createElement(tag), props);
  e.append(...children);
  return e;
};
const form = $("form"), region = $("region"), status = $("status"), place = $("problem-place");
const most = +form.dataset.files, bytes = +form.dataset.bytes;
const isPicture = f => !f.name.startsWith("._")
  && (/\.(png|jpe?g)$/i.test(f.name) || /^image\/(png|jpeg)$/.test(f.type));
let chosen = [], studies = [], current = null, queue = Promise.resolve();

document.documentElement.classList.add("with-script");
if (location.search) history.replaceState(null, "", location.pathname);  // the token does not stay in sight

// ---------------------------------------------------------------- the study that is put together

const knownRegions = [...region.options].map(o => o.value).filter(v => v && v !== "other");

function studyOf(path) {
  return [...path.replaceAll("\\", "/").matchAll(/(XR_[A-Z]+)\/patient\d+\/study\d+/g)].pop() || null;
}

function regionOf(path) {
  const study = studyOf(path), found = path.match(/XR_[A-Z]+/);
  if (study || found) return study ? study[1] : found[0];
  const folders = path.split(/[\/\\]/).slice(0, -1).map(p => p.toLowerCase());
  return folders.map(p => knownRegions.find(r => r.toLowerCase() === p)).filter(Boolean).pop() || null;
}

function toldRegion() {
  const all = new Set(chosen.map(c => regionOf(c.path)));
  return all.size === 1 ? [...all][0] : null;
}

function nameOf(value) {
  const option = [...region.options].find(o => o.value === value);
  return option ? option.textContent : value.replace(/^XR_/, "").toLowerCase();
}

function showChosen() {
  $("chosen").replaceChildren(...chosen.map((c, i) => {
    const remove = make("button", {type: "button", textContent: "\u00d7"});
    const small = make("img", {src: c.url, alt: ""});
    small.onerror = () => small.replaceWith(make("span", {className: "none"}));
    remove.setAttribute("aria-label", `Remove ${c.file.name}`);
    remove.onclick = () => {
      URL.revokeObjectURL(c.url);
      chosen.splice(i, 1);
      showChosen();
      ($("chosen").querySelectorAll("button")[Math.min(i, chosen.length - 1)] || $("files")).focus();
      say(`${c.file.name} removed, ${count(chosen.length, "image")} left.`);
    };
    return make("li", {}, small, make("span", {textContent: c.file.name}), remove);
  }));
  const told = chosen.length ? toldRegion() : null;
  $("told").textContent = told ? `The path says ${nameOf(told)}.`
    : chosen.length && !region.value ? "The path does not say which region it is: choose it." : "";
}

function take(files) {
  const pictures = files.filter(f => isPicture(f.file)), left = files.length - pictures.length;
  const size = [...chosen, ...pictures].reduce((n, f) => n + f.file.size, 0);
  solve();
  if (!pictures.length && files.length) return complain("None of these files is a PNG or JPEG image.", "files");
  if (chosen.length + pictures.length > most) return complain(`More than ${most} images: send one study.`, "files");
  if (size > bytes) return complain(`Larger than ${bytes >> 20} MB in all: send smaller images.`, "files");
  chosen.push(...pictures.map(f => ({...f, url: URL.createObjectURL(f.file)})));
  showChosen();
  if (pictures.length) {
    say(`${count(chosen.length, "image")} chosen` + (left ? `, ${count(left, "other file")} left out.` : "."));
  }
}

const count = (n, what) => `${n} ${what}${n === 1 ? "" : "s"}`;
const say = text => { status.textContent = text; };
const solve = () => place.replaceChildren();

function complain(why, field) {
  const box = make("div", {className: "notice", id: "problem"}, make("p", {textContent: why}));
  box.setAttribute("role", "alert");
  place.replaceChildren(box);
  say("");
  if (field) $(field).focus();
}

for (const id of ["files", "folder"]) {
  $(id).onchange = e => {
    take([...e.target.files].map(file => ({file, path: file.webkitRelativePath || file.name})));
    e.target.value = "";
  };
}
region.onchange = showChosen;

// ---------------------------------------------------------------- dropping and pasting

async function filesOf(entry, path = "") {
  if (entry.isFile) {
    const file = await new Promise((good, bad) => entry.file(good, bad));
    return [{file, path: path + file.name}];
  }
  const reader = entry.createReader(), found = [];
  for (;;) {
    const some = await new Promise((good, bad) => reader.readEntries(good, bad));
    if (!some.length || found.length > 500) break;
    for (const e of some) found.push(...await filesOf(e, `${path}${entry.name}/`));
  }
  return found;
}

const drop = $("drop");
let depth = 0;
const hasFiles = e => e.dataTransfer && [...e.dataTransfer.types].includes("Files");
addEventListener("dragenter", e => { if (hasFiles(e)) { depth++; drop.classList.add("over"); } });
addEventListener("dragleave", e => { if (hasFiles(e) && --depth <= 0) { depth = 0; drop.classList.remove("over"); } });
addEventListener("dragover", e => { if (hasFiles(e)) e.preventDefault(); });
addEventListener("drop", async e => {
  if (!hasFiles(e)) return;
  e.preventDefault();  // anywhere on the page: a picture that misses the box must not replace it
  depth = 0;
  drop.classList.remove("over");
  const entries = [...e.dataTransfer.items].map(i => i.webkitGetAsEntry && i.webkitGetAsEntry());
  const plain = [...e.dataTransfer.files].map(file => ({file, path: file.name}));
  try {
    take(entries.every(Boolean) && entries.length ? (await Promise.all(entries.map(x => filesOf(x)))).flat() : plain);
  } catch { complain("A file could not be read.", "files"); }
});
addEventListener("paste", e => {
  const files = [...(e.clipboardData ? e.clipboardData.files : [])];
  if (!files.length) return;
  e.preventDefault();
  take(files.map(file => ({file, path: file.name})));
});

// ---------------------------------------------------------------- asking, one study after the other

form.onsubmit = e => {
  e.preventDefault();
  solve();
  if (!chosen.length) return complain("Choose the images of one study first.", "files");
  const several = new Set(chosen.map(c => studyOf(c.path)).filter(Boolean).map(s => s[0]));
  if (several.size > 1) return complain(`These are ${several.size} studies: send one at a time.`, "files");
  if (!region.value && !toldRegion()) {
    return complain("Which region is it? The file's path does not say: choose it.", "region");
  }
  const body = new FormData();
  for (const c of chosen) body.append("file", c.file, c.path);
  body.append("region", region.value);
  ask("/study", body, `${chosen[0].file.name}${chosen.length > 1 ? ` and ${chosen.length - 1} more` : ""}`);
  for (const c of chosen) URL.revokeObjectURL(c.url);
  chosen = [];
  region.value = "";
  showChosen();
};

$("examples").onsubmit = e => {
  e.preventDefault();
  const body = new FormData();
  body.append("region", e.submitter.value);
  ask("/example", new URLSearchParams(body), `Example ${e.submitter.textContent}`);
};

function ask(url, body, name) {
  const study = {name, said: "waiting", from: document.activeElement};
  studies.unshift(study);
  showHistory();
  const waiting = studies.filter(s => !s.node).length;
  say(waiting > 1 ? `${name}: waits for the ${waiting - 1} before it.` : `Looking at ${name} ...`);
  queue = queue.then(() => answered(study, url, body));
}

async function answered(study, url, body) {
  study.said = "looking ...";
  showHistory();
  try {
    let got = await fetch(url, {method: "POST", body});
    for (let tries = 0; got.status === 503 && tries < 20; tries++) {  // others are before us
      await new Promise(ready => setTimeout(ready, 1000));
      got = await fetch(url, {method: "POST", body});
    }
    const text = await got.text();
    const html = (got.headers.get("content-type") || "").startsWith("text/html");
    const page = new DOMParser().parseFromString(html ? text : "", "text/html");
    study.node = page.querySelector("article.answer") || page.querySelector("#problem") || failure(text);
  } catch {
    study.node = failure("The page's server did not answer. Does it still run, and was the upload within its limits?");
  }
  study.node = document.adoptNode(study.node);
  finish(study);
  const free = [document.body, $("send"), study.from].includes(document.activeElement);
  show(study);
  say(study.p ? `${study.name}: called ${study.said}, probability ${study.p}.` : `${study.name}: no answer.`);
  const head = study.node.querySelector("h2");
  if (free && head) head.focus();
}

function failure(why) {
  const box = make("div", {className: "notice"}, make("p", {textContent: why.slice(0, 300)}));
  box.setAttribute("role", "alert");
  return box;
}

function finish(study) {
  const told = study.node.dataset;
  if (!told.p) {
    study.said = "no answer";
    study.node.removeAttribute("id");
    study.node.prepend(make("h2", {textContent: `No answer for ${study.name}`, tabIndex: -1}));
    study.node.classList.add("failed");
    return;
  }
  Object.assign(study, {name: told.name, region: told.region, p: told.p, said: told.said});
  study.thumb = study.node.querySelector(".pair img").src;
  study.node.querySelectorAll(".view").forEach((view, i) => {
    const more = make("button", {type: "button", textContent: "Enlarge"});
    more.setAttribute("aria-label", `Enlarge view ${i + 1}`);
    more.onclick = () => enlarge(view);
    view.querySelector("figcaption").append(more);
  });
}

function enlarge(view) {
  const box = $("large"), close = make("button", {type: "button", textContent: "Close"});
  close.onclick = () => box.close();
  const words = make("span", {textContent: `Research only. ${view.querySelector("figcaption span").textContent}`});
  box.replaceChildren(view.querySelector(".pair").cloneNode(true), make("div", {className: "row"}, words, close));
  box.showModal();
}

// ---------------------------------------------------------------- the studies so far

function show(study) {
  current = study;
  $("answer").replaceChildren(study.node);
  showHistory();
}

function showHistory() {
  $("history-part").hidden = !studies.length;
  const focused = studies.find(s => s.button && s.button === document.activeElement);
  $("history").replaceChildren(...studies.map(s => {
    const picture = s.thumb ? make("img", {src: s.thumb, alt: ""}) : make("span", {className: "none"});
    const line = s.p ? `${s.region} · ${s.p} · ${s.said}` : s.said;
    s.button = make("button", {type: "button", disabled: !s.node, className: s.node ? "" : "busy"}, picture,
      make("span", {}, make("b", {textContent: s.name}), make("small", {textContent: line})));
    if (s === current) s.button.setAttribute("aria-current", "true");
    s.button.onclick = () => {
      show(s);
      const head = s.node.querySelector("h2");
      if (head) head.focus();
    };
    return make("li", {}, s.button);
  }));
  if (focused) focused.button.focus();
}

$("clear").onclick = () => {
  studies = studies.filter(s => !s.node);
  current = null;
  $("answer").replaceChildren();
  showHistory();
  say(studies.length ? "Cleared, but for what still waits for its answer." : "The history is empty.");
  $("files").focus();
};
})();
"""
