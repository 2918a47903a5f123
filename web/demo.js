/** The page that `hub dev` serves: events, a document that unfolds, uploads, a chat and flags, over one connection. */

import { ContentAssembler } from "./content.js";
import { showChat } from "./demo_chat.js";
import { showFlags } from "./demo_flags.js";
import { showUploads } from "./demo_upload.js";
import { HubClient } from "./hub.js";

const SERVICES = ["finance", "guest", "staff", "tasks", "properties", "users", "dashboard", "branding", "analytics", "reports"];
const MOST_LINES = 200;
const SAMPLE = `# Welcome

Guests arrive **today**. This page is *sanitised* and cut into chunks; an editor applies them one by one.

| room | guest | nights |
|---|---|---|
| 101 | Ada Lindqvist | 3 |
| 204 | Bruno Costa | 1 |

- [ ] towels
- [x] flowers

<script>alert("shown as text, run by nobody")</script>
`;

const find = (id) => document.getElementById(id);

// The token comes behind the # of the address: that part is sent to nobody.
const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given) {
  sessionStorage.setItem("token", given);
  history.replaceState(null, "", location.pathname);
}
const token = sessionStorage.getItem("token") ?? "";
/** As far as this page may have one: see the box "block WebSockets". @type {WebSocket | null} */
let socket = null;
const hub = new HubClient(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws`, () => token, {
  upgradeMs: 3000,
  makeSocket: (address, protocol) => {
    if (find("block").checked) throw new Error("WebSockets are blocked");
    socket = new WebSocket(address, protocol);
    return socket;
  },
});

let events = 0;
let stream = "";
let endStream = () => {};

hub.onState = (state, detail) => {
  find("state").className = state;
  find("state").textContent = state === "up" ? "connected" : `away: ${detail}`;
  find("transport").textContent = hub.transport;
  if (state !== "up") return;
  find("who").textContent = detail;
  chat.welcomed();
};
find("block").onchange = () => {
  if (find("block").checked) socket?.close(); // as a proxy would cut it
};
showFlags(hub, (text) => line(text, "flag"));
const uploads = showUploads(hub, (event) => line(eventText(event)));
const chat = showChat(hub, uploads);

for (const service of SERVICES) {
  hub.subscribe(
    `events:${service}`,
    {
      onEvent: (event) => line(eventText(event)),
      onGap: (gap) => line(`${gap.topic}: events ${gap.from ?? "?"}–${gap.to ?? "?"} will not come (${gap.reason})`, "gap"),
      onPause: () => line(`events:${service} is switched off`, "flag"),
      onResume: () => line(`events:${service} is back`, "flag"),
    },
    { last: 3 },
  );
}

find("source").value = SAMPLE;
find("start").onclick = () => begin("content.start", { content: find("source").value, speed: find("speed").value, chunk_by: "word" });
find("write").onclick = () => begin("assistant.generate", { kind: "script", topic: find("topic").value, speed: find("speed").value });
find("speed").onchange = () => control("speed", { speed: find("speed").value });
for (const verb of ["pause", "resume", "cancel"]) find(verb).onclick = () => control(verb);

async function begin(method, params) {
  try {
    const begun = await hub.call(method, params);
    watch(begun.stream);
  } catch (error) {
    say(`${error.code}: ${error.message}`);
  }
}

function watch(name) {
  endStream();
  stream = name;
  const assembler = new ContentAssembler().mount(find("document"));
  find("progress").removeAttribute("value");
  endStream = hub.subscribe(
    `content:${name}`,
    {
      onEvent: ({ name: what, data }) => {
        if (what === "chunk") {
          assembler.apply(data);
          if (data.progress !== undefined) find("progress").value = data.progress;
          find("document").scrollTop = find("document").scrollHeight;
        } else if (what === "progress") {
          say(`${data.state}, ${data.speed}: a chunk every ${data.interval_ms} ms`);
        } else if (what === "stream_complete") {
          find("progress").value = 1;
          say(`complete: ${data.chunks} chunks, ${data.avg_chunk_size} characters each, ${data.complexity}`);
        } else if (what === "stream_error") {
          say(`${data.state}: ${data.message}`);
        } else {
          assembler.begin(data);
          say(`streaming ${data.content_type}, by ${data.chunk_by}`);
        }
      },
      onGap: () => say("Redis has forgotten a part; it is streamed again"),
      onPause: (error) => say(error.message),
      onResume: () => say("switched on again"),
      onEnd: (error) => say(`${error.code}: ${error.message}`),
    },
    { since: "start" },
  );
}

async function control(verb, params = {}) {
  if (!stream) return;
  try {
    await hub.call(`content.${verb}`, { stream, ...params });
  } catch (error) {
    if (verb !== "speed" || error.code !== "conflict") say(`${error.code}: ${error.message}`);
  }
}

function eventText({ ts, topic, seq, name, data }) {
  return `${new Date(ts).toLocaleTimeString()} ${topic}${seq ? `/${seq}` : ""} ${name} ${JSON.stringify(data)}`;
}

function line(text, kind = "") {
  const item = document.createElement("li");
  item.textContent = item.title = text;
  item.className = kind;
  find("events").prepend(item);
  if (find("events").childElementCount > MOST_LINES) find("events").lastElementChild.remove();
  find("count").textContent = `(${++events})`;
}

function say(text) {
  find("said").textContent = text;
}
