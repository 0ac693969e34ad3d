// Captions and keywords of the user's own: a form to add one, and the list of those of a photo.

import {h, toast} from "./dom.js";
import {send} from "./api.js";

const KINDS = [["caption", "caption"], ["keyword", "keyword"]];

// A form that notes the same about some photos. ids(): of them; done(): it is kept.
export function noteForm(ids, done) {
  const kind = h("select", {"aria-label": "Caption or keyword"}, ...KINDS.map(([value, label]) => h("option", {value}, label)));
  const text = h("input", {type: "text", maxlength: 500, required: true, "aria-label": "Your text", placeholder: "Your own words"});
  return h("form", {
    class: "note",
    onsubmit: async (event) => {
      event.preventDefault();
      if (await note("/api/v1/notes", ids(), kind.value, text.value)) {
        text.value = "";
        done();
      }
    },
  }, kind, text, h("button", {}, "Add"));
}

async function note(path, ids, kind, text) {
  try {
    const {photos} = await send(path, {ids, kind, text});
    toast(`Kept for ${photos.toLocaleString()} photo${photos === 1 ? "" : "s"}. Searches know it as soon as the index is up to date.`);
    return true;
  } catch (error) {
    toast(error.message, null, 12);
    return false;
  }
}

// The user's own words about a photo. changed(): they are others now.
export function notesOf(photo, changed) {
  return h("section", {class: "notes"}, h("h3", {}, "Your captions and keywords"),
    h("ul", {}, ...photo.notes.map(({kind, text}) => h("li", {},
      h("span", {class: kind === "keyword" ? "word" : ""}, text),
      h("button", {
        type: "button",
        class: "remove",
        "aria-label": `Remove ${text}`,
        onclick: async () => {
          if (await note("/api/v1/notes/removed", [photo.id], kind, text)) changed();
        },
      }, "×")))),
    noteForm(() => [photo.id], changed));
}
