"use strict";
// All texts of the document and of replies become text nodes, never markup.
const make = (tag, props = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), props);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
};
const byId = (id) => document.getElementById(id);
const key = byId("key");
byId("show").addEventListener("change", (event) => { key.type = event.target.checked ? "text" : "password"; });
// The little Markdown that the document has: paragraphs, lists, code.
const inline = (text) => text.split("`").map((part, at) => (at % 2 ? make("code", {}, part) : part));
const prose = (text) => (text ?? "").trim().split(/\n\n+|\n(?=\* )(?<!\* .*\n)/).map((block) =>
  block.startsWith("* ")
    ? make("ul", {}, ...block.slice(2).split("\n* ").map((item) => make("li", {}, ...inline(item))))
    : make("p", {}, ...inline(block)));
const kind = (schema) => {
  const [name, several] = [schema.$ref?.split("/").pop(), schema.anyOf ?? schema.allOf];
  if (name) return [make("a", { href: `#schema-${name}` }, name)];
  if (several) return several.map(kind).flatMap((part, at) => (at ? [schema.anyOf ? " or " : " with ", ...part] : part));
  if (schema.enum) return [`one of ${schema.enum.map((value) => JSON.stringify(value)).join(", ")}`];
  if (schema.type === "array") return ["array of ", ...kind(schema.items)];
  const limits = ["format", "pattern", "minimum", "maximum", "maxLength"].filter((limit) => limit in schema);
  const type = [schema.type ?? "anything"].flat().join(" or ");
  return [limits.length ? `${type} (${limits.map((limit) => `${limit} ${schema[limit]}`).join(", ")})` : type];
};
const row = (name, note, ...rest) =>
  make("div", { className: "row" }, make("div", {}, name, make("div", { className: "type" }, ...note)), make("div", {}, ...rest));
