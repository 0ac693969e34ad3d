// The description of the API as a page: routes, parameters, bodies, answers.

import {$, h} from "./dom.js";
import {get} from "./api.js";

const described = await get("/api/v1/openapi.json");
const schemas = described.components.schemas;

function nameOf(schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) return schema.anyOf.map(nameOf).join(" or ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.type === "array") return `list of ${nameOf(schema.items)}`;
  return schema.format || schema.type || "";
}

function bounds(schema) {
  const inner = schema.anyOf?.find((one) => one.type !== "null") || schema;
  const found = [];
  for (const [key, label] of [["minimum", "≥"], ["maximum", "≤"], ["exclusiveMinimum", ">"], ["maxLength", "length ≤"], ["maxItems", "items ≤"]]) {
    if (inner[key] !== undefined) found.push(`${label} ${inner[key]}`);
  }
  if (schema.default !== undefined) found.push(`default ${JSON.stringify(schema.default)}`);
  return found.join(", ");
}

function table(rows) {
  return h("table", {}, h("tbody", {}, ...rows.map(([name, type, text]) => h("tr", {},
    h("td", {}, h("code", {}, name)), h("td", {}, type), h("td", {}, text)))));
}

function fields(schema) {
  return table(Object.entries(schema.properties || {}).map(([name, field]) =>
    [name, nameOf(field), [field.description, bounds(field)].filter(Boolean).join(" ")]));
}

// The models that a schema names, itself first.
function models(schema, seen = new Set()) {
  for (const name of JSON.stringify(schema).matchAll(/schemas\/(\w+)/g)) {
    if (!seen.has(name[1])) {
      seen.add(name[1]);
      models(schemas[name[1]] || {}, seen);
    }
  }
  return [...seen];
}

function content(title, part) {
  const schema = Object.values(part?.content || {})[0]?.schema;
  if (!schema) return [];
  const kind = Object.keys(part.content)[0];
  return [
    h("h3", {}, `${title}: ${nameOf(schema)}`, h("span", {class: "quiet"}, ` ${kind}`)),
    ...models(schema).map((name) => h("div", {}, h("p", {}, h("strong", {}, name), ` ${schemas[name]?.description || ""}`), fields(schemas[name] || {}))),
  ];
}

const routes = Object.entries(described.paths).flatMap(([path, methods]) => Object.entries(methods).map(([method, route]) => {
  const success = Object.entries(route.responses).find(([code]) => code.startsWith("2"));
  const errors = Object.entries(route.responses).filter(([code]) => !code.startsWith("2"));
  return h("details", {},
    h("summary", {}, h("b", {}, method.toUpperCase()), h("code", {}, path), ` ${route.description || ""}`),
    route.parameters?.length ? table(route.parameters.map((one) => [one.name, nameOf(one.schema), [one.description, bounds(one.schema)].filter(Boolean).join(" ")])) : "",
    ...content("Body", route.requestBody),
    ...content("Answer", success?.[1]),
    h("p", {class: "quiet"}, `Errors: ${errors.map(([code, error]) => `${code} ${error.description}`).join(" ")}`));
}));
$("routes").replaceChildren(...routes);
$("routes").setAttribute("aria-busy", "false");
