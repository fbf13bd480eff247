"use strict";
(() => {
  const PAGE = 15;
  const all = (selector, root = document) => Array.from(root.querySelectorAll(selector));
  const make = (tag, text, attributes = {}) => {
    const node = document.createElement(tag);
    node.textContent = text;
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    return node;
  };
  const show = (value) => (value === null ? "no score" : value.toFixed(3));
  const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true }));

  // what has no value comes last in either direction
  const ordered = (items, value, up) =>
    items
      .map((item, i) => ({ item, i, v: value(item) }))
      .sort((a, b) => {
        if (a.v === null || b.v === null) return (a.v === null) - (b.v === null) || a.i - b.i;
        return (up ? 1 : -1) * compare(a.v, b.v) || a.i - b.i;
      })
      .map((entry) => entry.item);

  const turn = (th) => {
    const first = th.dataset.first || "ascending";
    const other = first === "ascending" ? "descending" : "ascending";
    const next = th.getAttribute("aria-sort") === first ? other : first;
    for (const sibling of th.parentElement.children) sibling.setAttribute("aria-sort", "none");
    th.setAttribute("aria-sort", next);
    return next === "ascending";
  };

  for (const table of all("table.sortable")) {
    all("thead th", table).forEach((th, column) => {
      const numeric = th.dataset.kind === "number";
      th.querySelector("button").addEventListener("click", () => {
        const value = (row) => {
          const words = (row.children[column]?.textContent ?? "").trim();
          if (!numeric) return words;
          const number = Number.parseFloat(words);
          return Number.isNaN(number) ? null : number;
        };
        table.tBodies[0].append(...ordered(Array.from(table.rows).slice(1), value, turn(th)));
      });
    });
  }

  class Images {
    constructor(section) {
      this.section = section;
      this.data = JSON.parse(section.querySelector("script.figures").textContent);
      this.words = this.data.images.map((name, i) => `${this.text(i)}\n${name}`.toLowerCase());
      this.kept = this.words.map((_, i) => i);
      this.order = null;
      this.page = 0;
      this.plots = all("figure.scatter", section).map((figure) => this.plot(figure));
      this.table = section.querySelector("table.images");
      all("thead th", this.table).forEach((th, column) => {
        th.querySelector("button").addEventListener("click", () => {
          const up = turn(th);
          this.order = (rows) => ordered(rows, (i) => this.value(i, column), up);
          this.page = 0;
          this.fill();
        });
      });
      const [before, after] = all(".pager button", section);
      before.addEventListener("click", () => { this.page -= 1; this.fill(); });
      after.addEventListener("click", () => { this.page += 1; this.fill(); });
      this.filter("");
    }

    text(i) { return this.data.texts[this.data.text[i]] || "(no prompt)"; }

    value(i, column) {
      if (column < 2) return column ? this.text(i) : this.data.images[i];
      return column === 2 ? this.data.area[i] : this.data.runs[column - 3].dice[i];
    }

    filter(query) {
      this.kept = this.words.flatMap((words, i) => (words.includes(query) ? [i] : []));
      const kept = new Set(this.kept);
      for (const plot of this.plots) {
        plot.points.forEach((point, i) => point.classList.toggle("off", !kept.has(i)));
        plot.reset();
      }
      for (const group of all("[data-cases]", this.section)) {
        const cases = all(".case", group);
        for (const figure of cases) figure.hidden = !figure.dataset.words.toLowerCase().includes(query);
        group.querySelector(".nothing").hidden = cases.some((figure) => !figure.hidden);
      }
      const means = this.data.runs.map(({ label, dice }) => {
        const found = this.kept.map((i) => dice[i]).filter((v) => v !== null);
        return `${label} ${found.length ? show(found.reduce((a, b) => a + b, 0) / found.length) : "no score"}`;
      });
      const share = `${this.kept.length} of ${this.data.images.length} images`;
      this.section.querySelector(".matches").textContent =
        query ? `${share} match. Their mean dice_per_image: ${means.join(", ")}.` : `${share} shown.`;
      this.page = 0;
      this.fill();
      return this.kept.length;
    }

    fill() {
      const rows = this.order ? this.order(this.kept) : this.kept;
      const pages = Math.max(Math.ceil(rows.length / PAGE), 1);
      this.page = Math.min(Math.max(this.page, 0), pages - 1);
      const whole = this.data.unit.endsWith("px");
      const lines = rows.slice(this.page * PAGE, (this.page + 1) * PAGE).map((i) => {
        const line = document.createElement("tr");
        const words = make("td", "", { class: "words" });
        words.append(make("bdi", this.text(i)));
        const area = this.data.area[i];
        line.append(make("th", this.data.images[i], { scope: "row" }), words, make("td", area === null ? "" : area.toFixed(whole ? 0 : 2), { class: "number" }));
        for (const { dice } of this.data.runs) line.append(make("td", show(dice[i]), { class: "number" }));
        return line;
      });
      this.table.tBodies[0].replaceChildren(...lines);
      const [before, after] = all(".pager button", this.section);
      before.disabled = this.page === 0;
      after.disabled = this.page === pages - 1;
      this.section.querySelector(".pager output").textContent = `page ${this.page + 1} of ${pages}`;
    }

    plot(figure) {
      const svg = figure.querySelector("svg");
      const [left, top, right, bottom] = svg.dataset.box.split(",").map(Number);
      const points = all("circle", svg);
      const selects = all("select", figure);
      const plot = {
        points,
        slider: figure.querySelector("input[type=range]"),
        at: (i) => ({ x: points[i].cx.baseVal.value, y: points[i].cy.baseVal.value }),
        seen: () => this.kept.filter((i) => !points[i].hasAttribute("hidden")),
        ordered: () => plot.seen().sort((a, b) => plot.at(a).x - plot.at(b).x),
        now: null,
      };
      const out = figure.querySelector(".readout");
      plot.read = (i) => {
        if (plot.now !== null) points[plot.now].classList.remove("now");
        plot.now = i;
        if (i === null) {
          out.textContent = "Point at the plot, or step through its images with the slider and the arrow keys.";
          return;
        }
        points[i].classList.add("now");
        svg.append(points[i]);
        const scores = this.data.runs.map(({ label, dice }) => `${label} ${show(dice[i])}`).join(", ");
        out.replaceChildren(make("bdi", this.text(i)), document.createElement("br"), make("bdi", this.data.images[i]),
          `: dice_per_image ${scores}; ${this.data.unit} ${this.data.area[i]}`);
        plot.slider.setAttribute("aria-valuetext", `${this.text(i)}; ${this.data.images[i]}; ${scores}`);
      };
      svg.addEventListener("pointermove", (event) => {
        const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
        let best = null;
        let nearest = 14 ** 2;
        for (const i of plot.seen()) {
          const { x, y } = plot.at(i);
          const far = (x - place.x) ** 2 + (y - place.y) ** 2;
          if (far < nearest) [best, nearest] = [i, far];
        }
        if (best !== null && best !== plot.now) {
          plot.read(best);
          plot.slider.value = plot.ordered().indexOf(best);
        }
      });
      const step = () => {
        const order = plot.ordered();
        if (order.length) plot.read(order[Number(plot.slider.value)]);
      };
      plot.slider.addEventListener("input", step);
      plot.slider.addEventListener("focus", step);
      plot.reset = () => {
        const last = plot.seen().length - 1;
        plot.slider.max = Math.max(last, 0);
        plot.slider.disabled = last < 0;
        plot.read(null);
      };
      const draw = () => {
        for (const point of points) point.removeAttribute("hidden");
        for (const select of selects) {
          const { label, dice } = this.data.runs[Number(select.value)];
          const across = select.name === "x";
          svg.querySelector(across ? "text.xlabel" : "text.ylabel").textContent = label;
          points.forEach((point, i) => {
            if (dice[i] === null) point.setAttribute("hidden", "");
            else if (across) point.setAttribute("cx", left + (right - left) * dice[i]);
            else point.setAttribute("cy", bottom - (bottom - top) * dice[i]);
          });
        }
        plot.reset();
      };
      for (const select of selects) select.addEventListener("change", draw);
      return plot;
    }
  }

  // on paper nothing can be opened
  let closed = [];
  window.addEventListener("beforeprint", () => {
    closed = all("details.printed:not([open])");
    for (const part of closed) part.open = true;
  });
  window.addEventListener("afterprint", () => { for (const part of closed) part.open = false; });

  const groups = all("section.results").map((section) => new Images(section));
  const box = document.querySelector("#filter");
  if (box) {
    const said = document.querySelector("#found");
    const total = groups.reduce((sum, group) => sum + group.data.images.length, 0);
    let waiting = 0;
    box.addEventListener("input", () => {
      window.clearTimeout(waiting);
      waiting = window.setTimeout(() => {
        const query = box.value.trim().toLowerCase();
        const found = groups.reduce((sum, group) => sum + group.filter(query), 0);
        said.textContent = query ? `${found} of ${total} images match` : "";
      }, 120);
    });
  }
})();
