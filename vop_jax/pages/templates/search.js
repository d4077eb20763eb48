// The search page without a reload: every link and the form also work without this.
"use strict";
const field = document.querySelector("input[name=q]");
const player = document.getElementById("player");
const stage = document.getElementById("stage");
let opener = null;
let turn = 0;

const cards = () => [...document.querySelectorAll(".open")];

function prepare() {
  for (const button of document.querySelectorAll(".copy")) button.hidden = false;
}

// A page of the server; while it has no place, again after the time that it says.
async function ask(address) {
  for (let left = 3; ; left--) {
    const answer = await fetch(address);
    const seconds = answer.headers.get("Retry-After");
    const text = await answer.text();
    if (seconds === null || !left) {
      const page = new DOMParser().parseFromString(text, "text/html");
      return { page, text };
    }
    await new Promise((done) => setTimeout(done, 1000 * seconds));
  }
}

// Shows the results of another address in this page.
async function show(address, isNew) {
  const mine = ++turn;
  const results = document.getElementById("results");
  results.setAttribute("aria-busy", "true");
  let page;
  try {
    page = (await ask(address)).page;
  } catch {
    page = null;
  }
  if (mine !== turn) return;
  const found = page && page.getElementById("results");
  // The server wants a token, or has gone: let the browser say so.
  if (!found) return void location.assign(address);
  // Replaced piece by piece, so that the status stays the same live region.
  const status = document.getElementById("status");
  const said = found.querySelector("#status").textContent;
  const heard = [...found.querySelectorAll("#remark, .nothing, [role=alert]")];
  found.querySelector("#status").replaceWith(status);
  results.replaceChildren(...found.childNodes);
  results.removeAttribute("aria-busy");
  // What stands below in sight is only for those who hear the status.
  const spoken = document.createElement("span");
  spoken.className = "spoken";
  spoken.textContent = " " + heard.map((x) => x.textContent).join(" ");
  status.replaceChildren(said, spoken);
  document.title = page.title;
  if (isNew) history.pushState(null, "", address);
  for (const other of page.querySelectorAll("#form input")) {
    document.querySelector(`#form input[name=${other.name}]`).value = other.value;
  }
  prepare();
}

async function play(link) {
  opener = link;
  document.getElementById("playing").textContent = link.getAttribute("aria-label").replace(/^Play /, "");
  stage.textContent = "Preparing the clip ...";
  player.showModal();
  let shown = ["The server does not answer; try again."];
  try {
    const { page, text } = await ask(link.href);
    const clip = page.getElementById("clip");
    shown = clip ? clip.childNodes : [text.slice(0, 300)];
  } catch {
    // It has gone.
  }
  if (!player.open || opener !== link) return;
  stage.replaceChildren(...shown);
  const video = stage.querySelector("video");
  if (!video) return;
  video.addEventListener("error", () => {
    stage.textContent = "This browser cannot play the clip.";
  });
  video.play().catch(() => {});
  video.focus();
}

document.addEventListener("click", (event) => {
  if (event.defaultPrevented || event.button || event.ctrlKey || event.metaKey || event.shiftKey) return;
  const link = event.target.closest("a");
  const copy = event.target.closest(".copy");
  if (link && link.matches("a.open")) {
    event.preventDefault();
    play(link);
  } else if (link && link.closest("#results") && new URL(link.href).pathname === "/") {
    event.preventDefault();
    show(link.href, true).then(() => (cards()[0] || field).focus());
  } else if (copy) {
    copyPath(copy);
  }
});

async function copyPath(button) {
  const path = button.dataset.path;
  try {
    await navigator.clipboard.writeText(path);
  } catch {
    // Outside https and localhost there is no clipboard of that kind.
    const area = Object.assign(document.createElement("textarea"), { value: path });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    button.focus();
  }
  document.getElementById("status").textContent = `Copied ${path}`;
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = "Copy path"), 2000);
}

document.getElementById("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = [...new FormData(event.target)].filter(([name, value]) => value || name === "q");
  show("/?" + new URLSearchParams(given), true);
});

window.addEventListener("popstate", () => show(location.href, false));

player.addEventListener("close", () => {
  stage.replaceChildren();
  if (opener && opener.isConnected) opener.focus();
  opener = null;
});
document.getElementById("close").addEventListener("click", () => player.close());
player.addEventListener("click", (event) => {
  if (event.target === player) player.close();
});

// The card above or below another: the nearest of the next row in that direction.
function beside(all, from, down) {
  const box = from.getBoundingClientRect();
  const rows = all
    .map((card) => [card, card.getBoundingClientRect()])
    .filter(([, x]) => (down ? x.top > box.top + 1 : x.top < box.top - 1));
  if (!rows.length) return null;
  const tops = rows.map(([, x]) => x.top);
  const top = down ? Math.min(...tops) : Math.max(...tops);
  const row = rows.filter(([, x]) => Math.abs(x.top - top) < 1);
  row.sort(([, a], [, b]) => Math.abs(a.left - box.left) - Math.abs(b.left - box.left));
  return row[0][0];
}

document.addEventListener("keydown", (event) => {
  if (player.open || event.ctrlKey || event.metaKey || event.altKey) return;
  const isTyping = event.target.matches("input, textarea, select");
  if (event.key === "/" && !isTyping) {
    event.preventDefault();
    field.focus();
    field.select();
    return;
  }
  const all = cards();
  const at = all.indexOf(document.activeElement);
  let next = null;
  if (event.key === "ArrowDown" && at < 0 && (!isTyping || event.target === field)) next = all[0];
  else if (at < 0) return;
  else if (event.key === "ArrowRight") next = all[at + 1];
  else if (event.key === "ArrowLeft") next = all[at - 1];
  else if (event.key === "ArrowDown") next = beside(all, all[at], true);
  else if (event.key === "ArrowUp") next = beside(all, all[at], false) || field;
  if (next) {
    event.preventDefault();
    next.focus();
  }
});

prepare();
