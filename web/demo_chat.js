/** The chat of the page that `hub dev` serves: one public room, with everything that `chat.js` knows of it. */

import { ChatRoom } from "./chat.js";
import { download, nameOf } from "./demo_upload.js";

const ROOM = "lobby";
const NAME = "Lobby";
const EMOJI = "👍";

const find = (id) => document.getElementById(id);

/**
 * Shows the room in the page.
 *
 * @param {import("./hub.js").HubClient} hub
 * @param {{last: {upload: string, filename: string} | null, onLast: () => void}} uploads what may be attached
 */
export function showChat(hub, uploads) {
  const list = find("messages");
  /** What a message's element was made of, so that only what has changed is made anew. */
  const shown = new WeakMap();
  let editing = 0;

  const room = new ChatRoom(hub, ROOM, {
    onChange,
    onEnd: (error) => say(`${error.code}: ${error.message}`),
    onPause: (error) => say(error.message),
    onResume: () => say("switched on again"),
  });

  find("compose").onsubmit = (event) => {
    event.preventDefault();
    const text = find("text").value;
    const format = find("markdown").checked ? "markdown" : "text";
    act(async () => {
      await (editing ? room.edit(editing, text, format) : room.send(text, { format, attachments: await attached() }));
      stopEditing();
    });
  };
  uploads.onLast = () => {
    find("attach-last").hidden = uploads.last === null;
    find("attach-name").textContent = uploads.last?.filename ?? "";
    find("attach").checked = false;
  };
  find("text").oninput = () => room.typing(find("text").value !== "" && !editing);
  find("text").onkeydown = (event) => {
    if (event.key === "Escape") stopEditing();
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    find("compose").requestSubmit();
  };
  find("older").onclick = () => act(() => room.older());
  document.addEventListener("visibilitychange", look);

  open();

  async function open() {
    try {
      await room.open();
    } catch (error) {
      if (error.code !== "not_found") return say(`${error.code}: ${error.message}`);
      await hub.call("chat.create", { room: ROOM, name: NAME, public: true }).catch(() => {}); // others may do so as well
      act(() => room.open());
    }
  }

  /** The last upload, if it is to go along: whoever may read the room may read it from now on. */
  async function attached() {
    if (!find("attach").checked || uploads.last === null) return [];
    const { upload } = uploads.last;
    await hub.call("upload.share", { upload, topics: [`chat:${ROOM}`] });
    return [upload];
  }

  /** Away in a tab that nobody sees; what is seen has been read. */
  function look() {
    setStatus();
    if (!document.hidden) room.read().catch(() => {});
  }

  function setStatus() {
    hub.call("presence.set", { status: document.hidden ? "away" : "online" }).catch(() => {});
  }

  function onChange(what) {
    if (what === "presence") return showPresence();
    if (what === "typing") return showTyping();
    const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
    const height = list.scrollHeight;
    showMessages();
    showTyping();
    if (what === "older") list.scrollTop += list.scrollHeight - height;
    else if (atEnd) list.scrollTop = list.scrollHeight;
    find("older").hidden = !room.view.moreBefore;
    const { unread } = room.view;
    find("unread").textContent = unread ? `(${unread} new)` : "";
    document.title = unread ? `(${unread}) hub` : "hub";
    if (!document.hidden) room.read().catch(() => {});
  }

  function showMessages() {
    let at = list.firstElementChild;
    for (const message of room.view.messages) {
      while (at && Number(at.dataset.number) < message.number) at = drop(at);
      const readers = room.view.readers(message.number).filter((user) => user !== hub.user).join(", ");
      const known = at && Number(at.dataset.number) === message.number ? shown.get(at) : null;
      if (known?.message === message && known.readers === readers) {
        at = at.nextElementSibling;
        continue;
      }
      const made = element(message, readers);
      shown.set(made, { message, readers });
      list.insertBefore(made, at);
      if (known) at = drop(at);
    }
    while (at) at = drop(at);
  }

  function element(message, readers) {
    const item = document.createElement("li");
    item.dataset.number = message.number;
    const head = item.appendChild(document.createElement("small"));
    head.textContent = `${message.name || message.author}, ${new Date(message.created_at).toLocaleTimeString()}`;
    if (message.edited_at) head.textContent += ", edited";
    if (readers) head.title = `read by ${readers}`;
    const body = item.appendChild(document.createElement("div"));
    if (message.deleted) {
      item.className = "deleted";
      body.textContent = "deleted";
      return item;
    }
    body.innerHTML = message.html; // sanitised by the hub
    if (message.attachments?.length) item.appendChild(attachments(message.attachments));
    const row = item.appendChild(document.createElement("div"));
    row.className = "row";
    for (const [emoji, users] of Object.entries({ [EMOJI]: [], ...message.reactions })) {
      const mine = users.includes(hub.user);
      const chip = button(row, `${emoji} ${users.length || ""}`, "react", () => room.react(message.number, emoji, !mine));
      chip.title = users.join(", ");
      chip.setAttribute("aria-pressed", String(mine));
    }
    const own = message.author === hub.user;
    if (own) button(row, "Edit", "edit", () => startEditing(message));
    if (own || room.view.room.role === "owner") button(row, "Delete", "delete", () => room.delete(message.number));
    return item;
  }

  function attachments(uploads) {
    const row = document.createElement("div");
    row.className = "row";
    for (const upload of uploads) {
      const made = button(row, "Attachment", "attachment", () => download(hub, upload));
      nameOf(hub, upload).then((name) => {
        made.textContent = `📎 ${name}`;
        made.setAttribute("aria-label", `Download ${name}`);
      }, (error) => {
        made.disabled = true;
        made.title = error.message;
      });
    }
    return row;
  }

  function button(row, text, name, action) {
    const made = row.appendChild(document.createElement("button"));
    made.textContent = text;
    made.className = name;
    made.onclick = () => act(action);
    return made;
  }

  function startEditing(message) {
    editing = message.number;
    find("text").value = message.text;
    find("markdown").checked = message.format === "markdown";
    find("send").textContent = "Change";
    find("text").focus();
  }

  function stopEditing() {
    editing = 0;
    find("text").value = "";
    find("send").textContent = "Send";
    find("attach").checked = false;
    room.typing(false);
  }

  function showPresence() {
    const { members, online, away, listed } = room.presence;
    const here = [...members.values()].map(({ user, name, status }) => {
      const chip = document.createElement("span");
      chip.className = status;
      chip.dataset.user = user;
      chip.textContent = name || user;
      chip.title = `${user}, ${status}`;
      return chip;
    });
    find("here").replaceChildren(...(listed ? here : [`${online} online, ${away} away`]));
  }

  function showTyping() {
    const names = room.typists;
    find("typing").textContent = names.length ? `${names.join(", ")} ${names.length > 1 ? "type" : "types"} …` : "";
  }

  async function act(action) {
    say("");
    try {
      await action();
    } catch (error) {
      say(`${error.code}: ${error.message}`);
    }
  }

  /** What a connection said of its user does not outlive it. */
  return { welcomed: setStatus };
}

function drop(element) {
  const next = element.nextElementSibling;
  element.remove();
  return next;
}

function say(text) {
  find("chat-said").textContent = text;
}
