// The query as the address holds it: every term, filter and order, so that back, reload and
// bookmarks work. `t=dog`, `t=-people`, `p=ID` (a photo of the index), `e=ID` (an uploaded
// example); a weight follows the value as `~2`. The order of terms is that of the address.

const KINDS = {t: "text", p: "photo", e: "example"};
const LETTERS = {text: "t", photo: "p", example: "e"};
const ID = /^[0-9a-f]{64}$/;

export function parse(search) {
  const query = {
    terms: [],
    folders: [],
    cameras: [],
    after: "",
    before: "",
    captioned: null,
    place: "",
    sort: "relevance",
    relevance: "all",
    photo: null,
  };
  for (const [key, value] of new URLSearchParams(search)) {
    if (KINDS[key]) {
      const term = parseTerm(KINDS[key], value);
      if (term && query.terms.length < 16) query.terms.push(term);
    } else if (key === "folder") query.folders.push(value);
    else if (key === "camera") query.cameras.push(value);
    else if (key === "after" || key === "before" || key === "place") query[key] = value;
    else if (key === "captioned") query.captioned = value === "yes";
    else if (key === "sort" && value === "date") query.sort = value;
    else if (key === "show" && ["normal", "strict"].includes(value)) query.relevance = value;
    else if (key === "photo" && ID.test(value)) query.photo = value;
  }
  return query;
}

function parseTerm(kind, value) {
  const wanted = !value.startsWith("-");
  let rest = wanted ? value : value.slice(1);
  let weight = 1;
  const found = /^(.*)~(\d*\.?\d+)$/s.exec(rest);
  if (found && Number(found[2]) > 0 && Number(found[2]) <= 100) {
    rest = found[1];
    weight = Number(found[2]);
  }
  rest = rest.startsWith("\\") ? rest.slice(1) : rest;
  if (kind === "text") return rest.trim() ? {kind, text: rest, wanted, weight} : null;
  return ID.test(rest) ? {kind, id: rest, wanted, weight} : null;
}

export function format(query) {
  const found = new URLSearchParams();
  for (const term of query.terms) {
    let value = term.kind === "text" ? term.text : term.id;
    if (/^[-\\]/.test(value)) value = `\\${value}`;
    const weight = term.weight === 1 && !/~[\d.]+$/.test(value) ? "" : `~${term.weight}`;
    found.append(LETTERS[term.kind], `${term.wanted ? "" : "-"}${value}${weight}`);
  }
  for (const folder of query.folders) found.append("folder", folder);
  for (const camera of query.cameras) found.append("camera", camera);
  if (query.after) found.set("after", query.after);
  if (query.before) found.set("before", query.before);
  if (query.place) found.set("place", query.place);
  if (query.captioned !== null) found.set("captioned", query.captioned ? "yes" : "no");
  if (query.sort === "date") found.set("sort", "date");
  if (query.relevance !== "all") found.set("show", query.relevance);
  if (query.photo) found.set("photo", query.photo);
  const text = found.toString();
  return text ? `/?${text}` : "/";
}

// The same query without the photo that is shown: what the hits depend on.
export function withoutPhoto(query) {
  return format({...query, photo: null});
}

// What clears all filters.
export const NO_FILTERS = {folders: [], cameras: [], after: "", before: "", captioned: null, place: ""};

// The query as the API takes it.
export function body(query, k, cursor) {
  return {
    terms: query.terms,
    filters: {
      folders: query.folders,
      cameras: query.cameras,
      after: query.after || null,
      before: query.before || null,
      captioned: query.captioned,
      place: query.place || null,
    },
    sort: query.sort,
    relevance: query.relevance,
    leave_out_examples: true,
    k,
    cursor: cursor || null,
  };
}

export function filterCount(query) {
  return query.folders.length + query.cameras.length + (query.after || query.before ? 1 : 0) +
    (query.place ? 1 : 0) + (query.captioned === null ? 0 : 1);
}
