// The state of the index, as the server tells it while it changes.

import {$, toast} from "./dom.js";
import {get, send} from "./api.js";

// changed(): other photos can be found now.
export function followIndex(changed) {
  const panel = $("index-panel");
  $("index-open").addEventListener("click", () => {
    panel.hidden = !panel.hidden;
    $("index-open").setAttribute("aria-expanded", String(!panel.hidden));
  });
  $("index-start").addEventListener("click", () => act("POST"));
  $("index-stop").addEventListener("click", () => act("DELETE"));
  let photos = null;
  const events = new EventSource("/api/v1/events");
  events.addEventListener("indexing", (event) => drawIndexing(JSON.parse(event.data)));
  events.addEventListener("changed", (event) => {
    const now = JSON.parse(event.data).photos;
    $("photo-count").textContent = counted(now);
    if (photos !== null && photos !== now) changed();
    photos = now;
  });
  get("/api/v1/status").then((status) => {
    drawIndexing(status.indexing);
    const more = status.missing ? ` ${status.missing.toLocaleString()} are missing from disk now.` : "";
    $("photo-count").textContent = counted(status.photos);
    $("index-open").title = `Model ${status.model}.${more}`;
  }).catch((error) => toast(error.message));
}

function counted(photos) {
  return `${photos.toLocaleString()} indexed`;
}

async function act(method) {
  try {
    drawIndexing(await send("/api/v1/indexing", undefined, undefined, method));
  } catch (error) {
    toast(error.message);
  }
}

function drawIndexing(state) {
  const running = state.state === "running";
  const bar = $("index-progress");
  bar.hidden = !running;
  $("index-start").hidden = running;
  $("index-stop").hidden = !running;
  $("index-open").classList.toggle("busy", running);
  if (running) {
    if (state.total) {
      bar.max = state.total;
      bar.value = state.done;
    } else bar.removeAttribute("value");
    const what = state.what === "captions" ? "captioned photos" : "files";
    $("index-text").textContent = state.total
      ? `${state.done.toLocaleString()} of ${state.total.toLocaleString()} ${what}. Searches go on meanwhile.`
      : "Looking for new photos…";
  } else {
    const watching = state.watching ? "The folders are watched: new photos are found by themselves." : "";
    $("index-text").textContent = state.message || watching || "Photos that were added since the last run are found after the next one.";
  }
}
