// Picks one row of explanations. The articles are HTML already, made and escaped where the page was written.
(() => {
  const shown = document.getElementById("shown"), more = document.getElementById("more");
  if (!shown) return;
  const sort = document.getElementById("sort"), find = document.getElementById("find"), list = document.getElementById("list");
  const all = [...shown.children, ...more.content.children].map(node => ({
    node, row: +node.dataset.row, fve: +node.dataset.fve, lost: node.dataset.lost.split(",").map(Number),
    text: (node.querySelector("blockquote") || node.querySelector(".cell p")).textContent, search: node.textContent.toLowerCase()
  }));
  const signed = x => (x < 0 ? "\u2212" : "+") + Math.abs(x).toFixed(2);
  const value = (r, by) => by === "row" ? r.row : by === "low" ? r.fve : by.startsWith("lost") ? -r.lost[+by.slice(4)] : r.lost[+by.slice(4)];
  const said = (r, by) => by === "row" ? r.row : by === "low" ? r.fve.toFixed(2).replace("-", "\u2212") : signed(-r.lost[+by.slice(4)]);
  let current;

  function show(r, focus) {
    if (!r) return;
    shown.replaceChildren(r.node);
    current = r;
    for (const b of list.querySelectorAll("button")) b.setAttribute("aria-current", b.row === r);
    if (focus) { const b = list.querySelector("[aria-current=true]"); if (b) b.focus(); }
  }
  function fill() {
    const by = sort.value, word = find.value.trim().toLowerCase();
    const rows = all.filter(r => r.search.includes(word)).sort((a, b) => value(a, by) - value(b, by) || a.row - b.row);
    list.replaceChildren(...rows.map(r => {
      const item = document.createElement("li"), button = document.createElement("button"), text = document.createElement("span");
      const bdi = document.createElement("bdi"), number = document.createElement("span");
      button.type = "button"; button.row = r;
      bdi.textContent = r.text.slice(-60); text.append(bdi); number.textContent = said(r, by);
      button.append(text, number); item.append(button);
      button.onclick = () => { show(r); history.replaceState(null, "", "#" + r.node.id); };
      return item;
    }));
    show(rows.includes(current) && word ? current : rows[0]);
  }
  list.onkeydown = e => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[e.key], buttons = [...list.querySelectorAll("button")];
    if (!step) return;
    e.preventDefault();
    const next = buttons[buttons.findIndex(b => b.row === current) + step];
    if (next) show(next.row, true);
  };
  sort.onchange = fill;
  find.oninput = fill;
  document.querySelector(".picker").hidden = false;
  document.querySelector(".browser").classList.add("on");
  fill();
  show(all.find(r => "#" + r.node.id === location.hash));
})();
