/** The uploads of the page that `hub dev` serves: one file at a time, and links to what has been uploaded. */

import { upload } from "./upload.js";

const MOST_NAMES = 500;

const find = (id) => document.getElementById(id);
/** Names of uploads, by id. @type {Map<string, Promise<string>>} */
const names = new Map();

/**
 * Shows the box. What is told by the events of an upload goes to `onEvent` as well.
 *
 * @param {import("./hub.js").HubClient} hub
 * @param {(event: any) => void} onEvent
 * @returns {{last: import("./upload.js").Shape | null, onLast: () => void}} the last document that is ready; `onLast`:
 *   it is another one
 */
export function showUploads(hub, onEvent) {
  const shown = { last: null, onLast: () => {} };
  /** @type {File | null} */
  let file = null;
  /** @type {import("./upload.js").Upload | null} */
  let sending = null;
  let ready = "";

  find("upload-file").onchange = () => choose(find("upload-file").files[0] ?? null);
  const drop = find("drop");
  drop.ondragover = (event) => {
    event.preventDefault();
    drop.classList.add("over");
  };
  drop.ondragleave = () => drop.classList.remove("over");
  drop.ondrop = (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    if (sending === null && event.dataTransfer.files.length > 0) choose(event.dataTransfer.files[0]);
  };
  find("upload-start").onclick = start;
  find("upload-pause").onclick = () => sending?.pause();
  find("upload-resume").onclick = () => sending?.resume();
  find("upload-cancel").onclick = () => sending?.cancel();
  find("upload-download").onclick = () => download(hub, ready).catch((error) => say(`${error.code}: ${error.message}`));

  function choose(chosen) {
    file = chosen;
    find("upload-start").disabled = file === null;
    find("upload-size").textContent = "";
    find("upload-progress").value = 0;
    say(file === null ? "" : `${file.name}, ${inBytes(file.size)}`);
  }

  async function start() {
    find("upload-facts").replaceChildren();
    find("upload-download").hidden = true;
    sending = upload(hub, file, { documentType: find("upload-type").value, onProgress, onEvent });
    buttons();
    try {
      shown.last = await sending.done;
      ready = shown.last.upload;
      find("upload-download").hidden = false;
      say(`${shown.last.filename}: ${shown.last.state}`);
      facts(shown.last);
      shown.onLast();
    } catch (error) {
      say(`${error.code}: ${error.message}`);
    }
    sending = null;
    buttons();
  }

  function onProgress({ state, offset, size, paused }) {
    find("upload-progress").value = size > 0 ? offset / size : 0;
    find("upload-size").textContent = `${inBytes(offset)} of ${inBytes(size)}`;
    if (sending === null) return;
    say(`${file.name}: ${paused ? "paused" : state}`);
    buttons();
  }

  function buttons() {
    find("upload-start").disabled = find("upload-file").disabled = sending !== null;
    find("upload-cancel").disabled = sending === null;
    find("upload-pause").disabled = sending === null || sending.paused;
    find("upload-resume").disabled = !sending?.paused;
  }

  return shown;
}

/** What the file is called. @param {import("./hub.js").HubClient} hub @param {string} id @returns {Promise<string>} */
export function nameOf(hub, id) {
  let name = names.get(id);
  if (name === undefined) {
    if (names.size >= MOST_NAMES) names.clear();
    name = hub.call("upload.status", { upload: id }).then(({ filename }) => filename);
    name.catch(() => names.delete(id));
    names.set(id, name);
  }
  return name;
}

/** Has the browser fetch a document, by a link that is made for it. Rejects with `HubError`. */
export async function download(hub, id) {
  const { url } = await hub.call("upload.link", { upload: id });
  const address = new URL(url, location.href);
  if (address.protocol !== "http:" && address.protocol !== "https:") throw new Error("a strange address");
  const link = document.createElement("a");
  link.href = address;
  link.download = "";
  link.rel = "noopener";
  link.click();
}

/** What the hub has found out about a document. */
function facts({ media_type: mediaType, size, sha256, facts: found }) {
  const { media_type: _, ...more } = found ?? {};
  const all = { "media type": mediaType, size: inBytes(size), "sha-256": sha256, ...more };
  for (const [name, value] of Object.entries(all)) {
    if (value === null || value === undefined) continue;
    find("upload-facts").appendChild(document.createElement("dt")).textContent = name;
    find("upload-facts").appendChild(document.createElement("dd")).textContent = inWords(value);
  }
}

function inWords(value) {
  if (Array.isArray(value)) return value.map(inWords).join(", ");
  if (value === null || typeof value !== "object") return String(value);
  return Object.entries(value)
    .filter(([, part]) => part !== null)
    .map(([name, part]) => `${name} ${inWords(part)}`)
    .join(", ");
}

function inBytes(size) {
  const units = ["bytes", "KB", "MB", "GB"];
  let unit = 0;
  while (size >= 1000 && unit < units.length - 1) [size, unit] = [size / 1000, unit + 1];
  return `${unit === 0 ? size : size.toFixed(1)} ${units[unit]}`;
}

/** It is read aloud: what changes with every chunk does not belong here. */
function say(text) {
  if (find("upload-said").textContent !== text) find("upload-said").textContent = text;
}
