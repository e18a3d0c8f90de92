"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const [ACTION, PATH, LABEL, SUGGESTED, CONFIDENCE, REASON, , APPLY] = data.columns.map((_, n) => n);
  const ACTIONS = { relabel: "Relabel", remove: "Leave out", duplicate: "Copy" };
  const NO_TAGS = "(no tags)", BETWEEN = "|";
  const rows = data.rows.map((row) => row.slice());
  let shown = rows.map((_, n) => n);
  let place = 0;
  let saved = true;

  // ---- what was decided, kept by the browser until it is downloaded ------------------------
  const store = "headstart clean " + data.key;
  const remember = () => {
    const said = {};
    rows.forEach((row, n) => { if (row[APPLY]) said[n] = [row[APPLY], row[SUGGESTED]]; });
    try { localStorage.setItem(store, JSON.stringify(said)); } catch { /* a browser that keeps nothing */ }
  };
  try {
    const said = JSON.parse(localStorage.getItem(store) || "{}");
    for (const [n, [apply, suggested]] of Object.entries(said)) {
      if (rows[n]) { rows[n][APPLY] = String(apply); rows[n][SUGGESTED] = String(suggested); }
    }
  } catch { /* nothing is kept, or it is not ours */ }

  // ---- the table ---------------------------------------------------------------------------
  const guarded = (cell) => (/^'*[=+\-@\t\r]/.test(cell) ? "'" + cell : cell);
  const quoted = (cell) => (/[",\r\n]/.test(cell) ? '"' + cell.replaceAll('"', '""') + '"' : cell);
  const table = () =>
    "\ufeff" + [data.columns, ...rows.map((row) => row.map(guarded))]
      .map((row) => row.map(quoted).join(",") + "\r\n").join("");
  const download = () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([table()], { type: "text/csv;charset=utf-8" }));
    link.download = "suggestions.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    saved = true;
    say("The table was downloaded.");
  };

  // ---- words -------------------------------------------------------------------------------
  const say = (text) => { at("said").textContent = text; };
  const decision = (row) => {
    if (!row[APPLY]) return "undecided";
    const apply = row[APPLY];
    if (["yes", "y", "true", "1", "x", "accept"].includes(apply)) return row[ACTION] === "relabel" ? "relabel" : "remove";
    return ["relabel", "remove"].includes(apply) ? apply : "keep";
  };
  const inWords = (row) => {
    const what = decision(row);
    if (what === "relabel") return "becomes " + row[SUGGESTED].replaceAll(BETWEEN, ", ");
    return { undecided: "not decided", keep: "stays as it is", remove: "is left out" }[what];
  };
  const element = (kind, text, className) => {
    const made = document.createElement(kind);
    if (text) made.textContent = text;
    if (className) made.className = className;
    return made;
  };
  const picture = (number, alt) => {
    if (number < 0) {
      const none = element("div", "", "no-picture");
      none.setAttribute("role", "img");
      none.setAttribute("aria-label", alt + " (no thumbnail)");
      return none;
    }
    const image = element("img");
    image.src = data.images[number];
    image.alt = alt;
    image.loading = "lazy";
    image.decoding = "async";
    return image;
  };

  // ---- one suggestion ----------------------------------------------------------------------
  const title = (row) => {
    const heading = at("card-title");
    heading.replaceChildren();
    const label = element("b", row[LABEL].replaceAll(BETWEEN, ", ") || "no label");
    heading.append("Labelled ", label);
    if (row[ACTION] === "relabel") {
      heading.append(", looks like ", element("b", data.rows[shown[place]][SUGGESTED].replaceAll(BETWEEN, ", ")));
      if (row[CONFIDENCE]) heading.append(` (${Math.round(100 * Number(row[CONFIDENCE]))} %)`);
    }
    if (row[ACTION] === "duplicate") heading.append(": a copy");
    if (row[ACTION] === "remove") heading.append(": does it belong here?");
  };
  const sides = (card) => card.sides.filter((side) => side.pictures.length).map((side) => {
    const part = element("section", "", "side");
    const list = element("ul");
    side.pictures.forEach((number) => {
      const item = element("li");
      item.append(picture(number, "An example: " + side.title));
      list.append(item);
    });
    part.append(element("h3", side.title), list);
    return part;
  });
  const copies = (card) => {
    if (!card.copies.length) return [];
    const part = element("section", "", "side copies");
    const list = element("ul");
    card.copies.forEach((copy) => {
      const item = element("li");
      item.append(picture(copy.picture, copy.path));
      item.append(element("span", copy.words), element("span", copy.stays ? "this one stays" : "a copy", "quiet"));
      list.append(item);
    });
    part.append(element("h3", "The same picture"), list);
    return [part];
  };
  const show = () => {
    const none = !shown.length;
    at("card").hidden = none;
    at("nothing").hidden = !none;
    if (none) { count(); return; }
    const number = shown[place], row = rows[number], card = data.cards[number];
    title(row);
    at("kind").textContent = ACTIONS[row[ACTION]];
    at("position").textContent = `${place + 1} of ${shown.length}`;
    at("picture").replaceChildren(picture(card.picture, "The picture " + row[PATH]));
    at("reason").textContent = row[REASON];
    at("path").textContent = row[PATH];
    at("compare").replaceChildren(...copies(card), ...sides(card));
    at("state").textContent = inWords(row);
    at("card").dataset.state = decision(row);
    at("accept-words").textContent = row[ACTION] === "relabel" ? "Relabel" : "Leave out";
    at("remove").hidden = row[ACTION] !== "relabel";
    at("previous").disabled = place === 0;
    at("next").disabled = place === shown.length - 1;
    labels(row);
    count();
    document.querySelectorAll("#all button").forEach((button) => {
      const here = Number(button.dataset.row) === number;
      if (here) button.setAttribute("aria-current", "true"); else button.removeAttribute("aria-current");
    });
  };
  const labels = (row) => {
    if (data.tags) {
      const now = (row[SUGGESTED] || row[LABEL]).split(BETWEEN);
      document.querySelectorAll("#tags input").forEach((box) => { box.checked = now.includes(box.value); });
    } else {
      at("classes").value = decision(row) === "relabel" && row[APPLY] === "relabel" ? row[SUGGESTED] : "";
    }
  };
  const count = () => {
    const decided = rows.filter((row) => row[APPLY]).length;
    at("progress").textContent = `${decided} of ${rows.length} decided`;
    at("bar").style.width = `${rows.length ? (100 * decided) / rows.length : 0}%`;
  };

  // ---- all of them -------------------------------------------------------------------------
  const tile = (number) => {
    const row = rows[number], button = element("button");
    button.type = "button";
    button.dataset.row = number;
    button.append(picture(data.cards[number].picture, ""), element("span", "", "badge"), element("span", row[LABEL], "of"));
    button.addEventListener("click", () => { place = shown.indexOf(number); show(); at("card").scrollIntoView({ block: "start" }); at("card").focus({ preventScroll: true }); });
    return button;
  };
  const mark = (number) => {
    const button = document.querySelector(`#all button[data-row="${number}"]`);
    if (!button) return;
    const what = decision(rows[number]);
    button.dataset.state = what;
    button.querySelector(".badge").textContent = { undecided: "", keep: "kept", remove: "out", relabel: "relabelled" }[what];
    button.setAttribute("aria-label", `${rows[number][PATH]}, ${ACTIONS[rows[number][ACTION]]}, ${inWords(rows[number])}`);
  };
  const filter = () => {
    const kind = document.querySelector("input[name=kind]:checked").value;
    const open = at("open").checked;
    shown = rows.map((_, n) => n).filter((n) =>
      (kind === "all" || rows[n][ACTION] === kind) && (!open || !rows[n][APPLY]));
    place = 0;
    at("all").replaceChildren(...shown.map((n) => { const item = element("li"); item.append(tile(n)); return item; }));
    shown.forEach(mark);
    show();
  };

  // ---- deciding ----------------------------------------------------------------------------
  const go = (step) => {
    const next = place + step;
    if (next < 0 || next >= shown.length) return;
    place = next;
    show();
  };
  const decide = (apply, suggested) => {
    if (!shown.length) return;
    const number = shown[place], row = rows[number];
    row[APPLY] = apply;
    row[SUGGESTED] = suggested === undefined ? data.rows[number][SUGGESTED] : suggested;
    saved = false;
    remember();
    mark(number);
    say(`${row[PATH]} ${inWords(row)}.`);
    if (apply && place < shown.length - 1) place += 1;
    show();
  };
  const relabel = () => {
    if (data.tags) {
      const given = [...document.querySelectorAll("#tags input:checked")].map((box) => box.value);
      decide("relabel", given.join(BETWEEN) || NO_TAGS);
    } else if (at("classes").value) {
      decide("relabel", at("classes").value);
    }
  };
  const focusLabels = () => {
    const first = data.tags ? document.querySelector("#tags input") : at("classes");
    first.focus();
  };
  const KEYS = {
    a: () => decide("yes"), k: () => decide("keep"), r: () => decide("remove"), u: () => decide(""),
    l: focusLabels, ArrowLeft: () => go(-1), ArrowRight: () => go(1), d: download,
  };
  document.addEventListener("keydown", (event) => {
    const typing = ["SELECT", "INPUT", "TEXTAREA"].includes(event.target.tagName);
    if (event.key === "Escape" && typing) { at("card").focus(); return; }
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const does = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (does) { event.preventDefault(); does(); }
  });
  at("accept").addEventListener("click", KEYS.a);
  at("keep").addEventListener("click", KEYS.k);
  at("remove").addEventListener("click", KEYS.r);
  at("undo").addEventListener("click", KEYS.u);
  at("give").addEventListener("click", relabel);
  at("previous").addEventListener("click", KEYS.ArrowLeft);
  at("next").addEventListener("click", KEYS.ArrowRight);
  document.querySelectorAll(".download").forEach((button) => button.addEventListener("click", download));
  document.querySelectorAll("input[name=kind], #open").forEach((input) => input.addEventListener("change", filter));
  window.addEventListener("beforeunload", (event) => { if (!saved) event.preventDefault(); });

  if (data.tags) {
    at("classes").remove();
    data.classes.forEach((name) => {
      const label = element("label"), box = element("input");
      box.type = "checkbox";
      box.value = name;
      label.append(box, name);
      at("tags").append(label);
    });
  } else {
    at("tags").remove();
    data.classes.forEach((name) => { const option = element("option", name); option.value = name; at("classes").append(option); });
  }
  at("tool").hidden = false;
  filter();
})();
