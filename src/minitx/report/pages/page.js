// ---- what all pages share: short names for the document, and the choice of colours ----------
const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const root = document.documentElement;
const node = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, given] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), given);
    else made.setAttribute(name, given);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
};
const system = matchMedia("(prefers-color-scheme: dark)");
const themes = ["auto", "light", "dark"];
let wanted = "auto";
const nextTheme = () => { wanted = themes[(themes.indexOf(wanted) + 1) % themes.length]; };
const paintPage = () => {
  root.dataset.theme = wanted === "auto" ? (system.matches ? "dark" : "light") : wanted;
  $("theme").textContent = wanted[0].toUpperCase() + wanted.slice(1);
  $("theme").setAttribute("aria-label", `Colours: ${wanted === "auto" ? "as the system" : wanted}`);
};