const field = (id, parameter) => {
  const { schema } = parameter;
  const props = { id, name: parameter.name, value: parameter.example ?? "", required: Boolean(parameter.required) };
  if (!schema.enum) {
    const type = schema.format === "date" ? "date" : "text";
    const inputMode = schema.type === "integer" ? "numeric" : "";
    return make("input", { ...props, type, inputMode, autocomplete: "off", placeholder: schema.default ?? "" });
  }
  const standard = make("option", { value: "" }, `default: ${schema.default}`);
  return make("select", props, standard, ...schema.enum.map((value) => make("option", { value }, value)));
};
const parameterRow = (operation, parameter) => {
  const id = `${operation.operationId}-${parameter.name}`;
  const note = [`${parameter.in}${parameter.required ? ", required" : ""} · `, ...kind({ ...parameter.schema, enum: undefined })];
  const words = parameter.description?.replace(", percent-encoded", ""); // this page encodes what is typed
  return row(make("label", { htmlFor: id }, parameter.name), note, field(id, parameter), ...prose(words));
};
// Everything that a browser would encode on its own: the reply repeats what was sent, and is searched for it.
const encoded = (text) => encodeURIComponent(text).replace(/[!'()*]/g, (sign) => `%${sign.charCodeAt(0).toString(16)}`);
const blanked = (text) => [key.value, encoded(key.value)].filter(Boolean)
  .reduce((left, form) => left.replaceAll(form, "•••"), text);
const requestOf = (api, path, operation, form) => {
  const query = [];
  let target = path;
  for (const { name, in: place } of operation.parameters) {
    const value = form.elements[name].value;
    if (place === "path") target = target.replace(`{${name}}`, encoded(value));
    else if (value) query.push([name, value]);
  }
  const headers = {};
  const scheme = api.components.securitySchemes[Object.keys(operation.security[0])[0]];
  if (scheme.in === "query") query.push([scheme.name, key.value]);
  else headers[scheme.name] = `CTApiKey ${key.value}`;
  const pairs = query.map((pair) => pair.map(encoded).join("=")).join("&");
  return { target: pairs ? `${target}?${pairs}` : target, headers };
};
const rowsOf = (body) => Object.values(body ?? {}).find(Array.isArray);
const turn = (form, link, words) => {
  const number = /[?&]page=(-?\d+)/.exec(link ?? "")?.[1];
  const onclick = () => { form.elements.page.value = number; form.requestSubmit(); };
  return number ? make("button", { type: "button", className: "quiet", onclick }, words) : null;
};
const answer = async (api, path, operation, form, output) => {
  const { target, headers } = requestOf(api, path, operation, form);
  const began = performance.now();
  try {
    const response = await fetch(target, { headers, cache: "no-store", credentials: "omit", redirect: "error" });
    const text = await response.text();
    const body = /^[[{]/.test(text) ? JSON.parse(text) : null; // the page of a fault is shown as it is
    const rows = response.ok ? rowsOf(body) : null;
    const took = `${Math.round(performance.now() - began)} ms${rows ? `, ${rows.length} rows of ${body.paging.total}` : ""}`;
    const shown = blanked(body ? JSON.stringify(body, null, 2) : text);
    output.replaceChildren(
      make("p", {}, make("strong", { className: response.ok ? "good" : "bad" }, `${response.status} `), took),
      make("p", {}, make("code", {}, `GET ${blanked(target)}`)),
      make("pre", { tabIndex: 0, role: "region", ariaLabel: "Reply" }, shown),
      turn(form, body?.paging?.prev_page, "Previous page") ?? "", turn(form, body?.paging?.next_page, "Next page") ?? "");
  } catch (error) {
    output.replaceChildren(make("p", { className: "bad" }, `No reply: ${blanked(String(error))}`));
  }
};
const example = (content) => content.example ?? Object.values(content.examples ?? {})[0]?.value;
const reply = ([status, response]) => {
  const content = response.content["application/json"];
  const reasons = status === "200" ? [] : Object.keys(content.examples).join(", ");
  return make("details", {}, make("summary", {}, make("span", { className: status === "200" ? "good" : "bad" }, status),
    make("span", { className: "type" }, " ", reasons)),
    ...prose(response.description), make("p", {}, "Body: ", ...kind(content.schema)),
    ...Object.keys(response.headers ?? {}).map((name) => make("p", {}, "Header: ", make("code", {}, name))),
    make("pre", { tabIndex: 0, role: "region", ariaLabel: `Example of ${status}` }, JSON.stringify(example(content), null, 2)));
};
const operationCard = (api, path, operation) => {
  const output = make("div", { className: "reply", ariaLive: "polite" });
  const rows = operation.parameters.map((parameter) => parameterRow(operation, parameter));
  const form = make("form", { id: `try-${operation.operationId}` }, ...rows, make("button", {}, "Send"), output);
  form.addEventListener("submit", (event) => { event.preventDefault(); answer(api, path, operation, form, output); });
  const heading = make("h3", { className: "path" }, make("span", { className: "verb" }, "GET"), path);
  return make("article", { id: operation.operationId }, heading, make("p", { className: "note" }, operation.summary),
    ...prose(operation.description).filter((node) => node.textContent), form,
    ...Object.entries(operation.responses).map(reply));
};
const schemaCard = ([name, schema]) => {
  const required = new Set(schema.required);
  const rows = Object.entries(schema.properties ?? {}).map(([property, inner]) =>
    row(make("code", {}, property), [...kind(inner), required.has(property) ? " · always" : ""], ...prose(inner.description)));
  const whole = schema.properties ? [] : [make("p", { className: "type" }, ...kind(schema))];
  const open = make("details", {}, make("summary", {}, name), ...prose(schema.description), ...whole, ...rows);
  return make("section", { className: "schema", id: `schema-${name}` }, open);
};
const openTarget = () => byId(decodeURIComponent(location.hash.slice(1)))?.querySelector("details")
  ?.toggleAttribute("open", location.hash.startsWith("#schema-"));
const show = (api) => {
  const operations = Object.entries(api.paths).map(([path, item]) => [path, item.get]);
  const groups = api.tags.map(({ name, description, "x-displayName": title }) => {
    const own = operations.filter(([, operation]) => operation.tags.includes(name));
    return make("section", {}, make("h2", {}, title), ...prose(description),
      ...own.map(([path, operation]) => operationCard(api, path, operation)));
  });
  const schemas = Object.entries(api.components.schemas);
  const entry = (id, text) => make("li", {}, make("a", { href: `#${id}` }, text));
  byId("title").textContent = document.title = api.info.title;
  byId("about").replaceChildren(...prose(api.info.description));
  byId("nav").replaceChildren(make("h2", {}, "Endpoints"),
    make("ul", {}, ...operations.map(([, { operationId, summary }]) => entry(operationId, summary))),
    make("h2", {}, "Schemas"), make("ul", {}, ...schemas.map(([name]) => entry(`schema-${name}`, name))));
  byId("main").replaceChildren(...groups, make("section", {}, make("h2", {}, "Schemas"), ...schemas.map(schemaCard)));
  openTarget();
};
addEventListener("hashchange", openTarget);
fetch("/openapi.json").then((response) => response.json()).then(show)
  .catch((error) => { byId("loading").textContent = `The document can't be shown: ${error}`; });
