// Small pieces of the page. Text goes in as text alone: nothing here reads HTML.

export const byId = (id) => document.getElementById(id);

export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") node.className = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// A figure says what it is of (`data-figure`, a path into the look) and its exact value beside the words.
export function setFigure(node, path, value, text) {
  setText(node, text);
  node.dataset.figure = path;
  node.dataset.value = JSON.stringify(value ?? null);
}

// A list of term and figure, kept from look to look so that a reader's place is not lost.
export function terms(holder, rows) {
  let list = holder.querySelector(":scope > dl");
  if (!list) {
    list = el("dl");
    holder.prepend(list);
  }
  const wanted = rows.map(([term]) => term).join("\n");
  if (list.dataset.terms !== wanted) {
    list.replaceChildren(...rows.flatMap(([term]) => [el("dt", {}, term), el("dd")]));
    list.dataset.terms = wanted;
  }
  const cells = list.querySelectorAll(":scope > dd");
  rows.forEach(([, path, value, text, kind], place) => {
    setFigure(cells[place], path, value, text);
    cells[place].className = kind ?? "";
  });
  return list;
}

// Children of `holder` by key: those that stay are kept, with their focus.
export function keyed(holder, items, keyOf, make) {
  const have = new Map([...holder.children].map((child) => [child.dataset.key, child]));
  const order = items.map((item) => {
    const key = String(keyOf(item));
    const node = have.get(key) ?? make(item);
    node.dataset.key = key;
    have.delete(key);
    return node;
  });
  for (const gone of have.values()) gone.remove();
  order.forEach((node, place) => {
    if (holder.children[place] !== node) holder.insertBefore(node, holder.children[place] ?? null);
  });
  return order;
}

export function table(holder, columns, rows, none) {
  if (!rows.length) {
    if (holder.dataset.shape !== "none") holder.replaceChildren(el("p", { class: "none" }, none));
    holder.dataset.shape = "none";
    return;
  }
  const shape = columns.map(([name]) => name).join("\n");
  if (holder.dataset.shape !== shape) {
    const head = el(
      "tr",
      {},
      ...columns.map(([name, kind]) => el("th", { scope: "col", class: kind }, name)),
    );
    holder.replaceChildren(el("table", {}, el("thead", {}, head), el("tbody")));
    holder.dataset.shape = shape;
  }
  const lines = keyed(
    holder.querySelector("tbody"),
    rows,
    (row) => row.key,
    () => el("tr", {}, ...columns.map(([, kind]) => el("td", { class: kind }))),
  );
  rows.forEach((row, place) =>
    row.cells.forEach(([path, value, text], column) => {
      setFigure(lines[place].children[column], path, value, text);
    }),
  );
}
