// A photo in full: the picture, what is known of it, and how its score was computed.

import {$, h, day, percent, toast} from "./dom.js";
import {get, original, send, thumbnail} from "./api.js";
import {body} from "./state.js";
import {notesOf} from "./notes.js";

let shown = null;

// actions: close(), step(±1), more, less, similar (each of a hit), folder(id), select(hit)
export async function showDetail(hit, query, actions) {
  const dialog = $("detail");
  const id = hit.id;
  shown = id;
  const size = Math.max(innerWidth, innerHeight) * (devicePixelRatio || 1) > 1400 ? 2048 : 1280;
  const side = h("div", {class: "side"}, h("h2", {}, hit.name || "Photo"), h("p", {class: "quiet"}, "Loading…"));
  dialog.replaceChildren(
    h("div", {class: "picture"},
      h("img", {
        src: thumbnail(id, size),
        alt: hit.caption || hit.name || "the photo",
        width: hit.width,
        height: hit.height,
        onerror: (event) => event.target.replaceWith(h("p", {class: "gone"}, "There is no picture: the file is not there now, or cannot be read.")),
      }),
      h("button", {type: "button", class: "step before", "aria-label": "The photo before", title: "The photo before (←)", onclick: () => actions.step(-1)}, "‹"),
      h("button", {type: "button", class: "step after", "aria-label": "The next photo", title: "The next photo (→)", onclick: () => actions.step(1)}, "›")),
    side,
    h("button", {type: "button", class: "close", "aria-label": "Close", title: "Close (Esc)", onclick: actions.close}, "×"));
  if (!dialog.open) dialog.showModal();
  let photo;
  try {
    photo = await get(`/api/v1/photos/${id}`);
  } catch (error) {
    side.replaceChildren(h("h2", {}, hit.name || "Photo"), h("p", {}, error.message));
    return;
  }
  if (shown !== id) return;
  const picture = dialog.querySelector(".picture img");
  if (picture) {
    picture.width = photo.width;
    picture.height = photo.height;
  }
  side.replaceChildren(...sideOf(hit, photo, query, actions));
  if (!query.terms.length) return;
  try {
    const how = await send(`/api/v1/photos/${id}/explanation`, body(query, 1, null));
    if (shown === id) side.querySelector(".how")?.replaceWith(explained(how, query, hit));
  } catch { /* an expanded query cannot be explained: the section stays empty */ }
}

export function hideDetail() {
  shown = null;
  const dialog = $("detail");
  if (dialog.open) dialog.close();
}

function sideOf(hit, photo, query, actions) {
  const first = photo.files[0];
  const facts = [
    ["Taken", [day(photo.taken), photo.taken_source ? `(${photo.taken_source})` : ""].filter(Boolean).join(" ")],
    ["Camera", photo.camera],
    ["Place", photo.place],
    ["Coordinates", photo.latitude === null ? null : `${photo.latitude.toFixed(4)}, ${photo.longitude.toFixed(4)}`],
    ["Size", `${photo.width} × ${photo.height}, ${photo.format}`],
    ["Relevance", hit.relevance === null || hit.relevance === undefined ? null : percent(hit.relevance)],
  ].filter(([, value]) => value);
  return [
    h("h2", {}, first ? first.name : hit.name),
    h("div", {class: "buttons"},
      h("button", {type: "button", onclick: () => actions.more(hit)}, "More like this"),
      h("button", {type: "button", onclick: () => actions.less(hit)}, "Less like this"),
      h("button", {type: "button", onclick: () => actions.similar(hit)}, "Find similar"),
      h("button", {type: "button", onclick: () => actions.select(hit, false)}, "Select"),
      h("a", {class: "button", href: original(photo.id), target: "_blank", rel: "noreferrer"}, "Open the file")),
    photo.captions.length
      ? h("section", {}, h("h3", {}, "Captions"), h("ul", {class: "captions"}, ...photo.captions.map((caption) =>
        h("li", {}, caption.text, h("span", {class: "quiet"}, ` from ${caption.origin}`)))))
      : null,
    notesOf(photo, () => showDetail(hit, query, actions)),
    h("dl", {class: "facts"}, ...facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
    h("section", {class: "how"}),
    photo.files.length
      ? h("section", {}, h("h3", {}, photo.files.length > 1 ? `${photo.files.length} files` : "File"),
        h("ul", {class: "files"}, ...photo.files.map((file) => h("li", {},
          h("button", {type: "button", class: "link", title: "Show this folder", onclick: () => actions.folder(file.folder)}, file.folder_path),
          h("span", {}, `/${file.name} `),
          h("button", {type: "button", "aria-label": `Copy the path of ${file.name}`, onclick: () => copy(file.path)}, "Copy path")))))
      : h("p", {}, "Its file is missing now."),
  ].filter(Boolean);
}

// The parts of a score as bars. α is the weight of the photo, β that of its captions.
function explained(how, query, hit) {
  const most = Math.max(0.001, ...how.terms.map(Math.abs), Math.abs(how.together));
  const bar = (name, value, share) => h("div", {class: "part"},
    h("span", {class: "name", title: name}, name),
    h("span", {class: "track"}, h("span", {class: value < 0 ? "fill minus" : "fill", style: {width: percent(share)}})),
    h("span", {class: "number"}, value.toFixed(3)));
  const parts = query.terms.map((term, at) => {
    const name = term.kind === "text" ? term.text : term.kind === "photo" ? "a photo" : "your photo";
    return bar(term.wanted ? name : `without ${name}`, how.terms[at], Math.abs(how.terms[at]) / most);
  });
  if (Math.abs(how.together) >= 0.0005) parts.push(bar("together", how.together, Math.abs(how.together) / most));
  const weights = how.photo_weight === null ? [] : [
    h("h3", {}, "What was compared"),
    bar("α, the photo", how.photo_weight, how.photo_weight),
    bar("β, its captions", 1 - how.photo_weight, 1 - how.photo_weight),
  ];
  const score = hit.score === null || hit.score === undefined ? "" : ` ${hit.score.toFixed(3)}`;
  return h("section", {class: "how"}, h("h3", {}, `Score${score}`), ...parts, ...weights);
}

export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    toast("Copied.");
  } catch {
    toast("The browser does not let this page copy. Select the text and copy it yourself.");
  }
}
