// ---- a matrix as a picture that can be walked cell by cell, and read as a table ------------------
const floats = (packed) => {
  const text = atob(packed), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return new Float32Array(bytes.buffer);
};
const shown = (v) => (v === -Infinity ? "−∞" : Math.abs(v) >= 1e5 || (v && Math.abs(v) < 1e-3)
  ? v.toExponential(3) : v.toPrecision(5)).replace(/-/, "−");
const bar = (part, below = false) => {
  // A style attribute in markup would be refused by the page's own policy; a property is not.
  const made = node("span", { class: below ? "bar below" : "bar" });
  made.style.width = `${(100 * Math.min(1, part)).toFixed(1)}%`;
  return made;
};
const cells = (tag, ...contents) => node("tr", {}, ...contents.map((content, i) =>
  node(i ? tag : "th", i ? {} : { scope: "row" }, content)));
const rgb = (text) => text.startsWith("#") ? [1, 3, 5].map((i) => parseInt(text.slice(i, i + 2), 16)) : text.split(",").map(Number);
const grids = new Set();

// Draws into `host`. A grid has `rows` and `columns` (names), `values` (row by row), a `name`;
// `pick(row, column)` is called for a click or Enter, `at` is where its cursor begins, `top` the magnitude
// of the strongest colour, if a number is not to decide it. The picture has a pixel a number, and the browser stretches it: nothing is measured, and nothing drawn anew to walk.
const drawGrid = (host, { rows, columns, values, name, pick = null, top = 0, at = { row: rows.length - 1, column: 0 } }) => {
  const [nRows, nColumns] = [rows.length, columns.length], height = Math.max(5, Math.min(22, 420 / nRows));
  const canvas = node("canvas", { "aria-hidden": "true", width: nColumns, height: nRows });
  const cursor = node("span", { class: "cursor" }), sheet = node("div", { class: "sheet" }, canvas, cursor);
  const labelled = height >= 11 ? rows.map((one) => node("div", {}, one.length > 14 ? `${one.slice(0, 13)}…` : one)) : [];
  const readout = node("p", { class: "readout" });
  const table = node("table");
  const row = node("details", {}, node("summary", {}, "The row as a table"), node("div", { class: "wide" }, table));
  const group = node("div", { class: "grid", tabindex: 0, role: "group", "aria-label": `${name}. Arrow keys walk from number to number.` },
    node("div", { class: "names", "aria-hidden": "true" }, ...labelled), sheet);
  group.style.setProperty("--row", `${height}px`);
  sheet.style.maxWidth = `${44 * nColumns}px`;
  canvas.style.height = `${nRows * height}px`;
  cursor.style.width = `${100 / nColumns}%`;
  let largest = top;
  for (const v of values) if (Number.isFinite(v)) largest = Math.max(largest, Math.abs(v));
  const paint = () => {
    const style = getComputedStyle(root), above = rgb(style.getPropertyValue("--glow")), below = rgb(style.getPropertyValue("--below").trim());
    const image = new ImageData(nColumns, nRows);
    for (let i = 0, p = 0, pixels = image.data; i < values.length; i++, p += 4) {
      const v = values[i], colour = v < 0 ? below : above;
      pixels[p] = colour[0]; pixels[p + 1] = colour[1]; pixels[p + 2] = colour[2];
      pixels[p + 3] = Number.isFinite(v) && largest ? 255 * Math.sqrt(Math.abs(v) / largest) : 0;
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
  };
  const fill = () => table.replaceChildren(node("caption", { class: "hidden" }, rows[at.row]),
    node("tbody", {}, ...columns.map((one, j) => cells("td", one, shown(values[at.row * nColumns + j])))));
  const tell = (aloudToo) => {
    cursor.style.left = `${(100 * at.column) / nColumns}%`;
    cursor.style.top = `${at.row * height}px`;
    readout.textContent = `${rows[at.row]}, ${columns[at.column]}: ${shown(values[at.row * nColumns + at.column])}`;
    if (row.open) fill();
    if (aloudToo) $("said").textContent = readout.textContent;
  };
  let waiting = 0;
  const from = (event) => {
    const box = canvas.getBoundingClientRect();
    at.row = Math.max(0, Math.min(nRows - 1, Math.floor((event.clientY - box.top) / height)));
    at.column = Math.max(0, Math.min(nColumns - 1, Math.floor(((event.clientX - box.left) / box.width) * nColumns)));
  };
  sheet.addEventListener("pointermove", (event) => {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(() => { from(event); tell(false); });
  });
  sheet.addEventListener("click", (event) => { from(event); tell(true); if (pick) pick(at.row, at.column); });
  group.addEventListener("keydown", (event) => {
    const steps = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0], Home: [0, -nColumns], End: [0, nColumns] };
    if (event.key === "Enter" && pick) { pick(at.row, at.column); return; }
    if (!(event.key in steps) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    at.row = Math.max(0, Math.min(nRows - 1, at.row + steps[event.key][0]));
    at.column = Math.max(0, Math.min(nColumns - 1, at.column + steps[event.key][1]));
    tell(true);
  });
  row.addEventListener("toggle", () => { if (row.open) fill(); });
  for (const old of grids) if (!old.group.isConnected) grids.delete(old);
  grids.add({ group, repaint: paint });
  paint();
  tell(false);
  host.replaceChildren(group, readout, row);
  return { go: (toRow, toColumn) => { Object.assign(at, { row: toRow, column: toColumn }); tell(false); } };
};
