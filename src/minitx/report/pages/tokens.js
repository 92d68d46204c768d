// ---- tokens as text: what is invisible is shown, or said ---------------------------------------
const spoken = { " ": "space", "\n": "line end", "\t": "tab", "\r": "carriage return" };
const marks = { "\n": "⏎", "\t": "⇥", "\r": "␍" };
// A control character has a picture of its own; one that turns the direction of writing has none.
const control = (c) => (/[\x00-\x1f]/.test(c) ? String.fromCharCode(0x2400 + c.charCodeAt(0))
  : c === "\x7f" ? "␡" : /[\x80-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/.test(c) ? "\ufffd" : c);
const visible = (token) => [...token].map((c) => marks[c] || (c === " " ? "␣" : control(c))).join("");
const aloud = (token) => {
  const words = token.replace(/[ \n\t\r]/g, (c) => ` ${spoken[c]} `).trim();
  return words || "empty";
};
const piece = (token) => node("span", { class: "piece" }, visible(token));
const tokenSpan = (token, i) => {
  const span = node("span", {
    class: "token", role: "option", tabindex: "-1", "data-i": i, "aria-selected": "false",
    "aria-label": `${i}: ${aloud(token)}`,
  });
  // A line end shows as a mark and still breaks the line.
  for (const part of token.split(/(\n|\t|\r)/)) {
    if (marks[part]) span.append(node("span", { class: "mark" }, marks[part]), part);
    else if (part) span.append(part);
  }
  return span;
};
